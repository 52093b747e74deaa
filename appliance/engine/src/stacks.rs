//! Which of the two TLS stacks a leg is on (SPEC T13), and the handshake with the server, which may
//! need both.
//!
//! A client's hello tells its stack: the legacy one only where the modern one cannot answer. To a
//! server the modern stack goes first, but for servers that are known; one that it cannot speak with
//! is remembered, and asked once more on the legacy stack, on a new connection of the same addresses
//! and ports. The client is not answered before, and sees only a delay. Fails by the fault of the last
//! attempt.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::SessionRecord;
use weir_api::legacy::{Open, Role};
use weir_dataplane::FlowGuard;
use weir_policy::suites::Allowed;
use weir_tls::hello::ClientHello;
use weir_tls::{Alert, LegError, LegKey, LegacyBounds, ModernStack, TlsLeg, Verdict};

use crate::leg::{Leg, LegFault};
use crate::legacy::Legacy;

/// A server that was there a moment ago.
const CONNECTS_WITHIN: Duration = Duration::from_secs(10);

/// The stacks of one proxy.
pub struct Stacks<'a> {
    /// `None` where the proxy allows no suite of the modern stack.
    pub modern: Option<&'a ModernStack>,
    pub legacy: &'a Legacy,
    pub allowed: &'a Allowed,
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
}

impl Stacks<'_> {
    /// The handshake with the server, to its end, offering it what `alpn` says.
    pub async fn server_handshake(
        &self,
        server: TcpStream,
        again: &impl ConnectAgain,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
        record: &SessionRecord,
        deadline: Duration,
    ) -> Result<Leg, ServerFailed> {
        let failed = |fault| ServerFailed { fault, asked: false };
        let servers = &self.legacy.servers;
        let modern = match self.modern {
            Some(modern) if !servers.knows(record.server, name, Instant::now()) => modern,
            _ => {
                let tls = self.legacy_server_leg(name, alpn).await;
                let tls = tls.map_err(|error| failed(error.into()))?;
                return shake_hands(Leg::new(server, tls), deadline).await.map_err(|(_, it)| it);
            }
        };
        let tls = modern.server_leg(name, record.server, alpn.clone());
        let tls = tls.map_err(|error| failed(error.into()))?;
        let (leg, first) = match shake_hands(Leg::new(server, tls), deadline).await {
            Ok(leg) => return Ok(leg),
            Err(failed) => failed,
        };
        if first.asked || !may_need_legacy(&first.fault) {
            return Err(first);
        }
        debug!(session = record.id, fault = %first.fault, "the server is asked again, on the legacy stack");
        self.legacy.counts().opened_again.fetch_add(1, Ordering::Relaxed);
        let connected = tokio::time::timeout(CONNECTS_WITHIN, again.again(leg.stream, record));
        let server = match connected.await {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                debug!(session = record.id, %error, "no second connection to the server");
                return Err(first);
            }
            Err(_) => return Err(first),
        };
        let tls = self.legacy_server_leg(name, alpn).await;
        let tls = tls.map_err(|error| failed(error.into()))?;
        let leg = shake_hands(Leg::new(server, tls), deadline).await.map_err(|(_, it)| it)?;
        // Only where it helped: a server that refuses both has no need of the second stack.
        servers.remember(record.server, name, Instant::now());
        Ok(leg)
    }

    async fn legacy_server_leg(
        &self,
        name: Option<&str>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Box<dyn TlsLeg>, LegError> {
        // RFC 6066 section 3: no trailing dot, no address.
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let name = name.filter(|name| name.parse::<std::net::IpAddr>().is_err());
        let role = Role::ToServer { server_name: name.map(str::to_owned), alpn };
        self.legacy.leg(self.open(role)?).await
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
        };
        self.legacy.leg(self.open(role)?).await
    }

    fn open(&self, role: Role) -> Result<Open, LegError> {
        let nothing = || LegError::Internal("the proxy allows no suite".to_owned());
        let LegacyBounds { versions, suites } =
            LegacyBounds::under(self.allowed).ok_or_else(nothing)?;
        let versions = (versions.0.code(), versions.1.code());
        Ok(Open { versions, suites, role })
    }
}

/// What is left of the leg comes with the fault.
async fn shake_hands(mut leg: Leg, deadline: Duration) -> Result<Leg, (Leg, ServerFailed)> {
    let done = tokio::time::timeout(deadline, leg.handshake(&[])).await;
    match done.unwrap_or(Err(LegFault::Slow)) {
        Ok(()) => Ok(leg),
        Err(fault) => {
            let asked = leg.tls.client_certificate_requested();
            Err((leg, ServerFailed { fault, asked }))
        }
    }
}

/// What an older server does with a hello of the modern stack: an alert, a version or a signature
/// that the modern stack does not take, or no answer but the end.
fn may_need_legacy(fault: &LegFault) -> bool {
    match fault {
        LegFault::Tls(LegError::AlertReceived(alert)) => matches!(
            *alert,
            Alert::HANDSHAKE_FAILURE
                | Alert::PROTOCOL_VERSION
                | Alert::INSUFFICIENT_SECURITY
                | Alert::ILLEGAL_PARAMETER
                | Alert::DECODE_ERROR
                | Alert::UNEXPECTED_MESSAGE
        ),
        LegFault::Tls(LegError::Refused { .. }) | LegFault::Closed => true,
        LegFault::Tcp(error) => error.kind() == io::ErrorKind::ConnectionReset,
        LegFault::Tls(_) | LegFault::Slow => false,
    }
}

#[cfg(test)]
mod tests;
