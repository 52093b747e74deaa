//! The machine of ends from the host: its initramfs, its boot, its answers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use weir_image::initrd::{self, Extra};
use weir_image::modules::Modules;
use weir_image::packages;

use super::case::Case;
use super::inside::{ANSWER, CERTIFICATES, CLIENT_MAC, READY, SERVER_MAC};
use crate::certificates::{Certificates, Identity};
use crate::process::{Process, succeed};
use crate::run::Run;
use crate::wire::accelerator;
use crate::wire::lab::binaries;
use crate::wire::serial::{Listener, Serial};

/// The drivers under test, and the card's.
const MODULES: &str = "virtio_net 8021q ip_gre ipip";
const BOOT: Duration = Duration::from_secs(180);
const CASE: Duration = Duration::from_secs(180);

/// The running machine. Its two cards listen on Unix sockets, which the appliance's ports connect
/// to.
pub struct EndsMachine {
    qemu: Process,
    serial: Serial,
}

impl EndsMachine {
    /// Boots it; `links` are made, the client's and the server's.
    pub fn boot(run: &Run, certificates: &Certificates, links: [&Path; 2]) -> Result<Self> {
        let (kernel, initramfs) = initramfs(run, certificates)?;
        let socket = run.path("ends.sock");
        let listener = Listener::bind(&socket, run.path("ends-serial.log"))?;
        let mut command = Command::new("qemu-system-x86_64");
        let (accelerator, cpu) = accelerator();
        command.args(["-name", "ends", "-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-no-reboot", "-accel", &accelerator, "-cpu", cpu, "-smp", "1"]);
        command.args(["-m", "512", "-device", "virtio-rng-pci"]);
        command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs);
        command.args(["-append", "console=ttyS0,115200 quiet loglevel=3 panic=1 -- ends"]);
        command.args(["-chardev", &format!("socket,id=serial0,path={}", socket.display())]);
        command.args(["-serial", "chardev:serial0"]);
        for ((side, link), mac) in
            ["client", "server"].iter().zip(links).zip([CLIENT_MAC, SERVER_MAC])
        {
            command.args(["-netdev", &link_listening(side, link)]);
            command.args(["-device", &format!("virtio-net-pci,netdev={side},mac={mac}")]);
        }
        let qemu = Process::start("qemu", &mut command, &run.path("ends-qemu.log"))?;
        let serial = listener.accept(Duration::from_secs(20))?;
        let mut machine = Self { qemu, serial };
        machine.wait_for(READY, BOOT)?;
        Ok(machine)
    }

    /// Both conversations of a case; what they were, as `public.example inspected, ...`.
    pub fn run(&mut self, case: &Case) -> Result<String> {
        self.serial.send(&format!("run {case}\n"))?;
        let answer = format!("\n{ANSWER}{case}: ");
        self.wait_for(&answer, CASE)?;
        let text = self.serial.line(Duration::from_secs(20))?;
        match text.strip_prefix("failed: ") {
            Some(why) => bail!("{why}"),
            None => Ok(text),
        }
    }

    fn wait_for(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        match self.serial.expect(&[wanted, "\nfailed: "], limit) {
            Ok(0) => Ok(()),
            Ok(_) => bail!("the machine of ends: {}", self.serial.line(Duration::from_secs(20))?),
            Err(error) => {
                self.qemu.check()?;
                Err(error)
            }
        }
    }
}

impl Drop for EndsMachine {
    fn drop(&mut self) {
        let _ = self.serial.send("off\n");
        if self.qemu.wait(Duration::from_secs(10)).is_none() {
            self.qemu.stop(Signal::SIGTERM);
        }
    }
}

/// A link between two QEMUs: this one listens.
fn link_listening(id: &str, path: &Path) -> String {
    format!("stream,id={id},server=on,addr.type=unix,addr.path={}", path.display())
}

/// The appliance's kernel and an initramfs with the drivers, this program, ip(8) and the lab's
/// certificates.
fn initramfs(run: &Run, certificates: &Certificates) -> Result<(PathBuf, PathBuf)> {
    let packages =
        packages::fetch(packages::KERNEL, &package_cache()?, &|line| println!("lab: {line}"))?;
    let modules = Modules::read(&packages.modules())?;
    let modules = modules.unpack(&modules.select(&[MODULES])?)?;
    let mut extra = with_libraries(Path::new("/sbin/ip"))?;
    let directory = CERTIFICATES.trim_start_matches('/');
    let mut certificate = |name: &str, path: &Path| -> Result<()> {
        let content = std::fs::read(path).with_context(|| path.display().to_string())?;
        extra.push(Extra { path: format!("{directory}/{name}"), permissions: 0o600, content });
        Ok(())
    };
    certificate("client-trust.pem", &certificates.client_trust)?;
    for (name, identity) in [("public", &certificates.public), ("bank", &certificates.bank)] {
        let Identity { certificate: public, key } = identity;
        certificate(&format!("{name}.crt"), public)?;
        certificate(&format!("{name}.key"), key)?;
    }
    let output = run.path("ends.initrd.zst");
    let init = binaries()?.join("weir-lab");
    initrd::write(&init, &packages.kernel_version, &modules, &extra, &output)?;
    Ok((packages.kernel_image(), output))
}

/// Where `ci/image` keeps Debian's packages.
fn package_cache() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEIR_PACKAGE_CACHE") {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").context("neither WEIR_PACKAGE_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/weir/packages"))
}

/// A program of this machine, in `/bin`, and the shared objects that ldd(1) names, where it names
/// them.
fn with_libraries(program: &Path) -> Result<Vec<Extra>> {
    let listed = succeed(Command::new("ldd").arg(program))?;
    let libraries = listed.lines().filter_map(|line| {
        // `libc.so.6 => /lib/... (0x...)`, or `/lib64/ld-linux-x86-64.so.2 (0x...)`.
        let path = line.rsplit_once("=>").map_or(line, |(_, path)| path).trim();
        path.starts_with('/').then(|| path.split(' ').next().unwrap_or(path))
    });
    let mut files = Vec::new();
    let name = program.file_name().context("the program's name")?.to_string_lossy();
    files.push(executable(program, format!("bin/{name}"))?);
    for path in libraries {
        files.push(executable(Path::new(path), path.trim_start_matches('/').to_owned())?);
    }
    Ok(files)
}

fn executable(source: &Path, path: String) -> Result<Extra> {
    let content = std::fs::read(source).with_context(|| source.display().to_string())?;
    Ok(Extra { path, permissions: 0o755, content })
}
