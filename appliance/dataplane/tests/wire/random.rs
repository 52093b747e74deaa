//! Random rules, and random packets with what they are.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use ipnet::IpNet;
use weir_policy::Snapshot;
use weir_policy::precedence::{
    BypassRule, ICMP, ICMPV6, Match, PacketFacts, QUIC_PORT, Reputation, Standing, TCP,
    TrafficAction, TrafficFilter, UDP,
};
use weir_policy::snapshot::{
    ClientPolicy, Layer2Fallback, PortRange, Profile, QuicAction, SegmentId, ServerPolicy,
    ServerProxy, Side, VirtualSegment,
};

use super::engine::{server_proxy, snapshot};

/// Numbers that are the same for the same seed (a linear congruential generator).
pub struct Random(u64);

/// Another one in every run, unless `WEIR_TEST_SEED` says which.
pub fn seed() -> u64 {
    let said = std::env::var("WEIR_TEST_SEED").ok();
    let seed = said.map(|seed| seed.parse().expect("WEIR_TEST_SEED is a number"));
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("WEIR_TEST_SEED={seed}");
    seed
}

impl Random {
    /// Seeds next to one another would begin with almost the same numbers (splitmix64).
    pub fn seeded(seed: u64, round: u64) -> Self {
        let mut mixed = seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn of<T: Clone>(&mut self, pool: &[T]) -> T {
        pool[self.below(pool.len())].clone()
    }

    /// Mostly empty, for rules that match something.
    pub fn list<T: Clone>(&mut self, pool: &[T]) -> Vec<T> {
        if !self.one_in(3) {
            return vec![];
        }
        (0..=self.below(3)).map(|_| self.of(pool)).collect()
    }
}

pub const SEGMENTS: &[SegmentId] = &[SegmentId(1), SegmentId(2), SegmentId(3), SegmentId(63)];
pub const SIDES: &[Side] = &[Side::A, Side::B];
pub const ETHER_TYPES: &[u16] = &[0x0800, 0x86dd, 0x0806, 0x88cc, 0xffff];
pub const VLANS: &[u16] = &[1, 7, 100, 4094];
pub const PROTOCOLS: &[u8] = &[ICMP, TCP, UDP, ICMPV6, 50, 89, 255];
pub const PORTS: &[u16] = &[1, 22, 80, 443, 444, 8443, 65534, 65535];
pub const ICMP_TYPES: &[u8] = &[0, 3, 8, 128, 255];

pub fn address(random: &mut Random) -> IpAddr {
    let low = random.of(&[0u8, 1, 2, 127, 128, 255]);
    let high = random.of(&[0u8, 1, 128]);
    if random.one_in(2) {
        IpAddr::from([random.of(&[10, 10, 192]), high, random.of(&[0, 1]), low])
    } else {
        let mut octets = [0u8; 16];
        octets[0] = random.of(&[0x20, 0x20, 0xfd]);
        octets[1] = random.of(&[1, 2]);
        octets[7] = high;
        octets[15] = low;
        IpAddr::from(octets)
    }
}

pub fn network(random: &mut Random) -> IpNet {
    let address = address(random);
    let length = if address.is_ipv4() {
        random.of(&[0u8, 1, 8, 9, 16, 24, 25, 31, 32])
    } else {
        random.of(&[0u8, 1, 8, 16, 60, 64, 120, 127, 128])
    };
    IpNet::new(address, length).unwrap().trunc()
}

pub fn networks(random: &mut Random) -> Vec<IpNet> {
    if !random.one_in(2) {
        return vec![];
    }
    (0..=random.below(4)).map(|_| network(random)).collect()
}

pub fn range(random: &mut Random) -> PortRange {
    let (one, other) = (random.of(PORTS), random.of(PORTS));
    PortRange { first: one.min(other), last: one.max(other) }
}

pub fn ranges(random: &mut Random) -> Vec<PortRange> {
    if !random.one_in(3) {
        return vec![];
    }
    (0..=random.below(3)).map(|_| range(random)).collect()
}

pub fn matching(random: &mut Random) -> Match {
    Match {
        segments: random.list(SEGMENTS),
        from: random.one_in(4).then(|| random.of(SIDES)),
        ether_types: random.list(ETHER_TYPES),
        vlans: random.list(VLANS),
        protocols: random.list(PROTOCOLS),
        sources: networks(random),
        destinations: networks(random),
        source_ports: ranges(random),
        destination_ports: ranges(random),
        icmp_types: if random.one_in(4) { random.list(ICMP_TYPES) } else { vec![] },
    }
}

pub fn rules(random: &mut Random) -> Snapshot {
    let mut rules = snapshot(Layer2Fallback::PermitAll);
    let template = rules.client_proxies.remove(0);
    let many = random.of(&[1, 4, 70]);
    let proxies = 1 + random.below(3);
    for _ in 0..proxies {
        let mut proxy = template.clone();
        proxy.detection_ports = vec![range(random)];
        rules.client_proxies.push(proxy);
        rules.server_proxies.push(ServerProxy {
            destinations: vec![network(random), network(random)],
            detection_ports: vec![range(random)],
            ..server_proxy()
        });
    }
    rules.profiles = (0..1 + random.below(4))
        .map(|index| Profile {
            name: format!("profile {index}"),
            server_policies: (0..random.below(3))
                .map(|_| ServerPolicy {
                    name: "server".into(),
                    server_proxy: random.below(proxies),
                    source_exceptions: vec![],
                })
                .collect(),
            client_policies: (0..random.below(3))
                .map(|_| ClientPolicy {
                    name: "client".into(),
                    client_proxy: random.below(proxies),
                    decryption_policy: None,
                    trust_store: 0,
                    source_exceptions: networks(random),
                    quic: random.of(&[QuicAction::Block, QuicAction::Bypass]),
                })
                .collect(),
            filters: vec![],
        })
        .collect();
    rules.virtual_segments = (0..random.below(many * 2))
        .map(|index| VirtualSegment {
            name: format!("virtual segment {index}"),
            segments: random.list(SEGMENTS),
            from: random.one_in(4).then(|| random.of(SIDES)),
            vlans: random.list(VLANS),
            sources: networks(random),
            destinations: networks(random),
            profile: random.below(rules.profiles.len()),
        })
        .collect();
    let names = |what: &str, index| format!("{what} {index}");
    rules.precedence.inspection_bypass = (0..random.below(many))
        .map(|index| BypassRule {
            name: names("bypass", index),
            matching: Match { protocols: vec![random.of(PROTOCOLS)], ..matching(random) },
        })
        .collect();
    rules.precedence.traffic_filters = (0..random.below(many))
        .map(|index| TrafficFilter {
            name: names("filter", index),
            matching: matching(random),
            action: random.of(&[
                TrafficAction::Block,
                TrafficAction::Allow,
                TrafficAction::Trust,
                TrafficAction::RateLimit { bits_per_second: 1_000_000 },
            ]),
        })
        .collect();
    let standings = [Standing::Block, Standing::Permit];
    let entries = (0..random.below(many)).map(|_| (network(random), random.of(&standings)));
    rules.precedence.reputation = Reputation::new(entries.collect());
    rules.device.client_inspection = !random.one_in(5);
    rules.device.server_inspection = !random.one_in(5);
    rules
}

/// A frame, what it is, and what is around it. In a tunnel it is what is inside.
pub fn packet(random: &mut Random) -> (Vec<u8>, PacketFacts, &'static str) {
    let (source, mut destination) = (address(random), address(random));
    while destination.is_ipv4() != source.is_ipv4() {
        destination = address(random);
    }
    let mut facts = PacketFacts {
        segment: random.of(SEGMENTS),
        from: random.of(SIDES),
        ether_type: if source.is_ipv4() { 0x0800 } else { 0x86dd },
        vlan: random.one_in(3).then(|| random.of(VLANS)),
        protocol: random.of(PROTOCOLS),
        addresses: Some((source, destination)),
        source_port: 0,
        destination_port: 0,
        icmp_type: None,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let mut around = "nothing";
    if let Some(vlan) = facts.vlan {
        frame.extend([0x81, 0]);
        frame.extend((vlan | 0x6000).to_be_bytes());
        if random.one_in(4) {
            around = "two tags";
            frame.extend([0x81, 0, 0x20, 7]);
        }
    }
    if random.one_in(8) {
        facts.ether_type = random.of(&[0x0806, 0x88cc, 0xffff]);
        (facts.addresses, facts.protocol) = (None, 0);
        frame.extend(facts.ether_type.to_be_bytes());
        frame.extend([0; 46]);
        return (frame, facts, around);
    }
    frame.extend(facts.ether_type.to_be_bytes());
    let packet = frame.len();
    let mut inside = vec![0u8; 20];
    let fragment = random.one_in(4);
    let later = fragment && random.one_in(2);
    let mut ports = [random.of(PORTS), random.of(PORTS)];
    // What few rule sets have something to say of.
    if random.one_in(3) {
        (facts.protocol, ports[1]) = (UDP, QUIC_PORT);
    }
    if matches!(facts.protocol, TCP | UDP) {
        inside[..2].copy_from_slice(&ports[0].to_be_bytes());
        inside[2..4].copy_from_slice(&ports[1].to_be_bytes());
        inside[12] = 5 << 4;
        inside[13] = random.of(&[2, 16, 18]);
        if !later {
            [facts.source_port, facts.destination_port] = ports;
        }
    }
    let icmp = if source.is_ipv4() { ICMP } else { ICMPV6 };
    if facts.protocol == icmp {
        inside[0] = random.of(ICMP_TYPES);
        facts.icmp_type = (!later).then_some(inside[0]);
    }
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let flags: u16 = match (fragment, later) {
                (false, _) => 0x4000,
                (true, false) => 0x2000,
                (true, true) => random.of(&[0x0010, 0x2010]),
            };
            frame.extend([0x45, 0, 0, 40, 0, 1]);
            frame.extend(flags.to_be_bytes());
            frame.extend([64, facts.protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extension = random.one_in(4);
            let length = 20 + if fragment { 8 } else { 0 } + if extension { 8 } else { 0 };
            let mut next = vec![];
            if extension {
                next.push(60u8);
            }
            if fragment {
                next.push(44);
            }
            next.push(facts.protocol);
            frame.extend([0x60, 0, 0, 0, 0, length, next[0], 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            for pair in next.windows(2) {
                let offset = match (pair[0], later) {
                    (44, false) => random.of(&[0u8, 1]),
                    (44, true) => random.of(&[0x10, 0x11]),
                    _ => 0,
                };
                frame.extend([pair[1], 0, 0, offset, 0, 0, 0, 0]);
            }
        }
        _ => unreachable!("of one family"),
    }
    frame.extend(inside);
    if source.is_ipv4() && !matches!(facts.protocol, IPIP | GRE) && random.one_in(4) {
        let (name, protocol, gre) = random.of(TUNNELS);
        around = name;
        let inner = frame.split_off(packet);
        let length = (20 + gre.len() + inner.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([192, 0, 2, 7, 192, 0, 2, 201]);
        frame.extend(gre);
        frame.extend(inner);
    }
    (frame, facts, around)
}

pub const IPIP: u8 = 4;
pub const GRE: u8 = 47;
/// Name, protocol of the outer header, and what follows that.
pub const TUNNELS: &[(&str, u8, &[u8])] = &[
    ("IPIP", IPIP, &[]),
    ("GRE", GRE, &[0, 0, 8, 0]),
    ("GRE with key", GRE, &[0x20, 0, 8, 0, 0, 0, 0, 77]),
];

/// Cuts a frame off, or puts something else in some of its bytes.
pub fn spoil(frame: &mut Vec<u8>, random: &mut Random) {
    // What fields of headers may be, and lengths.
    const BYTES: &[u8] = &[
        0, 1, 4, 5, 6, 8, 17, 20, 40, 43, 44, 47, 58, 60, 0x0f, 0x20, 0x45, 0x46, 0x4f, 0x60, 0x81,
        0x86, 0x88, 0xa8, 0xdd, 0xff,
    ];
    if random.one_in(2) {
        // As short as the kernel takes for a test.
        let least = 15;
        frame.truncate(least + random.below(frame.len() - least + 1));
    } else if random.one_in(3) {
        frame.resize(frame.len() + random.below(64), 0xaa);
    }
    for _ in 0..random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        frame[at] = if random.one_in(4) { random.below(256) as u8 } else { random.of(BYTES) };
    }
}
