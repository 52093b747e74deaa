//! Sessions that the server's certificate excepts from decryption (SPEC T5).
//!
//! For: seeing that certificate, also of servers that do not finish the handshake with us, and
//! relaying what it excepts. The client has been told nothing until then. Not for: what is learnt of
//! servers ([`crate::exceptions`]). Where nothing can be seen the session is not excepted.

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use weir_api::engine::{End, SessionRecord};
use weir_dataplane::{Acknowledgement, FlowGuard, TakenFlow};
use weir_policy::ServerAt;
use weir_policy::outcome::{Blocked, NotDecrypted, Outcome};
use weir_policy::snapshot::DecryptionPolicy;
use weir_policy::suites::Allowed;
use weir_tls::hello::ClientHello;
use weir_tls::{Names, TrustAnchors};

use super::HANDSHAKE_DEADLINE;
use super::judged::{Shown, completed, revocation};
use crate::authorities::{self, Revocation, Why};
use crate::compiled::{Excepted, FlowPolicy, Proxy, domain_asked};
use crate::leg::LegFault;
use crate::legacy::{Evidence, SessionScope};
use crate::record::{certificate_record, failure};
use crate::relay;
use crate::runtime::Surroundings;
use crate::stacks::{ServerFailed, Stacks, needs_legacy};

/// The server's certificate excepts the session (SPEC T5). The connection to the server, on which
/// we shook hands to see it, gives way to another, to which the client's bytes go as they came.
pub(super) async fn relay_excepted(
    client: TcpStream,
    server: TcpStream,
    (received, mut acknowledgement): (Vec<u8>, Acknowledgement),
    (guard, idle_timeout): (FlowGuard, u32),
    record: &mut SessionRecord,
) -> Outcome {
    // The server may be long in answering again.
    acknowledgement.give();
    let again = guard.connect_again(server, record.client, record.server);
    match tokio::time::timeout(HANDSHAKE_DEADLINE, again).await {
        Ok(Ok(server)) => {
            let taken = TakenFlow { client, server, received, acknowledgement, guard };
            relay::as_is(taken, idle_timeout, record).await;
            Outcome::NotDecrypted(NotDecrypted::LearntException)
        }
        Ok(Err(error)) => {
            let fault = LegFault::Tcp(error);
            record.failure = Some(failure(End::Server, false, &fault));
            Outcome::Blocked(Blocked::ServerHandshakeFailed)
        }
        Err(_) => {
            record.failure = Some(failure(End::Server, false, &LegFault::Slow));
            Outcome::Blocked(Blocked::ServerHandshakeFailed)
        }
    }
}

/// A server that policy does not allow to be spoken with, or that wants a client certificate, may still
/// be one not to decrypt, where its certificate decides so. Unless it was seen, the server is asked for
/// it, with everything that the legacy stack has, and for nothing else, within the time of all attempts. The
/// connection on which it was seen.
pub(super) async fn excepted_all_the_same(
    failed: &mut ServerFailed,
    stacks: &Stacks<'_>,
    (guard, until): (&FlowGuard, Instant),
    hello: &ClientHello,
    flow: &FlowPolicy<'_>,
    record: &mut SessionRecord,
    surroundings: &Surroundings,
) -> Option<TcpStream> {
    let policy = match flow.excepted(hello, stacks.at(record)) {
        Excepted::AskServer(policy) => policy,
        // Another session learnt so since this one was judged.
        Excepted::Yes => return failed.stream.take(),
        Excepted::No => return None,
    };
    if failed.asked && !failed.chain.is_empty() {
        let of = (stacks.at(record), policy);
        return excepted_by_chain(failed, hello, flow, of, record, surroundings).await;
    }
    let evidence = needs_legacy(&failed.fault)?;
    let name = hello.server_name.as_deref();
    let is_modern = stacks.modern_servers.knows(stacks.at(record), name, Instant::now().into_std());
    if is_modern && evidence == Evidence::Silence {
        return None;
    }
    let old = failed.stream.take()?;
    let again = guard.connect_again(old, record.client, record.server);
    let server = timeout_at(until, again).await.ok()?.ok()?;
    // What is agreed on here is never to be resumed where policy has its bounds.
    let (everything, sessions) = (Allowed::everything(), SessionScope::new().ok()?);
    let stacks = Stacks { modern: None, allowed: &everything, sessions: &sessions, ..*stacks };
    let offered = hello.alpn.clone();
    let shaken = stacks.server_handshake(server, guard, name, offered, record, until).await;
    match shaken {
        Ok(server) => {
            let chain = server.tls.peer_chain().unwrap_or_default();
            record.certificate = certificate_record(&chain);
            let until = Instant::now() + authorities::WITHIN;
            let chain = completed(chain, record.client.ip(), flow, surroundings, until).await;
            let staple = server.tls.stapled_response();
            let shown = Shown { chain: &chain, staple: staple.as_deref() };
            let of = (stacks.at(record), until);
            if is_excepted(shown, hello, flow, policy, of, surroundings).await {
                return Some(server.stream);
            }
            failed.stream = Some(server.stream);
            None
        }
        Err(mut again) if again.asked => {
            let of = (stacks.at(record), policy);
            excepted_by_chain(&mut again, hello, flow, of, record, surroundings).await
        }
        Err(again) => {
            failed.stream = again.stream;
            None
        }
    }
}

/// The same by a certificate whose key has signed the handshake that then failed.
async fn excepted_by_chain(
    failed: &mut ServerFailed,
    hello: &ClientHello,
    flow: &FlowPolicy<'_>,
    (server, policy): (ServerAt, &DecryptionPolicy),
    record: &mut SessionRecord,
    surroundings: &Surroundings,
) -> Option<TcpStream> {
    record.certificate = certificate_record(&failed.chain);
    let until = Instant::now() + authorities::WITHIN;
    let chain =
        completed(std::mem::take(&mut failed.chain), record.client.ip(), flow, surroundings, until)
            .await;
    let shown = Shown { chain: &chain, staple: None };
    let of = (server, until);
    let excepted = is_excepted(shown, hello, flow, policy, of, surroundings).await;
    failed.stream.take().filter(|_| excepted)
}

/// Whether the certificate is that of a domain not to decrypt; learnt for the sessions to come. One that
/// is known to be revoked is nobody's: its key may be stolen, and whoever has it would be let through
/// unseen. Where that is unknown it is excepted: its client asks for itself, and what is not to be
/// decrypted is not because a responder is down; but no longer than for this session, where the next one
/// may learn more.
pub(super) async fn is_excepted(
    shown: Shown<'_>,
    hello: &ClientHello,
    flow: &FlowPolicy<'_>,
    policy: &DecryptionPolicy,
    (server, deadline): (ServerAt, Instant),
    surroundings: &Surroundings,
) -> bool {
    let Proxy::Client { proxy, anchors, .. } = &flow.proxy else { return false };
    let (name, minimum) =
        (domain_asked(hello.server_name.as_deref()), proxy.minimum_rsa_key_length.into());
    let mut decision = decision(shown.chain, name, minimum, anchors, policy);
    let judges = (*proxy, *anchors);
    let mut holds = true;
    if decision == Decision::Excepted {
        match revocation(shown, judges, &surroundings.authorities, deadline).await {
            Some(Revocation::Revoked(_)) => decision = Decision::NotExcepted,
            Some(Revocation::Unknown(Why::NotFetched(_) | Why::NotBelieved(_))) => holds = false,
            Some(Revocation::Good(_) | Revocation::Unknown(Why::NoSource)) | None => {}
        }
    }
    match decision {
        Decision::Excepted if holds => flow.learn_exception(hello, server, true),
        Decision::NotExcepted => flow.learn_exception(hello, server, false),
        Decision::Excepted | Decision::Unsettled => {}
    }
    decision == Decision::Excepted
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Excepted,
    NotExcepted,
    /// Not excepted as things are: the server was not heard, or has sent too little, and the next session
    /// may have what is missing from elsewhere.
    Unsettled,
}

/// Excepted is a certificate that verifies for the name that the client gave; without a name, one that
/// verifies and has such a name, or a wildcard that covers one.
fn decision(
    chain: &[CertificateDer<'static>],
    name: Option<&str>,
    minimum_rsa_bits: usize,
    anchors: &TrustAnchors,
    policy: &DecryptionPolicy,
) -> Decision {
    let now = UnixTime::now();
    if !anchors.verify(chain, name, minimum_rsa_bits, now).is_verified() {
        let is_whole = !chain.is_empty() && anchors.missing_issuer(chain, now).is_none();
        return if is_whole { Decision::NotExcepted } else { Decision::Unsettled };
    }
    let excepted = match name {
        Some(name) => policy.excepts(name),
        None => chain
            .first()
            .and_then(|leaf| Names::of(leaf))
            .is_some_and(|names| names.dns.iter().any(|name| policy.excepts_certified(name))),
    };
    if excepted { Decision::Excepted } else { Decision::NotExcepted }
}

#[cfg(test)]
mod tests;
