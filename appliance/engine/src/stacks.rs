//! Which of the two TLS stacks a leg is on (SPEC T13), and the handshake with the server, which may
//! need both.
//!
//! A client's hello tells its stack: the legacy one only where the modern one cannot answer. To a
//! server the modern stack goes first, but for servers that are known to need the other; one that it
//! cannot speak with is asked once more on the legacy stack, on a new connection of the same addresses
//! and ports. The client is not answered before, and sees only a delay.
//!
//! What a connection's end says is not what the server says: after a reset or a close the modern stack
//! is tried once more, on a connection of its own. A server that it has spoken with is not put on the
//! legacy stack by that at all, and by alerts only where it says so twice; it is counted then. And a
//! server is remembered as old only where what the legacy stack agreed on with it is beyond the modern
//! one. Three connections at most, which have one deadline together. An attempt that had little time left says
//! nothing of its server.
//!
//! Names that the modern stack does not take, with a label that ends in a hyphen or a number as the last one, are
//! the legacy one's, on either leg; a server proxy serves only those of its own certificates.
//!
//! The modern stack offers a server a key share that makes its hello longer than a segment only where the
//! client does. The legacy stack offers none, and no version over the client's own: what stumbles over
//! either is reached as the client would reach it. A client without TLS 1.3 has that also where the modern
//! stack's hello is not answered at all. What its session shows of the server, bound as it is, counts for
//! such clients only. Fails by the fault of the last attempt.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tracing::debug;
use weir_api::engine::SessionRecord;
use weir_api::legacy::{Open, Role};
use weir_dataplane::FlowGuard;
use weir_policy::suites::{Allowed, Protocol};
use weir_policy::{Place, ServerAt};
use weir_tls::hello::{ClientHello, address_sent};
use weir_tls::{
    Alert, LegError, LegKey, LegacyBounds, ModernStack, Shares, TlsLeg, Verdict, modern_could,
};

use crate::leg::{Leg, LegFault};
use crate::legacy::{Counts, Evidence, KnownServers, Legacy, MODERN_LASTS, SessionScope};

/// A server that was there a moment ago.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// How long a server may leave the modern stack's hello without any answer, where the client might be
/// answered sooner: past it the legacy stack asks, and the client still waits. Of an attempt that has less nothing
/// is remembered, nor is anything forgotten for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(6);

/// The stacks of one proxy.
pub struct Stacks<'a> {
    /// Where its sessions are.
    pub place: Place,
    /// `None` where the proxy allows no suite of the modern stack.
    pub modern: Option<&'a ModernStack>,
    /// Servers that it has spoken with.
    pub modern_servers: &'a KnownServers,
    pub legacy: &'a Legacy,
    pub allowed: &'a Allowed,
    /// The strongest version that the session's client offers.
    pub client: Protocol,
    /// As the client's own.
    pub shares: Shares,
    /// Of the legacy stack; the modern one has its own.
    pub sessions: &'a SessionScope,
    /// SPEC T3.
    pub encrypt_then_mac: bool,
}

/// How a second connection to the server is made.
pub trait ConnectAgain {
    async fn again(&self, old: TcpStream, record: &SessionRecord) -> io::Result<TcpStream>;
}

impl ConnectAgain for FlowGuard {
    async fn again(&self, old: TcpStream, record: &SessionRecord) -> io::Result<TcpStream> {
        self.connect_again(old, record.client, record.server).await
    }
}

/// A handshake with a server that failed.
pub struct ServerFailed {
    pub fault: LegFault,
    /// The server asked for a client certificate.
    pub asked: bool,
    /// Its own, leaf first, where its key has signed the handshake: see [`TlsLeg::peer_chain`].
    pub chain: Vec<CertificateDer<'static>>,
    /// The connection, where it is still there.
    pub stream: Option<TcpStream>,
    /// The client offers what Weir does not have, and policy does not let that pass.
    pub unshared: bool,
}

impl ServerFailed {
    fn of(leg: Leg, fault: LegFault) -> Self {
        let asked = leg.tls.client_certificate_requested();
        let chain = leg.tls.peer_chain().unwrap_or_default();
        Self { asked, chain, stream: Some(leg.stream), ..Self::by(fault) }
    }

    /// Of which nothing else is known.
    pub fn by(fault: LegFault) -> Self {
        Self { fault, asked: false, chain: Vec::new(), stream: None, unshared: false }
    }

    /// That the server may need the legacy stack.
    fn evidence(&self) -> Option<Evidence> {
        needs_legacy(&self.fault).filter(|_| !self.asked)
    }

    /// Another connection in the place of the failed one; `None`: that one's failure stands.
    async fn connect_again(
        &mut self,
        again: &impl ConnectAgain,
        record: &SessionRecord,
        (counts, count): (&Counts, &AtomicU64),
        until: tokio::time::Instant,
    ) -> Option<TcpStream> {
        let old = self.stream.take()?;
        count.fetch_add(1, Ordering::Relaxed);
        let until = until.min(tokio::time::Instant::now() + CONNECTS_WITHIN);
        let connected = timeout_at(until, again.again(old, record)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(server) => Some(server),
            Err(error) => {
                debug!(session = record.id, %error, "no further connection to the server");
                counts.not_connected_again.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Stacks<'_> {
    /// The server of this session.
    pub fn at(&self, record: &SessionRecord) -> ServerAt {
        self.place.server(record.server)
    }

    /// The handshake with the server, to its end, offering it what `alpn` says. All attempts have `until` then.
    pub async fn server_handshake(
        &self,
        server: TcpStream,
        again: &impl ConnectAgain,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
        until: tokio::time::Instant,
    ) -> Result<Leg, ServerFailed> {
        let servers = &self.legacy.servers;
        let now = Instant::now();
        let known = servers.knows(self.at(record), name, now);
        // A server may answer as another without its name.
        let Some(modern) = self.modern.filter(|_| name.is_none_or(ModernStack::takes_name)) else {
            return self.on_legacy(server, name, alpn, record, until).await;
        };
        let of_old_clients = &self.legacy.servers_of_old_clients;
        let known_so = self.client_is_old() && of_old_clients.knows(self.at(record), name, now);
        let is_modern = self.modern_servers.knows(self.at(record), name, now);
        // One proxy may be bound to what another need not ask for.
        if (known || known_so) && !is_modern {
            let whole = is_whole(until);
            let shaken = self.on_legacy(server, name, alpn, record, until).await;
            if !whole && matches!(&shaken, Err(failed) if matches!(failed.fault, LegFault::Slow)) {
                return shaken;
            }
            // It was upgraded, or it is another by now.
            if shaken.as_ref().map_or(true, is_for_modern) {
                servers.forget(self.at(record), name);
            }
            if shaken.is_err() {
                of_old_clients.forget(self.at(record), name);
            }
            return shaken;
        }
        let mut failed = match self.on_modern(modern, server, name, &alpn, record, until).await {
            Ok(leg) => return Ok(leg),
            Err(failed) => failed,
        };
        let Some(mut evidence) = failed.evidence() else { return Err(failed) };
        if is_modern || evidence == Evidence::Silence {
            let counts = self.legacy.counts();
            let count = &counts.opened_again_on_modern;
            let server = failed.connect_again(again, record, (counts, count), until).await;
            let Some(server) = server else { return Err(failed) };
            let before = evidence;
            failed = match self.on_modern(modern, server, name, &alpn, record, until).await {
                Ok(leg) => return Ok(leg),
                Err(failed) => failed,
            };
            evidence = match failed.evidence() {
                Some(evidence) => evidence,
                None => return Err(failed),
            };
            if is_modern {
                if [before, evidence].contains(&Evidence::Silence) {
                    return Err(failed);
                }
                counts.aged.fetch_add(1, Ordering::Relaxed);
                self.modern_servers.forget(self.at(record), name);
            }
        }
        debug!(session = record.id, fault = %failed.fault, "the server is asked again, on the legacy stack");
        let counts = self.legacy.counts();
        let counted = (counts, &counts.opened_again);
        let server = failed.connect_again(again, record, counted, until).await;
        let Some(server) = server else { return Err(failed) };
        // Only where it helped: a server that refuses both has no need of the second stack.
        let leg = self.on_legacy(server, name, alpn, record, until).await?;
        if let Some((servers, lasts)) = self.needed_for(&leg, evidence) {
            servers.remember(self.at(record), name, lasts, Instant::now());
        }
        Ok(leg)
    }

    /// Where and for how long a server is remembered that agreed on this with the legacy stack, and
    /// with the modern one on nothing. That it goes no further than the client may not be its own
    /// choice: then only sessions of such clients make use of it.
    fn needed_for(&self, leg: &Leg, evidence: Evidence) -> Option<(&KnownServers, Duration)> {
        let version = leg.tls.negotiated().map(|negotiated| negotiated.version.0);
        let bound_by_client = self.client_is_old() && version == Some(self.client.code());
        let modern_could = is_for_modern(leg);
        if !modern_could && !bound_by_client {
            return Some((&self.legacy.servers, evidence.lasts()));
        }
        let servers = &self.legacy.servers_of_old_clients;
        // What the modern stack could have agreed on may have failed by another's doing: it is tried
        // again the next time, but where it takes long.
        let needed = !modern_could || evidence == Evidence::Mute;
        (self.client_is_old() && needed).then_some((servers, Evidence::Mute.lasts()))
    }

    /// It may have reached servers that a hello of TLS 1.3 does not reach.
    fn client_is_old(&self) -> bool {
        self.client < Protocol::Tls13
    }

    async fn on_modern(
        &self,
        modern: &ModernStack,
        server: TcpStream,
        name: Option<&str>,
        alpn: &[Vec<u8>],
        record: &SessionRecord,
        until: tokio::time::Instant,
    ) -> Result<Leg, ServerFailed> {
        let tls =
            match modern.server_leg_offering(name, self.at(record), alpn.to_vec(), self.shares) {
                Ok(tls) => tls,
                Err(error) => return Err(not_made(error, server)),
            };
        let mut leg = Leg::new(server, tls);
        let knows = self.modern_servers.knows(self.at(record), name, Instant::now());
        if self.client_is_old() && !knows {
            let whole = is_whole(until);
            let answers = until.min(tokio::time::Instant::now() + ANSWERS_WITHIN);
            match timeout_at(answers, leg.is_answered()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(ServerFailed::of(leg, error.into())),
                Err(_) if whole => return Err(ServerFailed::of(leg, LegFault::Mute)),
                Err(_) => return Err(ServerFailed::of(leg, LegFault::Slow)),
            }
        }
        let leg = shake_hands(leg, until).await?;
        self.modern_servers.remember(self.at(record), name, MODERN_LASTS, Instant::now());
        Ok(leg)
    }

    async fn on_legacy(
        &self,
        server: TcpStream,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
        until: tokio::time::Instant,
    ) -> Result<Leg, ServerFailed> {
        match self.legacy_server_leg(name, alpn, record).await {
            Ok(tls) => shake_hands(Leg::new(server, tls), until).await,
            Err(error) => Err(not_made(error, server)),
        }
    }

    async fn legacy_server_leg(
        &self,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        // RFC 6066 section 3: no trailing dot, no address.
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let session = self.sessions.with_server(self.at(record), name, self.client);
        let name = name.filter(|name| address_sent(name).is_none());
        let role = Role::ToServer { server_name: name.map(str::to_owned), alpn, session };
        let bounds = LegacyBounds::for_client_up_to(self.client, self.allowed);
        self.legacy.leg(self.open(bounds, role)?).await
    }

    /// The leg to the client, on the stack that its hello needs.
    pub async fn client_leg(
        &self,
        hello: &ClientHello,
        key: &Arc<LegKey>,
        verdict: Verdict,
        alpn: Option<Vec<u8>>,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        if let Some(modern) = self.modern
            && hello.supported_with(key.kind(), self.allowed)
        {
            return modern.client_leg(key, verdict, alpn);
        }
        let role = Role::ToClient {
            chain: key.chain().iter().map(|one| one.as_ref().to_vec()).collect(),
            key: key.pkcs8().clone(),
            alpn,
            staple: key.staple().map(<[u8]>::to_vec),
            session: self.sessions.with_client(key, verdict),
        };
        self.legacy.leg(self.open(LegacyBounds::with_key(key.kind(), self.allowed), role)?).await
    }

    fn open(&self, bounds: Option<LegacyBounds>, role: Role) -> Result<Open, LegError> {
        let nothing = || LegError::Internal("the proxy allows no suite".to_owned());
        let LegacyBounds { versions, suites } = bounds.ok_or_else(nothing)?;
        let versions = (versions.0.code(), versions.1.code());
        Ok(Open { versions, suites, encrypt_then_mac: self.encrypt_then_mac, role })
    }
}

/// Whether an attempt that begins now has time enough to tell that its server does not answer.
fn is_whole(until: tokio::time::Instant) -> bool {
    until >= tokio::time::Instant::now() + ANSWERS_WITHIN
}

async fn shake_hands(mut leg: Leg, until: tokio::time::Instant) -> Result<Leg, ServerFailed> {
    let done = timeout_at(until, leg.handshake(&[])).await;
    match done.unwrap_or(Err(LegFault::Slow)) {
        Ok(()) => Ok(leg),
        Err(fault) => Err(ServerFailed::of(leg, fault)),
    }
}

fn not_made(error: LegError, server: TcpStream) -> ServerFailed {
    ServerFailed { stream: Some(server), ..ServerFailed::by(error.into()) }
}

/// Whether what this leg agreed on is within the modern stack as well.
fn is_for_modern(leg: &Leg) -> bool {
    let (negotiated, chain) = (leg.tls.negotiated(), leg.tls.peer_chain().unwrap_or_default());
    match (negotiated, chain.first()) {
        (Some(negotiated), Some(leaf)) => modern_could(&negotiated, leaf),
        _ => false,
    }
}

/// What an older server does with a hello of the modern stack: an alert, a version or a signature
/// that the modern stack does not take, or no answer but the end. `None`: no older server does so.
pub fn needs_legacy(fault: &LegFault) -> Option<Evidence> {
    match fault {
        LegFault::Tls(LegError::AlertReceived(alert)) => matches!(
            *alert,
            Alert::HANDSHAKE_FAILURE
                | Alert::PROTOCOL_VERSION
                | Alert::INSUFFICIENT_SECURITY
                | Alert::ILLEGAL_PARAMETER
                | Alert::DECODE_ERROR
                | Alert::UNEXPECTED_MESSAGE
        )
        .then_some(Evidence::Protocol),
        LegFault::Tls(LegError::Refused { .. }) => Some(Evidence::Protocol),
        LegFault::Closed => Some(Evidence::Silence),
        LegFault::Mute => Some(Evidence::Mute),
        LegFault::Tcp(error) => {
            (error.kind() == io::ErrorKind::ConnectionReset).then_some(Evidence::Silence)
        }
        LegFault::Tls(_) | LegFault::Slow => None,
    }
}

#[cfg(test)]
mod tests;
