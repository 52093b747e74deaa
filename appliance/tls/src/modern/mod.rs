//! The modern stack: TLS 1.3 and TLS 1.2 with ECDHE and AEAD, in memory-safe code (SPEC T13).
//!
//! For: both legs of a session whose hello [`ClientHello::supported`] is true for, on rustls with
//! aws-lc's primitives, X25519MLKEM768 first (SPEC T12; to a server where the client offers it too). Not for: anything older. Weir never
//! accepts early data and never renegotiates. Sessions are resumed on both legs, each bound to the
//! stack's lifetime (one proxy of one policy generation) and more; see [`resumption`].
//! Fails by [`LegError`]; [`ModernStack::new`] only if the provider itself is broken.
//!
//! [`ClientHello::supported`]: crate::ClientHello::supported

mod closing_alert;
mod key_derivation;
mod leg;
mod protection;
mod record;
mod resumption;
mod suites;
mod support;
mod witness;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, NamedGroup, ServerConfig, ServerConnection};
use rustls_pki_types::{DnsName, ServerName};
use weir_policy::suites::{Allowed, Protocol};
use weir_policy::{Place, ServerAt};

use self::leg::ModernLeg;
pub use self::resumption::SERVERS_BOUND;
use self::resumption::{
    Binding, BoundSessions, BoundTickets, ClientSessions, ServerSessions, SessionsOf,
};
use self::support::X25519MLKEM768;
pub use self::support::modern_could;
use self::witness::{Observed, Presented, Witness};
use crate::hello::{ClientHello, is_host_name};
use crate::key::LegKey;
use crate::leg::{LegError, TlsLeg};
use crate::verify::Verdict;

/// What the modern legs of one proxy share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ModernStack {
    /// Copied for every server leg, with the sessions of its server.
    client: ClientConfig,
    /// The same without X25519MLKEM768, whose key share makes a hello longer than a segment.
    client_of_short_hellos: ClientConfig,
    sessions: Arc<ServerSessions>,
    /// Copied for every client leg, with the leg's own key and ALPN.
    server: ServerConfig,
    tickets: Arc<dyn ProducesTickets>,
    /// Of TLS 1.2, for those that take no tickets.
    client_sessions: Arc<ClientSessions>,
}

/// What a server is offered for its key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// X25519MLKEM768 first. The hello takes more than one segment: there are servers, and middleboxes
    /// before them, that never answer such a one.
    PostQuantum,
    /// Elliptic curves only: the hello is one short segment.
    Classic,
}

/// Bytes of a client's share of X25519MLKEM768 (draft-ietf-tls-ecdhe-mlkem section 4.1).
const MLKEM_SHARE: usize = 1184 + 32;

impl Shares {
    /// As the session's client does: its own hello is as long then, so that a server which does not
    /// answer ours would not answer the client's either. One that lists the group without a share of it has
    /// a shorter hello than that share.
    pub fn as_client(hello: &ClientHello) -> Self {
        let lists = hello.groups.contains(&X25519MLKEM768);
        if lists && hello.wire_length > MLKEM_SHARE { Self::PostQuantum } else { Self::Classic }
    }
}

/// To a client of TLS 1.3, for each session, resumed or not. A ticket is used once (RFC 8446 appendix C.4):
/// a client has as many as it has had sessions, and where it opens more connections at one time than that,
/// those have full handshakes. Each ticket costs some 3 % of a session's two handshakes.
const TICKETS_GIVEN: usize = 1;

impl ModernStack {
    /// A stack that may negotiate all it can and is on by default.
    ///
    /// # Errors
    /// As [`Self::under`].
    pub fn new() -> Result<Self, LegError> {
        let nothing = || LegError::Internal("no suite is on by default".to_owned());
        Self::under(&Allowed::default())?.ok_or_else(nothing)
    }

    /// A stack that negotiates within these bounds; `None` where they leave it nothing.
    ///
    /// # Errors
    /// [`LegError::Internal`] where the provider lacks what TLS 1.2 and 1.3 need.
    pub fn under(allowed: &Allowed) -> Result<Option<Self>, LegError> {
        let internal = |error: rustls::Error| LegError::Internal(error.to_string());
        let mut provider = default_provider();
        provider.cipher_suites = suites::suites(&provider);
        provider.cipher_suites.retain(|suite| {
            let id = suite.suite().into();
            allowed.usable().any(|line| line.id == id)
        });
        if provider.cipher_suites.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(provider);
        let versions: Vec<_> = [(Protocol::Tls13, &TLS13), (Protocol::Tls12, &TLS12)]
            .into_iter()
            .filter(|(version, _)| allowed.version(*version))
            .map(|(_, version)| version)
            .collect();
        // The same for both, or neither would resume what the other began.
        let witness = Arc::new(Witness::new(provider.clone()));
        let client = |provider: Arc<CryptoProvider>| {
            let mut client = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&versions)
                .map_err(internal)?
                .dangerous()
                .with_custom_certificate_verifier(witness.clone())
                .with_client_cert_resolver(witness.clone());
            client.resumption = Resumption::disabled();
            client.enable_early_data = false;
            Ok::<_, LegError>(client)
        };
        let mut short = CryptoProvider::clone(&provider);
        short.kx_groups.retain(|group| group.name() != NamedGroup::X25519MLKEM768);
        let client_of_short_hellos = client(Arc::new(short))?;
        let client = client(provider.clone())?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(internal)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Presented::nothing()));
        // The default is a cache of its own in every configuration (31 KiB). A leg's own follows.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        server.send_tls13_tickets = TICKETS_GIVEN;
        let tickets = Ticketer::new().map_err(internal)?;
        let (sessions, client_sessions) = Default::default();
        Ok(Some(Self {
            client,
            client_of_short_hellos,
            sessions,
            server,
            tickets,
            client_sessions,
        }))
    }

    /// Whether a server leg sends this name as it is, and a client leg takes it. rustls does so with no name
    /// that no host may have by the letter, though there are such, with a label that begins or ends with a
    /// hyphen, or a number as the last one. (An address it takes, and nobody sends: RFC 6066 section 3.)
    pub fn takes_name(server_name: &str) -> bool {
        // What has another fault is a name nowhere.
        ServerName::try_from(server_name).is_ok() || !is_host_name(server_name)
    }

    /// The leg to a server, with its ClientHello waiting to be written.
    ///
    /// A session with the server at this address under this name is resumed where there is one.
    /// `server_name` is the client's own, sent on as it is but for a trailing dot (RFC
    /// 6066 section 3 has none); none is sent where the client sent none or
    /// where it is no DNS name. `alpn` is what to offer, in order; empty: no such extension.
    /// Every certificate is accepted here: the caller reads the chain when the handshake is done
    /// and judges it by [`crate::verify`]. The handshake's signature is verified always.
    ///
    /// # Errors
    /// [`LegError::Internal`] only.
    pub fn server_leg(
        &self,
        server_name: Option<&str>,
        address: SocketAddr,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        let server = Place::default().server(address);
        self.server_leg_offering(server_name, server, alpn, Shares::PostQuantum)
    }

    /// The same with the key shares that are said, where there are servers of the same address elsewhere.
    ///
    /// # Errors
    /// As [`Self::server_leg`].
    pub fn server_leg_offering(
        &self,
        server_name: Option<&str>,
        server: ServerAt,
        alpn: Vec<Vec<u8>>,
        shares: Shares,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        let name = server_name
            .and_then(|name| DnsName::try_from(name.to_owned()).ok())
            .map_or(ServerName::IpAddress(server.address.ip().into()), ServerName::DnsName);
        let observed = Arc::<Observed>::default();
        let sessions = self.sessions.clone();
        let sessions = SessionsOf::new(sessions, server, server_name, shares, observed.clone());
        let mut config = match shares {
            Shares::PostQuantum => self.client.clone(),
            Shares::Classic => self.client_of_short_hellos.clone(),
        };
        config.resumption = Resumption::store(Arc::new(sessions));
        let connection = ClientConnection::new_with_alpn(Arc::new(config), name, alpn)
            .map_err(|error| LegError::Internal(error.to_string()))?;
        Ok(Box::new(ModernLeg::new(connection.into(), observed)))
    }

    /// The leg to a client, waiting for its ClientHello: feed the bytes held so far.
    ///
    /// A session is resumed only with the same certificate and the same `verdict` on the server's
    /// (none: the default).
    ///
    /// `alpn` is the protocol that the server leg negotiated: it is the only one offered. `None`:
    /// the client's list is ignored (an offer without overlap would be a fatal alert, RFC 7301
    /// section 3.2).
    ///
    /// # Errors
    /// [`LegError::Internal`] only.
    pub fn client_leg(
        &self,
        key: &LegKey,
        verdict: Verdict,
        alpn: Option<Vec<u8>>,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        let presented = Arc::new(Presented::new(key));
        let mut config = self.server.clone();
        config.cert_resolver = presented.clone();
        let binding = Binding::of(key, verdict);
        config.ticketer = Arc::new(BoundTickets::new(self.tickets.clone(), binding));
        config.session_storage =
            Arc::new(BoundSessions::new(self.client_sessions.clone(), binding));
        config.alpn_protocols = alpn.into_iter().collect();
        let connection = ServerConnection::new(Arc::new(config))
            .map_err(|error| LegError::Internal(error.to_string()))?;
        Ok(Box::new(ModernLeg::new(connection.into(), presented.observed())))
    }
}
