//! The verdict on a server's chain, with what authorities are asked for it where policy says so.
//!
//! For: what the client proxy and the device say of fetching (SPEC T12). Not for: asking
//! ([`crate::authorities`]), and what follows from the verdict. The client waits meanwhile, for
//! [`authorities::WITHIN`](crate::authorities::WITHIN) at most; its server's connection is idle. Does
//! not fail: what is not learnt is unknown.

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;
use weir_api::engine::{RevocationRecord, RevocationSource, SessionRecord};
use weir_policy::snapshot::{ClientProxy, Revocation as Setting, RevocationUnknown};
use weir_tls::verify::{Failure, Issued};
use weir_tls::{Hashed, TrustAnchors, Verdict, says_revoked};

use crate::authorities::{Authorities, MOST_ASKED, Revocation, Why};
use crate::compiled::{FlowPolicy, Proxy};
use crate::counters::{Totals, increment};
use crate::runtime::Surroundings;

/// The chain with the intermediates that it lacks, where the device fetches them.
pub(super) async fn completed(
    chain: Vec<CertificateDer<'static>>,
    client: IpAddr,
    flow: &FlowPolicy<'_>,
    surroundings: &Surroundings,
    deadline: Instant,
) -> Vec<CertificateDer<'static>> {
    let Proxy::Client { anchors, .. } = &flow.proxy else { return chain };
    if !flow.fetch_intermediates {
        return chain;
    }
    let (sent, now) = (chain.len(), UnixTime::now());
    let authorities = &surroundings.authorities;
    let chain = authorities.complete(anchors, chain, client.into(), now, deadline).await;
    // One that still lacks another is not.
    if chain.len() > sent && !anchors.verify(&chain, None, 0, now).has(Failure::Untrusted) {
        increment(&surroundings.totals.chains_completed);
    }
    chain
}

/// A server's chain and what it stapled.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) chain: &'a [CertificateDer<'static>],
    pub(super) staple: Option<&'a [u8]>,
}

/// Whether the chain, which verifies, is revoked: by the staple, and where the proxy has it asked by its
/// authorities. `None`: nobody was asked.
pub(super) async fn revocation(
    Shown { chain, staple }: Shown<'_>,
    (proxy, anchors): (&ClientProxy, &Arc<TrustAnchors>),
    authorities: &Authorities,
    deadline: Instant,
) -> Option<Revocation> {
    let now = UnixTime::now();
    let leaf = chain.first().map(|leaf| leaf.as_ref()).unwrap_or_default();
    if staple.is_some_and(|staple| says_revoked(leaf, staple)) {
        return Some(Revocation::Revoked(RevocationSource::Staple));
    }
    let judged = anchors.judge(chain, None, 0, now);
    let path: Vec<Issued<'_>> = judged.issued(leaf).take(MOST_ASKED).collect();
    if proxy.revocation != Setting::Fetched || path.is_empty() {
        return None;
    }
    Some(authorities.revocation(&path, staple, now, deadline).await.revocation)
}

/// What is wrong with it, whose leaf is hashed already. Told in the session's record.
pub(super) async fn verdict(
    (shown, leaf): (Shown<'_>, &Hashed<'_>),
    server_name: Option<&str>,
    (proxy, anchors): (&ClientProxy, &Arc<TrustAnchors>),
    record: &mut SessionRecord,
    (authorities, totals): (&Authorities, &Totals),
    deadline: Instant,
) -> Verdict {
    let (chain, now) = (shown.chain, UnixTime::now());
    let minimum = proxy.minimum_rsa_key_length.into();
    let others = chain.get(1..).unwrap_or_default();
    let judged = anchors.judge_hashed(leaf, others, server_name, minimum, now);
    let leaf = leaf.der();
    // The server's own word against itself needs no signature.
    let mut verdict = judged.verdict.with_staple(leaf, shown.staple);
    if proxy.revocation == Setting::Fetched && verdict.has(Failure::Revoked) {
        increment(&totals.revocation_revoked);
        record.revocation = Some(RevocationRecord::Revoked(RevocationSource::Staple));
    }
    // What is wrong already is not asked about, nor what the trust store has itself.
    let path: Vec<Issued<'_>> = judged.issued(leaf).take(MOST_ASKED).collect();
    if proxy.revocation == Setting::Fetched && verdict.is_verified() && !path.is_empty() {
        let found = authorities.revocation(&path, shown.staple, now, deadline).await;
        increment(match found.revocation {
            Revocation::Good(_) => &totals.revocation_good,
            Revocation::Revoked(_) => &totals.revocation_revoked,
            Revocation::Unknown(Why::NoSource) => &totals.revocation_no_source,
            Revocation::Unknown(Why::NotFetched(_)) => &totals.revocation_not_fetched,
            Revocation::Unknown(Why::NotBelieved(_)) => &totals.revocation_not_believed,
        });
        record.revocation = Some(found.record(&path));
        verdict = match (found.revocation, proxy.revocation_unknown) {
            (Revocation::Revoked(_), _) => verdict.with(Failure::Revoked),
            (Revocation::Unknown(_), RevocationUnknown::Untrusted) => {
                verdict.with(Failure::RevocationUnknown)
            }
            (Revocation::Good(_), _) | (Revocation::Unknown(_), RevocationUnknown::Accept) => {
                verdict
            }
        };
    }
    record.verdict = Some(verdict.to_string());
    verdict
}
