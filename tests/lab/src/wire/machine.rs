//! The appliance booted from its image under QEMU, a tap in each end's namespace on its ports.
//!
//! For: the very file a user boots, its firmware, boot loader, init and console. The image is never
//! changed (`snapshot=on`). Emulation is TCG unless `WEIR_TEST_ACCEL` names another accelerator:
//! a /dev/kvm that opens may still not run this kernel. Fails by deadlines, with the serial log.

mod attach;

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use super::serial::{Listener, Serial};
use super::tap::{self, Frames};
use super::{Wire, accelerator, repository, seed};
use crate::document;
use crate::ends::{Ends, INTERFACE};
use crate::process::{Process, shown};
use crate::run::Run;

/// From power on to the login prompt, on a busy machine under TCG.
const BOOT: Duration = Duration::from_secs(300);
/// A console command.
const COMMAND: Duration = Duration::from_secs(60);
/// The line init prints when every service was started.
const READY: &str = "weir: ready";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    SeaBios,
    Ovmf,
}

/// What the appliance's ports 1A and 1B are plugged into.
pub enum Ports {
    /// Taps with virtio headers.
    Taps([File; 2]),
    /// Links to another QEMU that listens on these Unix sockets: plain frames of up to `mtu`. All
    /// frames are captured in `1a.pcap` and `1b.pcap` of the run, heads only.
    Links { sockets: [PathBuf; 2], mtu: u32 },
}

/// How much of a frame is captured on a link.
const CAPTURED: usize = 160;

/// Which disk is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// `dist/weir.qcow2`, or what `WEIR_IMAGE` names.
    Own,
    /// With Debian 12's first kernel, 6.1, where programs are attached by clsact.
    WithoutTcx,
}

/// A running appliance.
pub struct Machine {
    qemu: Process,
    serial: Serial,
    run: Arc<Run>,
    /// The command line QEMU was started by.
    pub command: String,
    /// From QEMU's start to [`READY`].
    pub boot_time: Duration,
}

impl Machine {
    /// Boots the image with the lab's document and logs in.
    pub fn start(ends: &mut Ends, firmware: Firmware, image: Image) -> Result<Self> {
        let section = document::weir_section(&ends.certificates)?;
        let mut machine = Self::boot(ends, firmware, image, &seed::user_data(&section)?)?;
        machine.log_in()?;
        Ok(machine)
    }

    /// Boots the image with `user_data`, up to [`READY`].
    pub fn boot(
        ends: &mut Ends,
        firmware: Firmware,
        image: Image,
        user_data: &str,
    ) -> Result<Self> {
        let taps = [
            tap::open_in(&ends.client, INTERFACE, Frames::Offloaded)?,
            tap::open_in(&ends.server, INTERFACE, Frames::Offloaded)?,
        ];
        ends.connect()?;
        Self::power_on(&ends.run, firmware, image, user_data, Ports::Taps(taps))
    }

    /// The same between any ends.
    pub fn power_on(
        run: &Arc<Run>,
        firmware: Firmware,
        image: Image,
        user_data: &str,
        ports: Ports,
    ) -> Result<Self> {
        let run = run.clone();
        let image = image.path()?;
        let iso = seed::iso(&run, user_data)?;
        let socket = run.path("serial.sock");
        let listener = Listener::bind(&socket, run.path("serial.log"))?;
        let mut command = qemu(&run, firmware, &image, &iso, &socket, &ports)?;
        let shown = shown(&command);
        std::fs::write(run.path("qemu-command"), &shown)?;
        let started = Instant::now();
        let mut qemu = Process::start("qemu", &mut command, &run.path("qemu.log"))?;
        drop(ports);
        let serial = match listener.accept(Duration::from_secs(20)) {
            Ok(serial) => serial,
            Err(error) => {
                qemu.check()?;
                return Err(error);
            }
        };
        let mut machine = Self { qemu, serial, run, command: shown, boot_time: Duration::ZERO };
        machine.serial.expect(&[READY], BOOT).map_err(|error| machine.explain(error))?;
        machine.boot_time = started.elapsed();
        Ok(machine)
    }

    /// Logs in as the provisioned administrator.
    pub fn log_in(&mut self) -> Result<()> {
        // A console that started before it was looked at has printed its prompt already; a return
        // brings another.
        let deadline = Instant::now() + COMMAND;
        while self.serial.expect(&["ogin:"], Duration::from_secs(5)).is_err() {
            ensure!(
                Instant::now() < deadline,
                "no login prompt on the serial console; it printed:\n{}",
                self.serial.seen()
            );
            self.serial.send("\r")?;
        }
        self.serial.send(&format!("{}\r", seed::USER))?;
        self.serial.expect(&["assword:"], COMMAND)?;
        self.serial.send(&format!("{}\r", seed::PASSWORD))?;
        self.serial.settle(|text| prompt(text).is_some(), COMMAND)?;
        Ok(())
    }

    /// Everything the serial console printed so far.
    pub fn serial_text(&self) -> &str {
        self.serial.seen()
    }

    /// Waits for text on the serial console.
    pub fn expect(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        self.serial.expect(&[wanted], limit).map(drop)
    }

    /// Waits until the appliance has powered itself off.
    pub fn wait_for_power_off(&mut self, limit: Duration) -> Result<()> {
        let Some(status) = self.qemu.wait(limit) else {
            bail!("the appliance still runs {} s after it was told to stop", limit.as_secs());
        };
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// Sends text and return, without waiting for anything.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        self.serial.send(&format!("{text}\r"))
    }

    /// An error with what QEMU has to say.
    fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.qemu.check() {
            Ok(()) => error,
            Err(ended) => error.context(format!("{ended:#}")),
        }
    }
}

impl Wire for Machine {
    fn console(&mut self, command: &str) -> Result<String> {
        self.serial.send(&format!("{command}\r"))?;
        let text = self.serial.settle(|text| prompt(text).is_some(), COMMAND)?;
        Ok(answer(&text, command))
    }

    fn kill_engine(&mut self) -> Result<String> {
        let command = "debug engine kill";
        let answer = self.console(command)?;
        Ok(format!("console: {command}   # {}", answer.trim()))
    }

    fn attach(&mut self) -> Result<()> {
        println!("The appliance's serial console; Ctrl-] stops the appliance.");
        attach::attach(self.serial.stream()?)
    }

    fn state(&mut self) -> String {
        match self.qemu.check() {
            Err(error) => format!("{error:#}"),
            Ok(()) => format!("serial console: {}", self.run.path("serial.log").display()),
        }
    }
}

/// Where the last prompt stands in `text`: at the start of a line, a name and braces. The line
/// before it ended: a prompt that the echo paints again is none. What init says of services may
/// follow it.
fn prompt(text: &str) -> Option<usize> {
    let mut starts = text.match_indices('\n').map(|(at, _)| at + 1);
    starts.rfind(|&at| is_prompt(text.get(at..).unwrap_or_default()))
}

fn is_prompt(line: &str) -> bool {
    line.split_once("{}").is_some_and(|(name, _)| !name.is_empty() && !name.contains([' ', '\n']))
}

/// What stands between the echo of `command` and the next prompt.
fn answer(text: &str, command: &str) -> String {
    let before = text.get(..prompt(text).unwrap_or(text.len())).unwrap_or_default();
    // The echo may paint its line several times, but it is one line.
    let after = before.split_once(command).map_or(before, |(_, after)| after);
    let answer = after.split_once('\n').map_or("", |(_, answer)| answer);
    answer.trim_matches('\n').to_owned() + "\n"
}

impl Image {
    fn path(self) -> Result<PathBuf> {
        let (image, built_by) = match (self, std::env::var_os("WEIR_IMAGE")) {
            (Self::Own, Some(path)) => (PathBuf::from(path), "ci/image"),
            (Self::Own, None) => (repository().join("dist/weir.qcow2"), "ci/image"),
            (Self::WithoutTcx, _) => (repository().join("dist/kernel-6.1/weir.qcow2"), "ci/test"),
        };
        ensure!(image.exists(), "no image {}: build it first ({built_by})", image.display());
        Ok(image)
    }
}

fn qemu(
    run: &Run,
    firmware: Firmware,
    image: &Path,
    iso: &Path,
    serial: &Path,
    ports: &Ports,
) -> Result<Command> {
    let (accelerator, cpu) = accelerator();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-name", "weir", "-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-no-reboot", "-accel", &accelerator, "-cpu", cpu, "-smp", "2", "-m", "4096"]);
    if firmware == Firmware::Ovmf {
        // Its seed on AHCI: OVMF leaves the IDE controller of the older machine so that Linux finds
        // no CD-ROM behind it.
        command.args(["-machine", "q35"]);
        let variables = run.path("ovmf-variables.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables)
            .context("OVMF's variables (package ovmf)")?;
        command.args([
            "-drive",
            "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        ]);
        command.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
    }
    command.args(["-chardev", &format!("socket,id=serial0,path={}", serial.display())]);
    command.args(["-serial", "chardev:serial0", "-device", "virtio-rng-pci"]);
    command.args([
        "-drive",
        &format!("if=none,id=disk,format=qcow2,snapshot=on,file={}", image.display()),
        "-device",
        "virtio-blk-pci,drive=disk,bootindex=0",
        "-drive",
        &format!("if=ide,media=cdrom,format=raw,readonly=on,file={}", iso.display()),
    ]);
    let mut dumps = Vec::new();
    // The order is the appliance's order of ports: management, 1A, 1B.
    command.args(["-netdev", "user,id=management,restrict=on"]);
    command.args(["-device", "virtio-net-pci,netdev=management,mac=52:54:00:00:00:01"]);
    for (number, port) in ["1a", "1b"].into_iter().enumerate() {
        let (netdev, more) = match ports {
            Ports::Taps(taps) => {
                (format!("tap,id=port{port},fd={}", taps[number].as_raw_fd()), String::new())
            }
            Ports::Links { sockets, mtu } => {
                let path = sockets[number].display();
                let file = run.path(&format!("{port}.pcap"));
                let dump = format!("filter-dump,id=dump{port},netdev=port{port},maxlen={CAPTURED}");
                let netdev =
                    format!("stream,id=port{port},server=off,addr.type=unix,addr.path={path}");
                dumps.push(format!("{dump},file={}", file.display()));
                (netdev, format!(",host_mtu={mtu}"))
            }
        };
        command.args(["-netdev", &netdev]);
        command.args([
            "-device",
            &format!("virtio-net-pci,netdev=port{port},mac=52:54:00:00:00:{port}{more}"),
        ]);
    }
    for dump in dumps {
        command.args(["-object", &dump]);
    }
    if let Ports::Taps(taps) = ports {
        inherit(&mut command, [taps[0].as_raw_fd(), taps[1].as_raw_fd()]);
    }
    Ok(command)
}

/// Lets the command's process have descriptors that the caller keeps open until it was started.
fn inherit(command: &mut Command, descriptors: [RawFd; 2]) {
    // SAFETY: between fork and exec only fcntl(2) is called, which is async-signal-safe; the
    // descriptors are open, as the caller's taps outlive the spawn. There is no safe way to let a
    // child inherit chosen descriptors without letting all children inherit them.
    unsafe {
        command.pre_exec(move || {
            for descriptor in descriptors {
                let descriptor = std::os::fd::BorrowedFd::borrow_raw(descriptor);
                fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.stop(Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_stands_between_echo_and_prompt() {
        let text = "show version\nWeir 0.1.0\nkernel 6.12\nweir-lab{} ";
        assert_eq!(answer(text, "show version"), "Weir 0.1.0\nkernel 6.12\n");
    }

    #[test]
    fn repainted_prompts_of_the_echo_are_left_out() {
        let text = "weir-lab{} sweir-lab{} show eventsweir-lab{} show events\nnone\n\nweir-lab{} ";
        assert_eq!(answer(text, "show events"), "none\n");
    }

    #[test]
    fn what_init_says_after_the_prompt_does_not_hide_it() {
        let text =
            "debug engine kill\nkilled\nweir-lab{} weir: engine down\nweir: engine running\n";
        assert_eq!(answer(text, "debug engine kill"), "killed\n");
        assert_eq!(prompt("show log\nweir: engine {} down\n"), None);
    }
}
