//! The policy under which it is measured: every table as full as the issue asks.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;
use serde::Serialize;
use weir_policy::SecretBytes;
use weir_policy::Snapshot;
use weir_policy::snapshot::{
    CertifiedKey, ClientPolicy, ClientProxy, DecryptionPolicy, LEARNT_BYPASS_TIME,
    MINIMUM_RSA_KEY_LENGTH, PortRange, Profile, Segment, Service, TrustStore, VirtualSegment,
};

use super::site::{CANDIDATE_PORT, LAST_PORT, LEAN, SEGMENT};
use crate::certificates::Certificates;
use crate::document;
use crate::run::Run;

/// Flows to this name are released, or relayed unread where they were taken before it was known.
pub const EXCEPTED: &str = "excepted.example";

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
}

/// What Weir is provisioned with: a policy whose last virtual segment, and none before it, matches the
/// bench's flows. No load makes the engine leave flows to the bridge: that of the ends is on the same
/// processors.
pub fn document(certificates: &Certificates, run: &Run) -> Result<(String, Fill)> {
    let list = run.path("reputation");
    let reputation = reputation();
    let lines =
        reputation.iter().fold(String::new(), |lines, address| lines + &format!("{address}\n"));
    std::fs::write(&list, lines)?;
    let mut text = format!(
        r#"weir:
  device:
    client-inspection: true
    max-concurrent-sessions: 10000
    health:
      heartbeat-timeout: 60000
      overload-lag: 60000
  segments:
    - id: {segment}
      name: bench
      layer-2-fallback: permit-all
  reputation:
    - action: block
      file: {list}
  profiles:
    - name: bench
      client-policies:
        - name: bench
          client-proxy: bench
          decryption-policy: bench
          trust-store: bench
  decryption-policies:
    - name: bench
      domains-not-to-decrypt: ["{EXCEPTED}"]
  client-proxies:
    - name: bench
      detection-ports: ["{CANDIDATE_PORT}-{LAST_PORT}"]
      service: other
      signing-certificate:
"#,
        segment = SEGMENT.0,
        list = list.display(),
    );
    document::identity(&mut text, 8, &certificates.signing_ca)?;
    text += "  trust-stores:\n    - name: bench\n      default-ca-package: false\n      certificates:\n        - |\n";
    document::block(&mut text, 10, &certificates.public_ca.certificate_pem()?);
    text += "  virtual-segments:\n";
    let fillers = VIRTUAL_SEGMENTS - 1;
    for number in 0..fillers {
        // By source and by destination in turn.
        let ends = if number % 2 == 0 { "sources" } else { "destinations" };
        let networks: Vec<_> = (number..NETWORKS).step_by(fillers).map(filler).collect();
        writeln!(
            text,
            "    - name: filler {number}\n      {ends}: {networks:?}\n      profile: bench"
        )?;
    }
    writeln!(text, "    - name: {ALL}\n      segments: [{}]\n      profile: bench", SEGMENT.0)?;
    let fill = Fill {
        virtual_segments: VIRTUAL_SEGMENTS,
        networks: NETWORKS,
        reputation_entries: reputation.len(),
    };
    Ok((text, fill))
}

/// The same candidates on another segment, without what fills the tables.
pub fn without_tables() -> Snapshot {
    Snapshot {
        segments: vec![Segment::with_defaults(LEAN, "lean".into())],
        virtual_segments: vec![VirtualSegment {
            name: ALL.into(),
            segments: vec![LEAN],
            from: None,
            vlans: vec![],
            sources: vec![],
            destinations: vec![],
            profile: 0,
        }],
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
            domains_not_to_decrypt: vec![],
            decided_by: Default::default(),
        }],
        trust_stores: vec![TrustStore {
            name: "bench".into(),
            authorities: vec![],
            default_ca_package: false,
        }],
        ..Snapshot::default()
    }
}

/// A network that no address of the bench is in: 100.64.0.0/10 in pieces of 1,024 addresses, each with a
/// network of another length.
fn filler(number: usize) -> String {
    let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    let address = base + (number as u32) * 1024;
    Ipv4Net::new_assert(address.into(), 22 + (number % 11) as u8).to_string()
}

/// Addresses all over the unicast ones, half of them among the bench's own neighbours in
/// 10.0.0.0/8, so that a lookup has far to go; none is the bench's.
fn reputation() -> BTreeSet<Ipv4Addr> {
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
        let ends = address.octets().starts_with(&[10, 66]) && address.octets()[3] < 8;
        if !ends && (1..224).contains(&address.octets()[0]) {
            addresses.insert(address);
        }
    }
    addresses
}
