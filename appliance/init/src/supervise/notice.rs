//! How services end, and what the operator is told of them, in words.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::lifecycle::LONGEST_DELAY;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(Signal),
    NotStarted(String),
}

impl Exit {
    /// `None` for a status that is not an end.
    pub fn of(status: WaitStatus) -> Option<(Pid, Self)> {
        match status {
            WaitStatus::Exited(pid, code) => Some((pid, Self::Code(code))),
            WaitStatus::Signaled(pid, signal, _) => Some((pid, Self::Signal(signal))),
            _ => None,
        }
    }

    pub fn is_success(&self) -> bool {
        *self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(0) => f.write_str("ended by itself"),
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// A change an operator should see. A service that fails over and over makes three of them, not a
/// flood: its first end, that it keeps failing, and that it is healthy again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Running,
    Ended { exit: String, delay: Duration },
    KeepsFailing { exit: String },
    RunningAgain,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Ended { exit, delay } => {
                write!(f, "down ({exit}), starting again in {:.1} s", delay.as_secs_f64())
            }
            Self::KeepsFailing { exit } => write!(
                f,
                "keeps failing ({exit}), tried again at most every {} s",
                LONGEST_DELAY.as_secs()
            ),
            Self::RunningAgain => f.write_str("running again"),
        }
    }
}
