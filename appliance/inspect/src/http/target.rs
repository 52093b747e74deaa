//! The request target: its path and query as rules see them, and its host.

use super::violation::HttpViolation;

/// A request target's parts (RFC 9112 section 3.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Normalised, see [`normalise`]; an authority or `*` as sent.
    pub(super) uri: Vec<u8>,
    /// Of a target in absolute form.
    pub(super) authority: Option<Vec<u8>>,
}

pub(super) fn parse_target(method: &str, target: &str) -> Result<Target, HttpViolation> {
    if target.starts_with('/') {
        return Ok(Target { uri: normalise(target.as_bytes()), authority: None });
    }
    if method == "CONNECT" || target == "*" {
        return Ok(Target { uri: target.as_bytes().to_vec(), authority: None });
    }
    let (scheme, rest) = target.split_once("://").ok_or(HttpViolation::RequestTarget)?;
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(HttpViolation::RequestTarget);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err(HttpViolation::RequestTarget);
    }
    Ok(Target { uri: normalise(path.as_bytes()), authority: Some(authority.as_bytes().to_vec()) })
}

/// What `http.uri` is: path and query, percent-decoded once; in the path (up to the first `?` as
/// sent), repeated slashes are one and dot segments are resolved (RFC 3986 section 5.2.4), also
/// where they were percent-encoded. An escape that is no escape stays. `+` stays.
fn normalise(target: &[u8]) -> Vec<u8> {
    let mut parts = target.splitn(2, |byte| *byte == b'?');
    let path = percent_decode(parts.next().unwrap_or_default());
    let mut uri = Vec::with_capacity(target.len().max(1));
    let mut directory = true;
    for segment in path.split(|byte| *byte == b'/') {
        directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => uri.truncate(uri.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            name => {
                uri.push(b'/');
                uri.extend_from_slice(name);
            }
        }
    }
    if directory {
        uri.push(b'/');
    }
    if let Some(query) = parts.next() {
        uri.push(b'?');
        uri.extend_from_slice(&percent_decode(query));
    }
    uri
}

fn percent_decode(encoded: &[u8]) -> Vec<u8> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(*byte);
        }
    }
    decoded
}

/// `http.host`: lower case, without port.
///
/// # Errors
/// Bytes that no host has and that ends may cut at in different places.
pub(super) fn parse_host(value: &[u8]) -> Result<Vec<u8>, HttpViolation> {
    let host_ends = match value {
        [b'[', ..] => value.iter().position(|byte| *byte == b']').map(|index| index + 1),
        _ => Some(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let (host, port) =
        host_ends.and_then(|end| value.split_at_checked(end)).ok_or(HttpViolation::Host)?;
    let port_is_right = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let wrong = |byte: &u8| byte.is_ascii_control() || b" ,/@?#\\\"<>;".contains(byte);
    if !port_is_right || host.iter().any(wrong) {
        return Err(HttpViolation::Host);
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(target: &str) -> String {
        String::from_utf8(parse_target("GET", target).unwrap().uri).unwrap()
    }

    #[test]
    fn path_is_decoded_once_and_dot_segments_are_resolved() {
        assert_eq!(uri("/a/./b//c"), "/a/b/c");
        assert_eq!(uri("/x/../../etc/%70asswd"), "/etc/passwd");
        assert_eq!(uri("/x/%2e%2E%2fetc/passwd"), "/etc/passwd");
        assert_eq!(uri("/%2541"), "/%41");
        assert_eq!(uri("/%zz%4"), "/%zz%4");
        assert_eq!(uri("/a/"), "/a/");
        assert_eq!(uri("/a/.."), "/");
        assert_eq!(uri("/"), "/");
    }

    #[test]
    fn query_is_decoded_and_keeps_its_dots() {
        assert_eq!(uri("/s?q=%3Cscript%3E&p=/../x+y?z"), "/s?q=<script>&p=/../x+y?z");
    }

    #[test]
    fn absolute_form_gives_path_and_authority() {
        let target = parse_target("GET", "http://Host.Example:80?q").unwrap();
        assert_eq!(target.uri, b"/?q");
        assert_eq!(parse_host(&target.authority.unwrap()), Ok(b"host.example".to_vec()));
        assert_eq!(parse_target("GET", "etc/passwd"), Err(HttpViolation::RequestTarget));
    }

    #[test]
    fn host_loses_its_port_and_nothing_else() {
        assert_eq!(parse_host(b"[2001:DB8::1]:443"), Ok(b"[2001:db8::1]".to_vec()));
        assert_eq!(parse_host(b""), Ok(Vec::new()));
        for wrong in [&b"a b"[..], b"a@b", b"a:b", b"[::1", b"[::1]x", b"a,b"] {
            assert_eq!(parse_host(wrong), Err(HttpViolation::Host));
        }
    }
}
