//! Orders to the machine: to init, and to what keeps its links.

use super::*;

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
