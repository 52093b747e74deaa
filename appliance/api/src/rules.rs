//! Questions about what precedes TLS inspection (SPEC D5, D6, I4): quarantine, the rules' counts,
//! and what becomes of a packet and why; and about what an engine has at the moment: live sessions, the newest
//! that ended, and what it has learnt.
//!
//! For: what the agent asks an engine, which has the tables, and the views the console shows. Not
//! for: the rules themselves, which are in the snapshot. A question that cannot be answered has an
//! answer in words ([`Answer::Refused`]).

use std::net::IpAddr;

use crate::engine::{LearntView, LiveSessions};
use serde::{Deserialize, Serialize};
use weir_policy::snapshot::{SegmentId, Side};

use crate::session::SessionRecord;

/// Most quarantined hosts in one answer.
pub const MOST_HOSTS: usize = 1000;

/// Most live sessions, and most of what was learnt, in one answer.
pub const MOST_LISTED: usize = 1000;

/// Longest quarantine by command, in minutes: a year.
pub const MOST_MINUTES: u32 = 365 * 24 * 60;

/// Agent to engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    Quarantine {
        host: IpAddr,
        /// `None`: as long as the configuration says.
        minutes: Option<u32>,
    },
    Release(IpAddr),
    Quarantined,
    RuleCounts,
    Explain(ExplainedPacket),
    /// At most so many.
    LiveSessions(usize),
    Learnt,
    /// What was learnt of this server name, or address, is forgotten.
    ForgetLearnt(String),
    /// The newest sessions, so many at most, that the engine tells only when asked.
    Sessions(usize),
}

/// Engine to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Quarantine`]: for how many seconds from now.
    Quarantined(u64),
    /// Whether it was quarantined.
    Released(bool),
    Hosts(QuarantinedHosts),
    RuleCounts(Vec<RuleCount>),
    Explanation(Box<Explanation>),
    LiveSessions(LiveSessions),
    Learnt(Box<LearntView>),
    /// How many entries were forgotten.
    Forgotten(usize),
    /// The newest first.
    Sessions(Vec<SessionRecord>),
    Refused(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedHosts {
    /// By address; the first [`MOST_HOSTS`].
    pub hosts: Vec<QuarantinedHost>,
    /// All of them.
    pub count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedHost {
    pub host: IpAddr,
    /// Until it is released.
    pub seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleKind {
    VirtualSegment,
    InspectionBypass,
    TrafficFilter,
}

/// What a rule matched since the engine started. Where a filter limits the rate, what it dropped
/// counts as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    pub kind: RuleKind,
    pub name: String,
    pub packets: u64,
    /// From the Ethernet header.
    pub bytes: u64,
}

/// The packet that an operator asks about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPacket {
    pub segment: SegmentId,
    /// The side whose port it comes in by.
    pub side: Side,
    pub vlan: Option<u16>,
    /// Of one family, as is the destination.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Of TCP and UDP, else 0.
    pub source_port: u16,
    pub destination_port: u16,
    /// Of ICMP and ICMPv6 only.
    pub icmp_type: Option<u8>,
    /// In the ClientHello, where the packet begins a TLS session.
    pub server_name: Option<String>,
}

/// What becomes of a packet, in words; in the order in which it is asked (SPEC D5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The policy that was asked.
    pub generation: u64,
    pub packet: String,
    pub virtual_segment: Option<String>,
    /// (`what was asked`, `what it said`).
    pub steps: Vec<(String, String)>,
    /// Which of them decides, and what becomes of the packet.
    pub decision: String,
    /// What TLS policy says of a session that the packet begins; `None`: it is not asked.
    pub tls: Option<String>,
    /// Why the answer may not be what happens.
    pub notes: Vec<String>,
}

/// `show inspection-bypass`, `show traffic-filters`: one rule, in the order in which it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// From 1.
    pub order: usize,
    pub name: String,
    /// `block`, `rate-limit 10M`, ...; `None`: it passes.
    pub action: Option<String>,
    /// What it matches, in the configuration's words; empty: everything.
    pub matching: Vec<(String, String)>,
    /// `None`: no engine told.
    pub counted: Option<PacketCount>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketCount {
    pub packets: u64,
    pub bytes: u64,
}

/// `show quarantine`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineView {
    /// Minutes, where none are named.
    pub timeout: u32,
    /// Networks whose hosts are never quarantined.
    pub exempt: Vec<String>,
    pub hosts: QuarantinedHosts,
    /// Packets from or to quarantined hosts.
    pub dropped: Option<u64>,
}

/// `show reputation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReputationView {
    pub blocked: usize,
    pub permitted: usize,
    /// (`network`, `block` or `permit`), in order of networks; the first ones. Of an address: the one
    /// that decides, if any.
    pub entries: Vec<(String, String)>,
    /// The address that was asked about.
    pub address: Option<IpAddr>,
    /// Packets from or to blocked addresses.
    pub dropped: Option<u64>,
}
