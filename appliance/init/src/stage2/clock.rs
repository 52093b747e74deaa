//! A clock that is not absurd: certificates are judged by it.
//!
//! For: a lower bound at boot. Not for: the exact time (NTP's). The kernel has set the clock from
//! the hardware's; where that lost its battery, the time of the last orderly shutdown or the
//! release's year is nearer to the truth than 1970.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use super::Warnings;

/// Its modification time is the last time that was known.
const KEPT: &str = "/data/clock";
/// 2026-01-01: no appliance ran before.
const NO_EARLIER: Duration = Duration::from_secs(1_767_225_600);

pub fn check(warnings: &mut Warnings) {
    let now = since_epoch(SystemTime::now());
    let kept = std::fs::metadata(KEPT).and_then(|m| m.modified()).map(since_epoch);
    let least = kept.unwrap_or_default().max(NO_EARLIER);
    if now >= least {
        return;
    }
    match clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(least)) {
        Ok(()) => warnings.add(format!(
            "the clock was {} days behind; certificates are judged by a time that may be wrong",
            (least - now).as_secs() / 86400
        )),
        Err(error) => warnings.add(format!("the clock is wrong and cannot be set: {error}")),
    }
}

/// Remembers the time for the next boot.
pub fn keep() {
    if let Err(error) = File::create(KEPT).and_then(|file| file.set_modified(SystemTime::now())) {
        tracing::info!(%error, "{KEPT}");
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
