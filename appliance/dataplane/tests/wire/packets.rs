//! Packets made by hand, for what no kernel here sends: put together from the inside out.

use std::net::IpAddr;
use std::path::Path;

use super::Wire;

pub const CLIENT_TO_SERVER: [u8; 12] = [2, 0xbb, 0, 0, 0, 2, 2, 0xaa, 0, 0, 0, 1];
pub const SERVER_TO_CLIENT: [u8; 12] = [2, 0xaa, 0, 0, 0, 1, 2, 0xbb, 0, 0, 0, 2];

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2);
    let mut sum: u32 =
        words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 packet; `fragment` is the field of flags and offset.
pub fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8, fragment: u16, inside: &[u8]) -> Vec<u8> {
    ipv4_with_options(from, to, protocol, fragment, &[], inside)
}

pub fn ipv4_with_options(
    from: [u8; 4],
    to: [u8; 4],
    protocol: u8,
    fragment: u16,
    options: &[u8],
    inside: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut bytes = vec![0x40 | (header / 4) as u8, 0];
    bytes.extend(((header + inside.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(inside);
    bytes
}

pub fn ipv6(from: [u8; 16], to: [u8; 16], next: u8, inside: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((inside.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(inside);
    bytes
}

/// A TCP header without options and with no checksum.
pub fn tcp(ports: [u16; 2], sequence: u32, flags: u8) -> Vec<u8> {
    let mut bytes = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0x50, flags, 0x40, 0, 0, 0, 0, 0]);
    bytes
}

/// "Fragmentation needed" or "packet too big" about `packet`, from its receiver to its sender.
pub fn too_big(packet: &[u8], sender: IpAddr, receiver: IpAddr, mtu: u32) -> Vec<u8> {
    match (sender, receiver) {
        (IpAddr::V4(sender), IpAddr::V4(receiver)) => {
            let mut icmp = vec![3, 4, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend(packet);
            let sum = checksum(&icmp);
            icmp[2..4].copy_from_slice(&sum);
            ipv4(receiver.octets(), sender.octets(), 1, 0, &icmp)
        }
        (IpAddr::V6(sender), IpAddr::V6(receiver)) => {
            let mut icmp = vec![2, 0, 0, 0];
            icmp.extend(mtu.to_be_bytes());
            icmp.extend(packet);
            let mut pseudo = [receiver.octets(), sender.octets()].concat();
            pseudo.extend((icmp.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, 58]);
            let sum = checksum(&[pseudo, icmp.clone()].concat());
            icmp[2..4].copy_from_slice(&sum);
            ipv6(receiver.octets(), sender.octets(), 58, &icmp)
        }
        _ => panic!("of two families"),
    }
}

/// A frame of that Ethernet type.
pub fn frame(mac: [u8; 12], ether_type: u16, packet: &[u8]) -> Vec<u8> {
    [&mac[..], &ether_type.to_be_bytes(), packet].concat()
}

impl Wire {
    /// Sends frames out of an end's interface.
    pub fn send_frames(&self, namespace: &Path, frames: &[Vec<u8>]) {
        const SEND: &str = "import socket, sys\n\
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('e0', 0))\n\
            for frame in sys.argv[1:]: s.send(bytes.fromhex(frame))\n";
        let hex = |frame: &Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let frames: Vec<String> = frames.iter().map(hex).collect();
        let arguments: Vec<&str> = frames.iter().map(String::as_str).collect();
        self.python(namespace, SEND, &arguments);
    }
}
