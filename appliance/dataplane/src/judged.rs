//! What a released flow was judged by, until that is final (SPEC D15).
//!
//! For: whether a packet of its client has other bytes than those. Not for: when it is final, nor what becomes
//! of such a packet (`crate::ring`). Does not fail.

use crate::assembly::differs;
use crate::frame::{ACK, Frame, RST};
use crate::layout::{Flow, RESET_BY_CLIENT, RESET_BY_SERVER};

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

/// Most that a server takes before it acknowledged anything.
const FIRST_WINDOW: u32 = 65_535;
/// Numbers next to one another that a SYN cookie stands for, with the size of segments in it.
const COOKIE_SIZES: u32 = 3;
const TLS_HANDSHAKE: u8 = 0x16;
const TLS_MAJOR_VERSION: u8 = 3;

/// Whether a packet of the flow's client could begin, or go on in, another connection of the same ends, which
/// its server knows by SYN cookies alone: as `of_another_connection` of bpf/judged.h.
pub fn of_another_connection(flow: &Flow, frame: &Frame) -> bool {
    if frame.flags & (ACK | RST) != ACK {
        return false;
    }
    let [client, server] = flow.end.map(|end| end.isn.wrapping_add(1));
    let start = frame.sequence.wrapping_sub(client);
    let heard = frame.acknowledged.wrapping_sub(server);
    if start > flow.server_heard.saturating_add(FIRST_WINDOW) || heard > flow.said.saturating_add(1)
    {
        return true;
    }
    let ended = matches!(flow.reset, RESET_BY_SERVER | RESET_BY_CLIENT);
    // Where the packet ends behind the first byte, the next one may have the second.
    let behind = frame.payload().get(usize::from(start == 0)..).unwrap_or_default();
    if ended
        && start <= 1 + COOKIE_SIZES
        && matches!(behind, [TLS_HANDSHAKE] | [TLS_HANDSHAKE, TLS_MAJOR_VERSION, ..])
    {
        return true;
    }
    let apart = heard.wrapping_sub(start).wrapping_add(COOKIE_SIZES);
    if start == 0 || apart > 2 * COOKIE_SIZES {
        return false;
    }
    let begins_hello = frame.payload().first() == Some(&TLS_HANDSHAKE);
    let served = flow.served != 0 && start > flow.server_heard;
    frame.payload().is_empty() || served || begins_hello
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FIN, client_frame};
    use crate::layout::End;

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
    fn what_a_connection_without_a_syn_could_say_is_told_from_what_follows_upon_judged_bytes() {
        const SERVER: u32 = 1000;
        let end = |first: u32| End { isn: first.wrapping_sub(1), ..End::default() };
        let end = [end(FIRST), end(SERVER)];
        let flow = Flow { end, server_heard: 2, said: 100, ..Flow::default() };
        for (at, heard, payload, flags, another) in [
            (0, 0, &b"judged"[..], 0, false),
            (0, 3, b"judged", 0, false),
            (6, 0, b"and more", 0, false),
            (6, 101, b"", 0, false),
            (6, 0, b"", FIN, false),
            (65_537, 0, b"and more", 0, false),
            (65_538, 0, b"and more", 0, true),
            (6, 102, b"and more", 0, true),
            (6, 3, b"and more", 0, false),
            (6, 3, b"\x16nd more", 0, true),
            (4, 1, b"\x16nd more", 0, true),
            (6, 9, b"", 0, true),
            (6, 10, b"", 0, false),
            (2, 0, b"dged", 0, false),
            (2, 0, b"\x16ged", 0, true),
            (3, 0, b"ged", 0, false),
            (u32::MAX, 0, b"x", 0, true),
            (u32::MAX, 0, b"", RST, false),
            (50, 50, b"", RST, false),
        ] {
            let mut frame = client_frame(FIRST, at, payload, flags);
            frame.acknowledged = SERVER.wrapping_add(heard);
            assert_eq!(of_another_connection(&flow, &frame), another, "{at} {heard} {payload:?}");
        }
    }

    #[test]
    fn what_follows_upon_a_silent_end_hides_no_hello() {
        let end = End { isn: FIRST.wrapping_sub(1), ..End::default() };
        for reset in [RESET_BY_SERVER, RESET_BY_CLIENT] {
            let flow = Flow { end: [end, End::default()], reset, ..Flow::default() };
            for (at, payload, another) in [
                (0, &b"\x16\x03\x01"[..], false),
                (0, b"x\x16\x03", true),
                (0, b"x\x16", true),
                (0, b"x\x16\x02", false),
                (1, b"\x16", true),
                (0, b"x", false),
                (1, b"\x16\x03", true),
                (5, b"\x16\x03", false),
            ] {
                let mut frame = client_frame(FIRST, at, payload, 0);
                frame.acknowledged = 1;
                assert_eq!(of_another_connection(&flow, &frame), another, "{at} {payload:?}");
            }
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
