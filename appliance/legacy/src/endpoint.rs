//! One TLS endpoint on OpenSSL, without a socket: bytes in, bytes out.
//!
//! For: what [`Open`] asks for. Renegotiation, compression and early data are never accepted,
//! encrypt-then-MAC only where it is asked for (SPEC T3); every certificate of a server is, since the
//! engine judges it. Sessions are resumed under their bindings only ([`crate::sessions`]). Not for:
//! framing. Fails by [`Failure`], after which the endpoint is of no more use but
//! for the alert in its output.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Instant;

use openssl::error::ErrorStack;
use openssl::ssl::{Error, ErrorCode, ShutdownState, SslStream};
use weir_api::legacy::{BINDING, Established, Failure, FromWorker, MAX_BYTES, Open, Role};
use weir_policy::suites::Protocol;

use crate::alert::send_fatal_alert;
use crate::bindings::{forget_certificate, forget_peer_certificates};
use crate::contexts::{Contexts, Prepared};
use crate::observed::{Observed, observe};
use crate::sessions::{ServerSessions, Shown};

/// Plaintext that waits for the end of the handshake; past it the leg fails.
const EARLY_BOUND: usize = 128 << 10;

pub struct Endpoint {
    stream: SslStream<Pipe>,
    /// Where OpenSSL's callback writes; freed by `drop`, after `stream` no longer runs.
    observed: *mut Observed,
    /// Under which the session with the server is kept; `None`: it is not.
    session: Option<[u8; BINDING]>,
    sessions: Rc<ServerSessions>,
    /// What the server showed when that session began, until the handshake's end.
    resuming: Option<Rc<Shown>>,
    established: bool,
    request_told: bool,
    renegotiation_told: bool,
    peer_closed: bool,
    closing: Closing,
    /// Plaintext not yet taken by OpenSSL.
    plain: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    CloseNotify,
    FatalAlert(u8),
    Done,
}

/// The peer's bytes, and those for it.
#[derive(Default)]
struct Pipe {
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waiting = self.input.get(self.read..).unwrap_or_default();
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = waiting.read(buffer)?;
        self.read = self.read.saturating_add(read);
        if self.read == self.input.len() {
            *self = Self { output: std::mem::take(&mut self.output), ..Self::default() };
        }
        Ok(read)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Endpoint {
    pub fn open(contexts: &Contexts, open: &Open) -> Result<Self, Failure> {
        let Prepared { ssl, resuming } = contexts.prepare(open).map_err(internal)?;
        let stream = SslStream::new(ssl, Pipe::default()).map_err(internal)?;
        let observed = Box::into_raw(Box::default());
        // SAFETY: valid until `drop`, which frees it together with the SSL; only `facts` looks at it,
        // while no call into OpenSSL is under way.
        unsafe { observe(stream.ssl(), observed) };
        let session = match &open.role {
            Role::ToServer { session, .. } => Some(*session),
            Role::ToClient { .. } => None,
        };
        Ok(Self {
            stream,
            observed,
            session,
            sessions: Rc::clone(&contexts.sessions),
            resuming,
            established: false,
            request_told: false,
            renegotiation_told: false,
            peer_closed: false,
            closing: Closing::No,
            plain: Vec::new(),
        })
    }

    /// Bytes of the peer, for the next [`Self::turn`].
    pub fn feed(&mut self, wire: &[u8]) {
        self.stream.get_mut().input.extend_from_slice(wire);
    }

    /// Plaintext for the peer, for the next [`Self::turn`].
    pub fn write(&mut self, plain: &[u8]) -> Result<(), Failure> {
        if !self.established && self.plain.len().saturating_add(plain.len()) > EARLY_BOUND {
            return Err(Failure::Internal("too much plaintext before the handshake's end".into()));
        }
        self.plain.extend_from_slice(plain);
        Ok(())
    }

    /// The engine does not want this session to be resumed.
    pub fn forget_session(&mut self) {
        if let Some(binding) = self.session.take() {
            self.sessions.forget(&binding);
        }
    }

    pub fn close_notify(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::CloseNotify;
        }
    }

    /// After what was written; nothing goes out after it.
    pub fn fatal_alert(&mut self, alert: u8) {
        if self.closing == Closing::No {
            self.closing = Closing::FatalAlert(alert);
        }
    }

    /// Does all that can be done now, and says what came of it.
    pub fn turn(&mut self, say: &mut dyn FnMut(FromWorker)) -> Result<(), Failure> {
        let done = self.advance(say);
        self.tell_renegotiation(say);
        let output = std::mem::take(&mut self.stream.get_mut().output);
        for bytes in output.chunks(MAX_BYTES) {
            say(FromWorker::Wire(bytes.to_vec()));
        }
        done
    }

    fn advance(&mut self, say: &mut dyn FnMut(FromWorker)) -> Result<(), Failure> {
        if !self.established {
            let handshake = self.stream.do_handshake();
            self.tell_request(handshake.as_ref().err(), say);
            match handshake {
                Ok(()) => {
                    self.established = true;
                    let established = self.negotiated();
                    self.keep_session(&established);
                    forget_certificate(self.stream.ssl());
                    forget_peer_certificates(self.stream.ssl());
                    self.resuming = None;
                    say(FromWorker::Established(Box::new(established)));
                }
                Err(error) => return self.waits(&error),
            }
        }
        while !self.plain.is_empty() {
            match self.stream.ssl_write(&self.plain) {
                Ok(written) => drop(self.plain.drain(..written.min(self.plain.len()))),
                Err(error) => {
                    self.waits(&error)?;
                    break;
                }
            }
        }
        if self.plain.is_empty() {
            self.plain = Vec::new();
            match std::mem::replace(&mut self.closing, Closing::Done) {
                Closing::CloseNotify => {
                    self.stream.shutdown().map_err(|error| self.failure(&error))?;
                }
                Closing::FatalAlert(alert) => send_fatal_alert(self.stream.ssl(), alert),
                before @ (Closing::No | Closing::Done) => self.closing = before,
            }
        }
        let mut buffer = [0; 16 << 10];
        while !self.peer_closed {
            match self.stream.ssl_read(&mut buffer) {
                Ok(read) => {
                    let plain = buffer.get(..read).unwrap_or_default();
                    say(FromWorker::Plain(plain.to_vec()));
                }
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.peer_closed = true;
                    say(FromWorker::PeerClosed);
                }
                Err(error) => return self.waits(&error),
            }
        }
        Ok(())
    }

    fn tell_renegotiation(&mut self, say: &mut dyn FnMut(FromWorker)) {
        if self.facts().renegotiation_requested && !self.renegotiation_told {
            self.renegotiation_told = true;
            say(FromWorker::RenegotiationRequested);
        }
    }

    /// Once all is known of it, before the server can fail for it: when we have answered what its key
    /// signed, or at once where that has signed nothing; or at the handshake's end.
    fn tell_request(&mut self, error: Option<&Error>, say: &mut dyn FnMut(FromWorker)) {
        let facts = self.facts();
        let ended = error.is_none_or(|error| self.waits(error).is_err());
        let (signed, signs) = (facts.server_has_signed(), facts.key_exchange_signed);
        if facts.certificate_requested && !self.request_told && (signed || !signs || ended) {
            let chain = if signed { self.chain() } else { Vec::new() };
            self.request_told = true;
            say(FromWorker::CertificateRequested { chain });
        }
    }

    /// What a session that was resumed began with.
    fn resumed(&self) -> Option<&Shown> {
        self.resuming.as_deref().filter(|_| self.stream.ssl().session_reused())
    }

    /// The server's, leaf first; of a resumed session the one that it began with.
    fn chain(&self) -> Vec<Vec<u8>> {
        if let Some(shown) = self.resumed() {
            return shown.chain.clone();
        }
        let chain = self.stream.ssl().peer_cert_chain();
        chain.into_iter().flatten().filter_map(|one| one.to_der().ok()).collect()
    }

    /// No failure where OpenSSL only waits for more of the peer.
    fn waits(&self, error: &Error) -> Result<(), Failure> {
        match error.code() {
            ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => Ok(()),
            _ => Err(self.failure(error)),
        }
    }

    fn failure(&self, error: &Error) -> Failure {
        let facts = self.facts();
        match (facts.alert_received, facts.alert_sent) {
            (Some(alert), _) => Failure::AlertReceived(alert),
            (None, Some(alert)) => Failure::AlertSent(alert),
            (None, None) => without_alert(error.ssl_error(), || error.to_string()),
        }
    }

    fn negotiated(&self) -> Established {
        let ssl = self.stream.ssl();
        let suite = ssl.current_cipher().map(|cipher| u16::from_be_bytes(cipher.protocol_id()));
        let version = match ssl.version_str() {
            "SSLv3" => Protocol::Ssl30,
            "TLSv1" => Protocol::Tls10,
            "TLSv1.1" => Protocol::Tls11,
            "TLSv1.2" => Protocol::Tls12,
            _ => Protocol::Tls13,
        };
        let facts = self.facts();
        Established {
            version: version.code(),
            suite: suite.unwrap_or_default(),
            group: facts.group,
            signature: facts.signature,
            alpn: ssl.selected_alpn_protocol().map(<[u8]>::to_vec),
            resumed: ssl.session_reused(),
            chain: if ssl.is_server() { Vec::new() } else { self.chain() },
            staple: match self.resumed() {
                Some(shown) => shown.staple.clone(),
                None => ssl.ocsp_status().filter(|_| !ssl.is_server()).map(<[u8]>::to_vec),
            },
        }
    }

    /// Not of a server that asked for a client certificate: it must ask again.
    fn keep_session(&self, established: &Established) {
        let older = established.version < Protocol::Tls13.code();
        if let (Some(binding), Some(session)) = (&self.session, self.stream.ssl().session())
            && older
            && !self.facts().certificate_requested
        {
            if established.resumed {
                if let Some(shown) = &self.resuming {
                    self.sessions.renew(binding, session, shown);
                }
                return;
            }
            let (chain, staple) = (established.chain.clone(), established.staple.clone());
            self.sessions.keep(binding, session, Shown { chain, staple }, Instant::now());
        }
    }

    fn facts(&self) -> &Observed {
        // SAFETY: made by `open` and freed by `drop` only; OpenSSL writes to it inside calls on
        // `stream`, and none is under way while `self` is borrowed here.
        unsafe { &*self.observed }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // OpenSSL forgets the session of a connection that ends without close_notify, as TLS 1.0 has it;
        // so many do that nothing would be resumed (TLS 1.1 took it back, RFC 4346 section 7.2.1).
        // After a fatal alert it has forgotten it already.
        self.stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        // SAFETY: the SSL stops calling back before the box is freed, here and only here.
        unsafe {
            observe(self.stream.ssl(), std::ptr::null_mut());
            drop(Box::from_raw(self.observed));
        }
    }
}

/// OpenSSL says nothing to a peer whose first bytes are no TLS; whatever else it ends without an alert, nobody
/// at the other end did.
fn without_alert(errors: Option<&ErrorStack>, otherwise: impl FnOnce() -> String) -> Failure {
    /// `openssl/sslerr.h`: HTTPS_PROXY_REQUEST, HTTP_REQUEST and WRONG_VERSION_NUMBER.
    const NOT_TLS: [c_int; 3] = [155, 156, 267];
    let Some(errors) = errors.filter(|errors| !errors.errors().is_empty()) else {
        return Failure::Internal(otherwise());
    };
    // Without the places in OpenSSL's source that its own text has.
    let reasons: Vec<_> = errors.errors().iter().filter_map(|error| error.reason()).collect();
    let reasons = reasons.join(", ");
    match errors.errors().iter().any(|error| NOT_TLS.contains(&error.reason_code())) {
        true => Failure::NotTls(reasons),
        false => Failure::Internal(reasons),
    }
}

fn internal(errors: ErrorStack) -> Failure {
    without_alert(Some(&errors), || errors.to_string())
}
