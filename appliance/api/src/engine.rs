//! Agent and engine: the agent listens on [`crate::paths::ENGINE_SOCKET`], the engine connects and
//! reconnects. The agent sends whole snapshots and commands, the engine streams events and
//! counters and answers the snapshots. An engine that lost its agent keeps its policy.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weir_policy::outcome::Bypassed;
use weir_policy::snapshot::{SegmentId, Snapshot};
use weir_policy::{Place, ServerAt};

use crate::fetch::{Bytes, Fetch, FetchFailure};
use crate::rules::{Answer, Question};
pub use crate::session::{
    BreakRecord, Carried, CertificateRecord, End, FailureCause, FailureRecord, LegRecord,
    LiveSession, LiveSessions, PolicyNames, RevocationRecord, RevocationSource, SessionRecord,
};
use crate::sight::{Histogram, OutcomeCount, PortTraffic, VirtualSegmentCounters};

/// Agent to engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToEngine {
    /// Whole policy; answered by [`FromEngine::Applied`] or [`FromEngine::Refused`].
    Snapshot(Box<Snapshot>),
    /// Everything in [`Counters::learnt`] and [`Counters::excepted`] is forgotten, and which servers are
    /// not excepted.
    ForgetLearnt,
    /// Layer-2 fallback by command, on all segments (SPEC D2, D10); `false`: back to normal.
    ForceFallback(bool),
    /// Resets both ends of every proxied session (SPEC D10).
    ClearSessions,
    /// Answered by [`FromEngine::Answer`] with the same number.
    Ask { number: u64, question: Question },
    /// The answer to [`FromEngine::Fetch`] of this number.
    Fetched { number: u64, result: Result<Bytes, FetchFailure> },
}

/// Engine to agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromEngine {
    /// First message after connecting.
    Started {
        version: String,
        segments: Vec<SegmentId>,
        runtimes: u32,
        /// Every counter of the data plane by name, with what one count of it means.
        #[serde(default)]
        counter_meanings: Vec<(String, String)>,
    },
    Applied {
        generation: u64,
    },
    /// The running policy stays.
    Refused {
        generation: u64,
        error: String,
    },
    /// A session ended, or was released; one each. Those that were not decrypted and are not logged are told
    /// only when asked for ([`Question::Sessions`]), or when the engine has a successor.
    Session(Box<SessionRecord>),
    /// A filter fired.
    Filter(Box<FilterEvent>),
    /// About once a second.
    Counters(Box<Counters>),
    /// First after connecting, and with each change.
    Health {
        /// Why Layer-2 fallback is in force without being told.
        fallback: Option<FallbackReason>,
        /// It has a successor, and ends with its last flow.
        draining: bool,
    },
    Answer {
        number: u64,
        answer: Answer,
    },
    /// Answered by [`ToEngine::Fetched`], within [`crate::fetch::TURN_WITHIN`] and
    /// [`crate::fetch::FETCH_WITHIN`]. At most [`crate::fetch::MOST_FETCHES`] of a kind wait for their
    /// answer.
    Fetch {
        number: u64,
        fetch: Fetch,
    },
}

/// Why an engine that lives judges no new flow (SPEC D2, D10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallbackReason {
    /// It was stuck, and is not healthy for long enough.
    Stuck,
    /// As many flows are held as may be.
    HeldFlows,
    /// Packets of held flows found no room on their way to it.
    PacketsLost,
    /// A runtime's loop runs behind.
    Late,
}

impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stuck => "engine was stuck",
            Self::HeldFlows => "overloaded: held flows at their bound",
            Self::PacketsLost => "overloaded: held packets lost",
            Self::Late => "overloaded: engine runs late",
        })
    }
}

/// A rule that matched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilterEvent {
    pub session: u64,
    pub time: u64,
    pub segment: SegmentId,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub server_name: Option<String>,
    pub profile: Option<String>,
    pub sid: u32,
    pub rev: u32,
    pub message: String,
    pub action: FilterAction,
    pub tls_inspected: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterAction {
    Permit,
    Block,
}

/// Everything the engine counts, cumulative since it started, unless said otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// The generation in force.
    pub generation: u64,
    /// Seconds since the engine started.
    pub uptime: u64,
    /// Now.
    pub sessions_decrypted_now: u64,
    /// Now: new sessions are not decrypted, for there are as many as there may be (SPEC D9).
    #[serde(default)]
    pub over_threshold: bool,
    /// Now: no worker of the legacy TLS stack runs, so that sessions which need it fail.
    #[serde(default)]
    pub legacy_missing: bool,
    /// Sessions by outcome and reason, in the outcome's words: (`outcome`, `reason`, count).
    pub outcomes: Vec<(String, Option<String>, u64)>,
    pub segments: Vec<SegmentCounters>,
    /// Named counters of the TLS side, in a fixed order.
    pub tls: Vec<(String, u64)>,
    /// `npSslInspStats`, `npSslInspProtocolStats` and `npTcpProxyStats` (SPEC L7), of sessions that
    /// ended; versions and suites of handshakes that did.
    #[serde(default)]
    pub tls_inspection: Vec<(String, u64)>,
    #[serde(default)]
    pub tls_protocols: Vec<(String, u64)>,
    #[serde(default)]
    pub tcp_proxy: Vec<(String, u64)>,
    /// Those of which anything was counted.
    #[serde(default)]
    pub virtual_segments: Vec<VirtualSegmentCounters>,
    /// The newest of what the engine has learnt to bypass, by the policy in force.
    #[serde(default)]
    pub learnt: Vec<LearntBypass>,
    /// The newest of the servers that their certificates except from decryption.
    #[serde(default)]
    pub excepted: Vec<ExceptedServer>,
}

/// A server whose certificate, as a policy lets it decide, is that of a domain not to decrypt (SPEC T5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptedServer {
    pub decryption_policy: String,
    pub server: ServerAt,
    /// As clients ask for it.
    pub server_name: Option<String>,
    /// Since when, and for how much longer.
    pub seconds: u64,
    pub left: u64,
}

/// Sessions that the engine has learnt not to decrypt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearntBypass {
    /// The proxy that learnt it.
    pub proxy: String,
    pub reason: Bypassed,
    pub place: Place,
    /// The client that rejects forged certificates; `None`: it is the server's doing.
    pub client: Option<IpAddr>,
    /// `None`: any server of this name there.
    pub server: Option<SocketAddr>,
    pub server_name: Option<String>,
    /// Since when, and for how much longer.
    pub seconds: u64,
    pub left: u64,
}

/// What the engine has learnt not to decrypt: the newest of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearntView {
    pub bypassed: Vec<LearntBypass>,
    pub excepted: Vec<ExceptedServer>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SegmentCounters {
    pub segment: SegmentId,
    /// Inspecting, or in Layer-2 fallback.
    pub fallback: bool,
    /// Named counters of the data plane, in a fixed order.
    pub counters: Vec<(String, u64)>,
    /// Of the ports A and B; `None` where the kernel tells nothing of them.
    #[serde(default)]
    pub ports: [Option<PortTraffic>; 2],
    /// Flows held at this moment.
    #[serde(default)]
    pub held_now: u64,
    /// From the hold of a flow's first packet to its judgement.
    #[serde(default)]
    pub hold_time: Histogram,
    /// From the decision to take a flow over to its two sockets speaking.
    #[serde(default)]
    pub take_over_time: Histogram,
    /// Judged flows.
    #[serde(default)]
    pub outcomes: Vec<OutcomeCount>,
}
