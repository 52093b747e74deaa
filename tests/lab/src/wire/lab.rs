//! Weir as processes on this machine: a segment of veths, agent and engine under the appliance's
//! own supervision.
//!
//! For: quick and observable runs on this machine's kernel. Not for: booting, provisioning.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_api::init::{FromInit, ToInit};
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;

use super::impair::{Relay, Trouble};
use super::tap::{self, Frames};
use super::{Wire, repository};
use crate::document;
use crate::ends::{Ends, INTERFACE};
use crate::namespace::{Namespace, ip};
use crate::process::{Process, finish, succeed};
use crate::run::Run;

const ENGINE: &str = "weir-engine";
const AGENT: &str = "weir-agent";
const CAPTURE: &str = "weir-capture";
const LEGACY_WORKER: &str = "weir-legacy";

/// For what a process does at once, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Entries of the flow table, as init would pass them on: another number than the engine's own.
pub const FLOW_TABLE: u32 = 200_000;

/// Weir's processes, under `weir-init supervise`.
pub struct Lab {
    supervisor: Process,
    binaries: PathBuf,
    run: Arc<Run>,
    /// Where the agent is: what the appliance fetches for itself it fetches by this.
    pub management: Namespace,
}

impl Lab {
    /// Makes the segment between the two ends and starts agent and engine.
    pub fn start(ends: &mut Ends) -> Result<Self> {
        lay_segment(ends)?;
        Self::start_on_segment(ends)
    }

    /// The same on a segment that is there already.
    pub fn start_on_segment(ends: &mut Ends) -> Result<Self> {
        let run = ends.run.clone();
        let binaries = binaries()?;
        ends.connect()?;
        mount_bpf()?;
        write_configuration(&run, &document::weir_section(&ends.certificates)?)?;
        let services = run.path("services.json");
        let management = Namespace::create(format!("{}management", run.prefix()))?;
        std::fs::write(&services, self::services(&run, &binaries, &management))?;
        let mut command = Command::new(binaries.join("weir-init"));
        command.arg("supervise").arg("--services").arg(&services);
        command.arg("--runtime-directory").arg(run.path("supervision"));
        command.arg("--control-socket").arg(run.path("supervisor.sock"));
        command.env("RUST_LOG", "info");
        let supervisor = Process::start("weir-init", &mut command, &run.path("weir.log"))?;
        Ok(Self { supervisor, binaries, run, management })
    }

    /// The supervisor, of whom all of Weir's processes descend.
    pub fn supervisor(&self) -> Pid {
        self.supervisor.pid()
    }

    /// The engine's process now.
    pub fn engine(&self) -> Result<Pid> {
        self.child(ENGINE)
    }

    /// The agent's process now.
    pub fn agent(&self) -> Result<Pid> {
        self.child(AGENT)
    }

    /// The engine's worker of the legacy TLS stack.
    pub fn legacy_worker(&self) -> Result<Pid> {
        let (engine, deadline) = (self.engine()?, Instant::now() + PATIENCE);
        loop {
            if let Some(worker) = child_of(engine, LEGACY_WORKER)? {
                return Ok(worker);
            }
            ensure!(Instant::now() < deadline, "the engine has no worker");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `debug engine restart` asks of init: a new engine beside the running one.
    pub fn restart_engine(&self) -> Result<()> {
        let request = ToInit::ReplaceService { name: ENGINE.into() };
        let body = serde_json::to_vec(&request)?;
        let mut stream = UnixStream::connect(self.run.path("supervisor.sock"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
        stream.write_all(&body)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut body)?;
        match serde_json::from_slice(&body)? {
            FromInit::Going => Ok(()),
            other => bail!("the supervisor answered {other:?}"),
        }
    }

    /// Engines that run now.
    pub fn engines(&self) -> Result<Vec<Pid>> {
        children_of(self.supervisor.pid(), ENGINE)
    }

    /// Puts `section` in place of the configuration and tells the agent.
    pub fn configure(&self, section: &str) -> Result<()> {
        write_configuration(&self.run, section)?;
        kill(self.agent()?, Signal::SIGHUP).context("SIGHUP to the agent")
    }

    /// Everything the processes logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.run.path("weir.log"))?)
    }

    /// A child of the supervisor by name; waits a little, as it may be between two lives.
    fn child(&self, name: &str) -> Result<Pid> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(pid) = child_of(self.supervisor.pid(), name)? {
                return Ok(pid);
            }
            if Instant::now() > deadline {
                bail!("no process {name} under the supervisor in time");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Wire for Lab {
    fn console(&mut self, command: &str) -> Result<String> {
        let mut console = Command::new("timeout");
        console.arg("30").arg(self.binaries.join("weir"));
        console.arg("--socket").arg(console_socket(&self.run)).args(["-c", command]);
        let finished = finish(&mut console)?;
        ensure!(
            finished.code == Some(0),
            "console command '{command}' ended with {:?}: {}{}",
            finished.code,
            finished.text(),
            finished.errors
        );
        Ok(finished.text())
    }

    fn kill_engine(&mut self) -> Result<String> {
        let engine = self.engine()?;
        kill(engine, Signal::SIGKILL).context("killing the engine")?;
        Ok(format!("kill -KILL {engine}   # {ENGINE}"))
    }

    fn attach(&mut self) -> Result<()> {
        let socket = console_socket(&self.run);
        Command::new(self.binaries.join("weir")).arg("--socket").arg(socket).status()?;
        Ok(())
    }

    fn state(&mut self) -> String {
        match self.supervisor.check() {
            Err(error) => format!("{error:#}"),
            Ok(()) => format!(
                "the end of {}:\n{}",
                self.run.path("weir.log").display(),
                crate::process::tail(&self.run.path("weir.log"), 15)
            ),
        }
    }
}

/// Release binaries of the appliance: `WEIR_BINARIES`, else in cargo's target directory.
pub fn binaries() -> Result<PathBuf> {
    let directory = match (std::env::var_os("WEIR_BINARIES"), std::env::var_os("CARGO_TARGET_DIR"))
    {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(target)) => PathBuf::from(target).join("x86_64-unknown-linux-musl/release"),
        (None, None) => repository().join("target/x86_64-unknown-linux-musl/release"),
    };
    for name in ["weir-init", AGENT, ENGINE, CAPTURE, "weir"] {
        ensure!(
            directory.join(name).exists(),
            "no {} in {}: build the appliance's programs first (ci/image does)",
            name,
            directory.display()
        );
    }
    Ok(directory)
}

/// client -- 1A, bridge, 1B -- server.
pub fn lay_segment(ends: &Ends) -> Result<()> {
    let run = &ends.run;
    let ports = [run.interface('a'), run.interface('b')];
    for (port, end) in ports.iter().zip([&ends.client, &ends.server]) {
        ip(&["link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", end.name()])?;
    }
    make_segment(run, &ports)
}

/// The same with a relay, a bad cable once it is told to be one, between each end and its port.
pub fn lay_impaired_segment(ends: &Ends, trouble: Trouble, seed: u64) -> Result<[Relay; 2]> {
    let run = &ends.run;
    let ports = [run.interface('a'), run.interface('b')];
    let relay = |port: &str, end, seed| {
        let sides = [tap::open_in(end, INTERFACE, Frames::Plain)?, tap::open(port, Frames::Plain)?];
        Relay::start(sides, trouble, seed)
    };
    let relays = [
        relay(&ports[0], &ends.client, seed)?,
        relay(&ports[1], &ends.server, seed.wrapping_add(1))?,
    ];
    make_segment(run, &ports)?;
    Ok(relays)
}

fn make_segment(run: &Run, ports: &[String; 2]) -> Result<()> {
    let names = Names { prefix: run.prefix(), ..Names::default() };
    segment::create(&names, SegmentId(1), [&ports[0], &ports[1]])
        .context("making segment 1 of the lab")?;
    Ok(())
}

/// Where programs and tables are pinned.
pub fn mount_bpf() -> Result<()> {
    let mounted = std::fs::read_to_string("/proc/mounts")?;
    if mounted.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Ok(());
    }
    succeed(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])).map(drop)
}

fn write_configuration(run: &Run, section: &str) -> Result<()> {
    let path = configuration(run);
    std::fs::write(&path, section)?;
    // Private keys are in it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn configuration(run: &Run) -> PathBuf {
    run.path("weir.yaml")
}

fn console_socket(run: &Run) -> PathBuf {
    run.path("console.sock")
}

/// The services file of `weir-init supervise`. No `--init-socket`: the lab is no machine whose mode
/// could be asked.
fn services(run: &Run, binaries: &Path, management: &Namespace) -> String {
    let file = |name: &str| run.path(name).display().to_string();
    let agent = [
        "nsenter".into(),
        format!("--net=/run/netns/{}", management.name()),
        binaries.join(AGENT).display().to_string(),
        "run".into(),
        "--configuration".into(),
        configuration(run).display().to_string(),
        "--state".into(),
        file("agent-state"),
        "--engine-socket".into(),
        file("engine.sock"),
        "--console-socket".into(),
        console_socket(run).display().to_string(),
        "--init-socket".into(),
        file("no-init.sock"),
        "--provisioned".into(),
        file("not-provisioned.json"),
        "--provisioning-errors".into(),
        file("no-provisioning-errors"),
        "--capture-socket".into(),
        file("capture.sock"),
    ];
    let names = Names { prefix: run.prefix(), ..Names::default() };
    let capture = [
        binaries.join(CAPTURE).display().to_string(),
        "--socket".into(),
        file("capture.sock"),
        "--directory".into(),
        file("captures"),
        "--namespace".into(),
        names.wire().display().to_string(),
    ];
    let engine = [
        binaries.join(ENGINE).display().to_string(),
        "--agent-socket".into(),
        file("engine.sock"),
        "--netns-prefix".into(),
        run.prefix(),
        "--pin-directory".into(),
        run.pin_directory().display().to_string(),
        "--flow-table".into(),
        FLOW_TABLE.to_string(),
    ];
    format!(
        "[{{\"name\": \"{AGENT}\", \"command\": {agent:?}, \"restart\": \"always\", \
         \"notifies\": true, \"watchdog\": 10.0}},\n \
         {{\"name\": \"{CAPTURE}\", \"command\": {capture:?}, \"restart\": \"always\"}},\n \
         {{\"name\": \"{ENGINE}\", \"command\": {engine:?}, \"restart\": \"always\", \
         \"notifies\": true, \"watchdog\": 5.0, \"drain-time\": 3700}}]\n"
    )
}

fn child_of(parent: Pid, name: &str) -> Result<Option<Pid>> {
    Ok(children_of(parent, name)?.pop())
}

/// proc(5): pid (comm) state ppid ...
fn children_of(parent: Pid, name: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let comm = stat.get(open + 1..close).unwrap_or_default();
        let mut rest = stat.get(close + 1..).unwrap_or_default().split_whitespace();
        let (state, ppid) = (rest.next(), rest.next());
        if comm == name && state != Some("Z") && ppid == Some(&parent.to_string()) {
            let pid = stat.get(..open).unwrap_or_default().trim().parse()?;
            found.push(Pid::from_raw(pid));
        }
    }
    found.sort();
    Ok(found)
}
