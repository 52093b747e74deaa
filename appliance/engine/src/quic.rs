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
use weir_tls::quic::{FirstPackets, first_packets, packets_after};

use crate::compiled::CompiledPolicy;

/// By the policy in force whenever it is asked.
pub struct ByPolicy(pub watch::Receiver<Arc<CompiledPolicy>>);

impl QuicJudge for ByPolicy {
    fn judge(&self, candidate: &Candidate, begun: &[&[u8]], datagrams: &[&[u8]]) -> QuicVerdict {
        let policy = Arc::clone(&self.0.borrow());
        let said = judge_quic(&policy.snapshot, candidate);
        match said {
            Quic::Blocked => return QuicVerdict::Refuse,
            Quic::Passes => return QuicVerdict::Pass,
            Quic::BlockedUnlessExcepted(_) => {}
        }
        let packets = if begun.is_empty() {
            first_packets(datagrams.iter().copied())
        } else {
            let Some(packets) = packets_after(begun, datagrams) else { return QuicVerdict::Same };
            packets
        };
        match packets {
            FirstPackets::Incomplete => QuicVerdict::Wait,
            FirstPackets::Early => QuicVerdict::NoHello { may_follow: true },
            FirstPackets::NotInitial => QuicVerdict::NoHello { may_follow: false },
            FirstPackets::Several => QuicVerdict::Several,
            FirstPackets::Malformed(_) => QuicVerdict::Refuse,
            FirstPackets::Hello(hello) => {
                let name = hello.server_name.filter(|name| said.passes(Some(name)));
                debug!(client = %candidate.client, server = %candidate.server, name, "QUIC");
                name.map_or(QuicVerdict::Refuse, QuicVerdict::Except)
            }
        }
    }

    fn excepts(&self, candidate: &Candidate, name: &str) -> bool {
        let policy = Arc::clone(&self.0.borrow());
        judge_quic(&policy.snapshot, candidate).passes(Some(name))
    }
}
