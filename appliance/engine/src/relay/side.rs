//! One side of a relayed session: its leg, and how far it has come to its end in either way.
//!
//! For: what of a side is to be waited for, and sending to it what TCP takes, with FIN after the last
//! byte. Not for: waiting ([`super::waiting`]), what is made of its bytes ([`super::direction`]), nor what
//! its end does to the other side. Fails by the leg's [`LegFault`], which ends the session.

use weir_dataplane::Patience;

use crate::closing::shut_down;
use crate::leg::{HIGH_WATER, Leg, LegFault, UNHEARD};

pub(super) struct Side {
    pub(super) leg: Leg,
    /// TCP has said its last.
    pub(super) fin_received: bool,
    /// Nothing more will be read from it.
    pub(super) ended: bool,
    /// Nothing more will be sent to it: FIN follows the last byte.
    pub(super) closing: bool,
    /// What TLS has for it of its own accord goes with the data that it waits for.
    pub(super) withholds: bool,
    fin_sent: bool,
    /// It is gone; so long what it said last waits for the other side.
    pub(super) patience: Option<Patience>,
}

/// What of a side is waited for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Side {
    pub(super) fn of(leg: Leg) -> Self {
        let [fin_received, ended, closing, withholds, fin_sent] = [false; 5];
        Self { leg, fin_received, ended, closing, withholds, fin_sent, patience: None }
    }

    /// Sends what TCP takes, and FIN after the last byte.
    pub(super) fn push(&mut self) -> Result<(), LegFault> {
        if self.fin_sent {
            // What TLS would answer to its peer has no way any more (a KeyUpdate, for one).
            self.leg.discard();
            return Ok(());
        }
        if !self.closing {
            return if self.withholds { Ok(()) } else { Ok(self.leg.flush_some()?) };
        }
        self.leg.flush_before_end()?;
        if self.leg.pending() == 0 {
            self.fin_sent = true;
            shut_down(&self.leg.stream)?;
        }
        Ok(())
    }

    pub(super) fn reads(&self) -> bool {
        !self.ended
            && !self.fin_received
            && self.leg.tls.wants_read()
            && self.leg.unsent() < UNHEARD
    }

    /// What of it is to be waited for, beside that other side.
    pub(super) fn wanted(&self, other: &Self) -> Wanted {
        Wanted {
            read: self.reads() && other.leg.pending() < HIGH_WATER,
            write: self.leg.unsent() > 0 && (self.closing || !self.withholds),
        }
    }

    /// Changes whenever its peer takes something.
    pub(super) fn taken(&self) -> u64 {
        u64::try_from(self.leg.pending()).unwrap_or(u64::MAX)
    }

    pub(super) fn done(&self) -> bool {
        self.ended && self.fin_sent
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use weir_tls::{Alert, LegError, Negotiated, PlainState, TlsLeg};

    use super::*;

    /// TLS that answers each byte with one, as a stack answers renegotiation hellos.
    #[derive(Default)]
    struct Answering(Vec<u8>);

    impl TlsLeg for Answering {
        fn read_wire(&mut self, wire: &[u8]) -> Result<(), LegError> {
            self.0.extend_from_slice(wire);
            Ok(())
        }

        fn wants_read(&self) -> bool {
            true
        }

        fn write_wire(&mut self, out: &mut Vec<u8>) {
            out.append(&mut self.0);
        }

        fn wants_write(&self) -> bool {
            !self.0.is_empty()
        }

        fn read_plain(&mut self, _: &mut Vec<u8>) -> PlainState {
            PlainState::Open
        }

        fn write_plain(&mut self, plain: &[u8]) -> usize {
            self.0.extend_from_slice(plain);
            plain.len()
        }

        fn close_notify(&mut self) {}

        fn fatal_alert(&mut self, _: Alert) {}

        fn peer_closed(&self) -> bool {
            false
        }

        fn handshaking(&self) -> bool {
            false
        }

        fn negotiated(&self) -> Option<Negotiated> {
            None
        }

        fn peer_chain(&self) -> Option<Vec<rustls_pki_types::CertificateDer<'static>>> {
            None
        }

        fn client_certificate_requested(&self) -> bool {
            false
        }
    }

    async fn side() -> (Side, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Side::of(Leg::new(stream, Box::new(Answering::default()))), peer)
    }

    /// As the relay does for each event.
    fn takes(side: &mut Side, wire: &[u8]) {
        side.leg.tls.read_wire(wire).unwrap();
        side.leg.collect();
        side.push().unwrap();
    }

    #[tokio::test]
    async fn peer_that_makes_tls_answer_and_does_not_listen_is_read_no_more() {
        const READ: usize = 64 << 10;
        let ((mut side, peer), (other, _its_peer)) = (side().await, side().await);
        // More than TCP takes for a peer that reads nothing.
        for _ in 0..1000 {
            if side.wanted(&other).read {
                takes(&mut side, &[0; READ]);
            }
        }
        assert!(side.leg.unsent() < UNHEARD + READ, "{}", side.leg.unsent());
        assert!(!side.reads());
        // The other side's data is not kept from it, as far as that goes.
        assert!(!other.wanted(&side).read);
        while !side.wanted(&other).read {
            tokio::select! {
                ready = peer.readable() => ready.unwrap(),
                ready = side.leg.stream.writable() => ready.unwrap(),
            }
            let _ = peer.try_read(&mut [0; READ]);
            side.push().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_withheld_goes_with_the_end_at_the_latest() {
        let ((mut side, peer), (other, _its_peer)) = (side().await, side().await);
        side.withholds = true;
        takes(&mut side, b"tickets");
        assert_eq!(side.leg.unsent(), 7);
        // Nobody is woken for it, again and again.
        assert!(!side.wanted(&other).write);
        side.closing = true;
        side.push().unwrap();
        let mut came = Vec::new();
        while came.len() < 7 {
            peer.readable().await.unwrap();
            let _ = peer.try_read_buf(&mut came);
        }
        assert_eq!(came, b"tickets");
        peer.readable().await.unwrap();
        assert_eq!(peer.try_read(&mut [0; 8]).unwrap(), 0);
    }

    /// Segments that came so far: tcpi_segs_in (linux/tcp.h), which libc's structure lacks.
    fn segments_in(stream: &TcpStream) -> u32 {
        const SEGMENTS_IN: usize = 140;
        let mut info = [0_u8; 256];
        let mut length = nix::libc::socklen_t::try_from(info.len()).unwrap();
        // SAFETY: the descriptor is open, and the kernel writes `length` bytes at most. nix has no
        // wrapper that gives the fields behind libc's.
        let result = unsafe {
            nix::libc::getsockopt(
                std::os::fd::AsRawFd::as_raw_fd(stream),
                nix::libc::SOL_TCP,
                nix::libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        assert!(result == 0 && length as usize >= SEGMENTS_IN + 4);
        u32::from_ne_bytes(info[SEGMENTS_IN..SEGMENTS_IN + 4].try_into().unwrap())
    }

    #[tokio::test]
    async fn last_bytes_and_the_end_are_one_segment() {
        let (mut side, peer) = side().await;
        let before = segments_in(&peer);
        side.closing = true;
        takes(&mut side, b"close_notify");
        let mut came = Vec::new();
        loop {
            peer.readable().await.unwrap();
            match peer.try_read_buf(&mut came) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(came, b"close_notify");
        assert_eq!(segments_in(&peer) - before, 1);
    }
}
