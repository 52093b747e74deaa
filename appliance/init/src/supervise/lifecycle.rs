//! The life of one service: when it starts, when it is killed, and what the operator is told.
//!
//! For: all decisions of supervision, as a state machine without I/O whose time is handed in. Not
//! for: processes; the supervisor does what [`Action`] says and reports back. It cannot fail.

use std::time::Duration;

use weir_api::init::{ServiceState, ServiceStatus};

use super::clock::Lived;
use super::notice::{Exit, Notice};
use super::service::Restart;

/// First delay before a restart; doubled with each failure.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A service that ran so long is healthy: its failures are forgotten.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The same for a service whose ending is its way (a login).
const SESSION_HEALTHY_AFTER: Duration = Duration::from_secs(2);
/// So many failures in a row, none of them healthy between, and it "keeps failing".
const KEEPS_FAILING: u32 = 5;
/// Time to become ready for a service that says when it is.
const START_TIME: Duration = Duration::from_secs(60);

/// What of a service's description matters here.
#[derive(Clone, Debug)]
pub struct Policy {
    pub restart: Restart,
    /// Says READY=1 when it serves.
    pub notifies: bool,
    /// Says WATCHDOG=1 at least so often once it is ready.
    pub watchdog: Option<Duration>,
    /// Killed when it runs longer (one-shots).
    pub time_limit: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub stop_time: Duration,
}

/// What the supervisor is to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Terminate,
    /// With the reason, where it is not an ordered stop.
    Kill(Option<&'static str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Lived,
    },
    Running {
        since: Lived,
        ready: bool,
        alive: Lived,
        killed: bool,
    },
    /// An ordered stop; `None`: SIGTERM is still to be sent.
    Stopping {
        since: Option<Lived>,
        killed: bool,
    },
    Done,
}

/// What the operator believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Running,
    Down,
    Failing,
}

#[derive(Debug)]
pub struct Lifecycle {
    policy: Policy,
    phase: Phase,
    told: Told,
    /// In a row, none healthy between.
    failures: u32,
    restarts: u32,
    /// Why the supervisor killed it, until its end is reported.
    killed_for: Option<&'static str>,
    last_exit: Option<Exit>,
}

impl Lifecycle {
    pub fn new(policy: Policy, now: Lived) -> Self {
        Self {
            policy,
            phase: Phase::Waiting { until: now },
            told: Told::Nothing,
            failures: 0,
            restarts: 0,
            killed_for: None,
            last_exit: None,
        }
    }

    /// What is due; asking again after it was done gives the next.
    pub fn due(&mut self, now: Lived) -> Option<Action> {
        match self.phase {
            Phase::Waiting { until } => (now >= until).then_some(Action::Start),
            Phase::Done => None,
            Phase::Running { killed: true, .. } => None,
            Phase::Running { since, ready, alive, .. } => {
                let why = self.overdue(now, since, ready, alive)?;
                self.phase = Phase::Running { since, ready, alive, killed: true };
                self.killed_for = Some(why);
                Some(Action::Kill(Some(why)))
            }
            Phase::Stopping { since: None, killed } => {
                self.phase = Phase::Stopping { since: Some(now), killed };
                Some(Action::Terminate)
            }
            Phase::Stopping { since: Some(since), killed: false }
                if now >= since + self.policy.stop_time =>
            {
                self.phase = Phase::Stopping { since: Some(since), killed: true };
                Some(Action::Kill(None))
            }
            Phase::Stopping { .. } => None,
        }
    }

    fn overdue(&self, now: Lived, since: Lived, ready: bool, alive: Lived) -> Option<&'static str> {
        if self.policy.time_limit.is_some_and(|limit| now >= since + limit) {
            return Some("over its time limit");
        }
        if !ready {
            return (now >= since + START_TIME).then_some("not ready in time");
        }
        let watchdog = self.policy.watchdog?;
        (now >= alive + watchdog).then_some("watchdog missed")
    }

    pub fn started(&mut self, now: Lived) -> Option<Notice> {
        if self.last_exit.is_some() {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.killed_for = None;
        self.phase = Phase::Running { since: now, ready: false, alive: now, killed: false };
        if self.policy.notifies { None } else { self.ready(now) }
    }

    pub fn ready(&mut self, now: Lived) -> Option<Notice> {
        let Phase::Running { ready: was_ready, alive, .. } = &mut self.phase else { return None };
        *was_ready = true;
        *alive = now;
        match self.told {
            Told::Nothing => self.tell(Told::Running, Notice::Running),
            // Up after one failure is up; after several it must last (see `settle`).
            Told::Down if self.failures <= 1 => self.tell(Told::Running, Notice::RunningAgain),
            _ => None,
        }
    }

    pub fn alive(&mut self, now: Lived) {
        if let Phase::Running { alive, .. } = &mut self.phase {
            *alive = now;
        }
    }

    /// Forgets failures once it has been healthy long enough.
    pub fn settle(&mut self, now: Lived) -> Option<Notice> {
        let Phase::Running { since, ready: true, killed: false, .. } = self.phase else {
            return None;
        };
        if self.failures == 0 || now < since + self.healthy_after() {
            return None;
        }
        self.failures = 0;
        match self.told {
            Told::Down | Told::Failing => self.tell(Told::Running, Notice::RunningAgain),
            _ => None,
        }
    }

    pub fn ended(&mut self, now: Lived, exit: Exit) -> Option<Notice> {
        let ran_healthy = matches!(self.phase, Phase::Running { since, .. }
            if now >= since + self.healthy_after());
        let stopping = matches!(self.phase, Phase::Stopping { .. });
        let words = match self.killed_for.take() {
            Some(why) => format!("{why}, {exit}"),
            None => exit.to_string(),
        };
        let by_its_way = self.policy.restart == Restart::Session && exit.is_success();
        self.last_exit = Some(exit);
        if stopping || self.policy.restart == Restart::Never {
            self.phase = Phase::Done;
            return None;
        }
        self.failures = if ran_healthy { 1 } else { self.failures.saturating_add(1) };
        let delay = delay(self.failures);
        self.phase = Phase::Waiting { until: now + delay };
        if by_its_way && ran_healthy {
            return None;
        }
        match self.told {
            Told::Nothing | Told::Running => {
                self.tell(Told::Down, Notice::Ended { exit: words, delay })
            }
            Told::Down if self.failures >= KEEPS_FAILING => {
                self.tell(Told::Failing, Notice::KeepsFailing { exit: words })
            }
            Told::Down | Told::Failing => None,
        }
    }

    /// Its process goes on as a predecessor; another starts at once. `false`: it does not run.
    pub fn hand_over(&mut self, now: Lived) -> bool {
        let runs = self.is_ready();
        if runs {
            self.phase = Phase::Waiting { until: now };
        }
        runs
    }

    /// Orders the end: no restart any more.
    pub fn stop(&mut self, _now: Lived) {
        self.phase = match self.phase {
            Phase::Waiting { .. } | Phase::Done => Phase::Done,
            Phase::Running { .. } => Phase::Stopping { since: None, killed: false },
            stopping @ Phase::Stopping { .. } => stopping,
        };
    }

    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running { ready: true, killed: false, .. })
    }

    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    pub fn last_exit(&self) -> Option<&Exit> {
        self.last_exit.as_ref()
    }

    pub fn status(&self, name: &str) -> ServiceStatus {
        ServiceStatus {
            name: name.to_owned(),
            state: match self.phase {
                Phase::Waiting { .. } => ServiceState::BackingOff,
                Phase::Running { .. } | Phase::Stopping { .. } => ServiceState::Running,
                Phase::Done => ServiceState::Done,
            },
            restarts: self.restarts,
            last_exit: self.last_exit.as_ref().map(Exit::to_string),
        }
    }

    fn tell(&mut self, told: Told, notice: Notice) -> Option<Notice> {
        self.told = told;
        Some(notice)
    }

    fn healthy_after(&self) -> Duration {
        match self.policy.restart {
            Restart::Session => SESSION_HEALTHY_AFTER,
            Restart::Always | Restart::Never => HEALTHY_AFTER,
        }
    }
}

/// Before the start that follows the `failures`-th failure in a row.
fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
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
        let policy =
            Policy { restart: Restart::Session, notifies: false, watchdog: None, ..policy() };
        let mut life = running(policy);
        assert_eq!(life.ended(seconds(10), Exit::Code(0)), None);
        assert_eq!(life.due(seconds(10) + FIRST_DELAY), Some(Action::Start));
    }
}
