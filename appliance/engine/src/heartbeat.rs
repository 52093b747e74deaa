//! Tells eBPF and the supervisor that the engine turns.
//!
//! Each runtime ticks a counter from its own loop; one thread looks whether all of them moved and
//! only then renews the heartbeat that eBPF compares with the clock, and the supervisor's watchdog.
//! A runtime that is stuck therefore sends new flows over the bridge after the heartbeat's time-out
//! (SPEC D2), and gets the engine restarted after the watchdog's.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use weir_dataplane::Dataplane;

use crate::HEARTBEAT;

/// A runtime that did not tick for so many heartbeats counts as stuck: 300 ms.
const STUCK_AFTER: u32 = 6;
/// Heartbeats between two words to the supervisor: 500 ms.
const WATCHDOG_EVERY: u32 = 10;

/// Starts the thread; `ticks` has one counter a runtime. eBPF hears nothing before `in_force`: the
/// tables may be those of an earlier engine, and without a policy every flow they hold would be
/// judged to be nobody's.
pub fn start(
    dataplane: Arc<Dataplane>,
    ticks: Vec<Arc<AtomicU64>>,
    in_force: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || beat(&dataplane, &ticks, &in_force))?;
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

fn beat(dataplane: &Dataplane, ticks: &[Arc<AtomicU64>], in_force: &AtomicBool) {
    let mut seen: Vec<(u64, u32)> = vec![(0, 0); ticks.len()];
    let mut round: u32 = 0;
    notify("READY=1");
    loop {
        for (tick, (last, still)) in ticks.iter().zip(&mut seen) {
            let now = tick.load(Ordering::Relaxed);
            *still = if now == *last { still.saturating_add(1) } else { 0 };
            *last = now;
        }
        if seen.iter().all(|(_, still)| *still < STUCK_AFTER) {
            if in_force.load(Ordering::Relaxed) {
                dataplane.heartbeat();
            }
            if round.is_multiple_of(WATCHDOG_EVERY) {
                notify("WATCHDOG=1");
            }
        }
        round = round.wrapping_add(1);
        std::thread::sleep(HEARTBEAT);
    }
}

/// sd_notify, where the supervisor gave a socket. A lost datagram is made up by the next.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}
