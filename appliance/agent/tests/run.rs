//! `weir-agent run` end to end: a fake engine, a fake init and consoles on its real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::Write;
use std::time::Duration;

use support::{Agent, PATIENCE, Peer, fake_init, fake_links};
use weir_api::console::{Request, Response, Role};
use weir_api::engine::{
    Counters, FallbackReason, FilterAction, FilterEvent, FromEngine, SegmentCounters,
    SessionRecord, ToEngine,
};
use weir_api::fetch::{Fetch, FetchFailure};
use weir_api::init::{MachineStatus, Mode, ToInit};
use weir_api::links::{LinkSettings, LinkStatus, ToLinks};
use weir_api::rules::{Answer, QuarantinedHosts, Question};
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::{LinkDownSynchronisation, SegmentId, Side, Snapshot};
use weir_policy::{Outcome, SecretBytes};

const CONFIGURATION: &str = r#"
weir:
  segments: [ { id: 1, name: dmz } ]
  filters:
    - name: web
      rules: 'drop http any any -> any any (msg:"attack"; content:"evil"; sid:7; rev:1;)'
  profiles: [ { name: default, filters: [web] } ]
"#;

#[test]
fn engine_gets_the_policy_and_each_later_one() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    let first = snapshot(&mut engine);
    assert_eq!(first.segments[0].name, "dmz");
    assert!(first.filters[0].rules.contains("evil"));
    assert!(first.untrusted_authority.is_some());
    assert!(first.device.client_inspection && first.device.server_inspection);

    agent.configure(&CONFIGURATION.replace("dmz", "campus"));
    let second = snapshot(&mut engine);
    assert_eq!(second.segments[0].name, "campus");
    assert_eq!(second.generation, first.generation + 1);
    assert_eq!(second.untrusted_authority, first.untrusted_authority);

    // An engine that was restarted gets the newest at once.
    drop(engine);
    assert_eq!(snapshot(&mut agent.engine()), second);
}

#[test]
fn bad_configuration_is_refused_with_its_line_and_the_running_policy_stays() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    let running = snapshot(&mut engine);
    agent.configure(&CONFIGURATION.replace("content:", "contnt:"));
    let refused = agent.wait_for("configuration refused");
    assert!(refused.contains("weir.yaml:6"), "{refused}");
    assert!(refused.contains("contnt"), "{refused}");
    let Response::Health(health) = agent.console().ask(&Request::Health) else { panic!() };
    assert_eq!(health.generation, running.generation);
    assert!(health.warnings.iter().any(|warning| warning.contains("contnt")));
    // The next good one is told, and nothing was told between.
    agent.configure(CONFIGURATION);
    assert_eq!(snapshot(&mut engine).generation, running.generation + 1);
    let Response::Health(health) = agent.console().ask(&Request::Health) else { panic!() };
    assert!(!health.warnings.iter().any(|warning| warning.contains("contnt")));
}

#[test]
fn a_policy_that_is_too_large_for_the_engine_is_refused_and_the_running_one_stays() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    let running = snapshot(&mut engine);
    // One comment of nearly 4 MiB, which is twice as long as JSON has it; nine times.
    fs::write(agent.path("long.rules"), format!("#{}\n", "\"".repeat((4 << 20) - 2))).unwrap();
    let file = agent.path("long.rules");
    let sets: String =
        (0..9).map(|n| format!("    - {{ name: long{n}, file: {} }}\n", file.display())).collect();
    agent.configure(&CONFIGURATION.replace("  profiles:", &format!("{sets}  profiles:")));
    let refused = agent.wait_for("configuration refused");
    assert!(refused.contains("makes a policy of 75"), "{refused}");
    assert!(refused.contains("takes at most 67043328 (63 MiB)"), "{refused}");
    let Response::Health(health) = agent.console().ask(&Request::Health) else { panic!() };
    assert_eq!(health.generation, running.generation);
    assert!(health.warnings.iter().any(|warning| warning.contains("takes at most")));
    // The engine is told of other things as before.
    agent.console().ask(&Request::ForceFallback(true));
    assert!(matches!(engine.hear(), ToEngine::ForceFallback(true)));
    agent.configure(CONFIGURATION);
    assert_eq!(snapshot(&mut engine).generation, running.generation + 1);
}

#[test]
fn agent_that_starts_with_a_bad_configuration_bridges_and_says_why() {
    let agent = Agent::start("weir: { segmnts: [] }", |_| {});
    let policy = snapshot(&mut agent.engine());
    assert!(!policy.device.client_inspection && !policy.device.server_inspection);
    let Response::Greeting(greeting) = agent.console().ask(&Request::Greeting) else { panic!() };
    assert!(greeting.provisioning_errors.iter().any(|error| error.contains("segmnts")));
}

#[test]
fn sessions_events_and_counters_of_the_engine_are_shown() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    snapshot(&mut engine);
    for id in 1..=3 {
        engine.tell(&FromEngine::Session(Box::new(session(id))));
    }
    engine.tell(&FromEngine::Filter(Box::new(event())));
    engine.tell(&FromEngine::Counters(Box::new(counters())));
    agent.wait_for("filter 7 (");
    let mut console = agent.console();
    let Response::Sessions(sessions) = console.ask(&Request::Sessions { limit: 2 }) else {
        panic!()
    };
    assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [3, 2]);
    let Response::Events(events) = console.ask(&Request::Events { limit: 10 }) else { panic!() };
    assert_eq!((events.len(), events[0].sid), (1, 7));
    // Counters come last on the socket: wait until the agent has read them.
    engine.tell(&FromEngine::Applied { generation: 1 });
    agent.wait_for("policy in force");
    let Response::Segments(segments) = console.ask(&Request::Segments) else { panic!() };
    assert_eq!(segments[0].state, "inspecting");
    assert_eq!(segments[0].counters, [("held".to_owned(), 9)]);
    assert_eq!(segments[0].meanings["held"], "flow held");
    assert_eq!(segments[0].held_now, 2);
    drop(engine);
    agent.wait_for("engine disconnected");
    let Response::Segments(segments) = console.ask(&Request::Segments) else { panic!() };
    assert_eq!(segments[0].state, "Layer-2 fallback (engine down)");
    assert_eq!(segments[0].counters, []);
}

#[test]
fn forced_fallback_reaches_the_engine_and_its_successor() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    snapshot(&mut engine);
    let mut console = agent.console();
    assert!(matches!(console.ask(&Request::ForceFallback(true)), Response::Done(_)));
    assert!(matches!(engine.hear(), ToEngine::ForceFallback(true)));
    let mut successor = agent.engine();
    // Before the policy, with which an engine begins to judge.
    assert!(matches!(successor.hear(), ToEngine::ForceFallback(true)));
    snapshot(&mut successor);
    console.ask(&Request::ForceFallback(false));
    assert!(matches!(engine.hear(), ToEngine::ForceFallback(false)));
}

#[test]
fn what_an_engine_says_of_its_health_is_shown_and_logged() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    let mut console = agent.console();
    engine.tell(&FromEngine::Health { fallback: None, draining: false });
    agent.wait_for("normal operation");
    engine.tell(&FromEngine::Health { fallback: Some(FallbackReason::HeldFlows), draining: false });
    let line = agent.wait_for("Layer-2 fallback: overloaded: held flows at their bound");
    assert!(line.contains("inspection is off: everything crosses"), "{line}");
    let Response::Health(health) = console.ask(&Request::Health) else { panic!() };
    let off = health.inspection_off.unwrap();
    assert!(off.since > 0 && off.crosses.starts_with("everything crosses"), "{off:?}");
    let Response::Segments(segments) = console.ask(&Request::Segments) else { panic!() };
    assert_eq!(segments[0].inspection_off.as_ref(), Some(&off));
    let Response::HighAvailability(state) = console.ask(&Request::HighAvailability) else {
        panic!()
    };
    assert_eq!(state.state, "Layer-2 fallback: overloaded: held flows at their bound");
    assert_eq!(state.segments[0].layer2_fallback, "permit-all");
    engine.tell(&FromEngine::Health { fallback: None, draining: false });
    agent.wait_for("normal operation; inspection was off for");
    let Response::Health(health) = console.ask(&Request::Health) else { panic!() };
    assert_eq!(health.inspection_off, None);
}

#[test]
fn an_engine_that_drains_tells_no_more_of_the_state() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut old = agent.engine();
    snapshot(&mut old);
    // The log tells of changes that a round sees: it must have seen this engine to miss it.
    agent.wait_for("normal operation");
    old.tell(&FromEngine::Health { fallback: None, draining: true });
    agent.wait_for("drains");
    let mut console = agent.console();
    let mut state = || match console.ask(&Request::HighAvailability) {
        Response::HighAvailability(state) => (state.state, state.draining_engines),
        other => panic!("{other:?}"),
    };
    assert_eq!(state(), ("Layer-2 fallback: engine down".into(), 1));
    agent.wait_for("Layer-2 fallback: engine down");
    let mut new = agent.engine();
    new.tell(&FromEngine::Health { fallback: None, draining: false });
    agent.wait_for("normal operation");
    old.tell(&FromEngine::Health { fallback: Some(FallbackReason::Late), draining: true });
    old.tell(&FromEngine::Session(Box::new(session(77))));
    agent.wait_for("session 77");
    assert_eq!(state(), ("normal operation".into(), 1));
    drop(old);
    agent.wait_for("engine disconnected");
    assert_eq!(state().1, 0);
}

#[test]
fn link_down_synchronisation_has_its_settings_and_restarts_ports() {
    let mut links = None;
    let configuration = CONFIGURATION
        .replace("name: dmz", "name: dmz, link-down-synchronisation: breaker, wait-time: 3");
    let agent = Agent::start(&configuration, |directory| {
        let status =
            LinkStatus { segment: SegmentId(1), links: [false, false], taken_down: Some(Side::B) };
        links = Some(fake_links(&directory.join("links.sock"), status));
    });
    let links = links.unwrap();
    let ToLinks::Configure(settings) = links.recv_timeout(PATIENCE).unwrap() else { panic!() };
    let breaker = LinkSettings {
        segment: SegmentId(1),
        mode: LinkDownSynchronisation::Breaker,
        wait: Duration::from_secs(3),
    };
    assert_eq!(settings, [breaker]);
    let mut console = agent.console();
    let Response::HighAvailability(state) = console.ask(&Request::HighAvailability) else {
        panic!()
    };
    assert_eq!(state.segments[0].link_down_synchronisation, "breaker, wait 3 s");
    assert_eq!(state.segments[0].links, "1B taken down: 1A lost its link");
    assert!(matches!(console.ask(&Request::RestartPorts(SegmentId(1))), Response::Done(_)));
    let orders = std::iter::from_fn(|| links.recv_timeout(PATIENCE).ok());
    assert!(orders.take(5).any(|one| matches!(one, ToLinks::Restart(SegmentId(1)))));
}

#[test]
fn cleared_sessions_are_an_order_to_engines_that_are_there() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut console = agent.console();
    assert!(matches!(console.ask(&Request::ClearSessions), Response::Refused(_)));
    let mut engine = agent.engine();
    snapshot(&mut engine);
    assert!(matches!(console.ask(&Request::ClearSessions), Response::Done(_)));
    assert!(matches!(engine.hear(), ToEngine::ClearSessions));
}

#[test]
fn questions_are_the_engines_to_answer_and_orders_before_them_come_first() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut console = agent.console();
    let host = std::net::IpAddr::from([192, 0, 2, 7]);
    let quarantine = Request::Quarantine { host, minutes: Some(3) };
    let Response::Refused(reason) = console.ask(&quarantine) else { panic!() };
    assert!(reason.starts_with("no engine is connected"), "{reason}");
    assert!(matches!(console.ask(&Request::TrafficFilters), Response::TrafficFilters(_)));

    let mut engine = agent.engine();
    snapshot(&mut engine);
    console.tell(&quarantine);
    let ToEngine::Ask { number, question } = engine.hear() else { panic!() };
    assert_eq!(question, Question::Quarantine { host, minutes: Some(3) });
    engine.tell(&FromEngine::Answer { number, answer: Answer::Quarantined(180) });
    let Response::Done(done) = console.hear() else { panic!() };
    assert_eq!(done, "192.0.2.7 is quarantined for 3 minutes");

    console.tell(&Request::ReleaseHost(host));
    let ToEngine::Ask { number, .. } = engine.hear() else { panic!() };
    engine.tell(&FromEngine::Answer { number, answer: Answer::Released(false) });
    let Response::Refused(reason) = console.hear() else { panic!() };
    assert!(reason.starts_with("192.0.2.7 is not quarantined"), "{reason}");

    // An engine that goes away leaves nobody waiting.
    console.tell(&Request::ShowQuarantine);
    assert!(matches!(engine.hear(), ToEngine::Ask { .. }));
    drop(engine);
    let Response::Refused(reason) = console.hear() else { panic!() };
    assert_eq!(reason, "the engine went away before it answered");
}

#[test]
fn an_engine_that_drains_is_not_asked() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let (mut old, mut console) = (agent.engine(), agent.console());
    snapshot(&mut old);
    let mut new = agent.engine();
    snapshot(&mut new);
    new.tell(&FromEngine::Health { fallback: None, draining: true });
    agent.wait_for("an engine with a successor drains");
    console.tell(&Request::ShowQuarantine);
    let ToEngine::Ask { number, question } = old.hear() else { panic!() };
    assert_eq!(question, Question::Quarantined);
    old.tell(&FromEngine::Answer { number, answer: Answer::Hosts(QuarantinedHosts::default()) });
    assert!(matches!(console.hear(), Response::Quarantine(_)));
}

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
fn orders_go_to_init() {
    let mut orders = None;
    let agent = Agent::start(CONFIGURATION, |directory| {
        let status = MachineStatus { mode: Mode::Performance, ..MachineStatus::default() };
        orders = Some(fake_init(&directory.join("init.sock"), status));
    });
    let orders = orders.unwrap();
    let mut console = agent.console();
    assert!(matches!(console.ask(&Request::KillEngine), Response::Done(_)));
    let ToInit::KillService { name } = orders.recv_timeout(PATIENCE).unwrap() else { panic!() };
    assert_eq!(name, "engine");
    assert!(matches!(console.ask(&Request::Reboot), Response::Done(_)));
    assert!(matches!(orders.recv_timeout(PATIENCE).unwrap(), ToInit::Reboot));
}

#[test]
fn orders_without_an_init_are_refused_with_the_reason() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let Response::Refused(reason) = agent.console().ask(&Request::KillEngine) else { panic!() };
    assert!(reason.contains("no init on this machine"), "{reason}");
}

#[test]
fn normal_mode_turns_tls_inspection_off_and_says_so() {
    let agent = Agent::start(CONFIGURATION, |directory| {
        let status = MachineStatus { mode: Mode::Normal, ..MachineStatus::default() };
        fake_init(&directory.join("init.sock"), status);
    });
    let policy = snapshot(&mut agent.engine());
    assert!(!policy.device.client_inspection && !policy.device.server_inspection);
    let Response::Health(health) = agent.console().ask(&Request::Health) else { panic!() };
    assert!(health.warnings.iter().any(|w| w == "normal mode: TLS inspection is off"));
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

/// The next one; with the first comes that fallback is not forced.
fn snapshot(engine: &mut Peer) -> Snapshot {
    loop {
        match engine.hear() {
            ToEngine::Snapshot(snapshot) => return *snapshot,
            ToEngine::ForceFallback(false) => {}
            other => panic!("{other:?}"),
        }
    }
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

fn session(id: u64) -> SessionRecord {
    let (client, server) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:443".parse().unwrap());
    let mut session = SessionRecord::new(id, 1, SegmentId(1), client, server);
    session.outcome = Outcome::Blocked(Blocked::NotTlsOnServerProxy);
    session.logging = true;
    session
}

fn event() -> FilterEvent {
    FilterEvent {
        session: 3,
        time: 2,
        segment: SegmentId(1),
        client: "10.0.0.1:1".parse().unwrap(),
        server: "10.0.0.2:443".parse().unwrap(),
        server_name: None,
        profile: None,
        sid: 7,
        rev: 1,
        message: "attack".into(),
        action: FilterAction::Block,
        tls_inspected: true,
    }
}

fn counters() -> Counters {
    Counters {
        segments: vec![SegmentCounters {
            segment: SegmentId(1),
            fallback: false,
            counters: vec![("held".into(), 9)],
            held_now: 2,
            ..SegmentCounters::default()
        }],
        ..Counters::default()
    }
}

#[test]
fn what_an_engine_may_not_have_fetched_it_is_told_so() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    snapshot(&mut engine);
    for (number, url) in
        ["http://127.0.0.1/", "http://10.0.0.1/", "http://192.0.32.8:22/"].into_iter().enumerate()
    {
        let (number, fetch) = (number as u64, Fetch::Intermediate { url: url.parse().unwrap() });
        engine.tell(&FromEngine::Fetch { number, fetch });
        let ToEngine::Fetched { number: answered, result } = engine.hear() else { panic!() };
        assert_eq!(answered, number);
        assert!(matches!(result, Err(FetchFailure::Refused { .. })), "{url}: {result:?}");
    }
}
