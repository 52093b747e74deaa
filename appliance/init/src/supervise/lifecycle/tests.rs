use nix::sys::signal::Signal;

use super::*;

fn policy() -> Policy {
    Policy {
        restart: Restart::Always,
        notifies: true,
        watchdog: Some(seconds(5)),
        time_limit: None,
        stop_time: seconds(3),
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn running(policy: Policy) -> Lifecycle {
    let mut life = Lifecycle::new(policy, Lived::ZERO);
    assert_eq!(life.due(Lived::ZERO), Some(Action::Start));
    let _ = life.started(Lived::ZERO);
    life
}

#[test]
fn restart_delays_double_up_to_the_longest() {
    let delays: Vec<u64> = (1..=10).map(|n| delay(n).as_millis() as u64).collect();
    assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    assert_eq!(delay(u32::MAX), LONGEST_DELAY);
}

#[test]
fn a_service_that_ends_starts_again_after_its_delay() {
    let mut life = running(policy());
    let _ = life.ended(seconds(1), Exit::Code(3));
    assert_eq!(life.due(seconds(1)), None);
    assert_eq!(life.due(seconds(1) + FIRST_DELAY), Some(Action::Start));
    let _ = life.started(seconds(2));
    assert_eq!(life.status("x").restarts, 1);
}

#[test]
fn a_healthy_minute_forgets_failures() {
    let mut life = running(policy());
    for n in 1..=4 {
        let _ = life.ended(seconds(n), Exit::Code(1));
        let _ = life.started(seconds(n));
    }
    let _ = life.ready(seconds(5));
    assert_eq!(life.settle(seconds(5) + HEALTHY_AFTER), Some(Notice::RunningAgain));
    let notice = life.ended(seconds(80), Exit::Signal(Signal::SIGKILL));
    assert_eq!(
        notice,
        Some(Notice::Ended { exit: "killed by SIGKILL".into(), delay: FIRST_DELAY })
    );
}

#[test]
fn a_failing_service_is_reported_three_times_not_each_time() {
    let mut life = running(policy());
    let mut notices = vec![life.ready(Lived::ZERO)];
    for n in 1..=50 {
        notices.push(life.ended(seconds(n), Exit::Code(1)));
        notices.push(life.started(seconds(n)));
    }
    let told: Vec<Notice> = notices.into_iter().flatten().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], Notice::Running);
    assert!(matches!(told[1], Notice::Ended { .. }));
    assert!(matches!(told[2], Notice::KeepsFailing { .. }));
}

#[test]
fn a_missed_watchdog_kills_once() {
    let mut life = running(policy());
    let _ = life.ready(seconds(1));
    life.alive(seconds(4));
    assert_eq!(life.due(seconds(8)), None);
    assert_eq!(life.due(seconds(9)), Some(Action::Kill(Some("watchdog missed"))));
    assert_eq!(life.due(seconds(10)), None);
    let notice = life.ended(seconds(10), Exit::Signal(Signal::SIGKILL));
    assert!(
        matches!(&notice, Some(Notice::Ended { exit, .. }) if exit.contains("watchdog")),
        "{notice:?}"
    );
}

#[test]
fn a_service_that_never_becomes_ready_is_killed() {
    let mut life = running(policy());
    assert_eq!(life.due(seconds(59)), None);
    assert_eq!(life.due(seconds(60)), Some(Action::Kill(Some("not ready in time"))));
}

#[test]
fn a_one_shot_ends_for_good_and_within_its_limit() {
    let policy = Policy {
        restart: Restart::Never,
        notifies: false,
        watchdog: None,
        time_limit: Some(seconds(60)),
        ..policy()
    };
    let mut life = running(policy);
    assert_eq!(life.due(seconds(60)), Some(Action::Kill(Some("over its time limit"))));
    let _ = life.ended(seconds(61), Exit::Signal(Signal::SIGKILL));
    assert!(life.is_done());
    assert_eq!(life.due(seconds(100)), None);
}

#[test]
fn an_ordered_stop_terminates_then_kills_and_never_restarts() {
    let mut life = running(policy());
    life.stop(seconds(1));
    assert_eq!(life.due(seconds(1)), Some(Action::Terminate));
    assert_eq!(life.due(seconds(2)), None);
    assert_eq!(life.due(seconds(4)), Some(Action::Kill(None)));
    assert_eq!(life.due(seconds(5)), None);
    assert_eq!(life.ended(seconds(5), Exit::Signal(Signal::SIGKILL)), None);
    assert!(life.is_done());
}

#[test]
fn a_service_that_hands_over_starts_again_at_once_and_that_is_no_failure() {
    let mut life = running(policy());
    assert!(!life.hand_over(seconds(1)), "not ready yet");
    let _ = life.ready(seconds(1));
    assert!(life.hand_over(seconds(2)));
    assert_eq!(life.due(seconds(2)), Some(Action::Start));
    assert_eq!(life.started(seconds(2)), None);
    assert_eq!(life.ready(seconds(2)), None);
    assert!(life.is_ready());
}

#[test]
fn a_login_that_ends_is_not_news_and_starts_again() {
    let policy = Policy { restart: Restart::Session, notifies: false, watchdog: None, ..policy() };
    let mut life = running(policy);
    assert_eq!(life.ended(seconds(10), Exit::Code(0)), None);
    assert_eq!(life.due(seconds(10) + FIRST_DELAY), Some(Action::Start));
}
