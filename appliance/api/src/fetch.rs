//! What the engine has the agent fetch for a certificate's sake, by the management port: missing
//! intermediates, OCSP answers, lists of revoked certificates (SPEC T12).
//!
//! For: the question and its answer. Not for: judging what came (the engine's), nor from where it may
//! be fetched (the agent's). A URL is read into [`HttpUrl`] at the edge, and again by whom it is sent
//! to. Fails by [`NoHttpUrl`].

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Fetches of one [`Kind`] that one engine may have asked for, and the agent may have at hand; past it
/// a further one is refused.
pub const MOST_FETCHES: usize = 64;

/// For a fetch to get its turn; past it it is [`FetchFailure::Busy`].
pub const TURN_WITHIN: Duration = Duration::from_secs(1);

/// For one fetch that has its turn, from the name's resolution to the last byte.
pub const FETCH_WITHIN: Duration = Duration::from_secs(3);

/// Bytes of a URL; a longer one is none.
pub const URL_BOUND: usize = 1024;

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fetch {
    /// A certificate (RFC 5280 section 4.2.2.1).
    Intermediate { url: HttpUrl },
    /// The answer to an OCSP request (RFC 6960 appendix A).
    Ocsp { url: HttpUrl, request: Bytes },
    /// A certificate revocation list.
    RevocationList { url: HttpUrl },
}

/// By whose word it is fetched. What is bounded is bounded for each kind apart, so that URLs of the one
/// cannot keep those of the other waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of a chain that does not verify: anybody's, who can make as many names as he likes.
    Unverified,
    /// That of a chain that does: its authority's.
    Verified,
}

impl Fetch {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Intermediate { .. } => Kind::Unverified,
            Self::Ocsp { .. } | Self::RevocationList { .. } => Kind::Verified,
        }
    }

    pub fn url(&self) -> &HttpUrl {
        match self {
            Self::Intermediate { url } | Self::Ocsp { url, .. } | Self::RevocationList { url } => {
                url
            }
        }
    }

    /// Bytes that the answer may have.
    pub fn bound(&self) -> usize {
        match self {
            Self::Intermediate { .. } | Self::Ocsp { .. } => 64 << 10,
            Self::RevocationList { .. } => 8 << 20,
        }
    }
}

/// An absolute `http:` URL without credentials and fragment, of at most [`URL_BOUND`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpUrl(Uri);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no http: URL of at most {URL_BOUND} bytes, without credentials")]
pub struct NoHttpUrl;

impl HttpUrl {
    /// Without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(80)
    }

    /// Host and port, as the `Host` field has them.
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        self.0.path_and_query().map_or("/", |target| target.as_str())
    }
}

impl FromStr for HttpUrl {
    type Err = NoHttpUrl;

    fn from_str(text: &str) -> Result<Self, NoHttpUrl> {
        // RFC 3986 has no others; what was meant by them is encoded.
        if text.len() > URL_BOUND || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NoHttpUrl);
        }
        let uri = Uri::from_str(text).map_err(|_| NoHttpUrl)?;
        let authority = uri.authority().ok_or(NoHttpUrl)?;
        let port_is_right = match authority.as_str().rsplit_once(':') {
            // Without a port, or an IPv6 address.
            None => true,
            Some((_, rest)) if rest.ends_with(']') => true,
            Some(_) => authority.port_u16().is_some_and(|port| port > 0),
        };
        let is_http = uri.scheme() == Some(&http::uri::Scheme::HTTP);
        let names_nobody = !authority.as_str().contains('@');
        if is_http && names_nobody && port_is_right && !authority.host().is_empty() {
            Ok(Self(uri))
        } else {
            Err(NoHttpUrl)
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for HttpUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HttpUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Bytes, as base64 inside JSON.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// Why nothing was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FetchFailure {
    #[error("too many fetches at one time")]
    Busy,
    #[error("its host's name does not resolve")]
    Name,
    /// Every address of its host, of which this is the first.
    #[error("nothing is fetched from {address} port {port}: {why}")]
    Refused { address: IpAddr, port: u16, why: Refused },
    #[error("no connection, or one that broke")]
    Connection,
    #[error("not whole within {} s", FETCH_WITHIN.as_secs())]
    TimedOut,
    /// Redirects, too, are not followed.
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("longer than such an answer may be")]
    TooLong,
    #[error("no HTTP")]
    Malformed,
}

/// Why an address is none to fetch from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error("loopback, link-local, multicast or unspecified")]
    Never,
    #[error("one of the appliance's own")]
    Own,
    #[error("not public, and not in fetch-private-networks")]
    NotPublic,
    #[error("another port than 80, and not in fetch-private-networks")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_without_credentials_are_read() {
        let url: HttpUrl = "http://ocsp.example/a?b=c".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("ocsp.example", 80, "/a?b=c"));
        let url: HttpUrl = "HTTP://[2001:db8::1]:8080".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.target()), ("2001:db8::1", 8080, "/"));
        let long = format!("http://a.example/{}", "x".repeat(URL_BOUND));
        for wrong in [
            "",
            "/a",
            "a.example/a",
            "https://a.example/",
            "ldap://a.example/",
            "file:///etc/passwd",
            "http://",
            "http:///a",
            "http://user@a.example/",
            "http://user:word@a.example/",
            "http://a.example:0/",
            "http://a.example:65536/",
            "http://a.example:/",
            "http://a.example/\r\nHost: b",
            "http://a.example/\u{e9}",
            "http://a b/",
            &long,
        ] {
            assert_eq!(wrong.parse::<HttpUrl>(), Err(NoHttpUrl), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_for_reads_back_as_it_was_written() {
        let url: HttpUrl = "http://ocsp.example/a".parse().unwrap();
        let fetch = Fetch::Ocsp { url, request: Bytes(vec![0, 255, 7]) };
        let text = serde_json::to_string(&fetch).unwrap();
        assert_eq!(serde_json::from_str::<Fetch>(&text).unwrap(), fetch);
        let text = text.replace("http:", "https:");
        assert!(serde_json::from_str::<Fetch>(&text).is_err());
    }
}
