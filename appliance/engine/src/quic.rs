//! QUIC that policy blocks, but for names that it excepts (SPEC D14): asked by the data plane of each
//! connection's first datagrams.
//!
//! For: reading the hello only where a name can change anything. Not for: what policy says of names
//! ([`weir_policy::quic`]), reading QUIC ([`weir_tls::quic`]). What cannot be read is refused.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::debug;
use weir_dataplane::{QuicJudge, QuicVerdict};
use weir_policy::{Candidate, Quic, judge_quic};
use weir_tls::quic::{FirstPackets, first_packets};

use crate::compiled::CompiledPolicy;

/// By the policy in force whenever it is asked.
pub fn judge_by(policy: watch::Receiver<Arc<CompiledPolicy>>) -> Box<QuicJudge> {
    Box::new(move |candidate, datagrams| {
        let policy = Arc::clone(&policy.borrow());
        verdict(judge_quic(&policy.snapshot, candidate), candidate, datagrams)
    })
}

fn verdict(said: Quic<'_>, candidate: &Candidate, datagrams: &[&[u8]]) -> QuicVerdict {
    match said {
        Quic::Blocked => return QuicVerdict::Refuse,
        Quic::Passes => return QuicVerdict::Except,
        Quic::BlockedUnlessExcepted(_) => {}
    }
    match first_packets(datagrams.iter().copied()) {
        FirstPackets::Incomplete => QuicVerdict::Wait,
        FirstPackets::Hello(hello) => {
            let name = hello.server_name.as_deref();
            let passes = said.passes(name);
            debug!(client = %candidate.client, server = %candidate.server, name, passes, "QUIC");
            if passes { QuicVerdict::Except } else { QuicVerdict::Refuse }
        }
        FirstPackets::NotInitial | FirstPackets::Malformed(_) => QuicVerdict::Refuse,
    }
}
