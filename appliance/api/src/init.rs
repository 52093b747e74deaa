//! init and the others: what init is told to make at boot, what it tells of its services, and the
//! watchdog.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_policy::snapshot::{Layer2Fallback, LinkDownSynchronisation, SegmentId};

/// Left by `weir-agent provision` at [`crate::paths::BOOT_PLAN`]; the built-in plan (segments from
/// the NICs in order) holds where provisioning failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPlan {
    pub hostname: Option<String>,
    /// The management port's addresses, static.
    pub management: Option<Management>,
    /// Empty: a segment for each pair of NICs after the first.
    pub segments: Vec<PlannedSegment>,
    /// Entries of the engine's flow table, whose size cannot change while it is in use; `None`: the
    /// built-in number.
    #[serde(default)]
    pub flow_table: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Management {
    /// `address/prefix`.
    pub addresses: Vec<String>,
    pub gateway: Option<IpAddr>,
    pub name_servers: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSegment {
    /// Segment N has the ports NA and NB: the NICs 2N and 2N+1, counted from 1.
    pub id: SegmentId,
    pub name: String,
    pub layer2_fallback: Layer2Fallback,
    #[serde(default)]
    pub link_down_synchronisation: LinkDownSynchronisation,
    /// Before a port follows its partner down.
    #[serde(default)]
    pub wait_time: Duration,
    /// Of its ports; `None`: each port's own.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// The engine's name among init's services.
pub const ENGINE_SERVICE: &str = "engine";

/// To init, on [`crate::paths::INIT_SOCKET`]; init checks the peer's credentials.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToInit {
    Status,
    Reboot,
    PowerOff,
    /// SIGKILL to a service, which supervision then restarts (`debug engine kill`).
    KillService {
        name: String,
    },
    /// Starts a successor of a service beside it; the service ends when it has nothing left to do
    /// (`debug engine restart`). Answered by [`FromInit::Going`].
    ReplaceService {
        name: String,
    },
}

/// init's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromInit {
    Status(MachineStatus),
    /// Reboot or shutdown has begun, or the service was killed.
    Going,
    Refused(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MachineStatus {
    /// `a` or `b`.
    pub slot: Option<String>,
    /// The root is verified by dm-verity.
    pub verified_root: bool,
    pub firmware: String,
    pub kernel: String,
    pub mode: Mode,
    /// Why the mode is not `performance`, or other things an operator should know.
    pub warnings: Vec<String>,
    pub rdrand: bool,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub uptime: u64,
    pub services: Vec<ServiceStatus>,
    pub ports: Vec<PortStatus>,
}

/// SPEC L3: TLS inspection runs in performance mode only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Performance,
    #[default]
    Normal,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub state: ServiceState,
    pub restarts: u32,
    /// How it ended last, in words.
    pub last_exit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    Running,
    /// Waits for its next start.
    BackingOff,
    /// Ended as it should.
    Done,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortStatus {
    /// `mgmt`, `1A`, `1B`, ...
    pub port: String,
    pub driver: String,
    pub mac: String,
    pub link: bool,
}
