//! What a client sends as its server's name: a host's, an address, or something else.
//!
//! For: telling names apart that no server can have, before anything is decided by one and before any stack is
//! given it. Not for: whether there is such a host. Cannot fail.
//!
//! RFC 6066 section 3 (ASCII, a DNS host name), RFC 1035 section 2.3.4 (lengths), RFC 952 and RFC 1123 section
//! 2.1 (letters, digits, hyphens).

use std::net::{IpAddr, Ipv6Addr};

/// RFC 1035 section 2.3.4, without the root's empty label.
const MOST_NAME: usize = 253;
const MOST_LABEL: usize = 63;

/// Characters kept of what names no host.
const MOST_TEXT: usize = 255;

pub(super) enum SentName {
    /// As sent.
    Host(String),
    /// Escaped, and cut.
    Invalid(String),
}

impl SentName {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(name) if is_host_name(name) => Self::Host(name.to_owned()),
            // Not to be taken for none.
            _ if bytes.is_empty() => Self::Invalid("\"\"".to_owned()),
            _ => {
                let kept = bytes.get(..MOST_TEXT).unwrap_or(bytes);
                Self::Invalid(kept.escape_ascii().to_string().chars().take(MOST_TEXT).collect())
            }
        }
    }
}

/// The address that a client sends in the place of a name, though it should send none (RFC 6066 section 3): in
/// dotted decimal, or of IPv6, with a URL's brackets or without. No other number is one: browsers read
/// `192.0.2` and `0x7f.1` as addresses too, and so send neither; of who sends them they are names.
pub fn address_sent(name: &str) -> Option<IpAddr> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    match bare.strip_prefix('[').and_then(|open| open.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => bare.parse().ok(),
    }
}

/// Whether a host could be called so, or an address is. By the letter labels that begin or end with a hyphen are
/// none, nor names that end in a number, and there are such hosts; so are underscores.
pub fn is_host_name(name: &str) -> bool {
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=MOST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && label.bytes().any(|byte| byte != b'-')
    };
    address_sent(name).is_some() || (bare.len() <= MOST_NAME && bare.split('.').all(is_label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_addresses_are_told_from_what_no_host_can_be_called() {
        let long_label = |length: usize| format!("{}.example", "l".repeat(length));
        let long_name = |length: usize| format!("{}{}", "l.".repeat(126), "x".repeat(length - 252));
        for name in [
            "a",
            "a.example",
            "A.Example.",
            "_sip.a.example",
            "a-.-b.example",
            "xn--bcher-kva.example",
            "node.10",
            "node.0x1f.",
            "10",
            "192.0.2",
            "192.0.2.256",
            "192.0.2.1",
            "192.0.2.1.",
            "2001:db8::1",
            "[2001:db8::1]",
            &long_label(63),
            &long_name(253),
        ] {
            assert!(is_host_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "a..b",
            ".a.example",
            "a.example..",
            "-.example",
            "host:443",
            "192.0.2.1:443",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[a.example]",
            "a b.example",
            "a/b",
            "*.example",
            "b\u{fc}cher.example",
            "a\0.example",
            &long_label(64),
            &long_name(254),
        ] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    #[test]
    fn numbers_are_addresses_only_as_every_stack_reads_them() {
        for (sent, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:DB8::1]", "2001:db8::1"),
        ] {
            assert_eq!(address_sent(sent), address.parse().ok(), "{sent}");
        }
        for name in ["node.10", "10", "192.0.2", "0xc0000201", "192.0.2.256", "[192.0.2.1]"] {
            assert_eq!(address_sent(name), None, "{name}");
        }
    }

    #[test]
    fn what_names_no_host_is_told_escaped_and_bounded() {
        let told = |bytes: &[u8]| match SentName::of(bytes) {
            SentName::Host(name) => panic!("{name} is a host's"),
            SentName::Invalid(text) => text,
        };
        assert_eq!(told("b\u{fc}cher.example".as_bytes()), r"b\xc3\xbccher.example");
        assert_eq!(told(b"a..b"), "a..b");
        assert_eq!(told(b""), "\"\"");
        assert_eq!(told(&[0xff; 1 << 15]).len(), MOST_TEXT);
    }
}
