//! One candidate flow, from the moment it is held: peek, judge, then release, block or take over.
//!
//! The order of judgement itself is `weir_policy::judge`; here stands only how a hello that comes
//! in pieces is waited for. A hello still incomplete after `first::HOLD` is taken over, as its client
//! may be waiting for an ACK that only a taken flow can give; if it then proves excepted it is
//! relayed byte for byte (SPEC D12).

mod first;
mod open_record;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};
use weir_api::engine::{End, SessionRecord};
use weir_dataplane::{HeldFlow, TakeOverError, TakenFlow};
use weir_policy::judge::unsupported;
use weir_policy::outcome::{Blocked, Bypassed, NotDecrypted, Outcome};
use weir_policy::precedence::BothWays;
use weir_policy::snapshot::OverThreshold;
use weir_policy::{
    Candidate, Decision, FirstBytes, Inspection, Place, Resets, Support, covering_policy, judge,
    judge_classified,
};

use self::first::{First, Known, rest_of_hello, wait_for_hello};
pub use self::open_record::Ledger;
use self::open_record::OpenRecord;
use crate::compiled::{CompiledPolicy, Excepted};
use crate::counters::{Totals, increment};
use crate::leg::reset_on_close;
use crate::record::failure;
use crate::runtime::Surroundings;
use crate::threshold::Admission;
use crate::{relay, session};

/// Judges one held flow, and serves it to its end; but for what is to be taken over, which needs another room
/// for longer.
pub async fn serve(mut held: HeldFlow, surroundings: Rc<Surroundings>) -> Option<Box<Taking>> {
    let policy = Arc::clone(&surroundings.policy.borrow());
    let (candidate, place) = (held.candidate(), held.place());
    let classified = candidate.classify(&policy.snapshot);
    let record = new_record(&policy, &candidate, &classified, &surroundings);
    let mut record = OpenRecord::new(record, surroundings.ledger());
    if let Some(name) = &record.virtual_segment
        && let Some(counts) = surroundings.tally.flows_of(name)
    {
        held.count_for(counts);
    }
    let judge =
        |first: &FirstBytes<'_>| judge_classified(&policy.snapshot, &candidate, &classified, first);

    let first = wait_for_hello(&mut held).await;
    let decision = match &first {
        First::Known(peek) => {
            note_hello(&mut record, peek, &surroundings);
            answerable(&policy, (&candidate, place), peek, judge(&peek.first_bytes()))
        }
        First::ServerSpoke => judge(&FirstBytes::ServerSpokeFirst),
        First::Ended => judge(&FirstBytes::Ended),
        // Whether anything can come of it at all: exceptions by address are known already.
        First::StillIncomplete => judge(&PROMISING),
    };
    let (decision, live) = admit(&policy, &surroundings, decision);

    match decision {
        Decision::Release(outcome) => {
            if let Err(error) = held.release() {
                debug!(%error, "release failed");
            }
            record.finish(outcome);
        }
        Decision::Block { outcome, resets } => {
            if let Err(error) = held.block(resets) {
                warn!(%error, "block failed; the flow stays held and is dropped");
            }
            record.finish(outcome);
        }
        Decision::TakeOver(inspection) => {
            let record = record.hand_over();
            return Some(Box::new(Taking { held, first, inspection, policy, record, live }));
        }
    }
    None
}

/// A flow that is to be taken over.
pub struct Taking {
    held: HeldFlow,
    first: First,
    inspection: Inspection,
    policy: Arc<CompiledPolicy>,
    record: Box<SessionRecord>,
    live: Option<LiveSession>,
}

impl Taking {
    /// From the takeover to the session's end.
    pub async fn run(self: Box<Self>, surroundings: Rc<Surroundings>) {
        let Self { held, first, inspection, policy, record, live: _live } = *self;
        let mut record = OpenRecord::new(record, surroundings.ledger());
        let candidate = held.candidate();
        let taken = match held.take_over().await {
            Ok(taken) => taken,
            Err(error) => {
                debug!(%error, "takeover failed");
                return record.finish(match error {
                    TakeOverError::Lost(_) => Outcome::Blocked(Blocked::LostInTakeover),
                    TakeOverError::Blocked(_) => Outcome::Blocked(Blocked::TakeoverFailed),
                    // All others: the flow has been released.
                    _ => Outcome::Bypassed(Bypassed::TakeoverFailed),
                });
            }
        };
        record.taken_over();
        increment(&surroundings.totals.taken_over);
        let _listed = surroundings.live.list(&record);
        let mut cleared = surroundings.cleared.clone();
        cleared.mark_unchanged();
        let proxied = async {
            let (policy, record, surroundings) = (&policy, &mut record, &surroundings);
            match first {
                First::Known(Known::Hello(hello)) => {
                    session::run(taken, *hello, inspection, policy, record, surroundings).await
                }
                _ => decide_after_takeover(taken, policy, candidate, record, surroundings).await,
            }
        };
        let outcome = tokio::select! {
            outcome = proxied => outcome,
            // The streams are dropped, which resets both ends (SPEC D10).
            Ok(()) = cleared.changed() => Outcome::Blocked(Blocked::ClearedByCommand),
        };
        record.finish(outcome);
    }
}

/// What stands for an incomplete hello when only addresses are known.
const PROMISING: FirstBytes<'static> =
    FirstBytes::ClientHello { server_name: None, support: Support::Full, encrypted: false };

/// A flow taken with its hello incomplete: reads the rest, judges, and decrypts or relays.
async fn decide_after_takeover(
    mut taken: TakenFlow,
    policy: &Arc<CompiledPolicy>,
    candidate: Candidate,
    record: &mut SessionRecord,
    surroundings: &Rc<Surroundings>,
) -> Outcome {
    increment(&surroundings.totals.taken_before_judgement);
    // It may wait for that with the rest of its hello.
    taken.acknowledgement.give();
    let known = match rest_of_hello(&taken.client, &mut taken.received).await {
        Ok(known) => known,
        // Both ends are reset.
        Err(fault) => {
            increment(&surroundings.totals.client_handshake_failures);
            record.failure = Some(failure(End::Client, false, &fault));
            return Outcome::Blocked(Blocked::ClientHandshakeFailed);
        }
    };
    note_hello(record, &known, surroundings);
    let decision = judge(&policy.snapshot, &candidate, &known.first_bytes());
    match (answerable(policy, (&candidate, taken.guard.place()), &known, decision), known) {
        (Decision::TakeOver(inspection), Known::Hello(hello)) => {
            let session = session::run(taken, *hello, inspection, policy, record, surroundings);
            Box::pin(session).await
        }
        (Decision::Block { outcome, resets }, _) => {
            reset_on_close(&taken.client, resets.client);
            reset_on_close(&taken.server, resets.server);
            outcome
        }
        (Decision::Release(outcome), _) => {
            surroundings.live.settled(record, outcome);
            relay::as_is(taken, policy.snapshot.device.idle_timeout, record).await;
            outcome
        }
        (Decision::TakeOver(_), _) => {
            let outcome = Outcome::Bypassed(Bypassed::IncompleteHello);
            surroundings.live.settled(record, outcome);
            relay::as_is(taken, policy.snapshot.device.idle_timeout, record).await;
            outcome
        }
    }
}

/// The last step of the judgement needs the certificate that the client would get: one it cannot
/// verify would break what a bypass leaves whole. And what was learnt to be excepted, or to fail, is left
/// alone where policy says so, whatever the client can do.
fn answerable(
    policy: &CompiledPolicy,
    (candidate, place): (&Candidate, Place),
    known: &Known,
    decision: Decision,
) -> Decision {
    let (Decision::TakeOver(inspection), Known::Hello(hello)) = (&decision, known) else {
        return decision;
    };
    // There is one: the inspection was judged from this very snapshot.
    let Some(flow) = policy.of(*inspection) else { return decision };
    let server = place.server(candidate.server);
    if matches!(flow.excepted(hello, server), Excepted::Yes) {
        return Decision::Release(Outcome::NotDecrypted(NotDecrypted::LearntException));
    }
    let (client, name) = (candidate.client.ip(), hello.server_name.as_deref());
    let now = std::time::Instant::now();
    let learnt = policy.learnt.bypass(flow.proxy.refusals(), client, server, name, now);
    if let Some(reason) = learnt {
        return Decision::Release(Outcome::Bypassed(reason));
    }
    match flow.proxy.supports(hello) {
        Support::Full => decision,
        support => unsupported(&policy.snapshot, support, flow.proxy.resets_on_block()),
    }
}

/// SPEC D9: over the threshold new sessions are bypassed or blocked, and the system log says so.
/// A session that is let in is counted as long as it lives.
fn admit(
    policy: &CompiledPolicy,
    surroundings: &Surroundings,
    decision: Decision,
) -> (Decision, Option<LiveSession>) {
    let Decision::TakeOver(inspection) = decision else {
        return (decision, None);
    };
    let device = &policy.snapshot.device;
    let threshold = &surroundings.totals.threshold;
    let tell = match threshold.admit(device.max_concurrent_sessions) {
        Admission::Admitted { back_under } => {
            if back_under {
                tell_back_under();
            }
            return (decision, Some(LiveSession(Arc::clone(&surroundings.totals))));
        }
        Admission::Refused { tell } => tell,
    };
    let (action, refused) = match device.over_threshold {
        OverThreshold::Bypass => (
            "allow but bypass inspection",
            Decision::Release(Outcome::Bypassed(Bypassed::SessionThreshold)),
        ),
        OverThreshold::Block => (
            "block",
            Decision::Block {
                outcome: Outcome::Blocked(Blocked::SessionThreshold),
                resets: policy
                    .of(inspection)
                    .map_or(Resets::BOTH, |flow| flow.proxy.resets_on_block()),
            },
        ),
    };
    if tell {
        warn!(
            "TLS inspection reached critical threshold of max concurrent connections; action: \
             {action}"
        );
    }
    (refused, None)
}

fn tell_back_under() {
    info!("TLS inspection is back under the threshold of max concurrent connections");
}

fn note_hello(record: &mut SessionRecord, known: &Known, surroundings: &Surroundings) {
    if let Known::Hello(hello) = known {
        increment(&surroundings.totals.client_hellos);
        let name = hello.server_name.as_ref().or(hello.invalid_server_name.as_ref());
        record.server_name = name.cloned();
        record.encrypted_client_hello = hello.encrypted_client_hello;
    }
}

fn new_record(
    policy: &CompiledPolicy,
    candidate: &Candidate,
    classified: &BothWays,
    surroundings: &Surroundings,
) -> Box<SessionRecord> {
    let Candidate { segment, client, server, .. } = *candidate;
    let id = surroundings.totals.next_session();
    let now = milliseconds_now();
    let mut record = Box::new(SessionRecord::new(id, now, segment, client, server));
    record.generation = policy.snapshot.generation;
    let Some(virtual_segment) = classified.client.virtual_segment else { return record };
    record.virtual_segment = policy.names.virtual_segments.get(virtual_segment).cloned();
    let covering = covering_policy(&policy.snapshot, candidate, classified);
    if let Some(covering) =
        covering.and_then(|(profile, kind)| policy.names.of_policy(profile, kind))
    {
        record.logging = covering.logging;
        record.names = Some(Arc::clone(&covering.names));
    }
    record
}

/// Since the Unix epoch.
pub fn milliseconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Counts a taken flow as long as it lives.
struct LiveSession(Arc<Totals>);

impl Drop for LiveSession {
    fn drop(&mut self) {
        if self.0.threshold.leave() {
            tell_back_under();
        }
    }
}

#[cfg(test)]
mod tests;
