//! Settings of the device and of its segments, as a snapshot has them (SPEC P1, D2, D7 to D10).
//!
//! For: what data plane and engine go by whatever the profiles say. Not for: checking that settings
//! agree; [`crate::configuration`] refuses those that do not. Does not fail.

use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::snapshot::MOST_FETCH_NETWORKS;
use crate::snapshot::SegmentId;

/// Most that [`Device::max_concurrent_sessions`] may be: the appliance has descriptors, and orphans
/// of TCP, for twice as many.
pub const MOST_SESSIONS: u32 = 100_000;

/// What [`Device::max_handshakes_per_client`] may be: at most as many as are held at one time.
pub const HANDSHAKES_PER_CLIENT: RangeInclusive<u32> = 16..=4096;

/// What [`Device::flow_table`] may be.
pub const FLOW_TABLE: RangeInclusive<u32> = 1024..=4_194_304;

/// What [`Device::idle_timeout`] may be, in seconds: up to a week.
pub const IDLE_TIMEOUT: RangeInclusive<u32> = 10..=604_800;

/// What [`Segment::mtu`] may be.
pub const SEGMENT_MTU: RangeInclusive<u32> = 1280..=9216;

/// Device settings (SPEC P1, D8, D9, D10).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub client_inspection: bool,
    pub server_inspection: bool,
    /// Most TLS sessions decrypted at one time (SPEC D9).
    pub max_concurrent_sessions: u32,
    /// What becomes of new sessions past them.
    pub over_threshold: OverThreshold,
    /// Most flows of one client (an IPv4 address, the /64 of an IPv6 address) that are held or in
    /// their TLS handshake at one time; past them [`Evasion::client_flood`].
    pub max_handshakes_per_client: u32,
    /// Entries of the table of held, taken and finished flows; a finished one stays for 60 s. Past
    /// them a flow is left to the bridge. A change is in force from the next boot on.
    #[serde(default = "flow_table")]
    pub flow_table: u32,
    /// What the sockets of taken flows send by.
    #[serde(default)]
    pub congestion_control: CongestionControl,
    /// Seconds after which a session is ended, where neither end has said anything for so long; 0: idle
    /// sessions live as long as their ends wish (SPEC D17). A change is in force for sessions that begin
    /// later.
    #[serde(default)]
    pub idle_timeout: u32,
    /// SPEC D8: TLS inspection and any of these three exclude each other.
    pub asymmetric_mode: bool,
    pub web_mode: bool,
    pub vlan_translation: bool,
    /// RFC 7366, in suites of CBC on either side of a session (SPEC T3).
    #[serde(default)]
    pub encrypt_then_mac: bool,
    /// Intermediates that a server forgets to send are fetched from where its certificates say they
    /// are (SPEC T12).
    #[serde(default)]
    pub fetch_intermediates: bool,
    /// Private networks that the appliance may fetch from, and on any port; others are asked on port
    /// 80 of public addresses only. At most [`MOST_FETCH_NETWORKS`].
    #[serde(default)]
    pub fetch_private_networks: Vec<IpNet>,
    pub health: Health,
    pub evasion: Evasion,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            client_inspection: true,
            server_inspection: true,
            max_concurrent_sessions: 10_000,
            over_threshold: OverThreshold::Bypass,
            max_handshakes_per_client: 512,
            flow_table: flow_table(),
            congestion_control: CongestionControl::Cubic,
            idle_timeout: 0,
            asymmetric_mode: false,
            web_mode: false,
            vlan_translation: false,
            encrypt_then_mac: false,
            fetch_intermediates: false,
            fetch_private_networks: Vec::new(),
            health: Health::default(),
            evasion: Evasion::default(),
        }
    }
}

fn flow_table() -> u32 {
    262_144
}

/// New sessions past the maximum of concurrent ones (SPEC D9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverThreshold {
    #[default]
    Bypass,
    Block,
}

impl OverThreshold {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Block => "block",
        }
    }
}

/// How a sender finds out what its path carries: an end's own way does not cross a taken flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CongestionControl {
    /// Loss means congestion (RFC 9438).
    #[default]
    Cubic,
    /// Bandwidth and delay are measured: more over long paths that lose packets, at the price of a timer for
    /// every few segments.
    Bbr,
}

impl CongestionControl {
    /// As the document has it, and the kernel.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

/// What becomes of a flow whose end provokes a bypass, by each way there is (SPEC D15). Each is
/// counted whatever is chosen, except where nothing of its handshake is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evasion {
    /// The server sends data, or ends, before the client's first bytes were judged. Bypass: what its
    /// client says passes that acknowledges that, which only a server takes that did say it; what
    /// acknowledges nothing is judged.
    pub server_speaks_first: EvasionAction,
    /// Data in a SYN. Bypass: only a flow whose server takes it passes.
    pub syn_data: EvasionAction,
    /// TCP-AO, TCP-MD5 or malformed options in a handshake.
    pub untakeable_options: EvasionAction,
    /// Data of a flow whose SYN, SYN-ACK, or server's data, took another path; a SYN-ACK whose SYN is
    /// not known; a flow that was silent for too long after its handshake. What comes of one that was
    /// never seen is not told from what comes of one that was released: it passes, uncounted.
    pub unseen_handshake: EvasionAction,
    /// IP fragments of TCP packets.
    pub fragments: EvasionAction,
    /// Other bytes in the place of those that were judged, before the server acknowledged these; or
    /// a server that does not acknowledge them. Bypass: what differs is dropped for as long as the
    /// flow is watched.
    pub decoy: EvasionAction,
    /// No room for another held flow, or no sockets for it; or for another flow that says nothing after
    /// its handshake, whose entry stays where a flood of SYNs may push it out.
    pub table_full: EvasionAction,
    /// One client with more flows held or in their handshake than it may have. Block: its next first
    /// payloads are dropped, and come again.
    pub client_flood: EvasionAction,
    /// The same tuple comes in by both ports: it crosses the segment twice, or an end forges the
    /// other's packets. Block: what comes in by the other port is dropped.
    pub two_passes: EvasionAction,
    /// More tags or IPv6 extension headers than are read, that an end might look through.
    pub unread_headers: EvasionAction,
    /// A ClientHello that breaks the grammar, on a client proxy (a server proxy blocks it, SPEC T9).
    pub malformed_hello: EvasionAction,
    /// A ClientHello with a server name that names no host (not ASCII, an empty label, too long), on a client
    /// proxy (a server proxy blocks it).
    #[serde(default = "block")]
    pub invalid_server_name: EvasionAction,
    /// A ClientHello over 64 KiB on a client proxy (a server proxy blocks it, SPEC T9).
    pub oversize_hello: EvasionAction,
    /// A ClientHello that one of its ends ends in the middle.
    pub incomplete_hello: EvasionAction,
    /// No version and suite that this device, or the proxy, decrypts; or on a client proxy a hello in
    /// SSLv2's format (a server proxy blocks it, SPEC T9).
    pub unsupported_tls: EvasionAction,
}

/// Of snapshots of before.
const fn block() -> EvasionAction {
    EvasionAction::Block
}

impl Default for Evasion {
    fn default() -> Self {
        Self {
            server_speaks_first: EvasionAction::Bypass,
            syn_data: EvasionAction::Bypass,
            untakeable_options: EvasionAction::Bypass,
            unseen_handshake: EvasionAction::Bypass,
            fragments: EvasionAction::Bypass,
            decoy: EvasionAction::Bypass,
            table_full: EvasionAction::Bypass,
            // The one way that costs nobody but who goes it.
            client_flood: EvasionAction::Block,
            two_passes: EvasionAction::Bypass,
            unread_headers: EvasionAction::Bypass,
            malformed_hello: EvasionAction::Bypass,
            // No server has such a name, and servers answer it all the same: only who goes that way loses.
            invalid_server_name: EvasionAction::Block,
            oversize_hello: EvasionAction::Bypass,
            incomplete_hello: EvasionAction::Bypass,
            unsupported_tls: EvasionAction::Bypass,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvasionAction {
    /// Left to the bridge.
    #[default]
    Bypass,
    Block,
}

impl EvasionAction {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Block => "block",
        }
    }
}

/// When Layer-2 fallback is entered and left without being told (SPEC D2, D10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// An engine whose heartbeat is older is stuck: new flows stay on the bridge.
    pub heartbeat_timeout: Duration,
    /// A runtime that is later than this for a whole second is overloaded.
    pub overload_lag: Duration,
    /// Continuous health after which fallback for stuckness or overload is left.
    pub recovery_time: Duration,
    /// How long an engine that has a successor keeps the flows it has taken.
    pub drain_time: Duration,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            heartbeat_timeout: Duration::from_millis(500),
            overload_lag: Duration::from_millis(200),
            recovery_time: Duration::from_secs(2),
            drain_time: Duration::from_secs(300),
        }
    }
}

/// A pair of ports, bridged (SPEC D2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Number from 1: segment 1 has the ports 1A and 1B.
    pub id: SegmentId,
    pub name: String,
    pub layer2_fallback: Layer2Fallback,
    pub link_down_synchronisation: LinkDownSynchronisation,
    /// How long a link must be down before its partner is taken down.
    pub wait_time: Duration,
    /// Largest IP packet that its ports carry; `None`: each port's own. In force from the next boot on.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl Segment {
    /// Settings of a segment that nobody configured.
    pub fn with_defaults(id: SegmentId, name: String) -> Self {
        Self {
            id,
            name,
            layer2_fallback: Layer2Fallback::default(),
            link_down_synchronisation: LinkDownSynchronisation::default(),
            wait_time: Duration::ZERO,
            mtu: None,
        }
    }
}

/// What a segment does when the engine is down, stuck, overloaded or told to fall back (SPEC D2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer2Fallback {
    #[default]
    PermitAll,
    BlockAll,
}

impl Layer2Fallback {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::PermitAll => "permit-all",
            Self::BlockAll => "block-all",
        }
    }
}

/// What becomes of a segment's other port when one loses its link (SPEC D7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkDownSynchronisation {
    /// It stays up.
    #[default]
    Hub,
    /// It is taken down, until an operator restarts the segment's ports.
    Breaker,
    /// It is taken down, and comes back with the other's link.
    Wire,
}

impl LinkDownSynchronisation {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Breaker => "breaker",
            Self::Wire => "wire",
        }
    }
}
