//! A packet in one line, for the console.

use std::net::SocketAddr;

use crate::packet::{ICMP, ICMP6, Packet, TCP, UDP, Way};

/// `12:34:56.123456 1A in  10.0.0.1:5000 > 10.0.0.2:443 TCP S, 0 bytes (74)`; UTC.
pub fn line(port: &str, time: u64, packet: &Packet) -> String {
    let (seconds, microseconds) = (time / 1_000_000_000, time / 1000 % 1_000_000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let way = match packet.way {
        Way::In => "in ",
        Way::Out => "out",
    };
    let mut text = format!("{hour:02}:{minute:02}:{second:02}.{microseconds:06} {port} {way} ");
    for vlan in packet.vlans.iter().flatten() {
        text += &format!("vlan {vlan} ");
    }
    text + &what(packet) + &format!(" ({})", packet.length)
}

fn what(packet: &Packet) -> String {
    if let Some((sender, target)) = packet.arp {
        return format!("{sender} > {target} ARP");
    }
    let Some(layer) = packet.innermost() else {
        return format!("Ethernet type {:#06x}", packet.ether_type);
    };
    let (from, to) = (layer.source, layer.destination);
    let ends = match packet.ports {
        Some((source, destination)) => {
            format!("{} > {}", SocketAddr::new(from, source), SocketAddr::new(to, destination))
        }
        None => format!("{from} > {to}"),
    };
    match (layer.protocol, packet.tcp) {
        (TCP, Some((sequence, flags, payload))) => {
            format!("{ends} TCP {} seq {sequence}, {payload} bytes", letters(flags))
        }
        (TCP, None) => format!("{ends} TCP fragment"),
        (UDP, _) => format!("{ends} UDP"),
        (ICMP | ICMP6, _) => format!("{ends} ICMP"),
        (protocol, _) => format!("{ends} protocol {protocol}"),
    }
}

/// As tcpdump has them: `S.` is SYN and ACK.
fn letters(flags: u8) -> String {
    let set: String =
        [(1, 'F'), (2, 'S'), (4, 'R'), (8, 'P'), (16, '.'), (32, 'U'), (64, 'E'), (128, 'W')]
            .into_iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, letter)| letter)
            .collect();
    if set.is_empty() { "none".into() } else { set }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{ethernet, ip4, tcp};

    #[test]
    fn a_packet_is_told_in_a_line() {
        let frame = ethernet(&[0x8100, 100, 0x0800], &ip4(TCP, &tcp(0x12, 3)));
        let packet = Packet::parse(&frame, frame.len(), Way::Out);
        let time = (3600 * 25 + 61) * 1_000_000_000 + 7_000;
        assert_eq!(
            line("1A", time, &packet),
            "01:01:01.000007 1A out vlan 100 10.0.0.1:5000 > 10.0.0.2:443 TCP S. seq 9, 3 bytes (61)"
        );
        let lldp = ethernet(&[0x88cc], &[0; 46]);
        let shown = line("1B", 0, &Packet::parse(&lldp, 60, Way::In));
        assert_eq!(shown, "00:00:00.000000 1B in  Ethernet type 0x88cc (60)");
    }
}
