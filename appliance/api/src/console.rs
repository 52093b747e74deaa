//! Console and agent: the console connects to [`crate::paths::CONSOLE_SOCKET`], sends one
//! [`Request`] after another and gets one [`Response`] each. The agent decides what a role may do;
//! the console only shows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weir_policy::SecretBytes;
use weir_policy::snapshot::{
    CongestionControl, OverThreshold, QuicAction, Revocation, SegmentId, Snapshot,
};
use weir_policy::suites::{Suite, TABLE};

use crate::capture::{FromCapture, ToCapture};
use crate::engine::{Counters, FilterEvent, LearntView, LiveSessions, SessionRecord};
use crate::init::MachineStatus;
use crate::rules::{ExplainedPacket, Explanation, QuarantineView, ReputationView, RuleView};
use crate::sight::{Histogram, OutcomeCount, PortTraffic, VirtualSegmentCounters};

/// Most sessions or events in one answer.
pub const MOST_RECORDS: usize = 1000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who may log in and what is known before a login (hostname, whether anybody can log in).
    Greeting,
    Login {
        user: String,
        password: SecretBytes,
    },
    Version,
    Health,
    Segments,
    VirtualSegments,
    /// To the capture helper, which answers [`Response::Capture`].
    Capture(ToCapture),
    TlsInspection,
    /// The table of cipher suites.
    Ciphers,
    /// The newest sessions first; at most `limit`.
    Sessions {
        limit: usize,
    },
    /// Those that live, the newest first; at most `limit`.
    LiveSessions {
        limit: usize,
    },
    /// The TLS inspection log: sessions of proxies whose logging is on, the newest first; at most
    /// `limit`.
    TlsInspectionLog {
        limit: usize,
    },
    /// The newest filter events first; at most `limit`.
    Events {
        limit: usize,
    },
    /// The newest lines of the system log last; at most `limit`.
    Log {
        limit: usize,
    },
    /// The running configuration as a document, secrets left out.
    Configuration,
    ForceFallback(bool),
    /// What the engine has learnt to bypass is forgotten.
    ForgetLearnt,
    /// The same of one server name, or address.
    ForgetLearntOf(String),
    /// What it has learnt.
    ShowLearnt,
    Reboot,
    PowerOff,
    /// `debug engine kill`: init kills the engine, to show fail-open; supervision restarts it.
    KillEngine,
    /// `debug engine restart`: a new engine beside the old one, which drains.
    RestartEngine,
    /// `debug tls-inspection clear-sessions`: resets both ends of each proxied session.
    ClearSessions,
    HighAvailability,
    /// `segment N restart`: ports that link-down synchronisation took down come up.
    RestartPorts(SegmentId),
    Quarantine {
        host: IpAddr,
        /// `None`: as long as the configuration says.
        minutes: Option<u32>,
    },
    /// `quarantine release HOST`.
    ReleaseHost(IpAddr),
    ShowQuarantine,
    TrafficFilters,
    InspectionBypass,
    Reputation {
        /// `None`: all of it.
        address: Option<IpAddr>,
    },
    /// `debug explain`.
    Explain(Box<ExplainedPacket>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    Greeting(Greeting),
    LoggedIn {
        user: String,
        role: Role,
    },
    /// What was asked for is not allowed or cannot be done now, and why.
    Refused(String),
    Done(String),
    Version {
        version: String,
        kernel: String,
        slot: Option<String>,
    },
    Health(Box<Health>),
    Segments(Vec<SegmentView>),
    VirtualSegments(Vec<VirtualSegmentView>),
    HighAvailability(Box<HighAvailability>),
    Capture(FromCapture),
    TlsInspection(Box<TlsInspectionView>),
    Ciphers(Vec<CipherView>),
    Sessions(Vec<SessionRecord>),
    LiveSessions(LiveSessions),
    Learnt(Box<LearntView>),
    Events(Vec<FilterEvent>),
    Log(Vec<String>),
    Configuration(String),
    Quarantine(QuarantineView),
    TrafficFilters(Vec<RuleView>),
    InspectionBypass(Vec<RuleView>),
    Reputation(ReputationView),
    Explanation(Box<Explanation>),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Greeting {
    pub hostname: String,
    pub version: String,
    /// False: no administrator was provisioned; the console is read-only.
    pub login_possible: bool,
    /// What went wrong at provisioning, in the words that were printed at boot.
    pub provisioning_errors: Vec<String>,
    /// What this connection may do without a login: by the peer's credentials, or `Viewer` where
    /// nobody can log in. `None`: a login is needed.
    pub role: Option<Role>,
}

/// SPEC L5. Without a login: `Viewer`, which may only `show`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Operator,
    Administrator,
    Superuser,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// `None`: init did not answer (the lab has none).
    pub machine: Option<MachineStatus>,
    pub engine_connected: bool,
    /// How often an engine connected since the agent started.
    pub engine_starts: u64,
    pub generation: u64,
    pub fallback_forced: bool,
    /// As in [`HighAvailability::state`].
    pub availability: String,
    /// While Layer-2 fallback is in force.
    #[serde(default)]
    pub inspection_off: Option<InspectionOff>,
    pub warnings: Vec<String>,
}

/// That no new flow is judged, and no rule drops a packet (SPEC D2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectionOff {
    /// Milliseconds since the Unix epoch.
    pub since: u64,
    /// What crosses meanwhile, in words.
    pub crosses: String,
}

/// `show high-availability`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HighAvailability {
    /// `normal operation`, or `Layer-2 fallback: REASON`.
    pub state: String,
    pub fallback_forced: bool,
    /// Engines that have a successor and keep their last sessions.
    pub draining_engines: usize,
    pub segments: Vec<SegmentAvailability>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SegmentAvailability {
    pub name: String,
    pub ports: [String; 2],
    pub layer2_fallback: String,
    /// As in [`SegmentView`].
    pub state: String,
    /// `hub`, `breaker, wait 3 s`, ...
    pub link_down_synchronisation: String,
    /// What link-down synchronisation did, if anything; or that its state is not known.
    pub links: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SegmentView {
    pub name: String,
    pub ports: [String; 2],
    pub layer2_fallback: String,
    /// `inspecting`, `Layer-2 fallback (forced)`, `Layer-2 fallback (engine down)`, ...
    pub state: String,
    /// While Layer-2 fallback is in force.
    #[serde(default)]
    pub inspection_off: Option<InspectionOff>,
    pub counters: Vec<(String, u64)>,
    /// What one count means, of those counters that counted.
    #[serde(default)]
    pub meanings: BTreeMap<String, String>,
    /// Of the two ports; `None` where nothing is known.
    #[serde(default)]
    pub traffic: [Option<PortTraffic>; 2],
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

/// What a virtual segment matches (SPEC D3), in words, and what it matched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct VirtualSegmentView {
    /// Its place in the order of matching, from 1.
    pub order: usize,
    /// Empty: all.
    pub segments: Vec<String>,
    /// The port side its clients' SYNs come in by; `None`: both.
    pub from: Option<String>,
    /// Empty: any or none.
    pub vlans: Vec<u16>,
    /// Networks of clients; empty: any.
    pub sources: Vec<String>,
    /// Networks of servers; empty: any.
    pub destinations: Vec<String>,
    pub profile: String,
    pub counted: VirtualSegmentCounters,
    /// What one count of its counters means.
    #[serde(default)]
    pub meanings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TlsInspectionView {
    pub client_inspection: bool,
    pub server_inspection: bool,
    pub max_concurrent_sessions: u32,
    #[serde(default)]
    pub over_threshold: OverThreshold,
    #[serde(default)]
    pub congestion_control: CongestionControl,
    /// Seconds; 0: never.
    #[serde(default)]
    pub idle_timeout: u32,
    #[serde(default)]
    pub encrypt_then_mac: bool,
    /// SPEC T12.
    #[serde(default)]
    pub fetch_intermediates: bool,
    /// Client proxies that ask authorities whether certificates are revoked.
    #[serde(default)]
    pub revocation_fetched_by: Vec<String>,
    pub counters: Option<Counters>,
    /// Client policies, and what each does about QUIC.
    #[serde(default)]
    pub quic: Vec<(String, QuicAction)>,
    /// What is configured, by name.
    pub server_proxies: Vec<String>,
    pub client_proxies: Vec<String>,
}

impl TlsInspectionView {
    /// The configured part of the view.
    pub fn configured(snapshot: &Snapshot) -> Self {
        Self {
            client_inspection: snapshot.device.client_inspection,
            server_inspection: snapshot.device.server_inspection,
            max_concurrent_sessions: snapshot.device.max_concurrent_sessions,
            over_threshold: snapshot.device.over_threshold,
            congestion_control: snapshot.device.congestion_control,
            idle_timeout: snapshot.device.idle_timeout,
            encrypt_then_mac: snapshot.device.encrypt_then_mac,
            fetch_intermediates: snapshot.device.fetch_intermediates,
            revocation_fetched_by: snapshot
                .client_proxies
                .iter()
                .filter(|proxy| proxy.revocation == Revocation::Fetched)
                .map(|proxy| proxy.name.clone())
                .collect(),
            counters: None,
            quic: snapshot
                .profiles
                .iter()
                .flat_map(|profile| &profile.client_policies)
                .map(|policy| (policy.name.clone(), policy.quic))
                .collect(),
            server_proxies: snapshot.server_proxies.iter().map(|p| p.name.clone()).collect(),
            client_proxies: snapshot.client_proxies.iter().map(|p| p.name.clone()).collect(),
        }
    }
}

/// One suite, in words (SPEC T2).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CipherView {
    pub id: u16,
    pub name: String,
    /// Weakest and strongest.
    pub versions: [String; 2],
    pub key_exchange: String,
    pub authentication: String,
    pub bulk: String,
    pub mac: String,
    pub on_by_default: bool,
    /// The device has a TLS stack that speaks it.
    pub supported: bool,
}

impl CipherView {
    /// All of them, as the table has them.
    pub fn table() -> Vec<Self> {
        let view = |suite: &Suite| Self {
            id: suite.id,
            name: suite.name.to_owned(),
            versions: [suite.versions.0.to_string(), suite.versions.1.to_string()],
            key_exchange: suite.key_exchange.to_string(),
            authentication: suite.authentication.to_string(),
            bulk: suite.bulk.to_string(),
            mac: suite.mac.to_string(),
            on_by_default: suite.on_by_default,
            supported: suite.supported(),
        };
        TABLE.iter().map(view).collect()
    }
}
