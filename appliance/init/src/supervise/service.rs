//! The description of a service: what runs, as whom, and how it is looked after.
//!
//! For: the appliance's table and the lab's JSON file. Not for: state. A description that does not
//! parse names the field (serde); an account that is missing is found out at the start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use caps::Capability;
use serde::{Deserialize, Serialize};

use super::lifecycle::Policy;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// Unique; also the name of its notification socket and its identifier in the journal.
    pub name: String,
    /// Absolute path of the program, then its arguments.
    pub command: Vec<String>,
    /// Name in /etc/passwd, without which the service is not started; absent: the supervisor's own
    /// user, with all it may.
    #[serde(default)]
    pub user: Option<String>,
    /// More groups, by name in /etc/group.
    #[serde(default)]
    pub groups: Vec<String>,
    /// With a user: all it has, as ambient capabilities; the bounding set is cut down to them.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    #[serde(default = "yes")]
    pub no_new_privileges: bool,
    pub restart: Restart,
    /// Says READY=1 on its NOTIFY_SOCKET when it serves; that is then announced to the operator,
    /// as its failures are in any case.
    #[serde(default)]
    pub notifies: bool,
    /// Killed and restarted when it says WATCHDOG=1 less often, seconds.
    #[serde(default)]
    pub watchdog: Option<f64>,
    /// Killed when it runs longer, seconds (for one-shots).
    #[serde(default)]
    pub time_limit: Option<f64>,
    /// From SIGTERM to SIGKILL at an ordered stop, seconds.
    #[serde(default = "five_seconds")]
    pub stop_time: f64,
    /// May have a successor beside it (`ToInit::ReplaceService`), and then ends by itself within so
    /// many seconds; absent: it may not.
    #[serde(default)]
    pub drain_time: Option<f64>,
    /// Most open files; absent: as the supervisor.
    #[serde(default)]
    pub open_files: Option<u64>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub stdio: Stdio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// One-shot.
    Never,
    /// Every end is a failure.
    Always,
    /// Ending with success is its way (a login on a console); it starts again.
    Session,
}

/// Standard input, output and error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdio {
    /// The supervisor's own.
    #[default]
    Inherit,
    /// Output to the journal, or to the kernel's log where no journal runs; no input.
    Journal,
    /// A terminal, which becomes the controlling one.
    Terminal(PathBuf),
}

impl Service {
    pub fn policy(&self) -> Policy {
        Policy {
            restart: self.restart,
            notifies: self.notifies,
            watchdog: self.watchdog.map(seconds),
            time_limit: self.time_limit.map(seconds),
            stop_time: self.stop_time(),
        }
    }

    pub fn stop_time(&self) -> Duration {
        seconds(self.stop_time)
    }

    pub fn drain_time(&self) -> Option<Duration> {
        self.drain_time.map(seconds)
    }

    /// Without one: a day.
    pub fn time_limit(&self) -> Duration {
        self.time_limit.map_or(seconds(f64::INFINITY), seconds)
    }

    /// The period for WATCHDOG_USEC.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(seconds)
    }
}

/// Not a number, negative, or beyond a day: a day.
fn seconds(value: f64) -> Duration {
    const DAY: Duration = Duration::from_secs(86400);
    Duration::try_from_secs_f64(value).map_or(DAY, |duration| duration.min(DAY))
}

fn yes() -> bool {
    true
}

fn five_seconds() -> f64 {
    5.0
}
