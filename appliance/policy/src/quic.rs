//! QUIC that policy blocks, but for connections to domains not to decrypt (SPEC D14).
//!
//! For: whether a client's first datagrams are worth reading, and what their server name comes to. Not for:
//! which packets are QUIC that is blocked ([`crate::precedence::evaluate`]), and reading them. Does not
//! fail; what is not known here stays blocked.

use crate::judge::Candidate;
use crate::precedence::{BlockedBy, PacketFacts, Passage, Rules, UDP, evaluate, quic_policy};
use crate::snapshot::{ClientPolicy, DecidedBy, DecryptionPolicy, Snapshot};

/// What becomes of a QUIC connection whose datagrams the data plane dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quic<'a> {
    /// Whatever its client asks for.
    Blocked,
    /// Unless it asks for a name that this policy excepts.
    BlockedUnlessExcepted(&'a DecryptionPolicy),
    /// Policy has changed since.
    Passes,
}

/// What policy says of the connection between these ends. Names decide only where policy trusts a client's
/// word on them (SPEC T5): a certificate is not seen in QUIC.
pub fn judge_quic<'a>(rules: &'a impl Rules, candidate: &Candidate) -> Quic<'a> {
    let facts = PacketFacts { protocol: UDP, ..candidate.facts() };
    let said = evaluate(rules, &facts, |_| false);
    match said.passage {
        Passage::Blocked(BlockedBy::Quic) => {}
        Passage::Blocked(_) => return Quic::Blocked,
        _ => return Quic::Passes,
    }
    let snapshot = rules.snapshot();
    let policy = quic_policy(snapshot, said.virtual_segment, &facts);
    match policy.and_then(|policy| quic_exceptions(snapshot, policy)) {
        Some(policy) => Quic::BlockedUnlessExcepted(policy),
        None => Quic::Blocked,
    }
}

/// What excepts names from a client policy's block of QUIC, if anything does.
pub fn quic_exceptions<'a>(
    snapshot: &'a Snapshot,
    policy: &ClientPolicy,
) -> Option<&'a DecryptionPolicy> {
    let decryption = snapshot.decryption_policies.get(policy.decryption_policy?)?;
    let by_name = decryption.decided_by == DecidedBy::ServerName;
    (by_name && !decryption.domains_not_to_decrypt.is_empty()).then_some(decryption)
}

impl Quic<'_> {
    /// By the name in its hello.
    pub fn passes(&self, server_name: Option<&str>) -> bool {
        match self {
            Self::Blocked => false,
            Self::BlockedUnlessExcepted(policy) => {
                server_name.is_some_and(|name| policy.excepts(name))
            }
            Self::Passes => true,
        }
    }
}
