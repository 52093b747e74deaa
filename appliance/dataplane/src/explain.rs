//! What the rules say of a frame: the data plane's own answer, from the tables in force.
//!
//! For: operators who ask why, and the test that holds the tables against their definition. The
//! programs' counters count a frame that is asked about as they count one that crosses; no rate
//! limit is charged. Fails with the system call's error.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use weir_policy::precedence::{
    BlockedBy, Classified, ICMP, ICMPV6, PacketFacts, Passage, TCP, UDP,
};
use weir_policy::snapshot::{SegmentId, Side};

use crate::checksum::complete_ipv4;
use crate::test_run::{Context, test_run};

/// Handle on the program.
#[derive(Debug)]
pub struct Explain(OwnedFd);

impl Explain {
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }

    /// `frame`: from its Ethernet header, tags inside.
    pub fn of(&self, frame: &[u8], segment: SegmentId, side: Side) -> io::Result<Classified> {
        let mut context = Context::default();
        context.cb[0] = segment.0.into();
        context.cb[1] = u32::from(side == Side::B);
        let answer = test_run(&self.0, frame, Some(&mut context))?;
        if answer != 0 {
            return Err(io::Error::other("the program has no answer"));
        }
        let [virtual_segment, rule, passage, candidate, _limited] = context.cb;
        let index = |number: u32| usize::try_from(number).ok()?.checked_sub(1);
        let bypass = index(rule).filter(|_| passage == 1);
        Ok(Classified {
            virtual_segment: index(virtual_segment),
            traffic_filter: index(rule).filter(|_| passage != 1),
            passage: match (passage, bypass) {
                (_, Some(rule)) => Passage::Bypassed(rule),
                (2, _) => Passage::Trusted,
                (3, _) => Passage::Blocked(BlockedBy::TrafficFilter),
                (4, _) => Passage::Blocked(BlockedBy::Reputation),
                (5, _) => Passage::Blocked(BlockedBy::Quarantine),
                (6, _) => Passage::Blocked(BlockedBy::Quic),
                _ => Passage::Inspected,
            },
            candidate: candidate != 0,
        })
    }
}

/// A frame that has these facts, as short as can be: a SYN where it is TCP, an echo or whatever the
/// type says where it is ICMP.
pub fn frame_of(facts: &PacketFacts) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if let Some(vlan) = facts.vlan {
        frame.extend(0x8100u16.to_be_bytes());
        frame.extend((vlan & 0xfff).to_be_bytes());
    }
    frame.extend(facts.ether_type.to_be_bytes());
    let inside = payload(facts);
    let length = |headers: usize| u16::try_from(headers + inside.len()).unwrap_or(u16::MAX);
    match facts.addresses.map(|(from, to)| (from.to_canonical(), to.to_canonical())) {
        Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
            let header = frame.len();
            frame.extend([0x45, 0]);
            frame.extend(length(20).to_be_bytes());
            frame.extend([0, 1, 0x40, 0, 64, facts.protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            complete_ipv4(&mut frame, header, 20);
        }
        Some((IpAddr::V6(source), IpAddr::V6(destination))) => {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length(0).to_be_bytes());
            frame.extend([facts.protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        // No packet has addresses of two families.
        Some(_) | None => {}
    }
    frame.extend(inside);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The header that follows IP's.
fn payload(facts: &PacketFacts) -> Vec<u8> {
    let ports = [facts.source_port.to_be_bytes(), facts.destination_port.to_be_bytes()].concat();
    match facts.protocol {
        TCP => {
            const SYN: u8 = 0x02;
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0];
            [ports.as_slice(), &rest].concat()
        }
        UDP => [ports.as_slice(), &[0, 8, 0, 0]].concat(),
        ICMP | ICMPV6 => vec![facts.icmp_type.unwrap_or_default(), 0, 0, 0, 0, 0, 0, 0],
        _ => vec![0; 20],
    }
}
