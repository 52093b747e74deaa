//! One head, whole: the fields that decide framing, and the parts rules name.
//!
//! Lines were checked before (`lines`), so httparse's tolerance of bare line feeds never applies.

use httparse::{EMPTY_HEADER, Error, Header, Request, Response, Status};

use super::{
    target::{parse_host, parse_target},
    violation::HttpViolation,
};

/// Most fields of a head.
const MAX_FIELDS: usize = 256;

/// How a message's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What a request says about its response. Two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) method: AskedMethod,
    /// It has an `Upgrade` field.
    pub(super) upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedMethod {
    Head,
    Connect,
    Other,
}

impl Asked {
    /// Whether the connection may carry another protocol after the response.
    pub(super) fn may_switch(self) -> bool {
        self.upgrade || self.method == AskedMethod::Connect
    }
}

/// A request's head as rules see it.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// As sent.
    pub(crate) method: Vec<u8>,
    /// Path and query, normalised.
    pub(crate) uri: Vec<u8>,
    /// Lower case, without port; empty where the request has none.
    pub(crate) host: Vec<u8>,
    pub(super) framing: Framing,
    pub(super) asked: Asked,
}

/// A response's head, as far as framing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// The connection carries another protocol from here.
    pub(super) switched: bool,
}

pub(super) fn parse_request(bytes: &[u8]) -> Result<RequestHead, HttpViolation> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    let whole =
        request.parse(bytes).map_err(|error| violation(error, HttpViolation::RequestLine))?;
    let (Status::Complete(_), Some(method), Some(target), Some(minor)) =
        (whole, request.method, request.path, request.version)
    else {
        return Err(HttpViolation::RequestLine);
    };
    let fields = Fields::read(request.headers, minor)?;
    let parsed = parse_target(method, target)?;
    let field_host = fields.host.map(parse_host).transpose()?;
    // RFC 9112 section 3.2: a request of HTTP/1.1 has a Host.
    if field_host.is_none() && minor == 1 {
        return Err(HttpViolation::Host);
    }
    let host = match (parsed.authority, field_host) {
        (Some(authority), field_host) => {
            let host = parse_host(&authority)?;
            if field_host.is_some_and(|field_host| field_host != host) {
                return Err(HttpViolation::Host);
            }
            host
        }
        (None, field_host) => field_host.unwrap_or_default(),
    };
    Ok(RequestHead {
        method: method.as_bytes().to_vec(),
        uri: parsed.uri,
        host,
        framing: fields.framing(Framing::None),
        asked: Asked {
            method: match method {
                "HEAD" => AskedMethod::Head,
                "CONNECT" => AskedMethod::Connect,
                _ => AskedMethod::Other,
            },
            upgrade: fields.upgrade.is_some(),
        },
    })
}

/// `asked`: by the oldest request without a final response.
pub(super) fn parse_response(
    bytes: &[u8],
    asked: Option<Asked>,
) -> Result<ResponseHead, HttpViolation> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut response = Response::new(&mut fields);
    let whole =
        response.parse(bytes).map_err(|error| violation(error, HttpViolation::StatusLine))?;
    let (Status::Complete(_), Some(status), Some(minor)) = (whole, response.code, response.version)
    else {
        return Err(HttpViolation::StatusLine);
    };
    if !(100..=599).contains(&status) {
        return Err(HttpViolation::StatusLine);
    }
    let fields = Fields::read(response.headers, minor)?;
    let switched = match (status, asked) {
        (101, Some(asked)) if asked.upgrade => true,
        (101, _) => return Err(HttpViolation::UnexpectedSwitch),
        (200..=299, Some(asked)) => asked.method == AskedMethod::Connect,
        _ => false,
    };
    if status == 101 && fields.upgrade.is_some_and(names_http2) {
        return Err(HttpViolation::Http2Upgrade);
    }
    let head_only = asked.is_some_and(|asked| asked.method == AskedMethod::Head);
    let framing = if head_only || switched || matches!(status, 100..=199 | 204 | 304) {
        Framing::None
    } else {
        fields.framing(Framing::UntilClose)
    };
    Ok(ResponseHead { status, framing, switched })
}

/// Checks trailers, whose lines were checked before: nothing in them may say what only a head says.
pub(super) fn check_trailers(bytes: &[u8]) -> Result<(), HttpViolation> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let whole = httparse::parse_headers(bytes, &mut fields)
        .map_err(|error| violation(error, HttpViolation::FieldName))?;
    let Status::Complete((_, fields)) = whole else { return Err(HttpViolation::FieldName) };
    let forbidden =
        ["content-length", "transfer-encoding", "host", "trailer", "upgrade", "connection"];
    if fields.iter().any(|field| forbidden.iter().any(|name| field.name.eq_ignore_ascii_case(name)))
    {
        return Err(HttpViolation::Trailer);
    }
    Ok(())
}

/// The fields that decide framing.
#[derive(Debug, Default)]
struct Fields<'a> {
    length: Option<u64>,
    chunked: bool,
    host: Option<&'a [u8]>,
    upgrade: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(headers: &[Header<'a>], minor: u8) -> Result<Self, HttpViolation> {
        let mut fields = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let length = parse_length(header.value)?;
                if fields.length.is_some_and(|other| other != length) {
                    return Err(HttpViolation::DifferentContentLengths);
                }
                fields.length = Some(length);
            } else if is("transfer-encoding") {
                // Twice is a coding applied twice, which no one means and some ends skip.
                if fields.chunked || minor == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpViolation::TransferEncoding);
                }
                fields.chunked = true;
            } else if is("host") {
                if fields.host.replace(header.value).is_some() {
                    return Err(HttpViolation::Host);
                }
            } else if is("upgrade") && (fields.upgrade.is_none() || names_http2(header.value)) {
                fields.upgrade = Some(header.value);
            }
        }
        if fields.chunked && fields.length.is_some() {
            return Err(HttpViolation::LengthAndTransferEncoding);
        }
        Ok(fields)
    }

    fn framing(&self, otherwise: Framing) -> Framing {
        match (self.chunked, self.length) {
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => otherwise,
        }
    }
}

/// Digits only: no sign, no list, no white space within (RFC 9110 section 8.6).
fn parse_length(value: &[u8]) -> Result<u64, HttpViolation> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HttpViolation::ContentLength);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(HttpViolation::ContentLength)
}

fn names_http2(upgrade: &[u8]) -> bool {
    upgrade
        .split(|byte| *byte == b',')
        .any(|name| matches!(name.trim_ascii().to_ascii_lowercase().as_slice(), b"h2c" | b"h2"))
}

fn violation(error: Error, first_line: HttpViolation) -> HttpViolation {
    match error {
        Error::HeaderName => HttpViolation::FieldName,
        Error::HeaderValue => HttpViolation::FieldValue,
        Error::TooManyHeaders => HttpViolation::TooManyFields,
        Error::Version => HttpViolation::Version,
        Error::NewLine | Error::Status | Error::Token => first_line,
    }
}
