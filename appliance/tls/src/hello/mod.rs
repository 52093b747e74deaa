//! What a client's first bytes are: a ClientHello, part of one, or something else.
//!
//! For: the decision about a held flow, made before any TLS stack sees a byte (SPEC D5, T5, T9).
//! The parser owns nothing and keeps no state: it is called again with more bytes. Not for: the
//! handshake; the legs are fed the same bytes again.
//! Fails by the variants of [`Peek`]; no input makes it panic, and no input costs more than one
//! pass over [`MAX_WIRE`] bytes.
//!
//! RFC 8446 sections 4.1.2 and 5.1 (TLS 1.3), RFC 5246 sections 6.2, 7.4.1.2 and E.2 (TLS 1.2 and
//! SSLv2-format hellos), RFC 6066 section 3 (server name), RFC 7301 (ALPN), RFC 8701 (GREASE), RFC
//! 9849 (encrypted ClientHello).

mod answer;
mod legacy;
mod message;
mod records;
mod server_name;
mod sessionless;

pub use answer::{Agreed, MOST_ANSWER, agreed};
pub use legacy::LegacyBounds;
pub use message::{ClientHello, Field, HelloError};
pub use server_name::{address_sent, is_host_name};
pub use sessionless::without_session;

/// Longest handshake message that is taken for a ClientHello; past it [`Peek::Oversize`].
pub const MAX_HELLO: usize = 64 * 1024;

/// Most bytes from the wire that are looked at: room for a hello of [`MAX_HELLO`] in many small
/// records. A hello that is incomplete at that point is [`Peek::Oversize`].
pub const MAX_WIRE: usize = 2 * MAX_HELLO;

/// What the first bytes of a flow are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// A prefix of something that can still become a hello: ask again with more bytes.
    Incomplete,
    Hello(ClientHello),
    /// An SSLv2-format hello (RFC 5246 section E.2): recognised, never decrypted.
    Sslv2,
    /// The first bytes cannot be a TLS or SSLv2-format handshake (SPEC T9), with the guess what
    /// they are instead.
    NotTls(Cleartext),
    /// A TLS handshake record at first, but no well-formed ClientHello in it.
    Malformed(HelloError),
    /// A hello over [`MAX_HELLO`] bytes, or over [`MAX_WIRE`] with its record headers.
    Oversize,
}

/// What bytes that are not TLS look like; for the log only, nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cleartext {
    /// A request line's method.
    Http,
    /// `EHLO`, `HELO` or `LHLO`.
    Smtp,
    Ssh,
    Other,
}

/// Says what `bytes`, everything a client has sent so far, are.
pub fn peek(bytes: &[u8]) -> Peek {
    match first_bytes(bytes) {
        Start::TlsHandshake => {}
        Start::Undecided => return Peek::Incomplete,
        Start::Sslv2 => return Peek::Sslv2,
        Start::Neither => return Peek::NotTls(cleartext(bytes)),
    }
    let message = match records::handshake_message(bytes) {
        Ok(records::Gathered::Whole(message)) => message,
        Ok(records::Gathered::Partial) if bytes.len() >= MAX_WIRE => return Peek::Oversize,
        Ok(records::Gathered::Partial) => return Peek::Incomplete,
        Ok(records::Gathered::Oversize) => return Peek::Oversize,
        Err(error) => return Peek::Malformed(error),
    };
    match ClientHello::parse(&message.body, message.wire_length) {
        Ok(hello) => Peek::Hello(hello),
        Err(error) => Peek::Malformed(error),
    }
}

enum Start {
    TlsHandshake,
    Sslv2,
    Neither,
    /// Too short to tell.
    Undecided,
}

/// Decides by the first six bytes, as soon as fewer exclude everything.
fn first_bytes(bytes: &[u8]) -> Start {
    match bytes {
        [] | [0x16] | [0x16, 3] => Start::Undecided,
        // Record type handshake, major version 3 (RFC 8446 section 5.1).
        [0x16, 3, ..] => Start::TlsHandshake,
        // Of the first record some servers (Go's) take any version below 0x1000: what has all else of a
        // hello is one.
        [0x16, 0..=0x0f] | [0x16, 0..=0x0f, _] => Start::Undecided,
        [0x16, 0..=0x0f, _, 0..=HIGHEST_LENGTH] => Start::Undecided,
        [0x16, 0..=0x0f, _, 0..=HIGHEST_LENGTH, _] => Start::Undecided,
        [0x16, 0..=0x0f, _, 0..=HIGHEST_LENGTH, _, records::CLIENT_HELLO, ..] => {
            Start::TlsHandshake
        }
        [0x16, ..] => Start::Neither,
        // Two-byte SSLv2 record header with its high bit set, message type 1 (client hello), then
        // the version: SSL 2.0, or SSL 3.0 and later in the old format.
        [high, ..] if high & 0x80 != 0 => match bytes {
            [_] | [_, _] | [_, _, 1] | [_, _, 1, 0 | 3] => Start::Undecided,
            [_, _, 1, 0, 2, ..] | [_, _, 1, 3, 0..=4, ..] => Start::Sslv2,
            _ => Start::Neither,
        },
        _ => Start::Neither,
    }
}

/// The high byte of the longest record's length, with what encryption may add (RFC 5246 section 6.2.3).
const HIGHEST_LENGTH: u8 = 0x48;

fn cleartext(bytes: &[u8]) -> Cleartext {
    const HTTP: [&[u8]; 10] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"CONNECT ",
        b"OPTIONS ",
        b"TRACE ",
        b"PATCH ",
        b"PRI * ",
    ];
    const SMTP: [&[u8]; 3] = [b"EHLO ", b"HELO ", b"LHLO "];
    if HTTP.iter().any(|method| bytes.starts_with(method)) {
        return Cleartext::Http;
    }
    if bytes
        .get(..5)
        .is_some_and(|start| SMTP.iter().any(|command| start.eq_ignore_ascii_case(command)))
    {
        return Cleartext::Smtp;
    }
    if bytes.starts_with(b"SSH-") { Cleartext::Ssh } else { Cleartext::Other }
}

#[cfg(test)]
mod tests;
