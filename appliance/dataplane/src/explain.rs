//! What the rules say of a frame: the data plane's own answer, from the tables in force.
//!
//! For: operators who ask why, and the test that holds the tables against their definition. The
//! programs' counters count a frame that is asked about as they count one that crosses; no rate
//! limit is charged. Fails with the system call's error.

use std::io;
use std::os::fd::OwnedFd;

use weir_policy::precedence::{BlockedBy, Classified, Passage};
use weir_policy::snapshot::{SegmentId, Side};

use crate::test_run::{Context, test_run};

/// Handle on the program.
#[derive(Debug)]
pub struct Explain(OwnedFd);

impl Explain {
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }

    /// `frame`: from its Ethernet header, tags inside.
    pub fn of(&self, frame: &[u8], segment: SegmentId, side: Side) -> io::Result<Classified> {
        let mut context = Context::default();
        context.cb[0] = segment.0.into();
        context.cb[1] = u32::from(side == Side::B);
        let answer = test_run(&self.0, frame, Some(&mut context))?;
        if answer != 0 {
            return Err(io::Error::other("the program has no answer"));
        }
        let [virtual_segment, rule, passage, candidate, _limited] = context.cb;
        let index = |number: u32| usize::try_from(number).ok()?.checked_sub(1);
        let bypass = index(rule).filter(|_| passage == 1);
        Ok(Classified {
            virtual_segment: index(virtual_segment),
            traffic_filter: index(rule).filter(|_| passage != 1),
            passage: match (passage, bypass) {
                (_, Some(rule)) => Passage::Bypassed(rule),
                (2, _) => Passage::Trusted,
                (3, _) => Passage::Blocked(BlockedBy::TrafficFilter),
                (4, _) => Passage::Blocked(BlockedBy::Reputation),
                (5, _) => Passage::Blocked(BlockedBy::Quarantine),
                (6, _) => Passage::Blocked(BlockedBy::Quic),
                _ => Passage::Inspected,
            },
            candidate: candidate != 0,
        })
    }
}
