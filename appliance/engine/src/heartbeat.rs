//! Tells eBPF, the agent and the supervisor how the engine is.
//!
//! Each runtime shows from its own loop when it turned last; one thread passes the oldest of these
//! times on as the engine's heartbeat, which eBPF compares with the clock. A runtime that is stuck
//! therefore sends new flows over the bridge after the heartbeat's time-out (SPEC D2); for as long as it
//! is stuck the supervisor hears nothing, and kills and restarts the engine after the watchdog's. The same thread enters and leaves fallback
//! ([`crate::health`]) and ends an engine that has a successor and no flow left.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};
use weir_api::engine::FallbackReason;
use weir_dataplane::{Dataplane, FallbackCause, monotonic_nanoseconds};
use weir_policy::snapshot::Health;

use crate::HEARTBEAT;
use crate::compiled::CompiledPolicy;
use crate::health::{Monitor, Sample};

/// Heartbeats between two words to the supervisor: 500 ms.
const WATCHDOG_EVERY: u32 = 10;
/// Heartbeats between two looks at other engines, and at lost packets.
const OTHERS_EVERY: u32 = 10;
/// So long an engine that has a successor stays after its last flow: what it judged last is told.
const LINGER: Duration = Duration::from_secs(1);

/// What one runtime shows of its turning.
#[derive(Debug, Default)]
pub struct Pulse {
    /// CLOCK_MONOTONIC, nanoseconds.
    turned: AtomicU64,
    /// By how much it was late then, nanoseconds.
    late: AtomicU64,
}

impl Pulse {
    pub fn show(&self, late: Duration) {
        self.late.store(nanoseconds(late), Ordering::Relaxed);
        self.turned.store(now(), Ordering::Relaxed);
    }
}

/// What the thread needs.
pub struct Heart {
    pub dataplane: Arc<Dataplane>,
    /// One for each runtime.
    pub pulses: Vec<Arc<Pulse>>,
    pub policy: watch::Receiver<Arc<CompiledPolicy>>,
    /// Until then eBPF hears nothing: the tables may be those of an earlier engine, and without a
    /// policy every flow they hold would be judged to be nobody's.
    pub in_force: Arc<AtomicBool>,
    /// What the agent is told anew with each connection.
    pub told: watch::Sender<Told>,
}

/// The engine's state as the agent is to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub fallback: Option<FallbackReason>,
    /// It has a successor.
    pub draining: bool,
}

/// Starts the thread.
pub fn start(heart: Heart) -> anyhow::Result<()> {
    std::thread::Builder::new().name("heartbeat".into()).spawn(move || heart.beat())?;
    Ok(())
}

/// For an engine that has no segment: content the supervisor, for ever.
pub fn idle() -> ! {
    notify("READY=1");
    loop {
        notify("WATCHDOG=1");
        std::thread::sleep(HEARTBEAT * WATCHDOG_EVERY);
    }
}

impl Heart {
    fn beat(self) {
        let started = Instant::now();
        let mut monitor = Monitor::default();
        let mut drain = Drain::default();
        let mut round: u32 = 0;
        let mut packets_lost = 0;
        for pulse in &self.pulses {
            pulse.show(Duration::ZERO);
        }
        let mut last_round = now();
        notify("READY=1");
        loop {
            let now = now();
            let turned = self.pulses.iter().map(|pulse| pulse.turned.load(Ordering::Relaxed));
            let oldest = turned.fold(now, u64::min);
            let late = self.pulses.iter().map(|pulse| pulse.late.load(Ordering::Relaxed)).max();
            // This thread's own silence is the whole process's: it was stopped.
            let silence = Duration::from_nanos(now - oldest.min(last_round));
            last_round = now;
            if round.is_multiple_of(OTHERS_EVERY) {
                packets_lost = self.dataplane.held_packets_lost();
            }
            let flows = self.dataplane.flows_now();
            let sample = Sample {
                now: started.elapsed(),
                silence,
                lateness: Duration::from_nanos(late.unwrap_or_default()),
                held: flows.held,
                held_limit: flows.held_limit,
                packets_lost,
            };
            let settings = self.policy.borrow().snapshot.device.health;
            if monitor.look(&sample, &settings) {
                self.fall_back(monitor.fallback());
            }
            if self.in_force.load(Ordering::Relaxed) {
                // After fallback was entered: what was stuck is not taken for healthy at once.
                self.dataplane.heartbeat_of(oldest);
            }
            if round.is_multiple_of(WATCHDOG_EVERY) && is_alive(silence, &settings) {
                notify("WATCHDOG=1");
            }
            if round.is_multiple_of(OTHERS_EVERY) && self.dataplane.superseded() {
                let left = flows.held + flows.taken;
                if drain.ends(started.elapsed(), left, settings.drain_time) {
                    info!(flows = left, "engine with a successor ends");
                    std::process::exit(0);
                }
                self.told.send_if_modified(|told| !std::mem::replace(&mut told.draining, true));
            }
            round = round.wrapping_add(1);
            std::thread::sleep(HEARTBEAT);
        }
    }

    fn fall_back(&self, reason: Option<FallbackReason>) {
        match reason {
            Some(reason) => warn!(%reason, "Layer-2 fallback: {reason}"),
            None => info!("normal operation: healthy again"),
        }
        let stuck = reason == Some(FallbackReason::Stuck);
        for (cause, on) in [
            (FallbackCause::Recovering, stuck),
            (FallbackCause::Overloaded, reason.is_some() && !stuck),
        ] {
            if self.dataplane.falls_back(cause) != on
                && let Err(error) = self.dataplane.fall_back(cause, on)
            {
                warn!(%error, ?cause, on, "fallback not changed");
            }
        }
        self.told.send_modify(|told| told.fallback = reason);
    }
}

/// Whether the supervisor is to hear so: what is no stuck engine for eBPF is none for it.
fn is_alive(silence: Duration, settings: &Health) -> bool {
    silence <= settings.heartbeat_timeout
}

/// An engine that has a successor, on its way to its end.
#[derive(Debug, Default)]
struct Drain {
    since: Option<Duration>,
    empty_since: Option<Duration>,
}

impl Drain {
    /// Whether it ends now: without flows, or after its time, which resets those that are left.
    fn ends(&mut self, now: Duration, flows: usize, limit: Duration) -> bool {
        let since = *self.since.get_or_insert_with(|| {
            info!(flows, "a later engine has taken over; this one drains");
            now
        });
        if flows > 0 {
            self.empty_since = None;
        } else {
            self.empty_since.get_or_insert(now);
        }
        self.empty_since.is_some_and(|empty| now - empty >= LINGER) || now - since >= limit
    }
}

fn now() -> u64 {
    monotonic_nanoseconds().unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// sd_notify, where the supervisor gave a socket. A lost datagram is made up by the next.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[test]
    fn the_watchdog_is_as_patient_as_the_heartbeat() {
        let patient = Health { heartbeat_timeout: Duration::from_secs(10), ..Health::default() };
        let silence = Duration::from_millis(700);
        assert!(!is_alive(silence, &Health::default()));
        assert!(is_alive(silence, &patient));
    }

    #[test]
    fn an_engine_drains_until_its_flows_have_ended() {
        let mut drain = Drain::default();
        let at = Duration::from_secs;
        assert!(!drain.ends(at(10), 2, LIMIT));
        assert!(!drain.ends(at(11), 0, LIMIT));
        assert!(!drain.ends(at(11), 1, LIMIT));
        assert!(!drain.ends(at(12), 0, LIMIT));
        assert!(drain.ends(at(13), 0, LIMIT));
    }

    #[test]
    fn an_engine_drains_no_longer_than_it_may() {
        let mut drain = Drain::default();
        assert!(!drain.ends(Duration::from_secs(10), 2, LIMIT));
        assert!(!drain.ends(Duration::from_secs(309), 2, LIMIT));
        assert!(drain.ends(Duration::from_secs(310), 2, LIMIT));
    }
}
