//! The policies that might take a flow, or block its QUIC, as rules of the same language.
//!
//! A profile's policies are a set of these, since many profiles have the same proxies. They stand
//! in the order in which they count: servers of ours, candidates of clients, QUIC that passes, QUIC that is blocked.

use weir_policy::Snapshot;
use weir_policy::precedence::{Match, QUIC_PORT, TCP, UDP};
use weir_policy::snapshot::{PortRange, Profile, QuicAction};

use crate::layout::rules::{POLICIES, PolicySet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A server policy's source exceptions: a candidate, but not refused to speak first.
    Excepted = 1,
    Server = 2,
    Client = 3,
    QuicPasses = 4,
    QuicBlocked = 5,
}

#[derive(Debug, Default)]
pub struct Policies {
    pub list: Vec<(Kind, Match)>,
    /// Of each profile: places in the list.
    profiles: Vec<Vec<usize>>,
}

impl Policies {
    pub fn of(snapshot: &Snapshot) -> Self {
        let profiles: Vec<_> = snapshot.profiles.iter().map(|one| entries(snapshot, one)).collect();
        let mut list: Vec<(Kind, Match)> = Vec::new();
        for entry in profiles.iter().flatten() {
            if !list.contains(entry) {
                list.push(entry.clone());
            }
        }
        list.sort_by_key(|(kind, _)| *kind);
        let place = |entry: &(Kind, Match)| list.iter().position(|other| other == entry);
        let profiles =
            profiles.iter().map(|entries| entries.iter().filter_map(place).collect()).collect();
        Self { list, profiles }
    }

    /// Those of a profile.
    pub fn set(&self, profile: usize) -> PolicySet {
        let mut set = PolicySet::default();
        for place in self.profiles.get(profile).into_iter().flatten() {
            if let Some(word) = set.0.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
        set
    }

    pub fn kinds(&self) -> [u8; POLICIES] {
        let mut kinds = [0; POLICIES];
        for (slot, (kind, _)) in kinds.iter_mut().zip(&self.list) {
            *slot = *kind as u8;
        }
        kinds
    }
}

fn entries(snapshot: &Snapshot, profile: &Profile) -> Vec<(Kind, Match)> {
    let mut entries = Vec::new();
    let candidate = |destinations: &[_], ports: &[_]| Match {
        protocols: vec![TCP],
        destinations: destinations.to_vec(),
        destination_ports: ports.to_vec(),
        ..Match::default()
    };
    if snapshot.device.server_inspection {
        for policy in &profile.server_policies {
            let Some(proxy) = snapshot.server_proxies.get(policy.server_proxy) else { continue };
            // Where policy says none, an empty list of the language would say any.
            if !proxy.destinations.is_empty() && !proxy.detection_ports.is_empty() {
                let matching = candidate(&proxy.destinations, &proxy.detection_ports);
                if !policy.source_exceptions.is_empty() {
                    let sources = policy.source_exceptions.clone();
                    entries.push((Kind::Excepted, Match { sources, ..matching.clone() }));
                }
                entries.push((Kind::Server, matching));
            }
        }
    }
    if !snapshot.device.client_inspection {
        return entries;
    }
    let mut quic = false;
    for policy in &profile.client_policies {
        let Some(proxy) = snapshot.client_proxies.get(policy.client_proxy) else { continue };
        if proxy.detection_ports.is_empty() {
            continue;
        }
        entries.push((Kind::Client, candidate(&[], &proxy.detection_ports)));
        if quic || !proxy.detection_ports.iter().any(|range| range.contains(QUIC_PORT)) {
            continue;
        }
        quic = true; // the first that covers the port decides, as for its TCP
        if policy.quic == QuicAction::Bypass {
            continue;
        }
        let matching = Match {
            protocols: vec![UDP],
            destination_ports: vec![PortRange { first: QUIC_PORT, last: QUIC_PORT }],
            ..Match::default()
        };
        if !policy.source_exceptions.is_empty() {
            let sources = policy.source_exceptions.clone();
            entries.push((Kind::QuicPasses, Match { sources, ..matching.clone() }));
        }
        entries.push((Kind::QuicBlocked, matching));
    }
    entries
}
