//! How much each runtime has in hand, and which of them gets the next flow.
//!
//! For: a flow stays on the thread that read its first packet, as long as that one has not much more to do
//! than others: a port's packets may all come by one processor. Not for: moving a flow later. Does not fail.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What a flow is to its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Held: mostly judged at once, at less than it costs to wake another thread.
    Held = 1,
    /// Taken over: there is more to come.
    Taken = 4,
}

/// What a runtime may have more than the one with the least and a quarter of that: four taken flows, or
/// sixteen that are held.
const MORE: usize = 4 * Load::Taken as usize;

/// By runtime, in units of [`Load`].
#[derive(Debug)]
pub struct Loads(Vec<AtomicUsize>);

impl Loads {
    pub fn new(runtimes: usize) -> Self {
        Self((0..runtimes.max(1)).map(|_| AtomicUsize::new(0)).collect())
    }

    /// The runtime that gets a flow whose first packet was read on its `own`.
    pub fn choose(&self, own: usize) -> usize {
        let loads = self.0.iter().map(|load| load.load(Ordering::Relaxed)).enumerate();
        let Some((idlest, least)) = loads.min_by_key(|(_, load)| *load) else { return own };
        let most = least.saturating_add(least / 4).saturating_add(MORE);
        if self.of(own).is_some_and(|load| load.load(Ordering::Relaxed) <= most) {
            own
        } else {
            idlest
        }
    }

    pub fn add(&self, runtime: usize, load: Load) {
        if let Some(loads) = self.of(runtime) {
            loads.fetch_add(load as usize, Ordering::Relaxed);
        }
    }

    pub fn subtract(&self, runtime: usize, load: Load) {
        if let Some(loads) = self.of(runtime) {
            loads.fetch_sub(load as usize, Ordering::Relaxed);
        }
    }

    fn of(&self, runtime: usize) -> Option<&AtomicUsize> {
        self.0.get(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_stays_where_its_first_packet_was_read() {
        for (load, flows) in [(Load::Held, MORE), (Load::Taken, 4)] {
            let loads = Loads::new(2);
            for _ in 0..flows {
                assert_eq!(loads.choose(1), 1);
                loads.add(1, load);
            }
            assert_eq!(loads.choose(1), 1);
            loads.add(1, load);
            assert_eq!(loads.choose(1), 0);
        }
    }

    #[test]
    fn flows_whose_packets_all_come_by_one_processor_are_spread() {
        let loads = Loads::new(4);
        for _ in 0..1000 {
            let runtime = loads.choose(2);
            loads.add(runtime, Load::Taken);
        }
        let most = loads.0.iter().map(|load| load.load(Ordering::Relaxed)).max();
        assert!(most.is_some_and(|most| most < 320 * Load::Taken as usize), "{loads:?}");
    }

    #[test]
    fn a_runtime_whose_flows_have_ended_gets_new_ones() {
        let loads = Loads::new(2);
        for _ in 0..100 {
            loads.add(0, Load::Taken);
        }
        assert_eq!(loads.choose(0), 1);
        for _ in 0..100 {
            loads.subtract(0, Load::Taken);
        }
        assert_eq!(loads.choose(0), 0);
    }
}
