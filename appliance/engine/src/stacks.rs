//! Which of the two TLS stacks a leg is on (SPEC T13), and the handshake with the server, which may
//! need both.
//!
//! A client's hello tells its stack: the legacy one only where the modern one cannot answer. To a
//! server the modern stack goes first, but for servers that are known; one that it cannot speak with
//! is asked once more on the legacy stack, on a new connection of the same addresses and ports. The
//! client is not answered before, and sees only a delay. A server is remembered only where what the
//! legacy stack agreed on with it is beyond the modern one: a reset by chance, or by somebody on the
//! path, puts one session on the legacy stack and no other. Fails by the fault of the last attempt.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::SessionRecord;
use weir_api::legacy::{Open, Role};
use rustls_pki_types::CertificateDer;
use weir_dataplane::FlowGuard;
use weir_policy::suites::Allowed;
use weir_tls::hello::ClientHello;
use weir_tls::{Alert, LegError, LegKey, LegacyBounds, ModernStack, TlsLeg, Verdict, modern_could};

use crate::leg::{Leg, LegFault};
use crate::legacy::{Evidence, Legacy, SessionScope};

/// A server that was there a moment ago.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// The stacks of one proxy.
pub struct Stacks<'a> {
    /// `None` where the proxy allows no suite of the modern stack.
    pub modern: Option<&'a ModernStack>,
    pub legacy: &'a Legacy,
    pub allowed: &'a Allowed,
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
    /// The connection, where it is still there.
    pub stream: Option<TcpStream>,
}

impl Stacks<'_> {
    /// The handshake with the server, to its end, offering it what `alpn` says.
    /// Its own, leaf first, where its key has signed the handshake: see [`TlsLeg::peer_chain`].
    pub chain: Vec<CertificateDer<'static>>,
    pub async fn server_handshake(
        &self,
        server: TcpStream,
        again: &impl ConnectAgain,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
        deadline: Duration,
    ) -> Result<Leg, ServerFailed> {
        let servers = &self.legacy.servers;
        let known = servers.knows(record.server, name, Instant::now());
        let Some(modern) = self.modern else {
            return self.on_legacy(server, name, alpn, record, deadline).await;
        };
        if known {
            let shaken = self.on_legacy(server, name, alpn, record, deadline).await;
            // It was upgraded, or it is another by now.
            if shaken.as_ref().map_or(true, is_for_modern) {
                servers.forget(record.server, name);
            }
            return shaken;
        }
        let tls = match modern.server_leg(name, record.server, alpn.clone()) {
            Ok(tls) => tls,
            Err(error) => return Err(not_made(error, server)),
        };
        let mut failed = match shake_hands(Leg::new(server, tls), deadline).await {
            Ok(leg) => return Ok(leg),
            Err(failed) => failed,
        };
        let evidence = needs_legacy(&failed.fault).filter(|_| !failed.asked);
        let Some(evidence) = evidence else { return Err(failed) };
        let Some(old) = failed.stream.take() else { return Err(failed) };
        debug!(session = record.id, fault = %failed.fault, "the server is asked again, on the legacy stack");
        self.legacy.counts().opened_again.fetch_add(1, Ordering::Relaxed);
        let connected = tokio::time::timeout(CONNECTS_WITHIN, again.again(old, record)).await;
        let server = match connected {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                debug!(session = record.id, %error, "no second connection to the server");
                return Err(failed);
            }
            Err(_) => return Err(failed),
        };
        // Only where it helped: a server that refuses both has no need of the second stack.
        let leg = self.on_legacy(server, name, alpn, record, deadline).await?;
        if !is_for_modern(&leg) {
            servers.remember(record.server, name, evidence, Instant::now());
        }
        Ok(leg)
    }

    async fn on_legacy(
        &self,
        server: TcpStream,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
        deadline: Duration,
    ) -> Result<Leg, ServerFailed> {
        match self.legacy_server_leg(name, alpn, record).await {
            Ok(tls) => shake_hands(Leg::new(server, tls), deadline).await,
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
        let session = self.sessions.with_server(record.server, name);
        let name = name.filter(|name| name.parse::<std::net::IpAddr>().is_err());
        let role = Role::ToServer { server_name: name.map(str::to_owned), alpn, session };
        self.legacy.leg(self.open(LegacyBounds::under(self.allowed), role)?).await
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

async fn shake_hands(mut leg: Leg, deadline: Duration) -> Result<Leg, ServerFailed> {
    let done = tokio::time::timeout(deadline, leg.handshake(&[])).await;
    match done.unwrap_or(Err(LegFault::Slow)) {
        Ok(()) => Ok(leg),
        Err(fault) => {
            let asked = leg.tls.client_certificate_requested();
            let chain = leg.tls.peer_chain().unwrap_or_default();
            Err(ServerFailed { fault, asked, chain, stream: Some(leg.stream) })
        }
    }
}

fn not_made(error: LegError, server: TcpStream) -> ServerFailed {
    ServerFailed { fault: error.into(), asked: false, chain: Vec::new(), stream: Some(server) }
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
        LegFault::Tcp(error) => {
            (error.kind() == io::ErrorKind::ConnectionReset).then_some(Evidence::Silence)
        }
        LegFault::Tls(_) | LegFault::Slow => None,
    }
}

#[cfg(test)]
mod tests;
