//! Requests about what precedes TLS inspection, from their lines.

use std::net::IpAddr;
use std::str::FromStr;

use weir_api::console::Request;
use weir_api::rules::ExplainedPacket;
use weir_policy::precedence::{ICMP, ICMPV6, TCP, UDP};
use weir_policy::snapshot::{SegmentId, Side};

use crate::grammar::{Command, Line};

/// Where the line names none: HTTPS.
const PORT: u16 = 443;
/// The first port that nobody registers (RFC 6335, section 6).
const SOURCE_PORT: u16 = 49152;

/// `None` for lines of other commands: the grammar has read every argument as what it is.
pub fn request(line: &Line) -> Option<Request> {
    Some(match line.command {
        Command::Quarantine => Request::Quarantine {
            host: argument(line, "quarantine")?,
            minutes: argument(line, "minutes"),
        },
        Command::ReleaseHost => Request::ReleaseHost(argument(line, "release")?),
        Command::ShowQuarantine => Request::ShowQuarantine,
        Command::ShowRules if line.has("inspection-bypass") => Request::InspectionBypass,
        Command::ShowRules => Request::TrafficFilters,
        Command::ShowReputation => Request::Reputation { address: argument(line, "reputation") },
        Command::Explain => Request::Explain(Box::new(packet(line)?)),
        _ => return None,
    })
}

fn argument<T: FromStr>(line: &Line, keyword: &str) -> Option<T> {
    line.argument(keyword)?.parse().ok()
}

fn packet(line: &Line) -> Option<ExplainedPacket> {
    let (source, destination): (IpAddr, IpAddr) = (argument(line, "from")?, argument(line, "to")?);
    let named = [("tcp", TCP), ("udp", UDP), ("icmp", ICMP), ("icmpv6", ICMPV6)];
    let named = named.into_iter().find(|(name, _)| line.has(name)).map(|(_, number)| number);
    let protocol = named.or_else(|| argument(line, "protocol")).unwrap_or(TCP);
    let port = match protocol {
        TCP => Some(PORT),
        _ => None,
    };
    let port_or_number = line.argument("segment")?;
    let segment = port_or_number.trim_end_matches(['A', 'B', 'a', 'b']);
    let by_b = port_or_number.ends_with(['B', 'b']);
    // What the line says of its own stands before what the port implies.
    let from_b = line.has("b-to-a") || by_b && !line.has("a-to-b");
    let source_port = matches!(protocol, TCP | UDP).then_some(SOURCE_PORT);
    Some(ExplainedPacket {
        segment: SegmentId(segment.parse().ok()?),
        side: if from_b { Side::B } else { Side::A },
        vlan: argument(line, "vlan"),
        source,
        destination,
        protocol,
        source_port: argument(line, "source-port").or(source_port).unwrap_or_default(),
        destination_port: argument(line, "port").or(port).unwrap_or_default(),
        icmp_type: argument(line, "icmp-type"),
        server_name: line.argument("server-name").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::parse;

    fn asked(line: &str) -> Request {
        request(&parse(line).unwrap().unwrap()).unwrap()
    }

    fn explained(more: &str) -> ExplainedPacket {
        match asked(&format!("debug explain segment 2 from 192.0.2.1 to 192.0.2.2{more}")) {
            Request::Explain(packet) => *packet,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_packet_that_is_told_by_its_addresses_begins_an_https_session_from_side_a() {
        let packet = explained("");
        assert_eq!((packet.segment, packet.side), (SegmentId(2), Side::A));
        assert_eq!((packet.protocol, packet.destination_port), (TCP, 443));
        assert_eq!((packet.source_port, packet.vlan, packet.icmp_type), (SOURCE_PORT, None, None));
    }

    #[test]
    fn a_port_is_its_segment_and_the_side() {
        for (more, side) in [("2A", Side::A), ("2b", Side::B), ("2B direction a-to-b", Side::A)] {
            let (port, more) = more.split_at(2);
            let line = format!("debug explain segment {port} from 192.0.2.1 to 192.0.2.2{more}");
            let Request::Explain(packet) = asked(&line) else { panic!() };
            assert_eq!((packet.segment, packet.side), (SegmentId(2), side), "{line}");
        }
        assert!(parse("debug explain segment 64A from 192.0.2.1 to 192.0.2.2").is_err());
    }

    #[test]
    fn options_say_otherwise() {
        let packet = explained(" protocol udp port 53 vlan 9 direction b-to-a source-port 7");
        assert_eq!((packet.protocol, packet.destination_port, packet.source_port), (UDP, 53, 7));
        assert_eq!((packet.vlan, packet.side), (Some(9), Side::B));
        let packet = explained(" protocol icmp icmp-type 8");
        assert_eq!((packet.protocol, packet.icmp_type), (ICMP, Some(8)));
        assert_eq!((packet.source_port, packet.destination_port), (0, 0));
        assert_eq!(explained(" protocol 89").protocol, 89);
        assert_eq!(explained(" server-name a.example").server_name.as_deref(), Some("a.example"));
    }

    #[test]
    fn lists_are_told_apart_by_their_keyword() {
        assert!(matches!(asked("show inspection-bypass"), Request::InspectionBypass));
        assert!(matches!(asked("show traffic-filters json"), Request::TrafficFilters));
        assert!(matches!(asked("show reputation"), Request::Reputation { address: None }));
        assert!(matches!(asked("show reputation ::1"), Request::Reputation { address: Some(_) }));
    }
}
