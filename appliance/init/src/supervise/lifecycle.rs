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
mod tests;
