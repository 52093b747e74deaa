//! How many flows each runtime has in hand, and which of them gets the next.
//!
//! For: a flow stays on the thread that read its first packet, as long as that one has not much more to do
//! than others: a port's packets may all come by one processor. Not for: moving a flow later. Does not fail.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many flows more than the least busy runtime's, and a quarter of those, are no reason to look elsewhere.
const MORE: usize = 4;

/// One count for each runtime: flows that are held, or taken.
#[derive(Debug)]
pub struct Loads(Vec<AtomicUsize>);

impl Loads {
    pub fn new(runtimes: usize) -> Self {
        Self((0..runtimes.max(1)).map(|_| AtomicUsize::new(0)).collect())
    }

    /// A runtime for a flow whose first packet was read by that of number `own`.
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

    pub fn add(&self, runtime: usize) {
        if let Some(load) = self.of(runtime) {
            load.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn subtract(&self, runtime: usize) {
        if let Some(load) = self.of(runtime) {
            load.fetch_sub(1, Ordering::Relaxed);
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
        let loads = Loads::new(2);
        for _ in 0..MORE {
            loads.add(1);
        }
        assert_eq!(loads.choose(1), 1);
        assert_eq!(loads.choose(0), 0);
    }

    #[test]
    fn flows_whose_packets_all_come_by_one_processor_are_spread() {
        let loads = Loads::new(4);
        for _ in 0..1000 {
            let runtime = loads.choose(2);
            loads.add(runtime);
        }
        let most = loads.0.iter().map(|load| load.load(Ordering::Relaxed)).max();
        assert!(most.is_some_and(|most| most < 320), "{loads:?}");
    }

    #[test]
    fn a_runtime_whose_flows_have_ended_gets_new_ones() {
        let loads = Loads::new(2);
        for _ in 0..100 {
            loads.add(0);
        }
        assert_eq!(loads.choose(0), 1);
        for _ in 0..100 {
            loads.subtract(0);
        }
        assert_eq!(loads.choose(0), 0);
    }
}
