//! A leg whose TLS is done by the legacy worker.
//!
//! For: [`TlsLeg`] over one socket to the worker. Never waits for the worker: what it was given and
//! has not answered is counted, and bounds what it is given. Fails by [`LegError`]; where the worker
//! is gone, by an internal one.

use std::cell::Cell;
use std::io;
use std::task::{Context, Poll};

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::UnixStream;
use weir_api::legacy::{Established, Failure, Frames, FromWorker, MAX_BYTES, Open, ToWorker};
use weir_tls::leg::{PLAIN_BOUND, WIRE_BOUND};
use weir_tls::names::{Group, SignatureScheme, Suite, Version};
use weir_tls::verify::{RESUMED_FOR, STAPLE_BOUND, resumed_for};
use weir_tls::{Alert, Fault, InProgress, LegError, Negotiated, PlainState, TlsLeg, says_revoked};

use super::OpenLeg;

/// One read of the socket to the worker.
const READ: usize = 16 << 10;

pub struct LegacyLeg {
    socket: UnixStream,
    _counted: OpenLeg,
    frames: Frames,
    /// Frames for the worker: `to_worker[sent..]`. Bounded by what the leg takes: [`WIRE_BOUND`] each
    /// way, and one input.
    to_worker: Vec<u8>,
    sent: usize,
    /// Records for the peer, and its plaintext.
    wire: Vec<u8>,
    plain: Vec<u8>,
    in_progress: InProgress,
    established: Option<Box<Established>>,
    /// Of the server, until somebody takes it.
    staple: Cell<Option<Vec<u8>>>,
    client_certificate_requested: bool,
    /// Of a server that asked for one, as long as nothing is established; leaf first.
    chain: Vec<CertificateDer<'static>>,
    renegotiation_requested: bool,
    peer_closed: bool,
    closing: bool,
    failed: Option<LegError>,
    failure_told: bool,
}

impl LegacyLeg {
    /// Inside the runtime that will own it.
    pub fn new(socket: UnixStream, counted: OpenLeg, open: Open) -> Result<Self, LegError> {
        let mut leg = Self {
            socket,
            _counted: counted,
            frames: Frames::default(),
            to_worker: Vec::new(),
            sent: 0,
            wire: Vec::new(),
            plain: Vec::new(),
            in_progress: InProgress::default(),
            established: None,
            staple: Cell::new(None),
            client_certificate_requested: false,
            chain: Vec::new(),
            renegotiation_requested: false,
            peer_closed: false,
            closing: false,
            failed: None,
            failure_told: false,
        };
        // Holds a key: gone from here with the first write.
        let opened = ToWorker::Open(Box::new(open)).encode(&mut leg.to_worker);
        opened.map_err(|invalid| LegError::Internal(invalid.to_string()))?;
        leg.send();
        Ok(leg)
    }

    /// Gives the worker what it takes now.
    fn send(&mut self) {
        use zeroize::Zeroize as _;
        while let Some(rest) = self.to_worker.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.try_write(rest) {
                Ok(written) => self.sent = self.sent.saturating_add(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.lost(&error.to_string()),
            }
        }
        self.to_worker.zeroize();
        // An idle leg keeps no buffer.
        self.to_worker = Vec::new();
        self.sent = 0;
    }

    fn close(&mut self, by: &ToWorker) {
        if !self.closing && self.failed.is_none() {
            self.closing = true;
            if by.encode(&mut self.to_worker).is_ok() {
                self.in_progress.plain = self.in_progress.plain.saturating_add(1);
            }
            self.send();
        }
    }

    fn lost(&mut self, why: &str) {
        self.failed.get_or_insert(LegError::Internal(format!("the legacy worker is gone: {why}")));
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut buffer = [0; READ];
        let read = self.socket.try_read(&mut buffer)?;
        self.frames.push(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }

    fn take_frames(&mut self) {
        while self.failed.is_none() {
            match self.frames.from_worker() {
                Ok(Some(message)) => self.take(message),
                Ok(None) => break,
                Err(invalid) => return self.lost(&invalid.to_string()),
            }
        }
        self.frames.shrink();
    }

    fn take(&mut self, message: FromWorker) {
        match message {
            FromWorker::Wire(bytes) => self.wire.extend_from_slice(&bytes),
            FromWorker::Plain(bytes) => self.plain.extend_from_slice(&bytes),
            FromWorker::Established(established) => self.establish(established),
            FromWorker::CertificateRequested { chain } => {
                self.client_certificate_requested = true;
                self.chain = chain.into_iter().map(CertificateDer::from).collect();
            }
            FromWorker::PeerClosed => self.peer_closed = true,
            FromWorker::RenegotiationRequested => self.renegotiation_requested = true,
            FromWorker::Done { wire, plain } => {
                let less = |before: usize, done: u32| {
                    before.saturating_sub(usize::try_from(done).unwrap_or(usize::MAX))
                };
                self.in_progress.wire = less(self.in_progress.wire, wire);
                self.in_progress.plain = less(self.in_progress.plain, plain);
            }
            FromWorker::Failed(failure) => self.failed = Some(explain(failure)),
        }
    }

    /// A session with a server that shows that its certificate is revoked is not resumed: that would
    /// not show it again. Nor is one whose certificate or staple ends before the worker forgets it.
    fn establish(&mut self, mut established: Box<Established>) {
        let staple = established.staple.take().filter(|staple| staple.len() <= STAPLE_BOUND);
        let (leaf, shown) = (established.chain.first(), staple.as_deref());
        let lasts = |leaf: &Vec<u8>| resumed_for(leaf, shown, UnixTime::now()) == RESUMED_FOR;
        let ends = !established.resumed && leaf.is_some_and(|leaf| !lasts(leaf));
        let revoked = leaf.zip(shown).is_some_and(|(leaf, staple)| says_revoked(leaf, staple));
        if (ends || revoked) && ToWorker::ForgetSession.encode(&mut self.to_worker).is_ok() {
            self.send();
        }
        self.staple.set(staple);
        self.established = Some(established);
        self.chain = Vec::new();
    }
}

impl TlsLeg for LegacyLeg {
    fn read_wire(&mut self, wire: &[u8]) -> Result<(), LegError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if wire.is_empty() || self.peer_closed {
            return Ok(());
        }
        if !self.wants_read() {
            return Err(LegError::Overfed);
        }
        for part in wire.chunks(MAX_BYTES) {
            let framed = ToWorker::wire(part, &mut self.to_worker);
            framed.map_err(|invalid| LegError::Internal(invalid.to_string()))?;
        }
        self.in_progress.wire = self.in_progress.wire.saturating_add(wire.len());
        self.send();
        Ok(())
    }

    fn wants_read(&self) -> bool {
        self.failed.is_none()
            && !self.peer_closed
            && self.plain.len() <= PLAIN_BOUND
            && self.in_progress.wire <= WIRE_BOUND
    }

    fn write_wire(&mut self, out: &mut Vec<u8>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.wire);
        } else {
            out.append(&mut self.wire);
        }
        self.wire = Vec::new();
    }

    fn wants_write(&self) -> bool {
        !self.wire.is_empty()
    }

    fn read_plain(&mut self, out: &mut Vec<u8>) -> PlainState {
        out.append(&mut self.plain);
        self.plain = Vec::new();
        if self.peer_closed { PlainState::Closed } else { PlainState::Open }
    }

    /// Takes all: the caller bounds it by [`TlsLeg::in_progress`].
    fn write_plain(&mut self, plain: &[u8]) -> usize {
        if self.closing || self.failed.is_some() {
            return 0;
        }
        for part in plain.chunks(MAX_BYTES) {
            if ToWorker::plain(part, &mut self.to_worker).is_err() {
                return 0;
            }
        }
        self.in_progress.plain = self.in_progress.plain.saturating_add(plain.len());
        self.send();
        plain.len()
    }

    fn close_notify(&mut self) {
        self.close(&ToWorker::CloseNotify);
    }

    fn fatal_alert(&mut self, alert: Alert) {
        if !self.handshaking() {
            self.close(&ToWorker::Alert(alert.0));
        }
    }

    fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    fn handshaking(&self) -> bool {
        self.established.is_none()
    }

    fn negotiated(&self) -> Option<Negotiated> {
        let established = self.established.as_ref()?;
        let code = |code: u16| (code != 0).then_some(code);
        Some(Negotiated {
            version: Version(established.version),
            suite: Suite(established.suite),
            group: code(established.group).map(Group),
            signature: code(established.signature).map(SignatureScheme),
            alpn: established.alpn.clone(),
            resumed: established.resumed,
            legacy: true,
        })
    }

    fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        match &self.established {
            Some(established) => {
                Some(established.chain.iter().cloned().map(CertificateDer::from).collect())
            }
            None => Some(self.chain.clone()).filter(|chain| !chain.is_empty()),
        }
    }

    fn forget_peer_chain(&mut self) {
        if let Some(established) = &mut self.established {
            established.chain = Vec::new();
        }
    }

    fn stapled_response(&self) -> Option<Vec<u8>> {
        self.staple.take()
    }

    fn client_certificate_requested(&self) -> bool {
        self.client_certificate_requested
    }

    fn renegotiation_requested(&self) -> bool {
        self.renegotiation_requested
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.failed.is_some() {
                // Told once: its owner ends then, and would otherwise be woken for ever.
                let told = std::mem::replace(&mut self.failure_told, true);
                return if told { Poll::Pending } else { Poll::Ready(()) };
            }
            if !self.to_worker.is_empty() && self.socket.poll_write_ready(context).is_ready() {
                self.send();
                if !self.to_worker.is_empty() && self.failed.is_none() {
                    continue; // to be woken when it takes more
                }
            }
            if self.socket.poll_read_ready(context).is_pending() {
                return if self.failed.is_some() { continue } else { Poll::Pending };
            }
            match self.receive() {
                Ok(0) => self.lost("it closed the leg's socket"),
                Ok(_) => {
                    self.take_frames();
                    return Poll::Ready(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }

    fn in_progress(&self) -> InProgress {
        if self.failed.is_some() { InProgress::default() } else { self.in_progress }
    }
}

fn explain(failure: Failure) -> LegError {
    match failure {
        Failure::AlertReceived(alert) => LegError::AlertReceived(Alert(alert)),
        Failure::AlertSent(alert) => {
            let alert = Alert(alert);
            let fault = match alert {
                Alert::HANDSHAKE_FAILURE
                | Alert::PROTOCOL_VERSION
                | Alert::INSUFFICIENT_SECURITY => Fault::Incompatible,
                Alert::BAD_RECORD_MAC => Fault::Undecryptable,
                Alert::RECORD_OVERFLOW => Fault::OversizedRecord,
                Alert::DECODE_ERROR => Fault::Malformed,
                Alert::DECRYPT_ERROR => Fault::BadSignature,
                Alert::NO_APPLICATION_PROTOCOL => Fault::NoApplicationProtocol,
                _ => Fault::Misbehaved,
            };
            LegError::Refused { fault, alert }
        }
        Failure::NotTls(words) => LegError::NotTls(words),
        Failure::Internal(words) => LegError::Internal(words),
    }
}
