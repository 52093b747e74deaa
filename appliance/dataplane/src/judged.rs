//! What a released flow was judged by, until that is final (SPEC D15).
//!
//! For: whether a packet of its client has other bytes than those. Not for: when it is final, nor what becomes
//! of such a packet (`crate::ring`). Does not fail.

use crate::assembly::differs;
use crate::frame::Frame;

/// The bytes by which a released flow was judged, until its server acknowledged them.
#[derive(Debug)]
pub struct Judged {
    /// Sequence number of the first.
    pub first: u32,
    pub bytes: Vec<u8>,
    /// Its client's FIN is behind them, which no byte may stand in the place of.
    pub fin: bool,
    /// Some of it acknowledged what only its server can say whether it said.
    pub heard: bool,
}

impl Judged {
    /// Whether the frame has other bytes where it lies over those that were judged.
    pub fn conflicts(&self, frame: &Frame) -> bool {
        // A frame may start before the first byte: both are placed 2^31 after their numbers.
        const MIDDLE: u32 = 1 << 31;
        let start = frame.sequence.wrapping_sub(self.first).wrapping_add(MIDDLE) as usize;
        let length = frame.payload().len();
        if self.fin && length > 0 && start + length > MIDDLE as usize + self.bytes.len() {
            return true;
        }
        differs(&self.bytes, MIDDLE as usize, frame.payload(), start)
    }

    /// Whether all of the frame is behind them.
    pub fn precede(&self, frame: &Frame) -> bool {
        let start = frame.sequence.wrapping_sub(self.first) as usize;
        (self.bytes.len()..1 << 31).contains(&start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::client_frame;

    const FIRST: u32 = u32::MAX - 1000; // the sequence wraps inside the tests

    fn frame(at: u32, payload: &[u8]) -> Frame {
        client_frame(FIRST, at, payload, 0)
    }

    #[test]
    fn only_other_bytes_in_the_place_of_judged_ones_conflict() {
        let judged = Judged { first: FIRST, bytes: b"judged".to_vec(), fin: false, heard: false };
        let before = u32::MAX - 1; // two bytes before the first
        for (at, payload, conflicts) in [
            (0, &b"judged"[..], false),
            (0, b"judgeD", true),
            (5, b"d and more", false),
            (5, b"x and more", true),
            (6, b"anything", false),
            (before, b"xxju", false),
            (before, b"xxJu", true),
            (before, b"xx", false),
        ] {
            assert_eq!(judged.conflicts(&frame(at, payload)), conflicts, "{at} {payload:?}");
        }
    }

    #[test]
    fn no_byte_may_stand_where_a_judged_fin_is() {
        let judged = Judged { first: FIRST, bytes: b"judged".to_vec(), fin: true, heard: false };
        let before = u32::MAX - 1; // two bytes before the first
        for (at, payload, conflicts) in [
            (0, &b"judged"[..], false),
            (3, b"ged", false),
            (6, b"", false),
            (6, b"x", true),
            (3, b"gedx", true),
            (9, b"x", true),
            (before, b"xxju", false),
        ] {
            assert_eq!(judged.conflicts(&frame(at, payload)), conflicts, "{at} {payload:?}");
        }
    }
}
