//! The policy that an engine gets.

use super::*;

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
fn what_a_configuration_had_ignored_is_shown_until_the_next_one() {
    let agent = Agent::start(CONFIGURATION, |_| {});
    let mut engine = agent.engine();
    snapshot(&mut engine);
    let warned = |agent: &Agent| {
        let Response::Health(health) = agent.console().ask(&Request::Health) else { panic!() };
        health.warnings.iter().any(|warning| {
            warning.starts_with("configuration: ") && warning.contains("device.web-mode")
        })
    };
    let off = "client-inspection: false, server-inspection: false";
    agent.configure(&format!("{CONFIGURATION}  device: {{ {off}, web-mode: true }}\n"));
    snapshot(&mut engine);
    assert!(warned(&agent));
    // One that is refused leaves the one before in force, and what was ignored of it.
    agent.configure("weir: { segmnts: [] }");
    agent.wait_for("configuration refused");
    assert!(warned(&agent));
    agent.configure(CONFIGURATION);
    snapshot(&mut engine);
    assert!(!warned(&agent));
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
