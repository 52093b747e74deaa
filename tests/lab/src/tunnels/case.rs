//! The encapsulations that are tried, as the commands that make their interfaces on either side.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which end of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What lies between the wire and the addresses that talk, the outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// 802.1Q: number and priority (PCP) of what either end sends.
    Vlan { id: u16, priority: u8 },
    /// GRE (RFC 2784); keys (RFC 2890) of what the client and the server send.
    Gre { keys: Option<[u32; 2]>, checksums: bool },
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
}

/// A case: one conversation that is inspected and one that is not.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub layers: &'static [Layer],
    /// Part of the addresses: a network of its own for each case.
    pub number: u8,
    pub version: Version,
    /// MTU of the innermost interface at client and server.
    pub mtu: [u32; 2],
    /// Whether Weir understands the encapsulation; else it passes uninspected.
    pub understood: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

/// TTL of the tunnels' outer headers, which is neither the kernel's default nor Weir's.
pub const OUTER_TTL: u8 = 61;
/// MTU of the wire's own interfaces.
pub const WIRE_MTU: u32 = 9000;

const VLAN: Layer = Layer::Vlan { id: 100, priority: 3 };
const GRE: Layer = Layer::Gre { keys: None, checksums: false };
const GRE_KEY: Layer = Layer::Gre { keys: Some([77, 77]), checksums: false };
const GRE_KEYS: Layer = Layer::Gre { keys: Some([1234, 5678]), checksums: false };
const GRE_CHECKSUMS: Layer = Layer::Gre { keys: None, checksums: true };

const fn case(
    number: u8,
    name: &'static str,
    layers: &'static [Layer],
    version: Version,
    mtu: [u32; 2],
    understood: bool,
) -> Case {
    Case { name, layers, number, version, mtu, understood }
}

use Version::{V4, V6};

pub const CASES: [Case; 18] = [
    case(1, "plain", &[], V4, [1500, 1500], true),
    case(2, "plain-9000", &[], V4, [9000, 9000], true),
    case(3, "plain-1280-9000", &[], V4, [1280, 9000], true),
    case(4, "vlan", &[VLAN], V4, [1500, 1500], true),
    case(5, "ipip", &[Layer::Ipip], V4, [1480, 1480], true),
    case(6, "gre", &[GRE], V4, [1476, 1476], true),
    case(7, "gre-key", &[GRE_KEY], V4, [1472, 1472], true),
    case(8, "gre-two-keys", &[GRE_KEYS], V4, [1472, 1472], true),
    case(9, "gre-1280-8972", &[GRE_KEY], V4, [1280, 8972], true),
    case(10, "gre-8972-1400", &[GRE_KEY], V4, [8972, 1400], true),
    case(11, "gre-in-vlan", &[VLAN, GRE_KEYS], V4, [1472, 1472], true),
    case(12, "ipip-in-vlan", &[VLAN, Layer::Ipip], V4, [1480, 1480], true),
    case(13, "ipv6", &[], V6, [1500, 1500], true),
    case(14, "ipv6-9000-1280", &[], V6, [9000, 1280], true),
    case(15, "ipv6-in-vlan", &[VLAN], V6, [1500, 1500], true),
    case(16, "gre-checksums", &[GRE_CHECKSUMS], V4, [1472, 1472], false),
    case(
        17,
        "vlan-in-vlan",
        &[VLAN, Layer::Vlan { id: 200, priority: 1 }],
        V4,
        [1500, 1500],
        false,
    ),
    case(18, "ipip-in-gre", &[GRE_KEY, Layer::Ipip], V4, [1440, 1440], false),
];

impl Case {
    pub fn named(name: &str) -> Option<&'static Self> {
        CASES.iter().find(|case| case.name == name)
    }

    /// The address that talks.
    pub fn address(&self, side: Side) -> IpAddr {
        let host = if side == Side::Client { 1 } else { 2 };
        match self.version {
            V4 => Ipv4Addr::new(10, 70, self.number, host).into(),
            V6 => Ipv6Addr::new(0xfd70, 0, 0, self.number.into(), 0, 0, 0, host.into()).into(),
        }
    }

    /// The address a tunnel that is the `depth`th layer begins or ends at.
    pub fn outer(&self, depth: usize, side: Side) -> Ipv4Addr {
        let host = if side == Side::Client { 1 } else { 2 };
        Ipv4Addr::new(192, 168, self.number, u8::try_from(depth * 4).unwrap_or(0) + host)
    }

    /// Commands for ip(8) that make the side's interfaces above `wire`.
    pub fn up(&self, side: Side) -> Vec<String> {
        let (mine, theirs) = match side {
            Side::Client => (0, 1),
            Side::Server => (1, 0),
        };
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        let mut below = "wire".to_owned();
        let mut commands = vec![format!("link set wire mtu {WIRE_MTU}")];
        for (depth, layer) in self.layers.iter().enumerate() {
            let interface = interface(depth);
            let outer = format!(
                "local {} remote {} ttl {OUTER_TTL}",
                self.outer(depth, side),
                self.outer(depth, other)
            );
            if !matches!(layer, Layer::Vlan { .. }) {
                commands.push(format!("address add {}/30 dev {below}", self.outer(depth, side)));
            }
            commands.push(match layer {
                Layer::Vlan { id, priority } => format!(
                    "link add link {below} name {interface} type vlan id {id} \
                     egress-qos-map 0:{priority}"
                ),
                Layer::Gre { keys, checksums } => {
                    let keys = keys.map_or(String::new(), |keys| {
                        format!(" okey {} ikey {}", keys[mine], keys[theirs])
                    });
                    let checksums = if *checksums { " csum" } else { "" };
                    format!("link add {interface} type gre {outer}{keys}{checksums}")
                }
                Layer::Ipip => format!("link add {interface} type ipip {outer}"),
            });
            commands.push(format!("link set {interface} up"));
            below = interface;
        }
        commands.push(format!("link set {below} mtu {}", self.mtu[mine]));
        let address = self.address(side);
        let prefix = if address.is_ipv4() { "24" } else { "64 nodad" };
        commands.push(format!("address add {address}/{prefix} dev {below}"));
        commands
    }

    /// Commands that remove what [`Case::up`] made.
    pub fn down(&self) -> Vec<String> {
        let made = (0..self.layers.len()).rev();
        let mut commands: Vec<String> =
            made.map(|depth| format!("link del {}", interface(depth))).collect();
        commands.push("address flush dev wire scope global".into());
        commands
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn interface(depth: usize) -> String {
    format!("layer{depth}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_its_own_name_and_number() {
        let names: BTreeSet<&str> = CASES.iter().map(|case| case.name).collect();
        let numbers: BTreeSet<u8> = CASES.iter().map(|case| case.number).collect();
        assert_eq!([names.len(), numbers.len()], [CASES.len(); 2]);
    }

    #[test]
    fn keys_of_the_two_directions_cross() {
        let case = Case::named("gre-in-vlan").unwrap();
        let tunnel =
            |side| case.up(side).into_iter().find(|line| line.contains(" type gre ")).unwrap();
        assert_eq!(
            tunnel(Side::Client),
            "link add layer1 type gre local 192.168.11.5 remote 192.168.11.6 ttl 61 okey 1234 \
             ikey 5678"
        );
        assert!(tunnel(Side::Server).ends_with("okey 5678 ikey 1234"));
    }
}
