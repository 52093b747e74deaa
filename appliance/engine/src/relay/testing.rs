//! Sides for unit tests of the relay's parts: real streams, and no TLS.

use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream};
use weir_tls::{Alert, InProgress, LegError, Negotiated, PlainState, TlsLeg};

use super::side::Side;
use crate::leg::Leg;

/// TLS that answers each byte with one, as a stack answers renegotiation hellos.
#[derive(Default)]
pub(crate) struct Answering {
    answer: Vec<u8>,
    /// As a leg whose work is done elsewhere, it has come further.
    progress: bool,
    closed: bool,
    in_progress: InProgress,
}

impl Answering {
    pub(super) fn that_comes_further() -> Self {
        Self { progress: true, ..Self::default() }
    }

    pub(super) fn that_holds(wire: usize, plain: usize) -> Self {
        Self { in_progress: InProgress { wire, plain }, ..Self::default() }
    }

    pub(super) fn whose_peer_closed() -> Self {
        Self { closed: true, ..Self::default() }
    }
}

impl TlsLeg for Answering {
    fn read_wire(&mut self, wire: &[u8]) -> Result<(), LegError> {
        self.answer.extend_from_slice(wire);
        Ok(())
    }

    fn wants_read(&self) -> bool {
        true
    }

    fn write_wire(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.answer);
    }

    fn wants_write(&self) -> bool {
        !self.answer.is_empty()
    }

    fn read_plain(&mut self, _: &mut Vec<u8>) -> PlainState {
        PlainState::Open
    }

    fn write_plain(&mut self, plain: &[u8]) -> usize {
        self.answer.extend_from_slice(plain);
        plain.len()
    }

    fn close_notify(&mut self) {}

    fn in_progress(&self) -> InProgress {
        self.in_progress
    }

    fn poll_progress(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.progress) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn fatal_alert(&mut self, _: Alert) {}

    fn peer_closed(&self) -> bool {
        self.closed
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

/// A side whose peer is a stream of the test's.
pub(super) async fn side() -> (Side, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    (Side::of(Leg::new(stream, Box::new(Answering::default()))), peer)
}
