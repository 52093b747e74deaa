//! What engines tell, are ordered and asked.

use super::*;

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
    // The engine is asked for those that it does not tell of by itself.
    console.tell(&Request::Sessions { limit: 3 });
    let ToEngine::Ask { number, question } = engine.hear() else { panic!() };
    assert_eq!(question, Question::Sessions(3));
    let mut kept_back = session(4);
    kept_back.ended_monotonic = session(2).ended_monotonic;
    let answer = Answer::Sessions(vec![kept_back]);
    engine.tell(&FromEngine::Answer { number, answer });
    let Response::Sessions(sessions) = console.hear() else { panic!() };
    let mut ended: Vec<_> =
        sessions.iter().map(|session| (session.ended_monotonic, session.id)).collect();
    assert_eq!(ended.len(), 3);
    assert!(ended.iter().any(|(_, id)| *id == 4), "{ended:?}");
    ended.reverse();
    assert!(ended.is_sorted(), "{ended:?}");
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
    // Without an engine there are those that were told.
    let Response::Sessions(sessions) = console.ask(&Request::Sessions { limit: 2 }) else {
        panic!()
    };
    assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [3, 2]);
}

/// An engine that gets a successor tells what it has just answered with.
#[test]
fn a_session_that_is_answered_and_told_is_shown_once() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    snapshot(&mut engine);
    let mut console = agent.console();
    console.tell(&Request::Sessions { limit: 3 });
    let ToEngine::Ask { number, .. } = engine.hear() else { panic!() };
    for id in 1..=2 {
        engine.tell(&FromEngine::Session(Box::new(session(id))));
    }
    let answer = Answer::Sessions(vec![session(2)]);
    engine.tell(&FromEngine::Answer { number, answer });
    let Response::Sessions(sessions) = console.hear() else { panic!() };
    assert_eq!(sessions.iter().map(|session| session.id).collect::<Vec<_>>(), [2, 1]);
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

/// They end with it, and before that somebody may look for one.
#[test]
fn live_sessions_of_engines_that_drain_are_shown_as_such_behind_those_of_the_successor() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let (mut old, mut console) = (agent.engine(), agent.console());
    snapshot(&mut old);
    old.tell(&FromEngine::Health { fallback: None, draining: true });
    agent.wait_for("an engine with a successor drains");
    let live = |id| {
        let SessionRecord { segment, client, server, .. } = session(id);
        LiveSession {
            id,
            started: 1,
            seconds: 2,
            segment,
            client,
            server,
            server_name: None,
            policy: None,
            outcome: None,
            client_leg: None,
            server_leg: None,
            draining: false,
        }
    };
    let answer = |engine: &mut Peer, ids: &[u64], count| {
        let ToEngine::Ask { number, question } = engine.hear() else { panic!() };
        assert_eq!(question, Question::LiveSessions(3));
        let sessions = ids.iter().map(|id| live(*id)).collect();
        let answer = Answer::LiveSessions(LiveSessions { sessions, count });
        engine.tell(&FromEngine::Answer { number, answer });
    };
    let shown = |response| match response {
        Response::LiveSessions(LiveSessions { sessions, count }) => {
            let sessions = sessions.iter().map(|one| (one.id, one.draining)).collect::<Vec<_>>();
            (sessions, count)
        }
        other => panic!("{other:?}"),
    };
    // Also before the successor is there.
    console.tell(&Request::LiveSessions { limit: 3 });
    answer(&mut old, &[9, 8], 2);
    assert_eq!(shown(console.hear()), (vec![(9, true), (8, true)], 2));
    let mut new = agent.engine();
    snapshot(&mut new);
    console.tell(&Request::LiveSessions { limit: 3 });
    answer(&mut old, &[9, 8], 2);
    answer(&mut new, &[2, 1], 7);
    assert_eq!(shown(console.hear()), (vec![(2, false), (1, false), (9, true)], 9));
    // One that ends meanwhile has none any more.
    console.tell(&Request::LiveSessions { limit: 3 });
    answer(&mut new, &[2], 1);
    drop(old);
    assert_eq!(shown(console.hear()), (vec![(2, false)], 1));
}

/// Those that drain have the fewest: they must not pass for all.
#[test]
fn live_sessions_are_not_shown_without_those_of_the_engine_that_judges() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let (mut old, mut console) = (agent.engine(), agent.console());
    snapshot(&mut old);
    old.tell(&FromEngine::Health { fallback: None, draining: true });
    agent.wait_for("an engine with a successor drains");
    let mut new = agent.engine();
    snapshot(&mut new);
    console.tell(&Request::LiveSessions { limit: 3 });
    let ToEngine::Ask { number, .. } = old.hear() else { panic!() };
    let answer = Answer::LiveSessions(LiveSessions::default());
    old.tell(&FromEngine::Answer { number, answer });
    assert!(matches!(new.hear(), ToEngine::Ask { .. }));
    drop(new);
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

fn session(id: u64) -> SessionRecord {
    let (client, server) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:443".parse().unwrap());
    let mut session = SessionRecord::new(id, 1, SegmentId(1), client, server);
    session.outcome = Outcome::Blocked(Blocked::NotTlsOnServerProxy);
    session.logging = true;
    session.ended_monotonic = id;
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
