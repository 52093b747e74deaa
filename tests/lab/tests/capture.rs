//! Captures on a port, started at the console while traffic crosses, read by tcpdump (SPEC D11).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::lab;
use weir_lab::bench::Bench;
use weir_lab::ends::{CLIENT, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::{Lab, binaries};

const MARK: &str = "only-to-be-seen-decrypted";

#[test]
fn a_port_is_captured_as_it_is_on_the_wire_and_nothing_decrypted_is_in_it() {
    let mut bench = lab();
    let line = "capture 1A both count 2000 duration 60 filter \"tcp port 443\" file trial print";
    let console = start(&bench, line);
    wait_until_it_runs(&mut bench, "trial");
    let path = format!("/?{MARK}");
    Fetch::new("public.example", &path).run(&bench.ends).unwrap().succeeded().unwrap();
    let listed = bench.wire.console("show captures").unwrap();
    assert!(listed.contains("trial") && listed.contains("1A"), "{listed}");
    let refused = bench.wire.console("capture 1A count 1").unwrap_err().to_string();
    assert!(refused.contains("capture trial runs on 1A; stop it first"), "{refused}");
    // The session crosses the ports in either direction before the capture is stopped.
    std::thread::sleep(Duration::from_millis(500));
    bench.wire.console("capture stop 1A").unwrap();
    let shown = console.wait_with_output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("Capture trial runs") && shown.contains("Capture trial ended"),
        "{shown}"
    );
    assert!(shown.contains(&format!("{SERVER}")) && shown.contains("443"), "{shown}");

    let file = bench.run.path("captures").join("trial.pcapng");
    let frames = tcpdump(&file);
    let to_server = format!("{CLIENT}.");
    let to_client = format!("{SERVER}.443 > {CLIENT}.");
    assert!(frames.iter().any(|line| line.contains(&to_server) && line.contains("Flags [S]")));
    assert!(frames.iter().any(|line| line.contains(&to_client) && line.contains("Flags [S.]")));
    assert!(frames.iter().all(|line| line.contains(".443")), "{frames:?}");
    // Both ports: every frame that crosses is in it twice.
    let syns = frames.iter().filter(|line| line.contains("Flags [S],")).count();
    assert!(syns >= 2 && syns.is_multiple_of(2), "{frames:?}");
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.windows(14).any(|window| window == b"public.example"), "the hello's server name");
    assert!(!bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes()), "decrypted bytes");

    bench.wire.console("capture delete trial").unwrap();
    assert!(!file.exists());
    bench.run.succeeded();
}

#[test]
fn a_capture_ends_at_its_count_and_takes_what_its_filter_names() {
    let mut bench = lab();
    let line = "capture 1B count 3 filter \"outbound and tcp dst port 443\" file three snaplen 60";
    let console = start(&bench, line);
    wait_until_it_runs(&mut bench, "three");
    Fetch::new("bank.example", "/").run(&bench.ends).unwrap().succeeded().unwrap();
    let shown = String::from_utf8(console.wait_with_output().unwrap().stdout).unwrap();
    assert!(shown.contains("3 packets"), "{shown}");
    let frames = tcpdump(&bench.run.path("captures").join("three.pcapng"));
    assert_eq!(frames.len(), 3, "{frames:?}");
    let towards_server = format!("> {SERVER}.443");
    assert!(frames.iter().all(|line| line.contains(&towards_server)), "{frames:?}");
    bench.run.succeeded();
}

#[test]
fn what_cannot_be_captured_is_refused_by_name_and_place() {
    let mut bench = lab();
    for (line, why) in [
        ("capture 9A count 1", "9A"),
        ("capture lo count 1", "lo"),
        ("capture 1A filter \"tcp prt 443\"", "character 5"),
        ("capture 1A filter \"host 10.0.0\"", "character 6"),
        ("capture 1A file ../agent count 1", "../agent"),
        ("capture 1A count 0", "0"),
        ("capture 1A duration 601", "601"),
        ("capture stop nothing", "nothing"),
        ("capture delete nothing", "nothing"),
    ] {
        let refused = bench.wire.console(line).unwrap_err().to_string();
        assert!(refused.contains(why), "{line}: {refused}");
    }
    let none = bench.wire.console("show captures").unwrap();
    assert!(none.lines().all(|line| line.chars().count() <= 80), "{none}");
    bench.run.succeeded();
}

/// A console that follows the capture to its end.
fn start(bench: &Bench<Lab>, line: &str) -> Child {
    Command::new("timeout")
        .arg("90")
        .arg(binaries().unwrap().join("weir"))
        .arg("--socket")
        .arg(bench.run.path("console.sock"))
        .args(["-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_it_runs(bench: &mut Bench<Lab>, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let listed = bench.wire.console("show captures").unwrap();
        if listed.lines().any(|line| line.contains(name) && line.contains("runs on")) {
            return;
        }
        assert!(Instant::now() < deadline, "{listed}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One line a frame, as tcpdump reads the file.
fn tcpdump(file: &Path) -> Vec<String> {
    let read = Command::new("tcpdump").arg("-n").arg("-r").arg(file).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8(read.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}
