//! A session that policy decrypts: the TLS handshake with the server, then the one with the client,
//! then the relay.
//!
//! The server's side comes first, so that its certificate can be verified and copied before the
//! client is answered. Where the server's side fails, the client gets the nearest TLS alert.

mod excepted;
mod failed;
mod judged;
mod unshared;

use std::cell::LazyCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::{End, FailureCause, FailureRecord, SessionRecord};
use weir_dataplane::{FlowGuard, TakenFlow};
use weir_policy::Inspection;
use weir_policy::outcome::{Blocked, Bypassed, NotDecrypted, NotInspected, Outcome};
use weir_policy::snapshot::{ClientProxy, Service};
use weir_policy::suites::Protocol;
use weir_tls::forge::Forger;
use weir_tls::hello::ClientHello;
use weir_tls::{Action, Alert, Hashed, LeafKind, LegKey, Shares, Verdict};

use self::excepted::{excepted_all_the_same, is_excepted, relay_excepted};
pub(crate) use self::failed::certificate_accepted;
use self::failed::{
    certificate_rejected, client_leg_not_made, learn_request, name_not_served, refuse,
    rejects_certificate, server_failed, suspect_request,
};
use self::judged::{Shown, completed, verdict};
use self::unshared::{Asked, May, Unshared, relay_unshared};
use crate::authorities;
use crate::closing::{has_said_its_last, part};
use crate::compiled::{CompiledPolicy, Excepted, FlowPolicy, Proxy};
use crate::counters::{Totals, increment};
use crate::learnt::Rejection;
use crate::leg::{Leg, LegFault};
use crate::record::{certificate_record, failure, leg_record};
use crate::relay::{self, Insistence, Relay};
use crate::runtime::Surroundings;
use crate::stacks::Stacks;

/// For each of the two handshakes, with all attempts at the server's; past it the session ends as a failed
/// handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);

/// Runs one decrypted session to its end.
pub async fn run(
    taken: TakenFlow,
    hello: ClientHello,
    inspection: Inspection,
    policy: &Arc<CompiledPolicy>,
    record: &mut SessionRecord,
    surroundings: &Rc<Surroundings>,
) -> Outcome {
    let Some(flow) = policy.of(inspection) else {
        // Cannot happen: the inspection was judged from this very snapshot.
        relay::as_is(taken, policy.snapshot.device.idle_timeout, record).await;
        return Outcome::Bypassed(Bypassed::NoPolicy);
    };

    let TakenFlow { client, server, received, mut acknowledgement, mut guard } = taken;
    // Apart, so that a session does not keep its room for as long as it lives.
    let shaken = Box::pin(handshakes(
        (client, server),
        &guard,
        &received,
        &hello,
        &flow,
        record,
        surroundings,
    ));
    let shaken = tokio::select! {
        shaken = shaken => shaken,
        never = acknowledgement.in_time() => match never {},
    };
    let (client, server, verdict) = match shaken {
        Ok(legs) => legs,
        // The streams are dropped: a reset, unless an orderly close was asked for.
        Err(Ended::Blocked(blocked)) => return Outcome::Blocked(blocked),
        Err(Ended::Excepted { client, server }) => {
            let outcome = Outcome::NotDecrypted(NotDecrypted::LearntException);
            surroundings.live.settled(record, outcome);
            let received = (received, acknowledgement);
            let idle = flow.idle_timeout;
            return relay_excepted(client, server, received, (guard, idle), record).await;
        }
        Err(Ended::Unshared { client, unshared }) => {
            let outcome = Outcome::Bypassed(Bypassed::NothingShared);
            surroundings.live.settled(record, outcome);
            let received = (received.len(), acknowledgement);
            let idle = flow.idle_timeout;
            return relay_unshared(client, unshared, received, (guard, idle), record).await;
        }
    };
    drop((received, hello, acknowledgement));
    guard.settle();
    // HTTP/2 has no decoder yet: only what looks at any stream looks at it (SPEC I1).
    let http2 = client.tls.negotiated().and_then(|negotiated| negotiated.alpn).as_deref()
        == Some(HTTP2)
        && flow.proxy.service() == Service::Http;
    let service = if http2 { Service::Other } else { flow.proxy.service() };
    let not_inspected = |reason| Outcome::DecryptedNotInspected(reason);
    let outcome = match () {
        () if inspection.trusted => not_inspected(NotInspected::TrustFilter),
        () if flow.has_no_filters() => not_inspected(NotInspected::NoFilters),
        () if http2 => not_inspected(NotInspected::ServiceNotSupported),
        () => Outcome::DecryptedAndInspected,
    };
    surroundings.live.settled(record, outcome);
    let legs = (client, server);
    let ended = Relay::new(legs, &guard, &flow, service, surroundings, record).run().await;
    let place = guard.place();
    drop(guard);
    if ended.certificate_rejected {
        let rejection = Rejection::Left;
        certificate_rejected((&flow, place), record, verdict, rejection, &surroundings.totals);
    }
    if let Some(renegotiation) = ended.renegotiation {
        record.renegotiation_refused = true;
        increment(&surroundings.totals.renegotiations_refused);
        // Not on a server proxy: a stranger may make its server ask, and fail, and so turn off its inspection.
        let ours = matches!(flow.proxy, Proxy::Server { .. });
        match renegotiation {
            _ if ours || ended.blocked.is_some() => {}
            Insistence::Told => learn_request((&flow, place), record),
            Insistence::Left => suspect_request((&flow, place), record),
            Insistence::None => {}
        }
    }
    ended.blocked.map_or(outcome, Outcome::Blocked)
}

/// Why a session is not proxied after all.
enum Ended {
    Blocked(Blocked),
    /// It is not to be decrypted. The client has been told nothing yet.
    Excepted {
        client: TcpStream,
        server: TcpStream,
    },
    /// It cannot be, and its server is answering the client already.
    Unshared {
        client: TcpStream,
        unshared: Unshared,
    },
}

impl From<Blocked> for Ended {
    fn from(blocked: Blocked) -> Self {
        Self::Blocked(blocked)
    }
}

/// Both handshakes, the server's first; and the verdict on the server's certificate.
async fn handshakes(
    (client, server): (TcpStream, TcpStream),
    guard: &FlowGuard,
    received: &[u8],
    hello: &ClientHello,
    flow: &FlowPolicy<'_>,
    record: &mut SessionRecord,
    surroundings: &Rc<Surroundings>,
) -> Result<(Leg, Leg, Verdict), Ended> {
    let totals = &surroundings.totals;
    if !flow.proxy.serves_name(hello) {
        return Err(name_not_served(&client, record, totals).await.into());
    }
    let allowed = flow.proxy.allowed();
    let place = guard.place();
    let at = place.server(record.server);
    let stacks = Stacks {
        place,
        modern: flow.stack,
        modern_servers: flow.modern_servers,
        legacy: &surroundings.legacy,
        allowed,
        client: hello.strongest_version().unwrap_or(Protocol::Tls13),
        shares: Shares::as_client(hello),
        sessions: flow.sessions,
        encrypt_then_mac: flow.encrypt_then_mac,
    };
    let offered = application_protocols(hello, flow.proxy.downgrades_http2());
    record.http2_downgraded = offered.len() < hello.alpn.len();
    let name = hello.server_name.as_deref();
    let may = May::of(flow, hello, at, received);
    let until = tokio::time::Instant::now() + HANDSHAKE_DEADLINE;
    let (server, known) = match may.as_ref().filter(|may| may.is_known()) {
        None => (server, false),
        Some(may) => match may.asks(server, guard, record, until).await {
            Ok(Asked::Unshared(unshared)) => return Err(Ended::Unshared { client, unshared }),
            Ok(Asked::Otherwise(server)) => (server, true),
            Err(failed) => {
                return Err(server_failed(&failed, &client, (flow, place), record, totals).into());
            }
        },
    };
    let was_modern = may.as_ref().is_some_and(May::is_modern);
    let shaken = stacks.server_handshake(server, guard, name, offered, record, until).await;
    let mut server = match shaken {
        Ok(server) => server,
        Err(mut failed) => {
            if let Some(server) = excepted_all_the_same(
                &mut failed,
                &stacks,
                (guard, until),
                hello,
                flow,
                record,
                surroundings,
            )
            .await
            {
                return Err(Ended::Excepted { client, server });
            }
            if let Some(may) = may.as_ref().filter(|_| !known)
                && let Some(unshared) =
                    may.asks_after(&mut failed, was_modern, guard, record, until).await
            {
                return Err(Ended::Unshared { client, unshared });
            }
            failed.unshared = may.is_some_and(|may| !may.bypasses());
            return Err(server_failed(&failed, &client, (flow, place), record, totals).into());
        }
    };
    let negotiated = server.tls.negotiated();
    record.server_leg = negotiated.as_ref().and_then(leg_record);
    totals.statistics.shaken(End::Server, record);
    let chain = server.tls.peer_chain().unwrap_or_default();
    record.certificate = certificate_record(&chain);
    let asked_until = tokio::time::Instant::now() + authorities::WITHIN;
    if flow.fetches() {
        // The server is not to wait for what others say of it.
        let _ = server.flush_some();
    }
    let chain = completed(chain, record.client.ip(), flow, surroundings, asked_until).await;
    if negotiated.as_ref().is_some_and(|negotiated| negotiated.resumed) {
        increment(&totals.resumed_with_server);
    }
    // Told once.
    let staple = server.tls.stapled_response();
    let seen = Shown { chain: &chain, staple: staple.as_deref() };
    let excepted = match flow.excepted(hello, at) {
        Excepted::AskServer(policy) => {
            is_excepted(seen, hello, flow, policy, (at, asked_until), surroundings).await
        }
        // Another session learnt so since this one was judged.
        Excepted::Yes => true,
        Excepted::No => false,
    };
    if excepted {
        return Err(Ended::Excepted { client, server: server.stream });
    }
    if server.tls.client_certificate_requested() {
        increment(&totals.client_certificates_requested);
        learn_request((flow, place), record);
        record.failure = Some(FailureRecord {
            with: End::Server,
            cause: FailureCause::CertificateRequested,
            words: "the server asked for a client certificate".to_owned(),
        });
        let _ = server.flush_some();
        refuse(&client, Some(&server.stream), flow, Alert::HANDSHAKE_FAILURE);
        return Err(Blocked::ClientCertificateRequested.into());
    }
    // Of none that is not copied.
    let leaf = LazyCell::new(|| Hashed::new(chain.first().map(AsRef::as_ref).unwrap_or_default()));
    let verdict = match &flow.proxy {
        Proxy::Server { .. } => Verdict::default(),
        Proxy::Client { proxy, anchors, .. } => {
            let asked = (&*surroundings.authorities, &**totals);
            verdict((seen, &leaf), name, (proxy, anchors), record, asked, asked_until).await
        }
    };
    let shown = certificate((seen, &leaf), verdict, hello, flow, record, totals);
    let key = match shown {
        Ok(shown) => shown,
        Err(Refusal { blocked, alert }) => {
            let _ = server.flush_some();
            refuse(&client, Some(&server.stream), flow, alert);
            return Err(blocked.into());
        }
    };
    // Judged, and copied: nobody asks for it again.
    server.tls.forget_peer_chain();
    let client_tls = stacks.client_leg(hello, &key, verdict, negotiated.and_then(|n| n.alpn)).await;
    let client_tls = match client_tls {
        Ok(tls) => tls,
        Err(error) => return Err(client_leg_not_made(error, &client, record, totals).into()),
    };
    // One that has left already has seen no certificate.
    let left_before = has_said_its_last(&client);
    let mut client = Leg::new(client, client_tls);
    if let Err(fault) = in_time(client.handshake(received)).await {
        increment(&totals.client_handshake_failures);
        debug!(session = record.id, %fault, "handshake with the client failed");
        record.failure = Some(failure(End::Client, false, &fault));
        if !left_before && let Some(rejection) = rejects_certificate(&fault, &client) {
            certificate_rejected((flow, place), record, verdict, rejection, totals);
        }
        // The server has finished its own handshake: it is told what the client said.
        match (fault.alert_for_other_side(), &fault) {
            (Some(alert), _) => {
                tokio::join!(part(&mut client, None), part(&mut server, Some(alert)));
            }
            (None, LegFault::Closed) => part(&mut server, None).await,
            _ => {}
        }
        return Err(Blocked::ClientHandshakeFailed.into());
    }
    let negotiated = client.tls.negotiated();
    record.client_leg = negotiated.as_ref().and_then(leg_record);
    totals.statistics.shaken(End::Client, record);
    if negotiated.is_some_and(|negotiated| negotiated.resumed) {
        increment(&totals.resumed_with_client);
    }
    Ok((client, server, verdict))
}

/// A server's certificate that the client proxy's options block.
struct Refusal {
    blocked: Blocked,
    alert: Alert,
}

/// The certificate the client is shown: the server's own, or one forged after what the server showed.
fn certificate<'a>(
    (Shown { chain, staple }, leaf): (Shown<'a>, &impl Deref<Target = Hashed<'a>>),
    verdict: Verdict,
    hello: &ClientHello,
    flow: &FlowPolicy<'_>,
    record: &SessionRecord,
    totals: &Totals,
) -> Result<Arc<LegKey>, Refusal> {
    match &flow.proxy {
        Proxy::Server { certificates, .. } => {
            let key = certificates.choose(hello.server_name.as_deref());
            // What the server staples is of its own certificate: passed on with that one only.
            let same = chain.first().is_some_and(|leaf| Some(leaf) == key.chain().first());
            Ok(match staple.filter(|_| same) {
                Some(response) => Arc::new(key.with_staple(response.to_vec())),
                None => Arc::clone(key),
            })
        }
        Proxy::Client { proxy, forger, .. } => {
            let key = forged(leaf, verdict, hello, proxy, forger, record)?;
            increment(&totals.certificates_asked);
            Ok(key)
        }
    }
}

fn forged(
    leaf: &Hashed<'_>,
    verdict: Verdict,
    hello: &ClientHello,
    proxy: &ClientProxy,
    forger: &Forger,
    record: &SessionRecord,
) -> Result<Arc<LegKey>, Refusal> {
    let refusal = |blocked, alert| Refusal { blocked, alert };
    let action = verdict.action(proxy.block_invalid_certificates, proxy.block_expired_certificates);
    let signer = match action {
        Action::Forge(signer) => signer,
        Action::BlockInvalid => {
            return Err(refusal(Blocked::InvalidCertificate, Alert::BAD_CERTIFICATE));
        }
        Action::BlockExpired => {
            return Err(refusal(Blocked::ExpiredCertificate, Alert::CERTIFICATE_EXPIRED));
        }
    };
    let Some(kind) = LeafKind::for_client(hello, &proxy.allowed) else {
        // Cannot happen: such a client's flow was released.
        return Err(refusal(Blocked::ClientHandshakeFailed, Alert::HANDSHAKE_FAILURE));
    };
    forger.forge_hashed(leaf, signer, kind).map_err(|error| {
        debug!(session = record.id, %error, "certificate not forged");
        refusal(Blocked::InvalidCertificate, Alert::BAD_CERTIFICATE)
    })
}

/// RFC 9113 section 3.2.
const HTTP2: &[u8] = b"h2";

/// What is offered to the server: the client's protocols, less HTTP/2 where the proxy downgrades it.
/// The client is then offered exactly what the server picked.
fn application_protocols(hello: &ClientHello, downgrade_http2: bool) -> Vec<Vec<u8>> {
    let offered = |protocol: &&Vec<u8>| !(downgrade_http2 && protocol.as_slice() == HTTP2);
    hello.alpn.iter().filter(offered).cloned().collect()
}

async fn in_time(handshake: impl Future<Output = Result<(), LegFault>>) -> Result<(), LegFault> {
    tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.unwrap_or(Err(LegFault::Slow))
}

#[cfg(test)]
mod tests;
