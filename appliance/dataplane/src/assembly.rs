//! A held flow's frames, and the client's bytes in them put in order.
//!
//! For: reassembly of what a client sent before its flow was judged. Not for: anything after that;
//! TCP itself takes over there. What the server would not take (RFC 9293 3.10.7.4) is refused; past
//! its bound of payload it keeps nothing more and says that it is full.

use crate::frame::{FIN, Frame, RST, SYN};

/// The client's frames while its flow is held, and its bytes put in order.
#[derive(Debug, Default)]
pub struct Assembly {
    /// Sequence number of the client's first byte.
    first: u32,
    /// Bytes from there that the server said it takes.
    window: usize,
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    /// Bytes of all frames kept.
    weight: usize,
    /// The client's bytes are complete up to its end: nothing more is kept.
    pub end: Option<ClientEnd>,
    /// More payload than is ever put together.
    pub full: bool,
    /// Most of its server that it acknowledged, by any frame that acknowledges no more than that said.
    acknowledged: Option<u32>,
    /// Up to where its server said something, where that is known.
    pub server_said: Option<u32>,
}

/// How a client ended, in its place behind its bytes. The server may not get it, for all that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    Fin,
    Rst,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Kept,
    /// It says nothing new.
    Repeated,
    /// The server would not take it, or there is no room: dropped, to be counted.
    Refused,
    /// It has other bytes than what came before for the same sequence numbers, of which a server
    /// may take either: dropped, to be counted.
    Conflicting,
}

impl Assembly {
    /// Most payload put together: a whole ClientHello of 64 KiB with its record headers. Past it
    /// the assembly is full and the caller decides with what there is.
    pub const MAX_PAYLOAD: usize = 80 * 1024;
    /// Most bytes of frames kept, out of order ones included. Past it a frame is dropped; the
    /// client sends it again.
    pub const MAX_WEIGHT: usize = 256 * 1024;

    /// `window`: as in the server's SYN-ACK, which is never scaled.
    pub fn new(first: u32, window: u16) -> Self {
        Self {
            first,
            window: usize::from(window),
            bytes: vec![],
            frames: vec![],
            weight: 0,
            end: None,
            full: false,
            acknowledged: None,
            server_said: None,
        }
    }

    /// Takes a frame in. What adds nothing (a retransmission) is dropped, as the wire might have
    /// dropped it; what would change a byte that came is dropped too.
    pub fn push(&mut self, frame: Frame) -> Pushed {
        if frame.flags & (RST | SYN) == 0 {
            let newer = |old: u32| (frame.acknowledged.wrapping_sub(old) as i32) > 0;
            if !self.server_said.is_some_and(newer) && self.acknowledged.is_none_or(newer) {
                self.acknowledged = Some(frame.acknowledged);
            }
        }
        let (start, end) = self.place(&frame);
        let length = self.bytes.len();
        if self.end.is_some() || frame.flags & SYN != 0 {
            return Pushed::Refused;
        }
        if frame.flags & RST != 0 {
            // RFC 5961 3.2: at exactly the next sequence number, else the server goes on.
            if start != length {
                return Pushed::Refused;
            }
        } else {
            // A sequence number below the first is a distance of over 2^31.
            if start > u32::MAX as usize / 2 || end < length {
                return Pushed::Repeated;
            }
            if end > self.window {
                return Pushed::Refused;
            }
            if self.conflicts(&frame) {
                return Pushed::Conflicting;
            }
            if frame.flags & FIN == 0 && (end == length || frame.payload().is_empty()) {
                return Pushed::Repeated;
            }
        }
        if self.weight + frame.bytes().len() > Self::MAX_WEIGHT {
            return Pushed::Refused;
        }
        let reset = frame.flags & RST != 0;
        self.weight += frame.bytes().len();
        self.frames.push(frame);
        if reset {
            self.end = Some(ClientEnd::Rst);
        } else {
            self.advance();
        }
        Pushed::Kept
    }

    /// The client's bytes, contiguous from its first.
    pub fn payload(&self) -> &[u8] {
        &self.bytes
    }

    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Up to where it has heard its server, as it says; `None` where no frame came.
    pub fn acknowledged(&self) -> Option<u32> {
        self.acknowledged
    }

    /// The newest frame that speaks for the client: a RST has neither window nor timestamp.
    pub fn newest(&self) -> Option<&Frame> {
        self.frames.iter().rfind(|frame| frame.flags & RST == 0)
    }

    /// The sequence number after the contiguous bytes.
    pub fn next_sequence(&self) -> u32 {
        self.first.wrapping_add(self.bytes.len() as u32)
    }

    /// Whether some of the bytes came with an acknowledgement of more than this.
    pub fn heard_more_than(&self, acknowledged: u32) -> bool {
        let heard = |frame: &Frame| frame.flags & RST == 0 && frame.acknowledged != acknowledged;
        self.frames.iter().any(heard)
    }

    /// Takes bytes and frames out: the bytes, and the frames that still say something to a socket
    /// that has the bytes.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Frame>) {
        let length = self.bytes.len();
        let first = self.first;
        let mut frames = self.frames;
        frames.retain(|frame| {
            let start = frame.sequence.wrapping_sub(first) as usize;
            frame.flags & (FIN | RST) != 0 || start + frame.payload().len() > length
        });
        (self.bytes, frames)
    }

    /// Whether a byte of the frame differs from one that came for the same sequence number.
    fn conflicts(&self, frame: &Frame) -> bool {
        let (start, _) = self.place(frame);
        differs(&self.bytes, 0, frame.payload(), start)
            || self
                .frames
                .iter()
                .filter(|kept| kept.flags & RST == 0)
                .any(|kept| differs(kept.payload(), self.place(kept).0, frame.payload(), start))
    }

    fn place(&self, frame: &Frame) -> (usize, usize) {
        let start = frame.sequence.wrapping_sub(self.first) as usize;
        (start, start.saturating_add(frame.payload().len()))
    }

    fn advance(&mut self) {
        // At most as many rounds as frames: each round that finds nothing ends it.
        for _ in 0..=self.frames.len() {
            let length = self.bytes.len();
            // A FIN that the bytes went past is an old one to the server.
            let fin = |frame: &Frame| frame.flags & FIN != 0 && self.place(frame).1 == length;
            if self.frames.iter().any(fin) {
                self.end = Some(ClientEnd::Fin);
                return;
            }
            let Some(new) = self.frames.iter().find_map(|frame| {
                let (start, end) = self.place(frame);
                (start <= length && end > length)
                    .then(|| frame.payload().get(length - start..).unwrap_or_default().to_vec())
            }) else {
                return;
            };
            self.bytes.extend(new);
            if self.bytes.len() > Self::MAX_PAYLOAD {
                self.full = true;
                return;
            }
        }
    }
}

/// Whether two runs of bytes differ where they lie over one another.
pub fn differs(one: &[u8], one_at: usize, two: &[u8], two_at: usize) -> bool {
    let start = one_at.max(two_at);
    let one = one.get(start - one_at..).unwrap_or_default();
    let two = two.get(start - two_at..).unwrap_or_default();
    one.iter().zip(two).any(|(one, two)| one != two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::client_frame;

    const FIRST: u32 = u32::MAX - 1000; // the sequence wraps inside the tests
    const WINDOW: u16 = 65535;

    fn frame(at: u32, payload: &[u8], flags: u8) -> Frame {
        client_frame(FIRST, at, payload, flags)
    }

    #[test]
    fn payload_is_put_in_order_whatever_the_order_of_arrival() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        let bytes: Vec<u8> = (0..3000u32).map(|i| (i / 7) as u8).collect();
        for at in [2000, 500, 0, 1000] {
            let end = (at + if at == 0 { 500 } else { 1000 }).min(3000);
            assembly.push(frame(at as u32, &bytes[at..end], 0));
        }
        assert!(assembly.payload() == bytes);
        assert_eq!(assembly.next_sequence(), FIRST.wrapping_add(3000));
    }

    #[test]
    fn different_bytes_in_a_retransmission_are_not_kept() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assembly.push(frame(0, b"judged", 0));
        assert_eq!(assembly.push(frame(0, b"decoy!", 0)), Pushed::Conflicting);
        assert_eq!(assembly.push(frame(3, b"xyz more", 0)), Pushed::Conflicting);
        assert_eq!(assembly.push(frame(0, b"judged", 0)), Pushed::Repeated);
        assert_eq!(assembly.push(frame(3, b"ged more", 0)), Pushed::Kept);
        assert_eq!(assembly.payload(), b"judged more");
        assert_eq!(assembly.frames().len(), 2);
    }

    #[test]
    fn frames_out_of_order_may_not_differ_where_they_overlap() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assert_eq!(assembly.push(frame(4, b"EFGH", 0)), Pushed::Kept);
        assert_eq!(assembly.push(frame(0, b"ABCDXY", 0)), Pushed::Conflicting);
        assert_eq!(assembly.push(frame(6, b"xxIJ", 0)), Pushed::Conflicting);
        assert_eq!(assembly.push(frame(2, b"CDEF", 0)), Pushed::Kept);
        assert_eq!(assembly.push(frame(0, b"ABCD", 0)), Pushed::Kept);
        assert_eq!(assembly.payload(), b"ABCDEFGH");
    }

    #[test]
    fn keep_alives_and_old_bytes_are_not_kept() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assembly.push(frame(u32::MAX, b"x", 0));
        assembly.push(frame(0, b"", 0));
        assert!(assembly.frames().is_empty());
    }

    #[test]
    fn a_fin_ends_the_assembly_and_stays_in_it() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assembly.push(frame(0, b"all", FIN));
        assert_eq!(assembly.end, Some(ClientEnd::Fin));
        let (bytes, rest) = assembly.into_parts();
        assert_eq!((bytes.as_slice(), rest.len()), (&b"all"[..], 1));
    }

    #[test]
    fn a_fin_ends_the_assembly_only_once_all_before_it_came() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assert_eq!(assembly.push(frame(6, b"", FIN)), Pushed::Kept);
        assert_eq!(assembly.push(frame(0, b"abc", 0)), Pushed::Kept);
        assert_eq!(assembly.end, None);
        assert_eq!(assembly.push(frame(3, b"def", 0)), Pushed::Kept);
        assert_eq!(assembly.end, Some(ClientEnd::Fin));
        assert_eq!(assembly.push(frame(6, b"more", 0)), Pushed::Refused);
        assert_eq!(assembly.payload(), b"abcdef");
    }

    #[test]
    fn a_fin_behind_what_came_does_not_end_the_assembly() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assembly.push(frame(0, b"abcdef", 0));
        assert_eq!(assembly.push(frame(3, b"", FIN)), Pushed::Repeated);
        assert_eq!(assembly.end, None);
    }

    #[test]
    fn only_a_rst_at_the_next_sequence_number_ends_the_assembly() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assembly.push(frame(0, b"abc", 0));
        for at in [0, 2, 4, 50_000, u32::MAX] {
            assert_eq!(assembly.push(frame(at, b"", RST)), Pushed::Refused);
        }
        assert_eq!(assembly.end, None);
        assert_eq!(assembly.push(frame(3, b"junk", RST)), Pushed::Kept);
        assert_eq!(assembly.end, Some(ClientEnd::Rst));
        assert_eq!(assembly.payload(), b"abc");
        assert!(assembly.newest().is_some_and(|newest| newest.payload() == b"abc"));
    }

    #[test]
    fn what_a_client_heard_is_known_from_frames_that_say_nothing_else() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assert_eq!(assembly.acknowledged(), None);
        for (payload, flags, acknowledged, most) in [
            (&b"abc"[..], 0, u32::MAX - 1, u32::MAX - 1),
            (b"", 0, 5, 5),
            (b"abc", 0, u32::MAX, 5),
            (b"", SYN, 9, 5),
        ] {
            let mut frame = frame(0, payload, flags);
            frame.acknowledged = acknowledged;
            assembly.push(frame);
            assert_eq!(assembly.acknowledged(), Some(most));
        }
    }

    #[test]
    fn a_syn_neither_ends_the_assembly_nor_adds_to_it() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        assert_eq!(assembly.push(frame(0, b"decoy", SYN)), Pushed::Refused);
        assert!(assembly.end.is_none() && assembly.payload().is_empty());
    }

    #[test]
    fn frames_outside_the_window_are_refused_and_the_rest_is_judged() {
        let mut assembly = Assembly::new(FIRST, 1000);
        for at in 0..400 {
            assert_eq!(assembly.push(frame(900 + at * 1000, &[0; 1000], 0)), Pushed::Refused);
        }
        assert!(!assembly.full);
        assert_eq!(assembly.push(frame(0, &[1; 1000], 0)), Pushed::Kept);
        assert_eq!(assembly.payload().len(), 1000);
    }

    #[test]
    fn frames_past_the_bound_are_not_kept() {
        let mut assembly = Assembly::new(FIRST, WINDOW);
        for _ in 0..400 {
            assembly.push(frame(10, &[0; 1000], 0));
        }
        assert!(!assembly.full);
        assert!(assembly.weight <= Assembly::MAX_WEIGHT);
    }
}
