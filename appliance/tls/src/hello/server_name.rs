//! What a client sends as its server's name: a host's, an address, or something else.
//!
//! For: telling names apart that no server can have, before anything is decided by one and before any stack is
//! given it. Not for: whether there is such a host. Cannot fail.
//!
//! RFC 6066 section 3 (ASCII, a DNS host name), RFC 1035 section 2.3.4 (lengths), RFC 952 and RFC 1123 section
//! 2.1 (letters, digits, hyphens).

use rustls_pki_types::ServerName;

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

/// Whether a host could be called so, or an address is. Labels that begin or end with a hyphen are none by the
/// letter, and there are such hosts; so are underscores.
pub fn is_host_name(name: &str) -> bool {
    if ServerName::try_from(name).is_ok_and(|name| matches!(name, ServerName::IpAddress(_))) {
        return true;
    }
    let labels = || name.strip_suffix('.').unwrap_or(name).split('.');
    let length = name.strip_suffix('.').unwrap_or(name).len();
    if length > MOST_NAME || labels().any(|label| label.is_empty() || label.len() > MOST_LABEL) {
        return false;
    }
    let without: Vec<_> = labels().map(|label| label.trim_matches('-')).collect();
    ServerName::try_from(name).is_ok() || ServerName::try_from(without.join(".")).is_ok()
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
            "192.0.2.1",
            "2001:db8::1",
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
