//! One TLS endpoint on OpenSSL, without a socket: bytes in, bytes out.
//!
//! For: what [`Open`] asks for. Renegotiation, compression, tickets and early data are never
//! accepted, encrypt-then-MAC never (SPEC T3); every certificate of a server is, since the engine
//! judges it. Not for: framing. Fails by [`Failure`], after which the endpoint is of no more use but
//! for the alert in its output.

use std::io::{self, Read, Write};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::PKey;
use openssl::ssl::{
    AlpnError, Error, ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode,
    SslOptions, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use weir_api::legacy::{Established, Failure, FromWorker, MAX_BYTES, Open, Role};
use weir_policy::suites::{Protocol, Suite};

use crate::alert::send_fatal_alert;
use crate::observed::{Observed, observe};

/// The groups of both roles; P-224 is not in OpenSSL's own list, and a certificate's curve must be.
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384:P-521:P-224";
/// `SSL_OP_NO_ENCRYPT_THEN_MAC`; the bindings do not have it.
const NO_ENCRYPT_THEN_MAC: u64 = 1 << 19;
/// `SSL_OP_LEGACY_SERVER_CONNECT`; the same.
const LEGACY_SERVER_CONNECT: u64 = 1 << 2;
/// Plaintext that waits for the end of the handshake; past it the leg fails.
const EARLY_BOUND: usize = 128 << 10;

/// What all endpoints share: making a context costs as much as a handshake.
pub struct Contexts {
    to_server: SslContext,
    to_client: SslContext,
    /// The one protocol that a leg to a client accepts.
    alpn: Index<Ssl, Vec<u8>>,
}

pub struct Endpoint {
    stream: SslStream<Pipe>,
    /// Where OpenSSL's callback writes; freed by `drop`, after `stream` no longer runs.
    observed: *mut Observed,
    established: bool,
    request_told: bool,
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
            self.read = 0;
            self.input.clear();
            self.input.shrink_to(1024);
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

impl Contexts {
    pub fn new() -> Result<Self, ErrorStack> {
        let alpn = Ssl::new_ex_index()?;
        let mut to_server = context()?;
        // Servers of old do not know secure renegotiation (RFC 5746); we never renegotiate.
        to_server.set_options(SslOptions::from_bits_retain(LEGACY_SERVER_CONNECT));
        let mut to_client = context()?;
        to_client.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
        to_client.set_alpn_select_callback(move |ssl, offered| {
            let accepted = ssl.ex_data(alpn).ok_or(AlpnError::NOACK)?;
            names(offered).find(|name| name == accepted).ok_or(AlpnError::NOACK)
        });
        Ok(Self { to_server: to_server.build(), to_client: to_client.build(), alpn })
    }
}

fn context() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls())?;
    // Both are needed: the level alone leaves the signatures of TLS 1.1 and older out.
    context.set_security_level(0);
    context.set_cipher_list("ALL:@SECLEVEL=0")?;
    context.set_min_proto_version(Some(SslVersion::SSL3))?;
    context.set_groups_list(GROUPS)?;
    context.set_verify(SslVerifyMode::NONE);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_num_tickets(0)?;
    context.set_mode(
        SslMode::RELEASE_BUFFERS
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    context.clear_options(SslOptions::all());
    context.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET
            | SslOptions::from_bits_retain(NO_ENCRYPT_THEN_MAC),
    );
    Ok(context)
}

impl Endpoint {
    pub fn open(contexts: &Contexts, open: &Open) -> Result<Self, Failure> {
        let ssl = prepare(contexts, open).map_err(internal)?;
        let stream = SslStream::new(ssl, Pipe::default()).map_err(internal)?;
        let observed = Box::into_raw(Box::default());
        // SAFETY: valid until `drop`, which frees it together with the SSL; only `facts` looks at it,
        // while no call into OpenSSL is under way.
        unsafe { observe(stream.ssl(), observed) };
        Ok(Self {
            stream,
            observed,
            established: false,
            request_told: false,
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
        let output = std::mem::take(&mut self.stream.get_mut().output);
        for bytes in output.chunks(MAX_BYTES) {
            say(FromWorker::Wire(bytes.to_vec()));
        }
        done
    }

    fn advance(&mut self, say: &mut dyn FnMut(FromWorker)) -> Result<(), Failure> {
        if !self.established {
            let handshake = self.stream.do_handshake();
            if self.facts().certificate_requested && !self.request_told {
                self.request_told = true;
                say(FromWorker::CertificateRequested);
            }
            match handshake {
                Ok(()) => {
                    self.established = true;
                    say(FromWorker::Established(Box::new(self.negotiated())));
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
            self.plain.shrink_to(1024);
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
            (None, None) => Failure::Internal(error.to_string()),
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
        let chain = if ssl.is_server() { None } else { ssl.peer_cert_chain() };
        let facts = self.facts();
        Established {
            version: version.code(),
            suite: suite.unwrap_or_default(),
            group: facts.group,
            signature: facts.signature,
            alpn: ssl.selected_alpn_protocol().map(<[u8]>::to_vec),
            resumed: ssl.session_reused(),
            chain: chain.into_iter().flatten().filter_map(|one| one.to_der().ok()).collect(),
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
        // SAFETY: the SSL stops calling back before the box is freed, here and only here.
        unsafe {
            observe(self.stream.ssl(), std::ptr::null_mut());
            drop(Box::from_raw(self.observed));
        }
    }
}

fn prepare(contexts: &Contexts, open: &Open) -> Result<Ssl, ErrorStack> {
    let context = match open.role {
        Role::ToServer { .. } => &contexts.to_server,
        Role::ToClient { .. } => &contexts.to_client,
    };
    let mut ssl = Ssl::new(context)?;
    ssl.set_min_proto_version(version(open.versions.0))?;
    ssl.set_max_proto_version(version(open.versions.1))?;
    let suites = || open.suites.iter().filter_map(|id| Suite::by_id(*id));
    let (modern, older): (Vec<_>, Vec<_>) = suites()
        .map(|suite| (suite, suite.name))
        .partition(|(suite, _)| suite.used_in(Protocol::Tls13));
    let list = |suites: Vec<(&Suite, &'static str)>| {
        suites.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(":")
    };
    ssl.set_ciphersuites(&list(modern))?;
    if !older.is_empty() {
        ssl.set_cipher_list(&format!("{}:@SECLEVEL=0", list(older)))?;
    }
    match &open.role {
        Role::ToServer { server_name, alpn } => {
            ssl.set_connect_state();
            if let Some(name) = server_name {
                ssl.set_hostname(name)?;
            }
            let offered: Vec<u8> = alpn
                .iter()
                .filter_map(|name| Some((u8::try_from(name.len()).ok()?, name)))
                .flat_map(|(length, name)| std::iter::once(length).chain(name.iter().copied()))
                .collect();
            if !offered.is_empty() {
                ssl.set_alpn_protos(&offered)?;
            }
        }
        Role::ToClient { chain, key, alpn } => {
            ssl.set_accept_state();
            let mut chain = chain.iter();
            if let Some(leaf) = chain.next() {
                ssl.set_certificate(X509::from_der(leaf)?.as_ref())?;
            }
            for certificate in chain {
                ssl.add_chain_cert(X509::from_der(certificate)?)?;
            }
            ssl.set_private_key(PKey::private_key_from_pkcs8(key)?.as_ref())?;
            if let Some(accepted) = alpn {
                ssl.set_ex_data(contexts.alpn, accepted.clone());
            }
        }
    }
    Ok(ssl)
}

fn version(code: u16) -> Option<SslVersion> {
    Some(match code {
        0x0300 => SslVersion::SSL3,
        0x0301 => SslVersion::TLS1,
        0x0302 => SslVersion::TLS1_1,
        0x0303 => SslVersion::TLS1_2,
        _ => SslVersion::TLS1_3,
    })
}

/// The names of a list of RFC 7301 section 3.1.
fn names(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = list.split_first()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        list = rest;
        Some(name)
    })
}

fn internal(error: ErrorStack) -> Failure {
    Failure::Internal(error.to_string())
}
