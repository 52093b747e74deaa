//! Whether a client speaks HTTP/1, from its first line.
//!
//! Strict in one direction: whatever some server might still answer as HTTP is HTTP here (and then
//! may be a violation); only what none would is "not HTTP" and escapes the rules for HTTP.

use super::{MAX_HEAD, violation::HttpViolation};

/// Longest method that is looked for, in bytes; the longest registered one has 17.
const MAX_METHOD: usize = 32;

/// Most bytes of empty lines before the first request line.
const MAX_LEADING: usize = 16;

/// Methods servers answer without being told a version (HTTP/0.9) or despite a malformed line.
const KNOWN_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recognised {
    Undecided,
    Http,
    NotHttp,
}

/// Judges a client's first bytes. `searched`: how many of them were seen in vain before.
///
/// The answer depends on the bytes alone, not on the reads they came in.
pub(super) fn recognise(bytes: &[u8], searched: usize) -> Result<Recognised, HttpViolation> {
    let leading = leading(bytes);
    if leading > MAX_LEADING {
        return Err(HttpViolation::BytesBeforeRequestLine);
    }
    let line = bytes.get(leading..).unwrap_or_default();
    let method: &[u8] = line.split(|byte| !is_token(*byte)).next().unwrap_or_default();
    if method.len() > MAX_METHOD {
        return Ok(Recognised::NotHttp);
    }
    let Some(after) = line.get(method.len()) else { return Ok(Recognised::Undecided) };
    let known = is_known(method);
    match after {
        b' ' if !method.is_empty() => {}
        b'\t' | b'\r' | b'\n' | 0x0b | 0x0c if known => return Err(HttpViolation::RequestLine),
        _ => return Ok(Recognised::NotHttp),
    }
    let from = searched.max(leading);
    let end = bytes.iter().skip(from).position(|byte| *byte == b'\n').map(|index| from + index);
    let Some(end) = end else {
        return Ok(if bytes.len() > MAX_HEAD && !known {
            Recognised::NotHttp
        } else {
            Recognised::Undecided
        });
    };
    let line = bytes.get(leading..end).unwrap_or_default();
    if has_version(line) {
        Ok(Recognised::Http)
    } else if known {
        Err(HttpViolation::Version)
    } else {
        Ok(Recognised::NotHttp)
    }
}

/// Whether a client's undecided bytes may still be HTTP to a lenient server that sees no more.
pub(super) fn may_be_request(bytes: &[u8]) -> bool {
    let line = bytes.get(leading(bytes)..).unwrap_or_default();
    is_known(line.split(|byte| !is_token(*byte)).next().unwrap_or_default())
}

fn leading(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n' | b' ' | b'\t')).count()
}

fn is_known(method: &[u8]) -> bool {
    KNOWN_METHODS.iter().any(|known| method.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether the line has white space and then `HTTP/`, in any case.
fn has_version(line: &[u8]) -> bool {
    line.windows(6).any(|window| {
        window.split_first().is_some_and(|(blank, rest)| {
            matches!(blank, b' ' | b'\t' | 0x0b | 0x0c) && rest.eq_ignore_ascii_case(b"HTTP/")
        })
    })
}

/// RFC 9110 section 5.6.2, `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_http_and_other_protocols_are_not() {
        let all = |bytes: &[u8]| recognise(bytes, 0);
        assert_eq!(all(b"GET / HTTP/1.1\r\n"), Ok(Recognised::Http));
        assert_eq!(all(b"\r\nfrob  x\thttp/9\n"), Ok(Recognised::Http));
        assert_eq!(all(b"GET / HTTP/1.1"), Ok(Recognised::Undecided));
        assert_eq!(all(b"PO"), Ok(Recognised::Undecided));
        assert_eq!(all(b"EHLO mail.example\r\n"), Ok(Recognised::NotHttp));
        assert_eq!(all(b"\x00\x01"), Ok(Recognised::NotHttp));
        assert_eq!(all(&[b'a'; 33]), Ok(Recognised::NotHttp));
    }

    #[test]
    fn what_only_a_lenient_server_takes_is_a_violation() {
        assert_eq!(recognise(b"GET /etc/passwd\r\n", 0), Err(HttpViolation::Version));
        assert_eq!(recognise(b"get\t/ HTTP/1.1\r\n", 0), Err(HttpViolation::RequestLine));
        assert_eq!(recognise(&[b'\n'; 17], 0), Err(HttpViolation::BytesBeforeRequestLine));
    }
}
