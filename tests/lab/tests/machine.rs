//! The appliance, booted from its image. One machine at a time: each is two processors' work.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::certificates::Certificates;
use weir_lab::checks;
use weir_lab::crowd;
use weir_lab::document;
use weir_lab::ends::Ends;
use weir_lab::fetch::Fetch;
use weir_lab::report::{Evidence, Report};
use weir_lab::run::Run;
use weir_lab::wire::Wire as _;
use weir_lab::wire::machine::{Firmware, Image, Machine};
use weir_lab::wire::seed;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn boot(firmware: Firmware, image: Image) -> Bench<Machine> {
    Bench::start(|ends| Machine::start(ends, firmware, image))
        .unwrap_or_else(|error| panic!("{error:#}"))
}

#[test]
fn booted_by_seabios_the_six_checks_pass_and_it_shuts_down() {
    let _alone = alone();
    let mut bench = boot(Firmware::SeaBios, Image::Own);
    let mut report = Report::new("machine");
    checks::all(&mut bench, &mut report);
    assert!(report.conclude(), "{}", bench.wire.state());
    bench.wire.type_line("shutdown -y").unwrap();
    bench.wire.wait_for_power_off(Duration::from_secs(60)).unwrap();
    bench.run.succeeded();
}

#[test]
fn booted_by_ovmf_the_console_answers_and_a_download_is_inspected() {
    let _alone = alone();
    let mut bench = boot(Firmware::Ovmf, Image::Own);
    let version = bench.wire.console("show version").unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")) && version.contains("6.12"), "{version}");
    let health = bench.wire.console("show health").unwrap();
    assert!(health.contains("performance"), "{health}");
    let segments = bench.wire.console("show segments").unwrap();
    assert!(segments.contains("1A") && segments.contains("inspecting"), "{segments}");
    checks::benign_download(&mut bench, &mut Evidence).unwrap();
    legacy_worker_proved_its_sandbox(&mut bench);
    let captured = bench.wire.console("capture 1A duration 1 file one").unwrap();
    assert!(captured.contains("its time is up"), "{captured}");
    bench.run.succeeded();
}

/// From inside, and by the filter: what it tried is in the system log.
fn legacy_worker_proved_its_sandbox(bench: &mut Bench<Machine>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = bench.wire.console("show log 1000").unwrap();
        // The console folds its lines.
        let words = log.split_whitespace().collect::<Vec<_>>().join(" ");
        let proven =
            "its sandbox proven: refused opening a file, an Internet socket, a Unix socket, ";
        if words.contains(proven) {
            // Nor did the engine find anything short of what twice the most sessions need: init set it.
            assert!(!words.contains("where twice the most sessions need"), "{log}");
            return;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn as_many_sessions_as_it_is_made_for_idle_in_the_appliance_and_go_on_when_they_are_used() {
    let _alone = alone();
    let weir_lab = Path::new(env!("CARGO_BIN_EXE_weir-lab"));
    match crowd::machine::run(weir_lab, 10_000, Duration::from_secs(10)) {
        Ok(seen) => println!("{seen}"),
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn a_kernel_without_tcx_serves_as_well() {
    let _alone = alone();
    let mut bench = boot(Firmware::SeaBios, Image::WithoutTcx);
    let version = bench.wire.console("show version").unwrap();
    assert!(version.contains("6.1."), "{version}");
    let mut report = Report::new("machine");
    checks::all(&mut bench, &mut report);
    assert!(report.conclude(), "{}", bench.wire.state());
    bench.run.succeeded();
}

#[test]
fn a_bad_seed_is_named_on_the_console_and_the_wire_still_bridges() {
    let _alone = alone();
    let run = Run::new().unwrap();
    let mut ends = Ends::new(&run).unwrap();
    let (user_data, line) = bad_user_data(&ends.certificates);
    let mut machine = Machine::boot(&mut ends, Firmware::SeaBios, Image::Own, &user_data)
        .unwrap_or_else(|error| panic!("{error:#}"));
    let place = format!("user-data:{line}");
    assert!(machine.serial_text().contains(&place), "{}", machine.serial_text());
    let fetched = Fetch::new("public.example", "/").run(&ends).unwrap();
    fetched.succeeded().unwrap();
    let shown = fetched.certificate().unwrap();
    assert!(checks::is_own(&ends.certificates, &shown).unwrap());
    // Nobody can log in; the console may be read.
    machine.type_line("").unwrap();
    machine.expect("{}", Duration::from_secs(30)).unwrap();
    assert!(machine.console("show version").unwrap().contains("6.12"));
    run.succeeded();
}

/// The lab's user-data with a port that is none, and the line it is in.
fn bad_user_data(certificates: &Certificates) -> (String, usize) {
    let good = seed::user_data(&document::weir_section(certificates).unwrap()).unwrap();
    let bad = good.replacen("detection-ports: [\"443\"]", "detection-ports: [\"44x\"]", 1);
    let line = bad.lines().position(|line| line.contains("44x")).unwrap() + 1;
    (bad, line)
}
