//! What a server answers to a client's own hello, and whether Weir could have agreed on the same.
//!
//! For: telling a server that shares nothing with Weir, and something with its client, from one that only
//! says so to Weir: what it chose stands in clear in its ServerHello, for TLS 1.2 and older its group in its
//! ServerKeyExchange. Whoever changes them on the way breaks the handshake. Not for: signatures and kinds of
//! certificates, which TLS 1.3 does not show. Does not fail: what is no such answer is [`Agreed::Nothing`].
//!
//! RFC 8446 sections 4.1.3, 4.2.1 and 4.2.8; RFC 5246 sections 7.4.1.3 and 7.3; RFC 8422 section 5.4.

use weir_policy::suites::{Allowed, KeyExchange, Protocol, Suite as Line};

use super::ClientHello;
use super::legacy::GROUPS;
use super::message::{Field, HelloError, Reader};

/// Most of an answer that is looked at: a ServerKeyExchange behind a longer chain is not seen.
pub const MOST_ANSWER: usize = 64 << 10;

const ALERT: u8 = 21;
const WARNING: u8 = 1;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const SERVER_HELLO: u8 = 2;
const SERVER_KEY_EXCHANGE: u8 = 12;
const CERTIFICATE_REQUEST: u8 = 13;
const SERVER_HELLO_DONE: u8 = 14;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const NAMED_CURVE: u8 = 3;
/// They stand in a list of suites, and are none (RFC 5746 section 3.3, RFC 7507 section 2).
const SIGNALS: [u16; 2] = [0x00ff, 0x5600];

/// What the two agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// It has not come yet.
    Unknown,
    /// The server refuses the client, or answers by what is none.
    Nothing,
    /// A version, suite and group that Weir has within the proxy's bounds.
    Within,
    /// A session of before, by a version and suite that Weir has; its group is not told, and may be none of
    /// Weir's.
    Resumed,
    /// One of them it does not have.
    Beyond,
}

impl ClientHello {
    /// Whether the client offers a version, suite or group that Weir does not have, or that the proxy does not
    /// allow: a server could share that with it.
    pub fn offers_beyond(&self, allowed: &Allowed) -> bool {
        let suite = |id: u16| SIGNALS.contains(&id) || allowed.usable().any(|line| line.id == id);
        let version = |code: u16| Protocol::by_code(code).is_some_and(|one| allowed.version(one));
        // Who names the strongest alone speaks some below it, but SSL 3.0 has been off for long.
        let below = [Protocol::Tls10, Protocol::Tls11, Protocol::Tls12];
        self.cipher_suites.iter().any(|one| !suite(one.0))
            || self.groups.iter().any(|group| !GROUPS.contains(&group.0))
            || self.versions.iter().any(|one| !version(one.0))
            || below.into_iter().any(|one| self.offers_version(one) && !allowed.version(one))
    }
}

/// What `bytes`, everything that the server has said so far, show.
pub fn agreed(bytes: &[u8], allowed: &Allowed) -> Agreed {
    let (flight, behind) = flight(bytes);
    messages(&flight, behind, allowed).unwrap_or(Agreed::Nothing)
}

/// What the first records of handshake messages hold, a begun one too, and the type of the record behind
/// them.
fn flight(bytes: &[u8]) -> (Vec<u8>, Option<u8>) {
    let (mut flight, mut rest) = (Vec::new(), bytes);
    while let [kind, more @ ..] = rest {
        // A warning that goes before (RFC 6066 section 3: unrecognized_name).
        if flight.is_empty()
            && let [_, _, 0, 2, WARNING, _, after @ ..] = more
            && *kind == ALERT
        {
            rest = after;
            continue;
        }
        if *kind != HANDSHAKE {
            return (flight, Some(*kind));
        }
        let [_, _, high, low, body @ ..] = more else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((body, after)) = body.split_at_checked(length) else {
            flight.extend_from_slice(body);
            break;
        };
        flight.extend_from_slice(body);
        rest = after;
    }
    (flight, None)
}

fn messages(flight: &[u8], behind: Option<u8>, allowed: &Allowed) -> Result<Agreed, HelloError> {
    let mut rest = flight;
    let mut key_exchange = None;
    while let [kind, high, middle, low, more @ ..] = rest {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        if length > MOST_ANSWER {
            return Ok(Agreed::Nothing);
        }
        let Some((body, after)) = more.split_at_checked(length) else { break };
        rest = after;
        match (key_exchange, *kind) {
            (None, SERVER_HELLO) => match server_hello(body, allowed)? {
                Chosen::Settled(agreed) => return Ok(agreed),
                Chosen::GroupFollows => key_exchange = Some(()),
            },
            (None, _) => return Ok(Agreed::Nothing),
            (Some(()), SERVER_KEY_EXCHANGE) => return server_key_exchange(body),
            // None was sent, as such a suite must have one.
            (Some(()), CERTIFICATE_REQUEST | SERVER_HELLO_DONE) => return Ok(Agreed::Nothing),
            (Some(()), _) => {}
        }
    }
    Ok(match (key_exchange, behind) {
        (_, None) => Agreed::Unknown,
        (Some(()), Some(CHANGE_CIPHER_SPEC)) => Agreed::Resumed,
        (_, Some(_)) => Agreed::Nothing,
    })
}

enum Chosen {
    Settled(Agreed),
    /// By the ServerKeyExchange.
    GroupFollows,
}

/// A HelloRetryRequest, too: it has the group.
fn server_hello(body: &[u8], allowed: &Allowed) -> Result<Chosen, HelloError> {
    let mut body = Reader(body);
    let mut version = body.u16(Field::Version)?;
    body.take(32, Field::Random)?;
    body.vector8(Field::SessionId)?;
    let suite = body.u16(Field::CipherSuites)?;
    body.u8(Field::CompressionMethods)?;
    let mut group = None;
    if !body.0.is_empty() {
        let mut extensions = body.vector16(Field::Extensions)?;
        while !extensions.0.is_empty() {
            let kind = extensions.u16(Field::Extensions)?;
            let mut data = extensions.vector16(Field::Extensions)?;
            match kind {
                SUPPORTED_VERSIONS => version = data.u16(Field::Versions)?,
                KEY_SHARE => group = Some(data.u16(Field::Groups)?),
                _ => {}
            }
        }
    }
    let settled = |agreed| Ok(Chosen::Settled(agreed));
    let version = Protocol::by_code(version).filter(|one| allowed.version(*one));
    let suite = Line::by_id(suite).filter(|one| allowed.suite(one));
    match (version, suite) {
        (Some(version), Some(suite)) if suite.used_in(version) => match suite.key_exchange {
            KeyExchange::Ecdhe => Ok(Chosen::GroupFollows),
            KeyExchange::Rsa => settled(Agreed::Within),
            KeyExchange::Negotiated => settled(by_group(group)),
        },
        _ => settled(Agreed::Beyond),
    }
}

/// Without any a session is resumed by its key alone.
fn by_group(group: Option<u16>) -> Agreed {
    let within = group.is_none_or(|group| GROUPS.contains(&group));
    if within { Agreed::Within } else { Agreed::Beyond }
}

fn server_key_exchange(body: &[u8]) -> Result<Agreed, HelloError> {
    let mut body = Reader(body);
    if body.u8(Field::Groups)? != NAMED_CURVE {
        return Ok(Agreed::Beyond);
    }
    Ok(by_group(Some(body.u16(Field::Groups)?)))
}

#[cfg(test)]
mod tests;
