//! Whether a client speaks HTTP/1, from its first line.
//!
//! Strict in one direction: whatever some server might still answer as HTTP is HTTP here (and then
//! may be a violation); only what none would is "not HTTP" and escapes the rules for HTTP. The whole
//! line decides, however odd its method: servers answer such a request, and serve the next one. A
//! line without an end is for the caller to bound. Only binary protocols are told earlier, by a
//! control byte, or one that is not ASCII, where the method would stand.

use super::violation::HttpViolation;

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

/// A client's first line, followed as it comes: each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct FirstLine {
    /// How many bytes were looked at in vain.
    searched: usize,
    /// The method ended among them.
    after_method: bool,
}

impl FirstLine {
    /// Judges all bytes the client sent so far.
    ///
    /// The answer depends on the bytes alone, not on the reads they came in.
    pub(super) fn recognise(&mut self, bytes: &[u8]) -> Result<Recognised, HttpViolation> {
        let leading = leading(bytes);
        if leading > MAX_LEADING {
            return Err(HttpViolation::BytesBeforeRequestLine);
        }
        let from = self.searched.max(leading);
        self.searched = bytes.len();
        for (index, byte) in bytes.iter().enumerate().skip(from) {
            let line = bytes.get(leading..index).unwrap_or_default();
            match byte {
                b'\t' | b'\r' | b'\n' | 0x0b | 0x0c if !self.after_method && is_known(line) => {
                    return Err(HttpViolation::RequestLine);
                }
                b'\n' => return judge(line),
                b' ' | b'\t' | b'\r' => self.after_method = true,
                b'!'..=b'~' => {}
                _ if self.after_method => {}
                _ => return Ok(Recognised::NotHttp),
            }
        }
        Ok(Recognised::Undecided)
    }
}

/// Judges a whole line, without its line feed.
fn judge(line: &[u8]) -> Result<Recognised, HttpViolation> {
    if has_version(line) {
        Ok(Recognised::Http)
    } else if is_known(method(line)) {
        Err(HttpViolation::Version)
    } else {
        Ok(Recognised::NotHttp)
    }
}

/// Whether a client's undecided bytes may still be HTTP to a lenient server that sees no more.
pub(super) fn may_be_request(bytes: &[u8]) -> bool {
    let line = bytes.get(leading(bytes)..).unwrap_or_default();
    is_known(method(line)) || has_version(line)
}

fn leading(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n' | b' ' | b'\t')).count()
}

/// What stands before the first blank.
fn method(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).next().unwrap_or_default()
}

fn is_known(method: &[u8]) -> bool {
    KNOWN_METHODS.iter().any(|known| method.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether the line has white space and then `HTTP/`, in any case.
fn has_version(line: &[u8]) -> bool {
    line.windows(6).any(|window| {
        window.split_first().is_some_and(|(blank, rest)| {
            matches!(blank, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
                && rest.eq_ignore_ascii_case(b"HTTP/")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_http_and_other_protocols_are_not() {
        let all = |bytes: &[u8]| FirstLine::default().recognise(bytes);
        assert_eq!(all(b"GET / HTTP/1.1\r\n"), Ok(Recognised::Http));
        assert_eq!(all(b"\r\nfrob  x\thttp/9\n"), Ok(Recognised::Http));
        assert_eq!(all(b"GET / HTTP/1.1"), Ok(Recognised::Undecided));
        assert_eq!(all(b"PO"), Ok(Recognised::Undecided));
        assert_eq!(all(b"EHLO mail.example\r\n"), Ok(Recognised::NotHttp));
        assert_eq!(all(b"GET: a\r\n"), Ok(Recognised::NotHttp));
        assert_eq!(all(b"\x00\x01"), Ok(Recognised::NotHttp));
        assert_eq!(all("caf\u{e9} / HTTP/1.1\r\n".as_bytes()), Ok(Recognised::NotHttp));
    }

    #[test]
    fn whole_line_decides_whatever_its_method() {
        for method in [&"A".repeat(33), &"A".repeat(5000), "G{T", "(", "G\"ET"] {
            for (rest, expected) in [
                ("", Recognised::Undecided),
                (" / HTTP/1.1", Recognised::Undecided),
                (" / HTTP/1.1\r\n", Recognised::Http),
                (" / x\r\n", Recognised::NotHttp),
                ("\n", Recognised::NotHttp),
            ] {
                let line = format!("{method}{rest}");
                let whole = FirstLine::default().recognise(line.as_bytes());
                assert_eq!(whole, Ok(expected), "{line:?}");
                let mut first_line = FirstLine::default();
                for length in 1..line.len() {
                    let part = first_line.recognise(&line.as_bytes()[..length]);
                    assert_eq!(part, Ok(Recognised::Undecided), "{line:?}");
                }
                assert_eq!(first_line.recognise(line.as_bytes()), Ok(expected), "{line:?}");
            }
        }
    }

    #[test]
    fn what_only_a_lenient_server_takes_is_a_violation() {
        let all = |bytes: &[u8]| FirstLine::default().recognise(bytes);
        assert_eq!(all(b"GET /etc/passwd\r\n"), Err(HttpViolation::Version));
        assert_eq!(all(b"get\t/ HTTP/1.1\r\n"), Err(HttpViolation::RequestLine));
        assert_eq!(all(&[b'\n'; 17]), Err(HttpViolation::BytesBeforeRequestLine));
    }
}
