//! Which domains are not decrypted, and by whose word (SPEC P5, T5).
//!
//! For: matching a name as it came from the wire. Does not fail.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// SPEC P5, domains only; `*.example.org` matches any depth below, not the bare domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecryptionPolicy {
    pub name: String,
    pub domains_not_to_decrypt: Vec<DomainPattern>,
    #[serde(default)]
    pub decided_by: DecidedBy,
}

impl DecryptionPolicy {
    /// Whether a domain of this name is not to be decrypted.
    pub fn excepts(&self, name: &str) -> bool {
        self.domains_not_to_decrypt.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether a certificate with this name may be shown by a domain that is not to be decrypted. Its wildcard
    /// is of each domain that it covers, of one label (SPEC P5): where the client gave no name, such a server
    /// is as good as any of them, and a session that is not to be read must not be for want of a name.
    pub fn excepts_certified(&self, name: &str) -> bool {
        let is_one = |pattern: &DomainPattern| pattern.matches(name) || pattern.is_covered_by(name);
        self.domains_not_to_decrypt.iter().any(is_one)
    }
}

/// What tells that a session is with a domain not to decrypt (SPEC T5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// The server name that the client sends; where it sends none, or an address, the certificate.
    #[default]
    ServerName,
    /// The server's certificate, verified for that name; without a name, the certificate's own.
    ServerCertificate,
}

impl DecidedBy {
    /// As the document has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ServerName => "server-name",
            Self::ServerCertificate => "server-certificate",
        }
    }
}

/// A domain name or a `*.` wildcard, lower case, no trailing dot, A-labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DomainPattern {
    /// The name without `*.`.
    pub domain: String,
    /// Matches every name below `domain`, and not `domain` itself.
    pub wildcard: bool,
}

impl DomainPattern {
    /// By a certificate's wildcard. Of a wildcard's own domains that of its parent covers none: they are
    /// below by two labels.
    fn is_covered_by(&self, certified: &str) -> bool {
        let certified = certified.strip_suffix('.').unwrap_or(certified);
        let (Some(parent), Some((_, own))) =
            (certified.strip_prefix("*."), self.domain.split_once('.'))
        else {
            return false;
        };
        !self.wildcard && own.eq_ignore_ascii_case(parent)
    }

    /// `name` is matched as it came from the wire: any case, with or without a trailing dot. An address in its
    /// place is below no domain, also where that ends in a number.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !self.wildcard {
            return name.eq_ignore_ascii_case(&self.domain);
        }
        let Some(cut) = name.len().checked_sub(self.domain.len()) else { return false };
        match (name.get(..cut), name.get(cut..)) {
            (Some(below), Some(domain)) => {
                below.len() > 1
                    && below.ends_with('.')
                    && domain.eq_ignore_ascii_case(&self.domain)
                    && name.parse::<IpAddr>().is_err()
            }
            _ => false,
        }
    }
}
