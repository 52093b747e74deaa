//! Supervision with real processes, by `weir-init supervise`: the code that PID 1 runs.
//! Needs root (users and capabilities); without it the tests fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_api::init::{FromInit, MachineStatus, ServiceState, ServiceStatus, ToInit};

#[test]
fn a_service_that_ends_is_started_again_and_the_others_go_on() {
    let lab = Lab::start(
        r#"[{"name": "fails", "command": ["/bin/sh", "-c", "echo x >> $DIR/starts; exit 3"],
             "restart": "always", "environment": {"DIR": "DIRECTORY"}},
            {"name": "lives", "command": ["/bin/sleep", "1000"], "restart": "always"}]"#,
    );
    lab.wait_for("four starts", || lab.read("starts").lines().count() >= 4);
    let fails = lab.service("fails");
    assert!(fails.restarts >= 3, "{fails:?}");
    assert_eq!(fails.last_exit.as_deref(), Some("exited with 3"));
    let lives = lab.service("lives");
    assert_eq!((lives.state, lives.restarts), (ServiceState::Running, 0));
}

#[test]
fn a_program_that_is_missing_is_a_failure_like_any_other() {
    let lab = Lab::start(
        r#"[{"name": "missing", "command": ["/no/such/program"], "restart": "always",
             "notifies": true}]"#,
    );
    lab.wait_for("the keeps-failing line", || lab.read("output").contains("missing keeps failing"));
    let output = lab.read("output");
    assert_eq!(output.matches("weir: missing down").count(), 1, "{output}");
    assert_eq!(output.matches("weir: missing keeps failing").count(), 1, "{output}");
}

#[test]
fn a_service_whose_user_is_missing_never_runs() {
    let lab = Lab::start(
        r#"[{"name": "orphaned", "user": "weir-no-such-user", "restart": "always",
             "command": ["/bin/sh", "-c", "id -u > DIRECTORY/ran"]}]"#,
    );
    lab.wait_for("a second try", || lab.read("log").matches("not started").count() >= 2);
    assert_eq!(lab.read("ran"), "");
    assert_eq!(
        lab.service("orphaned").last_exit.as_deref(),
        Some("not started: user weir-no-such-user is not in /etc/passwd")
    );
    let output = lab.read("output");
    assert!(output.contains("weir: orphaned down (not started: user"), "{output}");
}

#[test]
fn only_the_services_user_and_root_may_notify() {
    let lab = Lab::start(&format!(
        r#"[{{"name": "theirs", "user": "nobody", "restart": "always", "notifies": true,
             "command": ["/usr/bin/perl", "-MSocket", "-e", "{NOTIFY} sleep 1000"]}},
            {{"name": "ours", "restart": "always", "notifies": true,
             "command": ["/usr/bin/perl", "-MSocket", "-e", "{NOTIFY} sleep 1000"]}}]"#
    ));
    lab.wait_for("both", || {
        let output = lab.read("output");
        output.contains("weir: theirs running\n") && output.contains("weir: ours running\n")
    });
    for (socket, owner) in [("run/theirs.notify", 65534), ("run/ours.notify", 0)] {
        let metadata = fs::metadata(lab.path(socket)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (owner, owner), "{socket}");
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{socket}");
    }
}

#[test]
fn a_silent_watchdog_is_killed_and_started_again() {
    let lab = Lab::start(&format!(
        r#"[{{"name": "hangs", "command": ["/usr/bin/perl", "-MSocket", "-e", "{NOTIFY} sleep 1000"],
             "restart": "always", "notifies": true, "watchdog": 0.5}}]"#
    ));
    lab.wait_for("a restart", || lab.service("hangs").restarts >= 1);
    let output = lab.read("output");
    assert!(output.contains("weir: hangs running\n"), "{output}");
    assert!(output.contains("weir: hangs down (watchdog missed, killed by SIGKILL)"), "{output}");
}

#[test]
fn a_service_that_says_it_is_alive_is_left_alone() {
    let lab = Lab::start(&format!(
        r#"[{{"name": "beats", "command": ["/usr/bin/perl", "-MSocket", "-e",
              "{NOTIFY} for (1..20) {{ select(undef,undef,undef,0.1); send(S,'WATCHDOG=1',0,pack_sockaddr_un($ENV{{NOTIFY_SOCKET}})); }} open(F,'>','DIRECTORY/beaten'); close(F); sleep 1000"],
             "restart": "always", "notifies": true, "watchdog": 1.5}}]"#
    ));
    lab.wait_for("twenty beats", || lab.path("beaten").exists());
    assert_eq!(lab.service("beats").restarts, 0);
}

#[test]
fn adopted_children_are_reaped() {
    let lab = Lab::start(
        r#"[{"name": "parent", "restart": "always", "command": ["/bin/sh", "-c",
             "(sh -c 'echo $$ > DIRECTORY/orphan; sleep 0.3' &); exec sleep 1000"]}]"#,
    );
    lab.wait_for("the orphan's number", || lab.read("orphan").ends_with('\n'));
    let orphan = PathBuf::from("/proc").join(lab.read("orphan").trim());
    // A zombie would keep its directory for ever.
    lab.wait_for("the orphan's end", || !orphan.exists());
    assert_eq!(lab.service("parent").restarts, 0);
}

#[test]
fn a_service_has_its_user_and_its_capabilities_and_no_others() {
    let lab = Lab::start(
        r#"[{"name": "shows", "user": "nobody", "groups": ["tty"], "restart": "never",
             "capabilities": ["CAP_NET_ADMIN", "CAP_BPF"], "open-files": 4242,
             "command": ["/bin/sh", "-c",
               "cat /proc/self/status > DIRECTORY/status; ulimit -n > DIRECTORY/files"]}]"#,
    );
    lab.wait_for("its end", || lab.service("shows").state == ServiceState::Done);
    let status = lab.read("status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let only = format!("{:016x}", 1u64 << 12 | 1u64 << 39);
    assert_eq!(field("Uid:"), "65534 65534 65534 65534");
    assert_eq!(field("Gid:"), "65534 65534 65534 65534");
    assert_eq!(field("Groups:"), "5");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), only, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(lab.read("files").trim(), "4242");
}

#[test]
fn a_one_shot_over_its_time_limit_is_killed_for_good() {
    let lab = Lab::start(
        r#"[{"name": "slow", "command": ["/bin/sleep", "1000"], "restart": "never",
             "time-limit": 0.3}]"#,
    );
    lab.wait_for("its end", || lab.service("slow").state == ServiceState::Done);
    assert_eq!(lab.service("slow").last_exit.as_deref(), Some("killed by SIGKILL"));
}

#[test]
fn services_stop_in_reverse_order_and_the_deaf_are_killed() {
    let stop = |name: &str| {
        format!(
            r#"{{"name": "{name}", "restart": "always", "command": ["/bin/sh", "-c",
                "trap 'echo {name} >> DIRECTORY/order; exit 0' TERM; echo {name} >> DIRECTORY/up; while :; do sleep 0.1; done"]}}"#
        )
    };
    let deaf = r#"{"name": "deaf", "restart": "always", "stop-time": 0.5,
        "command": ["/bin/sh", "-c", "trap '' TERM; echo deaf >> DIRECTORY/up; while :; do sleep 0.1; done"]}"#;
    let mut lab = Lab::start(&format!("[{}, {deaf}, {}]", stop("first"), stop("last")));
    lab.wait_for("all", || lab.read("up").lines().count() == 3);
    lab.signal(Signal::SIGTERM);
    assert!(lab.supervisor.wait().unwrap().success());
    assert_eq!(lab.read("order"), "last\nfirst\n");
    assert_eq!(lab.living(), Vec::<String>::new());
}

#[test]
fn a_service_killed_on_request_comes_back() {
    let lab = Lab::start(
        r#"[{"name": "engine", "command": ["/bin/sleep", "1000"], "restart": "always"}]"#,
    );
    lab.wait_for("the engine", || lab.service("engine").state == ServiceState::Running);
    let answer = lab.ask(&ToInit::KillService { name: "engine".into() });
    assert!(matches!(answer, FromInit::Going), "{answer:?}");
    lab.wait_for("its restart", || lab.service("engine").restarts == 1);
    assert_eq!(lab.service("engine").last_exit.as_deref(), Some("killed by SIGKILL"));
    let answer = lab.ask(&ToInit::KillService { name: "motor".into() });
    assert!(
        matches!(&answer, FromInit::Refused(why) if why.contains("services are: engine")),
        "{answer:?}"
    );
}

/// A service that says each 100 ms that it is alive; its number goes to a file.
fn beats(watchdog: &str) -> String {
    format!(
        r#"[{{"name": "beats", "restart": "always", "notifies": true, "watchdog": {watchdog},
             "drain-time": 1000, "command": ["/usr/bin/perl", "-MSocket", "-e",
             "{NOTIFY} open(F,'>','DIRECTORY/pid.new'); print F $$; close(F); rename('DIRECTORY/pid.new','DIRECTORY/pid'); while (!-e 'DIRECTORY/end'.$$) {{ select(undef,undef,undef,0.1); send(S,'WATCHDOG=1',0,pack_sockaddr_un($ENV{{NOTIFY_SOCKET}})); }}"]}}]"#
    )
}

#[test]
fn a_stopped_service_is_killed_and_started_again() {
    let lab = Lab::start(&beats("1.5"));
    lab.wait_for("its number", || lab.path("pid").exists());
    let pid = lab.read("pid").parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    lab.wait_for("its restart", || lab.service("beats").restarts == 1);
    let output = lab.read("output");
    assert!(output.contains("weir: beats down (watchdog missed, killed by SIGKILL)"), "{output}");
    lab.wait_for("the next", || lab.read("pid") != pid.to_string());
}

#[test]
fn a_pause_of_supervisor_and_service_together_is_no_missed_watchdog() {
    let lab = Lab::start(&beats("1.5"));
    lab.wait_for("its number", || lab.path("pid").exists());
    let service = Pid::from_raw(lab.read("pid").parse().unwrap());
    lab.signal(Signal::SIGSTOP);
    kill(service, Signal::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    lab.signal(Signal::SIGCONT);
    // The supervisor turns first: it sees the silence of the pause.
    std::thread::sleep(Duration::from_millis(300));
    kill(service, Signal::SIGCONT).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lab.service("beats").restarts, 0, "{}", lab.read("output"));
    assert_eq!(lab.read("pid"), service.to_string());
}

#[test]
fn a_service_that_is_replaced_goes_on_beside_its_successor() {
    let lab = Lab::start(&beats("1.5"));
    lab.wait_for("it to be ready", || lab.read("output").contains("weir: beats running"));
    lab.wait_for("its number", || lab.path("pid").exists());
    let first = lab.read("pid");
    let replace = ToInit::ReplaceService { name: "beats".into() };
    assert!(matches!(lab.ask(&replace), FromInit::Going));
    lab.wait_for("the successor", || lab.read("pid") != first);
    let second = lab.read("pid");
    // Longer than the watchdog: the supervisor hears both.
    std::thread::sleep(Duration::from_millis(2500));
    let lives = |pid: &str| Path::new("/proc").join(pid).exists();
    assert!(lives(&first) && lives(&second));
    fs::write(lab.path(&format!("end{first}")), "").unwrap();
    lab.wait_for("its end", || !lives(&first));
    assert!(lives(&second));
    let service = lab.service("beats");
    assert_eq!((service.state, service.restarts), (ServiceState::Running, 0));
    let output = lab.read("output");
    assert!(!output.contains("down"), "{output}");
}

#[test]
fn a_predecessor_that_hangs_is_killed() {
    let lab = Lab::start(&beats("1.5"));
    lab.wait_for("it to be ready", || lab.read("output").contains("weir: beats running"));
    lab.wait_for("its number", || lab.path("pid").exists());
    let first = lab.read("pid");
    assert!(matches!(lab.ask(&ToInit::ReplaceService { name: "beats".into() }), FromInit::Going));
    lab.wait_for("the successor", || lab.read("pid") != first);
    kill(Pid::from_raw(first.parse().unwrap()), Signal::SIGSTOP).unwrap();
    lab.wait_for("its end", || !Path::new("/proc").join(&first).exists());
    assert_eq!(lab.service("beats").state, ServiceState::Running);
}

#[test]
fn a_service_without_a_time_to_drain_is_not_replaced() {
    let lab = Lab::start(
        r#"[{"name": "engine", "command": ["/bin/sleep", "1000"], "restart": "always"}]"#,
    );
    let answer = lab.ask(&ToInit::ReplaceService { name: "engine".into() });
    assert!(matches!(answer, FromInit::Refused(_)), "{answer:?}");
}

/// Perl, because a shell has no datagram sockets and Debian's base has it.
const NOTIFY: &str = "socket(S,AF_UNIX,SOCK_DGRAM,0); \
                      send(S,'READY=1',0,pack_sockaddr_un($ENV{NOTIFY_SOCKET}));";

/// A supervisor with its directory; both are gone when it is dropped.
struct Lab {
    directory: tempfile::TempDir,
    supervisor: Child,
}

impl Lab {
    /// `DIRECTORY` in the services becomes the lab's own, writable by all.
    fn start(services: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let file = directory.path().join("services.json");
        let services = services.replace("DIRECTORY", directory.path().to_str().unwrap());
        fs::write(&file, services).unwrap();
        let output = fs::File::create(directory.path().join("output")).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let supervisor = Command::new(env!("CARGO_BIN_EXE_weir-init"))
            .arg("supervise")
            .arg("--services")
            .arg(&file)
            .arg("--runtime-directory")
            .arg(directory.path().join("run"))
            .arg("--control-socket")
            .arg(directory.path().join("control"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .unwrap();
        let lab = Self { directory, supervisor };
        lab.wait_for("the control socket", || UnixStream::connect(lab.path("control")).is_ok());
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Bounded: a minute, far more than anything here takes.
    fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..1200 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{what} did not come; output:\n{}\nlog:\n{}", self.read("output"), self.read("log"));
    }

    fn ask(&self, request: &ToInit) -> FromInit {
        let mut stream = UnixStream::connect(self.path("control")).unwrap();
        let body = serde_json::to_vec(request).unwrap();
        stream.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    fn status(&self) -> MachineStatus {
        match self.ask(&ToInit::Status) {
            FromInit::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn service(&self, name: &str) -> ServiceStatus {
        self.status().services.into_iter().find(|service| service.name == name).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.supervisor.id() as i32), signal).unwrap();
    }

    /// Command lines of processes that carry the lab's directory in them.
    fn living(&self) -> Vec<String> {
        let directory = self.directory.path().to_str().unwrap();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_to_string(Path::new(&entry.path()).join("cmdline")).ok())
            .filter(|command| command.contains(directory))
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test may have ended it already.
        let _ = kill(Pid::from_raw(self.supervisor.id() as i32), Signal::SIGTERM);
        let _ = self.supervisor.wait();
    }
}
