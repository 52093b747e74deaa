//! Who is at the console, and what it sends.

use super::*;

#[test]
fn login_gives_the_provisioned_role_and_no_more() {
    let agent = Agent::start(CONFIGURATION, |directory| provision(directory, "operator"));
    let mut console = agent.console();
    let login = |password: &str| Request::Login {
        user: "ops".into(),
        password: SecretBytes::new(password.into()),
    };
    assert!(matches!(console.ask(&login("wrong")), Response::Refused(_)));
    let Response::LoggedIn { user, role } = console.ask(&login("correct horse")) else { panic!() };
    assert_eq!((user.as_str(), role), ("ops", Role::Operator));
    assert!(matches!(console.ask(&Request::Version), Response::Version { .. }));
    for order in [Request::Reboot, Request::PowerOff, Request::KillEngine] {
        let Response::Refused(reason) = console.ask(&order) else { panic!() };
        assert_eq!(reason, "this needs the role administrator; yours is operator");
    }
    let Response::Greeting(greeting) = agent.console().ask(&Request::Greeting) else { panic!() };
    assert!(greeting.login_possible);
    assert_eq!(greeting.hostname, "edge");
}

#[test]
fn console_that_breaks_the_protocol_is_closed_and_the_agent_goes_on() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    for broken in [&[0xff; 64][..], b"\0\0\0\x04nope", b"\0\0"] {
        let mut console = agent.console();
        console.raw().write_all(broken).unwrap();
        console.raw().shutdown(std::net::Shutdown::Write).unwrap();
        assert!(console.try_hear::<Response>().is_none());
    }
    assert!(matches!(agent.console().ask(&Request::Version), Response::Version { .. }));
}

#[test]
fn provisioning_errors_are_in_the_greeting() {
    let agent = Agent::start(CONFIGURATION, |directory| {
        fs::write(directory.join("provisioning-errors"), "user-data:17: wrong\n").unwrap();
    });
    let Response::Greeting(greeting) = agent.console().ask(&Request::Greeting) else { panic!() };
    assert_eq!(greeting.provisioning_errors, ["user-data:17: wrong"]);
}

#[test]
fn a_capture_that_runs_ends_with_its_console() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let asked = fake_capture(&agent.path("capture.sock"));
    let mut console = agent.console();
    for name in ["short", "long"] {
        let options =
            CaptureOptions { port: "1A".into(), file: Some(name.into()), ..Default::default() };
        console.ask(&Request::Capture(ToCapture::Start(options)));
        console.ask(&Request::Capture(ToCapture::Progress { name: name.into(), from: 0 }));
    }
    assert_eq!(asked.try_iter().count(), 4);
    drop(console);
    // That one which had ended by itself is not ended again: its name may be another's by now.
    assert_eq!(asked.recv_timeout(PATIENCE), Ok(ToCapture::Stop("long".into())));
    agent.console().ask(&Request::Capture(ToCapture::List));
    assert_eq!(asked.recv_timeout(PATIENCE), Ok(ToCapture::List));
}

/// A provisioned user `ops` with the password `correct horse`.
fn provision(directory: &std::path::Path, role: &str) {
    let seed = directory.join("seed");
    fs::create_dir(&seed).unwrap();
    // openssl passwd -6 -salt weirsalt 'correct horse'
    let hash = "$6$weirsalt$nyE.LoOsxBhP2tG/5l3OXExTeFfmEtRILOES5mYd.rcA3Mlwmg2m0PxGZnxzjztxLDVol9vOZDoHrSxqYt0wJ/";
    fs::write(seed.join("meta-data"), "instance-id: one\nlocal-hostname: edge\n").unwrap();
    let user_data = format!(
        "#cloud-config\nusers:\n  - name: ops\n    passwd: {hash}\n    lock_passwd: false\n    weir-role: {role}\n"
    );
    fs::write(seed.join("user-data"), user_data).unwrap();
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_weir-agent"))
        .arg("provision")
        .args(["--seed".as_ref(), seed.as_os_str()])
        .args(["--run-directory".as_ref(), directory.join("run").as_os_str()])
        .args(["--console", "/dev/null"])
        .status()
        .unwrap();
    assert!(status.success());
    fs::copy(directory.join("run/agent/provisioned.json"), directory.join("provisioned.json"))
        .unwrap();
}
