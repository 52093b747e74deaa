//! Single values of the document, read into types that hold only what is valid.

mod packet;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use zeroize::Zeroizing;

use crate::error::shown;
use crate::snapshot::{DomainPattern, PortRange};
use crate::suites::Protocol;

pub(crate) use packet::{ETHER_TYPES, EtherType, IpProtocol, PROTOCOLS, Rate};

/// Any text; wiped when dropped, not printed, since it may be a private key.
#[derive(Clone)]
pub(crate) struct Text(Zeroizing<String>);

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(not shown)")
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextOrNumber { expected: "a text" }).map(Self)
    }
}

/// SPEC P2: up to `MAX` characters of letters, digits, `_`, `-` and space.
#[derive(Clone, Debug)]
pub(crate) struct Name<const MAX: usize>(pub(crate) String);

impl<'de, const MAX: usize> Deserialize<'de> for Name<MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a name" })?;
        name(&text, MAX).map_err(D::Error::custom)?;
        Ok(Self(text.to_string()))
    }
}

fn name(text: &str, max: usize) -> Result<(), String> {
    let length = text.chars().count();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ');
    if length == 0 {
        return Err(format!("is empty; a name of 1 to {max} characters is expected"));
    }
    if length > max {
        return Err(format!("is {length} characters long; at most {max} are allowed"));
    }
    if let Some(wrong) = text.chars().find(|c| !allowed(c)) {
        return Err(format!(
            "contains {wrong:?}; letters, digits, `_`, `-` and space are allowed in a name"
        ));
    }
    if text.trim() != text {
        return Err("begins or ends with a space; leave it out".to_owned());
    }
    Ok(())
}

/// An address or a CIDR of either family, without host bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network(pub(crate) IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "an address or a CIDR" })?;
        network(&text).map(Self).map_err(D::Error::custom)
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network = text.parse::<IpNet>().map_err(|_| {
        format!(
            "is {}; an address or a CIDR is expected, like 192.0.2.0/24 or 2001:db8::/32",
            shown(text)
        )
    })?;
    if network.trunc() != network {
        return Err(format!(
            "is {network}, which has bits set after its prefix; write {} or {}",
            network.trunc(),
            IpNet::from(network.addr()),
        ));
    }
    Ok(network)
}

/// A port or a range of ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports(pub(crate) PortRange);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a port or a range of ports" })?;
        ports(&text).map(Self).map_err(D::Error::custom)
    }
}

fn ports(text: &str) -> Result<PortRange, String> {
    let wrong = || {
        format!(
            "is {}; a port from 1 to 65535 or a range is expected, like 443 or 8440-8449",
            shown(text)
        )
    };
    let port = |text: &str| match text.trim().parse::<u16>() {
        Ok(port) if port > 0 && !text.contains('+') => Ok(port),
        _ => Err(wrong()),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("is {first}-{last}, which runs backwards; write {last}-{first}"));
    }
    Ok(PortRange { first, last })
}

/// A VLAN id of IEEE 802.1Q: 1 to 4094.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vlan(pub(crate) u16);

impl<'de> Deserialize<'de> for Vlan {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a VLAN id" })?;
        match text.parse::<u16>() {
            Ok(id @ 1..=4094) => Ok(Self(id)),
            _ => Err(D::Error::custom(format!(
                "is {}; a VLAN id from 1 to 4094 is expected",
                shown(&text)
            ))),
        }
    }
}

/// A protocol version as the log prints it; `TLS1.2` and `TLSv1.2` too, in any case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version(pub(crate) Protocol);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a protocol version" })?;
        let plain = |text: &str| text.replace(' ', "").to_ascii_lowercase().replace('v', "");
        let found = Protocol::ALL.into_iter().find(|one| plain(&one.to_string()) == plain(&text));
        found.map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "is {}; SSL 3.0, TLS 1.0, TLS 1.1, TLS 1.2 or TLS 1.3 is expected",
                shown(&text)
            ))
        })
    }
}

/// SPEC P5: a domain or a `*.` wildcard; U-labels are turned to A-labels.
#[derive(Clone, Debug)]
pub(crate) struct Domain(pub(crate) DomainPattern);

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = from.deserialize_any(TextOrNumber { expected: "a domain" })?;
        domain(&text).map(Self).map_err(D::Error::custom)
    }
}

fn domain(text: &str) -> Result<DomainPattern, String> {
    let wrong = |why: &str| {
        let text = shown(text);
        Err(format!("is {text}, {why}; a domain is expected, like bank.example or *.bank.example"))
    };
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    if name.contains('*') {
        return wrong("which has a wildcard elsewhere than as its whole first label");
    }
    let Ok(ascii) = idna::domain_to_ascii(name.strip_suffix('.').unwrap_or(name)) else {
        return wrong("which is not a valid (internationalised) domain name");
    };
    let valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if ascii.parse::<IpAddr>().is_ok() {
        return wrong("which is an address; use source-exceptions or destinations for those");
    }
    if ascii.len() > 253 || !ascii.split('.').all(valid) {
        return wrong("which is not a valid domain name");
    }
    Ok(DomainPattern { domain: ascii, wildcard })
}

/// YAML writes `443` as a number and `8440-8449` as a text.
struct TextOrNumber {
    expected: &'static str,
}

impl Visitor<'_> for TextOrNumber {
    type Value = Zeroizing<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn visit_char<E: Error>(self, text: char) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(text.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Zeroizing::new(number.to_string()))
    }
}
