//! The tables the programs decide by, compiled from a policy snapshot.
//!
//! For: one function a table, all from one snapshot, put in force in one step: the tables have two
//! halves, and a configuration word says which one packets are looked up in. Not for: judging; the
//! tables name every flow that [`weir_policy::judge`] might take, and some that it will not. A
//! table that cannot be filled leaves the half in force as it was.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, MapError};
use weir_policy::Snapshot;
use weir_policy::snapshot::{Layer2Fallback, PortRange, Profile, SegmentId};

use crate::layout::{CandidatePorts, Configuration, Destination, SegmentSettings, mapped};
use crate::programs::{ProgramError, chain};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("eBPF table {table}: {}", chain(.error))]
    Table { table: &'static str, error: MapError },
    #[error("eBPF table {0} is not in the object, or is of another type")]
    Missing(&'static str),
    #[error(transparent)]
    Program(ProgramError),
}

pub struct Tables {
    configuration: Array<MapData, Configuration>,
    segments: Array<MapData, SegmentSettings>,
    candidates: Array<MapData, CandidatePorts>,
    destinations: LpmTrie<MapData, Destination, u8>,
    /// As this engine wrote it last.
    current: Configuration,
    own: Vec<SegmentId>,
    /// This engine's number.
    instance: u32,
    /// Its programs are, or were, those on the ports.
    attached: bool,
}

/// Why Layer-2 fallback is in force while the engine lives (SPEC D2, D10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackCause {
    /// By command; kept in the tables over engines.
    Told,
    Overloaded,
    /// Healthy again, but not for long enough.
    Recovering,
}

impl FallbackCause {
    /// `FALLBACK_...` of bpf/weir.h.
    fn bit(self) -> u32 {
        match self {
            Self::Told => 1,
            Self::Overloaded => 2,
            Self::Recovering => 4,
        }
    }
}

impl Tables {
    /// Takes the maps out of the object. What is in force stays in force, a fallback that was told
    /// included.
    pub fn new(
        ebpf: &mut Ebpf,
        own: Vec<SegmentId>,
        instance: u32,
        heartbeat_timeout: Duration,
    ) -> Result<Self, ApplyError> {
        let mut tables = Self {
            configuration: map(ebpf, "configuration")?,
            segments: map(ebpf, "segments")?,
            candidates: map(ebpf, "candidates")?,
            destinations: map(ebpf, "destinations")?,
            current: Configuration::default(),
            own,
            instance,
            attached: false,
        };
        tables.current = tables.in_force()?;
        // The other causes are of the engine that found them.
        tables.current.fallback &= FallbackCause::Told.bit();
        tables.current.heartbeat_timeout = nanoseconds(heartbeat_timeout);
        Ok(tables)
    }

    /// Whether Layer-2 fallback is in force for this cause.
    pub fn fallback(&self, cause: FallbackCause) -> bool {
        self.current.fallback & cause.bit() != 0
    }

    pub fn set_fallback(&mut self, cause: FallbackCause, on: bool) -> Result<(), ApplyError> {
        if on {
            self.current.fallback |= cause.bit();
        } else {
            self.current.fallback &= !cause.bit();
        }
        self.put_in_force()
    }

    /// This engine's programs go on the ports now: from here on the tables are its own.
    pub fn attaching(&mut self) -> Result<(), ApplyError> {
        self.attached = true;
        self.current.attached = self.instance;
        self.write()
    }

    /// Whether another engine's programs took the place of this one's.
    pub fn superseded(&self) -> bool {
        self.attached && self.in_force().is_ok_and(|now| now.attached != self.instance)
    }

    /// Does nothing once another engine has its programs on the ports: the tables are that one's.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), ApplyError> {
        if self.superseded() {
            return Ok(());
        }
        // An engine that is about to be superseded may have changed it.
        self.current.half = self.in_force()?.half;
        self.current.heartbeat_timeout = nanoseconds(snapshot.device.health.heartbeat_timeout);
        for id in &self.own {
            let block = snapshot
                .segments
                .iter()
                .any(|s| s.id == *id && s.layer2_fallback == Layer2Fallback::BlockAll);
            let settings = SegmentSettings { block_all: u32::from(block) };
            self.segments.set(u32::from(id.0), settings, 0).map_err(in_table("segments"))?;
        }
        let half = 1 - (self.current.half & 1);
        self.fill(snapshot, half)?;
        self.current.half = half;
        self.put_in_force()
    }

    fn fill(&mut self, snapshot: &Snapshot, half: u32) -> Result<(), ApplyError> {
        let mut wanted: BTreeMap<u32, Box<CandidatePorts>> = BTreeMap::new();
        let mut networks: HashSet<(u32, Destination)> = HashSet::new();
        for id in &self.own {
            let scope = u32::from(id.0) * 2 + half;
            let ports = candidate_ports(snapshot, *id);
            wanted.insert(scope, ports);
            networks.extend(destinations(snapshot, *id, scope));
        }
        let old: Vec<Key<Destination>> = self
            .destinations
            .keys()
            .filter_map(Result::ok)
            .filter(|key| wanted.contains_key(&key.data().scope))
            .collect();
        for key in old {
            self.destinations.remove(&key).map_err(in_table("destinations"))?;
        }
        for (prefix, network) in networks {
            self.destinations
                .insert(&Key::new(prefix, network), 1, 0)
                .map_err(in_table("destinations"))?;
        }
        for (scope, ports) in wanted {
            self.candidates.set(scope, *ports, 0).map_err(in_table("candidates"))?;
        }
        Ok(())
    }

    fn put_in_force(&mut self) -> Result<(), ApplyError> {
        if self.superseded() { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), ApplyError> {
        if !self.attached {
            // Whose programs are on the ports is not for this engine to say yet.
            self.current.attached = self.in_force()?.attached;
        }
        self.configuration.set(0, self.current, 0).map_err(in_table("configuration"))
    }

    fn in_force(&self) -> Result<Configuration, ApplyError> {
        self.configuration.get(&0, 0).map_err(in_table("configuration"))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// The detection ports of every proxy that a virtual segment of this segment leads to.
fn candidate_ports(snapshot: &Snapshot, id: SegmentId) -> Box<CandidatePorts> {
    let mut ports = Box::new(CandidatePorts { client: [0; 8192], server: [0; 8192] });
    for profile in profiles(snapshot, id) {
        if snapshot.device.client_inspection {
            for policy in &profile.client_policies {
                if let Some(proxy) = snapshot.client_proxies.get(policy.client_proxy) {
                    set(&mut ports.client, &proxy.detection_ports);
                }
            }
        }
        if snapshot.device.server_inspection {
            for policy in &profile.server_policies {
                if let Some(proxy) = snapshot.server_proxies.get(policy.server_proxy) {
                    set(&mut ports.server, &proxy.detection_ports);
                }
            }
        }
    }
    ports
}

/// The destinations of every server proxy of this segment, with their prefix in bits.
fn destinations(snapshot: &Snapshot, id: SegmentId, scope: u32) -> Vec<(u32, Destination)> {
    if !snapshot.device.server_inspection {
        return vec![];
    }
    profiles(snapshot, id)
        .flat_map(|profile| &profile.server_policies)
        .filter_map(|policy| snapshot.server_proxies.get(policy.server_proxy))
        .flat_map(|proxy| &proxy.destinations)
        .map(|network| {
            let within =
                u32::from(network.prefix_len()) + if network.addr().is_ipv4() { 96 } else { 0 };
            (32 + within, Destination { scope, address: mapped(network.network()) })
        })
        .collect()
}

fn profiles(snapshot: &Snapshot, id: SegmentId) -> impl Iterator<Item = &Profile> {
    snapshot
        .virtual_segments
        .iter()
        .filter(move |segment| segment.segments.is_empty() || segment.segments.contains(&id))
        .filter_map(|segment| snapshot.profiles.get(segment.profile))
}

fn set(bits: &mut [u8; 8192], ranges: &[PortRange]) {
    for port in ranges.iter().flat_map(|range| range.first..=range.last) {
        if let Some(byte) = bits.get_mut(usize::from(port >> 3)) {
            *byte |= 1 << (port & 7);
        }
    }
}

/// Takes a map out of the object as the type it is used by.
pub fn map<M: TryFrom<aya::maps::Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, ApplyError> {
    let map = ebpf.take_map(name).ok_or(ApplyError::Missing(name))?;
    M::try_from(map).map_err(in_table(name))
}

fn in_table(table: &'static str) -> impl Fn(MapError) -> ApplyError {
    move |error| ApplyError::Table { table, error }
}
