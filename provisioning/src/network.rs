//! `network-config`, version 2 (netplan's form), as far as a static management port needs it.

use std::net::IpAddr;

use ipnet::IpNet;
use weir_policy::located::{Node, Resolved};

use crate::Management;
use crate::reader::{File, Findings, Place};

const KNOWN: &[&str] = &["network", "version", "ethernets"];
const KNOWN_OF_PORT: &[&str] =
    &["addresses", "gateway4", "gateway6", "routes", "nameservers", "dhcp4", "dhcp6"];

/// The management port's network; `None` where the text gives it no address, or after an error.
pub(crate) fn network_config(file: &File<'_>, findings: &mut Findings) -> Option<Management> {
    let root = findings.tree(*file)?;
    let place = Place::root(file.name, &root);
    let (place, node) = match root.mapping()? {
        [only] if only.key == "network" => (place.key(&only.key, only.line), &only.value),
        _ => (place, &root),
    };
    let entries = findings.entries(&place, node);
    let mut version = None;
    let mut ethernets = None;
    for (place, entry) in entries {
        match entry.key.as_str() {
            "version" => version = Some((place, &entry.value)),
            "ethernets" => ethernets = Some((place, &entry.value)),
            _ => findings.unsupported(&place, KNOWN),
        }
    }
    match version {
        Some((_, node)) if is_two(node) => {}
        Some((place, _)) => {
            findings.error(&place, "is not supported; write version: 2 with ethernets");
            return None;
        }
        None if ethernets.is_none() && node.mapping().is_some_and(<[_]>::is_empty) => return None,
        None => {
            findings.error(&place, "lacks the key \"version\"; write version: 2");
            return None;
        }
    }
    let (place, node) = ethernets?;
    let mut ports = findings.entries(&place, node).into_iter();
    let (place, first) = ports.next()?;
    for (other, _) in ports {
        let message = format!(
            "is ignored: only the first entry, {}, is read, for the management port (the first \
             NIC); segment ports have no addresses",
            place.key
        );
        findings.warn(&other, message);
    }
    port(&place, &first.value, findings)
}

fn is_two(node: &Node) -> bool {
    node.scalar().is_some_and(|scalar| match scalar.resolve() {
        Resolved::Integer(version) => version == 2,
        Resolved::Text(version) => version == "2",
        _ => false,
    })
}

fn port(place: &Place, node: &Node, findings: &mut Findings) -> Option<Management> {
    let mut addresses = Vec::new();
    let mut gateways = Vec::<(Place, IpAddr)>::new();
    let mut name_servers = Vec::new();
    for (place, entry) in findings.entries(place, node) {
        let value = &entry.value;
        match entry.key.as_str() {
            "addresses" => addresses = interface_addresses(&place, value, findings),
            "gateway4" | "gateway6" => {
                let v4 = entry.key == "gateway4";
                if let Some(gateway) = address(&place, value, findings) {
                    if gateway.is_ipv4() == v4 {
                        gateways.push((place, gateway));
                    } else {
                        let family = if v4 { "an IPv4" } else { "an IPv6" };
                        findings
                            .error(&place, format!("is {gateway}; {family} address is expected"));
                    }
                }
            }
            "routes" => gateways.extend(default_routes(&place, value, findings)),
            "nameservers" => name_servers = servers(&place, value, findings),
            "dhcp4" | "dhcp6" => {
                if findings.boolean(&place, value) == Some(true) {
                    let message = "DHCP is not supported yet: the management port has the static \
                                   addresses only; give addresses";
                    findings.warn(&place, message);
                }
            }
            _ => findings.unsupported(&place, KNOWN_OF_PORT),
        }
    }
    let gateway = gateway(gateways, &addresses, findings);
    (!addresses.is_empty()).then_some(Management { addresses, gateway, name_servers })
}

fn interface_addresses(place: &Place, node: &Node, findings: &mut Findings) -> Vec<IpNet> {
    let mut addresses = Vec::new();
    for (place, item) in findings.items(place, node) {
        let Some(text) = findings.scalar(&place, item) else { continue };
        match text.parse::<IpNet>() {
            Ok(address) => addresses.push(address),
            Err(_) => findings.error(
                &place,
                "is not an address with its prefix; write it like 192.0.2.10/24 or 2001:db8::10/64",
            ),
        }
    }
    addresses
}

fn address(place: &Place, node: &Node, findings: &mut Findings) -> Option<IpAddr> {
    let text = findings.scalar(place, node)?;
    let address = text.parse().ok();
    if address.is_none() {
        findings.error(place, "is not an address; write it like 192.0.2.1, without a prefix");
    }
    address
}

fn default_routes(place: &Place, node: &Node, findings: &mut Findings) -> Vec<(Place, IpAddr)> {
    let mut gateways = Vec::new();
    for (place, item) in findings.items(place, node) {
        let mut default = false;
        let mut via = None;
        let mut others = Vec::new();
        for (place, entry) in findings.entries(&place, item) {
            match entry.key.as_str() {
                "to" => {
                    let to = findings.scalar(&place, &entry.value);
                    default = to
                        .is_some_and(|to| matches!(to.as_str(), "default" | "0.0.0.0/0" | "::/0"));
                }
                "via" => {
                    via = address(&place, &entry.value, findings).map(|address| (place, address));
                }
                _ => others.push(place),
            }
        }
        match (default, via) {
            (true, Some(via)) => {
                gateways.push(via);
                for other in others {
                    findings.unsupported(&other, &["to", "via"]);
                }
            }
            (true, None) => findings.error(&place, "lacks the key \"via\", the gateway's address"),
            (false, _) => findings.warn(
                &place,
                "is ignored: only a default route (to: default) is supported for the management \
                 port",
            ),
        }
    }
    gateways
}

fn servers(place: &Place, node: &Node, findings: &mut Findings) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for (place, entry) in findings.entries(place, node) {
        match entry.key.as_str() {
            "addresses" => {
                for (place, item) in findings.items(&place, &entry.value) {
                    servers.extend(address(&place, item, findings));
                }
            }
            _ => findings.unsupported(&place, &["addresses"]),
        }
    }
    servers
}

/// The first gateway; it must be reachable over one of the addresses.
fn gateway(
    gateways: Vec<(Place, IpAddr)>,
    addresses: &[IpNet],
    findings: &mut Findings,
) -> Option<IpAddr> {
    let mut gateways = gateways.into_iter();
    let (place, gateway) = gateways.next()?;
    for (other, _) in gateways {
        findings.warn(&other, format!("is ignored: one default gateway is supported, {gateway}"));
    }
    let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !addresses.is_empty() && !link_local && !addresses.iter().any(|net| net.contains(&gateway)) {
        let message = format!(
            "is {gateway}, which is in the network of none of the port's addresses; give a gateway \
             that is"
        );
        findings.error(&place, message);
    }
    Some(gateway)
}
