//! The policy under which it is measured: every table as full as the issue asks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use weir_policy::SecretBytes;
use weir_policy::Snapshot;
use weir_policy::precedence::Precedence;
use weir_policy::precedence::reputation::{Reputation, Standing};
use weir_policy::snapshot::{
    CertifiedKey, ClientPolicy, ClientProxy, DecryptionPolicy, DomainPattern, LEARNT_BYPASS_TIME,
    MINIMUM_RSA_KEY_LENGTH, PortRange, Profile, Segment, Service, TrustStore, VirtualSegment,
};

use super::site::{CANDIDATE_PORT, LAST_PORT, LEAN, SEGMENT};

/// Flows to this name are released, all others are taken.
pub const RELEASED: &str = "released.example";
pub const TAKEN: &str = "taken.example";

/// The virtual segment of the bench's flows.
const ALL: &str = "all";
const VIRTUAL_SEGMENTS: usize = 512;
const NETWORKS: usize = 4096;
const REPUTATION: usize = 1_000_000;

/// How full the tables are, for the results.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fill {
    pub virtual_segments: usize,
    pub networks: usize,
    pub reputation_entries: usize,
    /// Whether eBPF looks packets up in them.
    pub in_ebpf: bool,
}

/// A policy whose last virtual segment, and none before it, matches the bench's flows.
pub fn snapshot() -> (Snapshot, Fill) {
    let fillers = VIRTUAL_SEGMENTS - 1;
    let mut virtual_segments: Vec<_> = (0..fillers)
        .map(|number| VirtualSegment {
            name: format!("filler {number}"),
            segments: vec![],
            from: None,
            vlans: vec![],
            sources: (number..NETWORKS).step_by(fillers).map(filler).collect(),
            destinations: vec![],
            profile: 0,
        })
        .collect();
    virtual_segments.push(VirtualSegment {
        name: ALL.into(),
        segments: vec![SEGMENT],
        from: None,
        vlans: vec![],
        sources: vec![],
        destinations: vec![],
        profile: 0,
    });
    let reputation = Reputation::new(reputation());
    let fill = Fill {
        virtual_segments: virtual_segments.len(),
        networks: virtual_segments.iter().map(|segment| segment.sources.len()).sum(),
        reputation_entries: reputation.entries().len(),
        in_ebpf: true,
    };
    let snapshot = Snapshot {
        segments: vec![Segment::with_defaults(SEGMENT, "bench".into())],
        virtual_segments,
        profiles: vec![Profile {
            name: "bench".into(),
            server_policies: vec![],
            client_policies: vec![ClientPolicy {
                name: "bench".into(),
                client_proxy: 0,
                decryption_policy: Some(0),
                trust_store: 0,
                source_exceptions: vec![],
                quic: Default::default(),
            }],
            filters: vec![],
        }],
        client_proxies: vec![ClientProxy {
            name: "bench".into(),
            detection_ports: vec![PortRange { first: CANDIDATE_PORT, last: LAST_PORT }],
            service: Service::Other,
            // Never used: no TLS is spoken.
            signing_certificate: CertifiedKey {
                chain: vec![vec![1]],
                key: SecretBytes::new(vec![1]),
            },
            block_invalid_certificates: false,
            block_expired_certificates: false,
            reset_client_on_block: false,
            logging: false,
            downgrade_http2: false,
            minimum_rsa_key_length: MINIMUM_RSA_KEY_LENGTH,
            allowed: Default::default(),
            on_encrypted_client_hello: Default::default(),
            on_client_certificate_request: Default::default(),
            on_pinned_client: Default::default(),
            learnt_bypass_time: LEARNT_BYPASS_TIME,
            revocation: Default::default(),
            revocation_unknown: Default::default(),
        }],
        decryption_policies: vec![DecryptionPolicy {
            name: "bench".into(),
            domains_not_to_decrypt: vec![DomainPattern {
                domain: RELEASED.into(),
                wildcard: false,
            }],
            decided_by: Default::default(),
        }],
        trust_stores: vec![TrustStore {
            name: "bench".into(),
            authorities: vec![],
            default_ca_package: false,
        }],
        precedence: Precedence { reputation, ..Precedence::default() },
        ..Snapshot::default()
    };
    (snapshot, fill)
}

/// The same candidates without what fills the tables.
pub fn without_tables(full: &Snapshot) -> Snapshot {
    let mut lean = full.clone();
    lean.segments = vec![Segment::with_defaults(LEAN, "lean".into())];
    lean.virtual_segments.retain(|segment| segment.name == ALL);
    for segment in &mut lean.virtual_segments {
        segment.segments = vec![LEAN];
    }
    lean.precedence = Precedence::default();
    lean
}

/// A network that no address of the bench is in: 100.64.0.0/10 in pieces of 16 addresses.
fn filler(number: usize) -> IpNet {
    let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    let address = base + (number as u32) * 16;
    IpNet::V4(Ipv4Net::new_assert(address.into(), 28))
}

/// Addresses all over the unicast ones, half of them among the bench's own neighbours in
/// 10.0.0.0/8, so that a lookup has far to go; none is the bench's.
fn reputation() -> Vec<(IpNet, Standing)> {
    let mut state = 1u64;
    let mut random = || {
        // Knuth's linear congruential generator: the same list in every run.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 32) as u32
    };
    let mut addresses = BTreeSet::new();
    while addresses.len() < REPUTATION {
        let value = random();
        let address = Ipv4Addr::from(if addresses.len() % 2 == 0 {
            0x0a00_0000 | value & 0x00ff_ffff
        } else {
            value
        });
        let ends = address.octets().starts_with(&[10, 66]) && address.octets()[3] < 3;
        if !ends && (1..224).contains(&address.octets()[0]) {
            addresses.insert(address);
        }
    }
    addresses
        .into_iter()
        .map(|address| (IpNet::from(IpAddr::V4(address)), Standing::Block))
        .collect()
}
