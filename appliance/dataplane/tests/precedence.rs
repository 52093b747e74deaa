//! The eBPF tables against their definition: random rules, random packets, one answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use weir_dataplane::Attach;
use weir_policy::precedence::{ICMP, ICMPV6, Passage, evaluate};
use wire::Wire;
use wire::random::{Random, address, packet, rules, seed, spoil};

#[test]
fn tables_and_definition_agree_on_random_packets() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let seed = seed();
    for round in 0..200 {
        let random = &mut Random::seeded(seed, round);
        let rules = rules(random);
        engine.dataplane.apply(&rules).unwrap();
        for (host, _) in engine.dataplane.quarantined() {
            engine.dataplane.release_host(host).unwrap();
        }
        let hosts: Vec<_> = (0..random.below(4)).map(|_| address(random)).collect();
        for host in &hosts {
            engine.dataplane.quarantine(*host, None).unwrap();
        }
        for number in 0..100 {
            let (frame, facts, around) = packet(random);
            assert_eq!(wire::facts::facts(&frame, facts.segment, facts.from), facts, "{frame:x?}");
            let expected = evaluate(&rules, &facts, |host| hosts.contains(&host));
            *seen.entry(format!("{:?} {}", expected.passage, expected.candidate)).or_default() += 1;
            *seen.entry(around.to_owned()).or_default() += 1;
            // Found, then remembered.
            for _ in 0..2 {
                let found = engine.dataplane.explain(&frame, facts.segment, facts.from).unwrap();
                assert_eq!(found, expected, "round {round} packet {number}: {facts:?}\n{rules:#?}");
            }
            // A frame made of the facts is one that has them, unless they are a fragment's.
            let outer = matches!(facts.protocol, 0 | 47 | 50 | 51);
            // Nor does one have an ICMP type of the other family.
            let whole = !matches!(facts.protocol, ICMP | ICMPV6) || facts.icmp_type.is_some();
            if facts.addresses.is_some() && !outer && whole {
                let found = engine.dataplane.explain_packet(&facts).unwrap();
                assert_eq!(found, expected, "made of {facts:?}");
            }
        }
    }
    // Nothing is agreed on by never happening.
    for wanted in [
        "Inspected true",
        "Inspected false",
        "Trusted true",
        "Blocked(TrafficFilter) false",
        "Blocked(Reputation) false",
        "Blocked(Quarantine) false",
        "Blocked(Quic) false",
        "Bypassed(0) false",
        "two tags",
        "IPIP",
        "GRE",
        "GRE with key",
    ] {
        assert!(seen.get(wanted).is_some_and(|count| *count >= 10), "{wanted}: {seen:?}");
    }
}

#[test]
fn tables_and_definition_agree_on_malformed_packets() {
    let wire = Wire::new();
    let (engine, _held) = wire.engine(Attach::Auto);
    let seed = seed();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for round in 0..100 {
        let random = &mut Random::seeded(seed, round);
        let rules = rules(random);
        engine.dataplane.apply(&rules).unwrap();
        for number in 0..400 {
            let (mut frame, whole, _) = packet(random);
            spoil(&mut frame, random);
            // The kernel takes none shorter for a test of a program.
            let least = match frame[12..14] {
                [0x08, 0] => 14 + 20,
                [0x86, 0xdd] => 14 + 40,
                _ => 15,
            };
            frame.resize(frame.len().max(least), 0);
            let facts = wire::facts::facts(&frame, whole.segment, whole.from);
            let expected = evaluate(&rules, &facts, |_| false);
            for (what, is_it) in [
                ("as before", facts == whole),
                ("no addresses", whole.addresses.is_some() && facts.addresses.is_none()),
                ("no ports", whole.source_port != 0 && facts.source_port == 0),
                ("another protocol", facts.protocol != 0 && whole.protocol != facts.protocol),
                ("no ICMP type", whole.icmp_type.is_some() && facts.icmp_type.is_none()),
                ("another VLAN", facts.vlan != whole.vlan),
                ("blocked", matches!(expected.passage, Passage::Blocked(_))),
            ] {
                *seen.entry(what).or_default() += usize::from(is_it);
            }
            for _ in 0..2 {
                let found = engine.dataplane.explain(&frame, facts.segment, facts.from).unwrap();
                assert_eq!(
                    found, expected,
                    "round {round} packet {number}: {facts:?}\n{frame:02x?}\n{rules:#?}"
                );
            }
        }
    }
    assert!(seen.values().all(|count| *count >= 10), "{seen:?}");
}
