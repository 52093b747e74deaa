//! A process whose successor is running: it ends by itself when it has nothing left to do.
//!
//! For: seeing that it does, and killing it where it hangs or takes too long. Not for: starting the
//! successor. It cannot fail.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::clock::Lived;
use super::notify::{Message, Notify};

/// Most of one service at one time; past it the service is not replaced.
pub const MOST: usize = 3;

pub struct Predecessor {
    pub pid: Pid,
    /// Its own socket, not its successor's.
    pub notify: Notify,
    alive: Lived,
    until: Lived,
    watchdog: Option<Duration>,
    killed: bool,
}

impl Predecessor {
    pub fn new(
        pid: Pid,
        notify: Notify,
        now: Lived,
        drain_time: Duration,
        watchdog: Option<Duration>,
    ) -> Self {
        Self { pid, notify, alive: now, until: now + drain_time, watchdog, killed: false }
    }

    /// Takes in what it said; kills it where it said nothing for too long, or stays too long.
    pub fn look(&mut self, service: &str, now: Lived) {
        if self.notify.receive(self.pid).contains(&Message::Alive) {
            self.alive = now;
        }
        let why = if self.watchdog.is_some_and(|watchdog| now >= self.alive + watchdog) {
            "watchdog missed"
        } else if now >= self.until {
            "over its time to drain"
        } else {
            return;
        };
        if !std::mem::replace(&mut self.killed, true) {
            tracing::warn!(service, pid = self.pid.as_raw(), why, "predecessor killed");
            self.kill();
        }
    }

    pub fn kill(&self) {
        // Not yet reaped, so the number is still its own.
        if let Err(error) = killpg(self.pid, Signal::SIGKILL) {
            tracing::warn!(pid = self.pid.as_raw(), %error, "signal not sent");
        }
    }
}
