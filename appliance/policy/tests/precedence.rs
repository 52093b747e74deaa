//! The order of precedence, from documents to what becomes of packets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::IpAddr;

use proptest::prelude::*;
use support::load;
use weir_policy::judge::Answers;
use weir_policy::outcome::{Blocked, Bypassed};
use weir_policy::precedence::{
    BlockedBy, BypassRule, Classified, ICMP, IndexedSnapshot, Match, PacketFacts, Passage,
    Reputation, Rules, Standing, TCP, TrafficAction, TrafficFilter, UDP, evaluate,
};
use weir_policy::snapshot::{PortRange, SegmentId, Side, VirtualSegment};
use weir_policy::{Candidate, Decision, FirstBytes, Outcome, Resets, Snapshot, Support, judge};

const DOCUMENT: &str = "weir:
  inspection-bypass:
    - { name: arp, match: { ether-types: [arp] } }
    - { name: backup, match: { protocols: [tcp], sources: [10.0.5.0/24], destination-ports: [873] } }
  traffic-filters:
    - { name: trusted, action: trust, match: { sources: [10.0.1.0/24] } }
    - { name: telnet, action: block, match: { protocols: [tcp], destination-ports: [23] } }
    - { name: ping, action: rate-limit, rate: 64k, match: { protocols: [icmp], icmp-types: [8] } }
    - { name: allowed, action: allow, match: { vlans: [7] } }
    - { name: no tags, action: block, match: { vlans: [7, 8] } }
  reputation:
    - { action: permit, entries: [198.51.100.7] }
    - { action: block, file: /lists/good.txt }
  quarantine: { timeout: 5, exempt: [10.0.0.1] }
";

fn rules() -> Snapshot {
    load(DOCUMENT).unwrap().compile(1, None)
}

fn packet(protocol: u8, from: &str, to: &str, port: u16) -> PacketFacts {
    let to: IpAddr = to.parse().unwrap();
    PacketFacts {
        segment: SegmentId(1),
        from: Side::A,
        ether_type: if to.is_ipv4() { 0x0800 } else { 0x86dd },
        vlan: None,
        protocol,
        addresses: Some((from.parse().unwrap(), to)),
        source_port: 40000,
        destination_port: port,
        icmp_type: None,
    }
}

fn passage(facts: PacketFacts) -> Passage {
    evaluate(&rules(), &facts, |host| host == "10.0.0.9".parse::<IpAddr>().unwrap()).passage
}

#[test]
fn bypass_comes_before_everything() {
    assert_eq!(passage(packet(TCP, "10.0.5.1", "198.51.100.1", 873)), Passage::Bypassed(1));
    let arp = PacketFacts {
        ether_type: 0x0806,
        addresses: None,
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        ..packet(0, "0.0.0.0", "0.0.0.0", 0)
    };
    assert_eq!(passage(arp), Passage::Bypassed(0));
}

#[test]
fn first_traffic_filter_acts() {
    let blocked = Passage::Blocked(BlockedBy::TrafficFilter);
    assert_eq!(passage(packet(TCP, "10.0.2.1", "192.0.2.1", 23)), blocked);
    assert_eq!(passage(packet(UDP, "10.0.2.1", "192.0.2.1", 23)), Passage::Inspected);
    let tagged = |vlan| PacketFacts { vlan: Some(vlan), ..packet(UDP, "10.0.2.1", "192.0.2.1", 1) };
    assert_eq!(passage(tagged(7)), Passage::Inspected, "allow ends the filters");
    assert_eq!(passage(tagged(8)), blocked);
    let ping = PacketFacts { icmp_type: Some(8), ..packet(ICMP, "10.0.2.1", "192.0.2.1", 0) };
    let found = evaluate(&rules(), &ping, |_| false);
    assert_eq!((found.traffic_filter, found.passage), (Some(2), Passage::Inspected));
    let action = rules().precedence.traffic_filters[2].action;
    assert_eq!(action, TrafficAction::RateLimit { bits_per_second: 64_000 });
}

#[test]
fn trust_passes_by_reputation_and_quarantine() {
    assert_eq!(passage(packet(TCP, "10.0.1.1", "198.51.100.1", 23)), Passage::Trusted);
    assert_eq!(passage(packet(TCP, "10.0.1.1", "10.0.0.9", 80)), Passage::Trusted);
}

#[test]
fn reputation_and_quarantine_look_at_both_ends() {
    let reputation = Passage::Blocked(BlockedBy::Reputation);
    assert_eq!(passage(packet(TCP, "10.0.2.1", "198.51.100.1", 80)), reputation);
    assert_eq!(passage(packet(TCP, "198.51.100.1", "10.0.2.1", 80)), reputation);
    assert_eq!(passage(packet(TCP, "2001:db8::1", "2001:db8::9", 80)), reputation);
    assert_eq!(passage(packet(TCP, "10.0.2.1", "198.51.100.7", 80)), Passage::Inspected);
    assert_eq!(passage(packet(TCP, "10.0.0.9", "198.51.100.1", 80)), reputation, "asked first");
    let quarantine = Passage::Blocked(BlockedBy::Quarantine);
    assert_eq!(passage(packet(UDP, "10.0.0.9", "192.0.2.1", 80)), quarantine);
    assert_eq!(passage(packet(UDP, "192.0.2.1", "10.0.0.9", 80)), quarantine);
}

#[test]
fn quarantine_settings_are_read() {
    let quarantine = rules().precedence.quarantine;
    assert_eq!(quarantine.timeout, 300);
    assert!(quarantine.exempts("10.0.0.1".parse().unwrap()));
    assert!(quarantine.exempts("::ffff:10.0.0.1".parse().unwrap()));
    assert!(!quarantine.exempts("10.0.0.2".parse().unwrap()));
}

#[test]
fn fragments_and_other_protocols_have_no_ports() {
    let any_port =
        Match { destination_ports: vec![PortRange { first: 0, last: 65535 }], ..Match::default() };
    assert!(any_port.matches(&packet(TCP, "10.0.2.1", "192.0.2.1", 1)));
    assert!(!any_port.matches(&packet(TCP, "10.0.2.1", "192.0.2.1", 0)));
}

#[test]
fn shown_rules_are_a_document_again() {
    let first = load(DOCUMENT).unwrap();
    let second = load(&first.to_document()).unwrap();
    assert_eq!(first.compile(1, None).precedence, second.compile(1, None).precedence);
}

#[test]
fn rules_survive_their_way_to_the_engine() {
    let snapshot = rules();
    let text = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    let wrong = text.replace("\"four\":\"", "\"four\":\"AAAA");
    assert!(serde_json::from_str::<Snapshot>(&wrong).is_err());
}

#[test]
fn judgement_begins_with_the_rules() {
    let whole = include_str!("documents/whole.yaml");
    let with = |rules: &str| load(&format!("{whole}{rules}")).unwrap().compile(1, None);
    let flow = Candidate {
        segment: SegmentId(1),
        from: Side::A,
        vlan: None,
        client: "10.1.1.1:50000".parse().unwrap(),
        server: "192.0.2.9:443".parse().unwrap(),
    };
    let hello =
        FirstBytes::ClientHello { server_name: None, support: Support::Full, encrypted: false };
    let decide = |rules: &str| judge(&with(rules), &flow, &hello);
    let taken =
        |trusted| move |decision| matches!(decision, Decision::TakeOver(i) if i.trusted == trusted);
    assert!(taken(false)(decide("")));
    let filter = |action: &str| {
        format!(
            "  traffic-filters: [ {{ name: f, action: {action}, match: {{ sources: [10.1.0.0/16] }} }} ]\n"
        )
    };
    assert!(taken(true)(decide(&filter("trust"))));
    assert!(taken(false)(decide(&filter("allow"))));
    let blocked = |by| Decision::Block { outcome: Outcome::Blocked(by), resets: Resets::NONE };
    assert_eq!(decide(&filter("block")), blocked(Blocked::TrafficFilter));
    let reputation = "  reputation: [ { action: block, entries: [192.0.2.9] } ]\n";
    assert_eq!(decide(reputation), blocked(Blocked::Reputation));
    let bypass = "  inspection-bypass: [ { name: b, match: { destination-ports: [443] } } ]\n";
    let outcome = Outcome::Bypassed(Bypassed::InspectionBypassRule);
    assert_eq!(decide(bypass), Decision::Release(outcome));
}

#[test]
fn the_servers_packets_are_judged_by_rules_and_virtual_segment_of_their_own() {
    let whole = include_str!("documents/whole.yaml");
    let flow = Candidate {
        segment: SegmentId(1),
        from: Side::A,
        vlan: Some(5),
        client: "10.1.1.1:50000".parse().unwrap(),
        server: "192.0.2.9:443".parse().unwrap(),
    };
    let facts = flow.answer_facts();
    assert_eq!((facts.from, facts.vlan), (Side::B, Some(5)));
    assert_eq!((facts.source_port, facts.destination_port), (443, 50000));
    let (source, destination) = facts.addresses.unwrap();
    assert_eq!((source, destination), (flow.server.ip(), flow.client.ip()));

    let hello =
        FirstBytes::ClientHello { server_name: None, support: Support::Full, encrypted: false };
    let decide = |snapshot: &Snapshot| judge(snapshot, &flow, &hello);
    let with = |rules: &str| load(&format!("{whole}{rules}")).unwrap().compile(1, None);
    let answers = |decision| match decision {
        Decision::TakeOver(inspection) => (inspection.trusted, inspection.answers),
        other => panic!("{other:?}"),
    };
    // They belong to no virtual segment: the client's profile is theirs.
    let plain = Answers { profile: 0, trusted: false };
    assert_eq!(answers(decide(&with(""))), (false, plain));
    let filter = |action: &str| {
        format!("  traffic-filters: [ {{ name: f, action: {action}, match: {{ from: B }} }} ]\n")
    };
    let trusted = Answers { trusted: true, ..plain };
    assert_eq!(answers(decide(&with(&filter("trust")))), (false, trusted));
    let bypass = "  inspection-bypass: [ { name: b, match: { from: B } } ]\n";
    assert_eq!(answers(decide(&with(bypass))), (false, trusted));
    let blocked = Outcome::Blocked(Blocked::TrafficFilter);
    let decision = decide(&with(&filter("block")));
    assert_eq!(decision, Decision::Block { outcome: blocked, resets: Resets::NONE });

    let mut other = with("");
    let mut profile = other.profiles[0].clone();
    profile.name = "answers".into();
    other.profiles.push(profile);
    let mut segment = other.virtual_segments[0].clone();
    (segment.name, segment.from) = ("servers".into(), Some(Side::B));
    (segment.sources, segment.profile) = (vec![], other.profiles.len() - 1);
    other.virtual_segments.push(segment);
    let theirs = Answers { profile: other.profiles.len() - 1, trusted: false };
    assert_eq!(answers(decide(&other)), (false, theirs));
}

#[test]
fn quic_is_blocked_where_its_tcp_would_be_decrypted() {
    let whole = include_str!("documents/whole.yaml");
    let snapshot = load(whole).unwrap().compile(1, None);
    let quic = packet(UDP, "10.1.1.1", "203.0.113.1", 443);
    let of =
        |snapshot: &Snapshot, facts: &PacketFacts| evaluate(snapshot, facts, |_| false).passage;
    assert_eq!(of(&snapshot, &quic), Passage::Blocked(BlockedBy::Quic));
    let elsewhere = [
        PacketFacts { destination_port: 8443, ..quic },
        PacketFacts { segment: SegmentId(2), ..quic },
        PacketFacts { from: Side::B, ..quic },
        packet(UDP, "203.0.113.1", "10.1.1.1", 50000),
    ];
    for facts in &elsewhere {
        assert_eq!(of(&snapshot, facts), Passage::Inspected, "{facts:?}");
    }
    let exceptions = whole.replace("source-exceptions: [] }", "source-exceptions: [10.1.0.0/16] }");
    assert_eq!(of(&load(&exceptions).unwrap().compile(1, None), &quic), Passage::Inspected);
    let bypass = whole.replace("source-exceptions: [] }", "quic: bypass }");
    assert_eq!(of(&load(&bypass).unwrap().compile(1, None), &quic), Passage::Inspected);
    let mut off = snapshot.clone();
    off.device.client_inspection = false;
    assert_eq!(of(&off, &quic), Passage::Inspected);
}

#[test]
fn bounds_of_the_lists_are_kept() {
    let rule = |n: usize| format!("    - {{ name: r{n}, match: {{}} }}\n");
    let many = (0..257).map(rule).collect::<String>();
    let message =
        support::messages(support::errors(&format!("weir:\n  inspection-bypass:\n{many}")));
    assert_eq!(message, ["user-data:2: inspection-bypass: are 257; at most 256 are allowed"]);
}

fn network() -> impl Strategy<Value = ipnet::IpNet> {
    prop_oneof![
        (any::<u32>(), 0u8..=32).prop_map(|(address, length)| {
            ipnet::IpNet::new(IpAddr::V4((address & 0x0303_0303).into()), length).unwrap().trunc()
        }),
        (any::<u128>(), 0u8..=128).prop_map(|(address, length)| {
            let address = address & (0x3 << 126 | 0x3 << 64 | 0x3);
            ipnet::IpNet::new(IpAddr::V6(address.into()), length).unwrap().trunc()
        }),
    ]
}

fn networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    prop_oneof![Just(vec![]), prop::collection::vec(network(), 1..5)]
}

fn matching() -> impl Strategy<Value = Match> {
    let ports = prop_oneof![
        Just(vec![]),
        (0u16..4).prop_map(|port| vec![PortRange { first: port, last: 2 }])
    ];
    (networks(), networks(), ports).prop_map(|(sources, destinations, destination_ports)| Match {
        sources,
        destinations,
        destination_ports,
        ..Match::default()
    })
}

proptest! {
    /// More than a word of each, so that later words are asked, too.
    #[test]
    fn an_index_finds_what_asking_every_rule_finds(
        matches in prop::collection::vec(matching(), 0..300),
        (segments, bypass) in (0usize..150, 0usize..150),
        packets in prop::collection::vec((network(), network(), 0u16..4, any::<bool>()), 1..40),
    ) {
        let mut rest = matches.into_iter();
        let segment = |one: Match| VirtualSegment {
            name: String::new(),
            segments: vec![],
            from: None,
            vlans: vec![],
            sources: one.sources,
            destinations: one.destinations,
            profile: 0,
        };
        let mut snapshot = Snapshot {
            virtual_segments: rest.by_ref().take(segments).map(segment).collect(),
            ..Snapshot::default()
        };
        let bypass_rule = |matching| BypassRule { name: String::new(), matching };
        snapshot.precedence.inspection_bypass = rest.by_ref().take(bypass).map(bypass_rule).collect();
        let filter = |matching| TrafficFilter { name: String::new(), matching, action: TrafficAction::Allow };
        snapshot.precedence.traffic_filters = rest.map(filter).collect();
        let indexed = IndexedSnapshot::from(snapshot.clone());
        for (from, to, port, addressed) in packets {
            let addresses = addressed.then_some((from.addr(), to.addr()));
            let facts = PacketFacts { addresses, ..packet(TCP, "10.0.0.1", "10.0.0.2", port) };
            prop_assert_eq!(indexed.first_matches(&facts), snapshot.first_matches(&facts), "{:?}", facts);
        }
    }

    /// Against the plainest lookup there is.
    #[test]
    fn reputation_is_that_of_the_longest_prefix(
        entries in prop::collection::vec((network(), any::<bool>()), 0..40),
        many in any::<bool>(),
        address in network(),
    ) {
        let standing = |permit| if permit { Standing::Permit } else { Standing::Block };
        let mut entries: Vec<_> = entries.into_iter().map(|(one, permit)| (one, standing(permit))).collect();
        if many {
            // So many that they have an index: addresses of all sizes, none of them the first half's only one.
            let spread = |place: u32| IpAddr::V4(place.wrapping_mul(0x0001_ffff).into()).into();
            entries.extend((0..20_000).map(|place| (spread(place), standing(place % 3 == 0))));
        }
        let address = address.addr();
        let mut best: Option<(ipnet::IpNet, Standing)> = None;
        for (network, standing) in &entries {
            if network.contains(&address)
                && best.is_none_or(|(other, _)| network.prefix_len() > other.prefix_len())
            {
                best = Some((*network, *standing));
            }
        }
        prop_assert_eq!(Reputation::new(entries).of(address), best.map(|(_, standing)| standing));
    }

    /// What is asked once for both ways is what each way by itself would be told.
    #[test]
    fn a_flow_is_classified_as_its_packets_are(
        filters in prop::collection::vec((matching(), 0usize..3), 0..8),
        bypass in prop::collection::vec(matching(), 0..2),
        reputation in prop::collection::vec((network(), any::<bool>()), 0..6),
        (client, server) in (network(), network()),
        ports in (0u16..4, 0u16..4),
    ) {
        let mut snapshot = Snapshot::default();
        let actions = [TrafficAction::Allow, TrafficAction::Trust, TrafficAction::Block];
        let filter = |(matching, action): (Match, usize)| TrafficFilter {
            name: String::new(),
            matching,
            action: actions[action],
        };
        snapshot.precedence.traffic_filters = filters.into_iter().map(filter).collect();
        let rule = |matching| BypassRule { name: String::new(), matching };
        snapshot.precedence.inspection_bypass = bypass.into_iter().map(rule).collect();
        let standing = |permit| if permit { Standing::Permit } else { Standing::Block };
        let entries = reputation.into_iter().map(|(one, permit)| (one, standing(permit)));
        snapshot.precedence.reputation = Reputation::new(entries.collect());
        let flow = Candidate {
            segment: SegmentId(1),
            from: Side::A,
            vlan: None,
            client: (client.addr(), ports.0).into(),
            server: (server.addr(), ports.1).into(),
        };
        let both = flow.classify(&snapshot);
        prop_assert_eq!(both.client, evaluate(&snapshot, &flow.facts(), |_| false));
        prop_assert_eq!(both.server, evaluate(&snapshot, &flow.answer_facts(), |_| false));
    }

    /// What no rule matches is inspected, as an empty configuration has it.
    #[test]
    fn without_rules_everything_is_inspected(protocol: u8, port: u16, from: u32, to: u32) {
        let addresses = Some((IpAddr::V4(from.into()), IpAddr::V4(to.into())));
        let facts = PacketFacts { addresses, ..packet(protocol, "10.0.0.1", "10.0.0.2", port) };
        let expected = Classified {
            virtual_segment: None,
            traffic_filter: None,
            passage: Passage::Inspected,
            candidate: false,
        };
        prop_assert_eq!(evaluate(&Snapshot::default(), &facts, |_| true).passage, Passage::Blocked(BlockedBy::Quarantine));
        prop_assert_eq!(evaluate(&Snapshot::default(), &facts, |_| false), expected);
    }
}
