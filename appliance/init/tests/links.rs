//! Link-down synchronisation with real interfaces, by `weir-init links`, and no engine at all.
//! Needs root (namespaces); without it the tests fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weir_api::links::{FromLinks, LinkSettings, LinkStatus, ToLinks};
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::{LinkDownSynchronisation, SegmentId, Side};

const SEGMENT: SegmentId = SegmentId(1);

#[test]
fn a_wire_takes_its_other_port_down_and_brings_it_back() {
    let lab = Lab::start(LinkDownSynchronisation::Wire, 0);
    lab.wait_for_link("server", true);
    lab.set("client", "down");
    lab.wait_for_link("server", false);
    assert_eq!(lab.status().taken_down, Some(Side::B));
    lab.set("client", "up");
    lab.wait_for_link("server", true);
    lab.wait_for("both links", || lab.status().links == [true, true]);
    // The other way round.
    lab.set("server", "down");
    lab.wait_for_link("client", false);
    lab.set("server", "up");
    lab.wait_for_link("client", true);
}

#[test]
fn a_breaker_stays_open_until_the_ports_are_restarted() {
    let lab = Lab::start(LinkDownSynchronisation::Breaker, 0);
    assert!(matches!(lab.ask(&ToLinks::Restart(SEGMENT)), FromLinks::Refused(_)));
    lab.set("client", "down");
    lab.wait_for_link("server", false);
    lab.set("client", "up");
    lab.wait_for("the first link", || lab.status().links == [true, false]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(!lab.has_link("server"));
    assert!(matches!(lab.ask(&ToLinks::Restart(SEGMENT)), FromLinks::Status(_)));
    lab.wait_for_link("server", true);
}

#[test]
fn a_breaker_does_not_open_while_one_cable_was_never_in() {
    let lab = Lab::start_with(LinkDownSynchronisation::Breaker, 0, |prefix| {
        ip(&format!("-n {prefix}client link set e0 down"));
    });
    lab.wait_for("the other link", || lab.status().links == [false, true]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(lab.status().taken_down, None);
    lab.set("client", "up");
    lab.wait_for("both links", || lab.status().links == [true, true]);
    lab.set("client", "down");
    lab.wait_for_link("server", false);
}

#[test]
fn a_hub_changes_nothing_and_gives_ports_back_that_a_wire_took_down() {
    let lab = Lab::start(LinkDownSynchronisation::Hub, 0);
    lab.set("client", "down");
    lab.wait_for("the loss", || lab.status().links == [false, true]);
    std::thread::sleep(Duration::from_secs(1));
    assert!(lab.has_link("server"));
    lab.configure(LinkDownSynchronisation::Wire, 0);
    lab.wait_for_link("server", false);
    lab.configure(LinkDownSynchronisation::Hub, 0);
    lab.wait_for_link("server", true);
}

#[test]
fn a_link_that_is_back_within_the_wait_takes_nothing_down() {
    let lab = Lab::start(LinkDownSynchronisation::Wire, 60);
    lab.set("client", "down");
    lab.wait_for("the loss", || lab.status().links == [false, true]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(lab.status().taken_down, None);
    lab.set("client", "up");
    lab.wait_for("the link", || lab.status().links == [true, true]);
    assert!(lab.has_link("server"));
}

#[test]
fn a_service_that_is_started_again_knows_what_the_one_before_took_down() {
    let mut lab = Lab::start(LinkDownSynchronisation::Wire, 0);
    lab.set("client", "down");
    lab.wait_for_link("server", false);
    lab.restart(LinkDownSynchronisation::Wire);
    assert!(!lab.has_link("server"));
    lab.set("client", "up");
    lab.wait_for_link("server", true);
}

/// client -- 1A, segment 1, 1B -- server, each end with an interface `e0`.
struct Lab {
    prefix: String,
    directory: tempfile::TempDir,
    service: Child,
}

impl Lab {
    fn start(mode: LinkDownSynchronisation, wait: u64) -> Self {
        let lab = Self::start_with(mode, wait, |_| {});
        lab.wait_for("both links", || lab.status().links == [true, true]);
        lab
    }

    /// `before`: done to the ends' namespaces, by their prefix, before the segment is made.
    fn start_with(mode: LinkDownSynchronisation, wait: u64, before: impl Fn(&str)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let prefix = format!("wln{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        for name in ["yard", "client", "server"] {
            ip(&format!("netns add {prefix}{name}"));
        }
        for (port, end) in [("portA", "client"), ("portB", "server")] {
            ip(&format!(
                "-n {prefix}yard link add name {port} type veth peer name e0 netns {prefix}{end}"
            ));
            ip(&format!("-n {prefix}{end} link set e0 up"));
        }
        before(&prefix);
        let names = Names { prefix: prefix.clone(), ..Names::default() };
        let yard = PathBuf::from(format!("/run/netns/{prefix}yard"));
        inside(&yard, || segment::create(&names, SEGMENT, ["portA", "portB"])).unwrap().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let service = run(&prefix, &directory);
        let lab = Self { prefix, directory, service };
        lab.wait_for("the service", || UnixStream::connect(lab.socket()).is_ok());
        lab.configure(mode, wait);
        lab
    }

    /// Without a word to the ports.
    fn restart(&mut self, mode: LinkDownSynchronisation) {
        self.service.kill().unwrap();
        self.service.wait().unwrap();
        self.service = run(&self.prefix, &self.directory);
        self.wait_for("the service", || UnixStream::connect(self.socket()).is_ok());
        self.configure(mode, 0);
        self.wait_for("its look", || {
            matches!(self.ask(&ToLinks::Status),
            FromLinks::Status(all) if all.iter().any(|one| one.taken_down.is_some()))
        });
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("links.sock")
    }

    fn configure(&self, mode: LinkDownSynchronisation, wait: u64) {
        let wait = Duration::from_secs(wait);
        let settings = LinkSettings { segment: SEGMENT, mode, wait };
        assert!(matches!(self.ask(&ToLinks::Configure(vec![settings])), FromLinks::Status(_)));
    }

    fn ask(&self, question: &ToLinks) -> FromLinks {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = serde_json::to_vec(question).unwrap();
        stream.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// Of the segment; without one that was seen, no links.
    fn status(&self) -> LinkStatus {
        match self.ask(&ToLinks::Status) {
            FromLinks::Status(all) => all.first().copied().unwrap_or(LinkStatus {
                segment: SEGMENT,
                links: [false, false],
                taken_down: None,
            }),
            refused => panic!("{refused:?}"),
        }
    }

    fn set(&self, end: &str, state: &str) {
        ip(&format!("-n {}{end} link set e0 {state}", self.prefix));
    }

    fn has_link(&self, end: &str) -> bool {
        ip(&format!("-n {}{end} link show e0", self.prefix)).contains("LOWER_UP")
    }

    fn wait_for_link(&self, end: &str, link: bool) {
        self.wait_for(&format!("{end}'s link being {link}"), || self.has_link(end) == link);
    }

    /// Bounded: half a minute.
    fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..600 {
            if condition() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{what} did not come about");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.service.id() as i32), Signal::SIGTERM);
        let _ = self.service.wait();
        for name in ["yard", "client", "server", "engine-1", "wire"] {
            if PathBuf::from(format!("/run/netns/{}{name}", self.prefix)).exists() {
                ip(&format!("netns del {}{name}", self.prefix));
            }
        }
    }
}

fn run(prefix: &str, directory: &tempfile::TempDir) -> Child {
    Command::new(env!("CARGO_BIN_EXE_weir-init"))
        .args(["links", "--netns-prefix", prefix, "--plan", "/no/such/plan", "--socket"])
        .arg(directory.path().join("links.sock"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
