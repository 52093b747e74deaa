//! A client's hello as it would be without a session of before.
//!
//! For: asking a server what it would agree on with the client in a full handshake, where it resumed a session
//! instead and so did not tell. Not for: a handshake with that client, whose Finished is over what it said itself.
//! Does not fail: what is no whole hello has none.
//!
//! RFC 5246 section 7.4.1.2 (session_id), RFC 5077 section 3.2 (session_ticket: empty, none yet), RFC 8446 sections
//! 4.2.10 and 4.2.11 (early_data and pre_shared_key, whose binders are over the hello).

use super::message::{Field, HelloError, Reader, extension};
use super::records::{CLIENT_HELLO, Gathered, MAX_FRAGMENT, handshake_message};

/// The hello at the start of `bytes`, without a session, in records of its own.
pub fn without_session(bytes: &[u8]) -> Option<Vec<u8>> {
    let Ok(Gathered::Whole(message)) = handshake_message(bytes) else { return None };
    let body = body_without_session(&message.body).ok()?;
    let length = u32::try_from(body.len()).ok()?.to_be_bytes();
    let handshake = [&[CLIENT_HELLO], length.get(1..)?, &body].concat();
    // As the client's own first one has it.
    let record = bytes.get(..3)?;
    let mut wire = Vec::with_capacity(handshake.len().saturating_add(64));
    for fragment in handshake.chunks(MAX_FRAGMENT) {
        wire.extend_from_slice(record);
        wire.extend_from_slice(&u16::try_from(fragment.len()).ok()?.to_be_bytes());
        wire.extend_from_slice(fragment);
    }
    Some(wire)
}

fn body_without_session(body: &[u8]) -> Result<Vec<u8>, HelloError> {
    let mut body = Reader(body);
    let mut out = body.take(2 + 32, Field::Random)?.to_vec();
    body.vector8(Field::SessionId)?;
    out.push(0);
    let suites = body.vector16(Field::CipherSuites)?.0;
    append(&mut out, suites, Field::CipherSuites)?;
    let compression = body.vector8(Field::CompressionMethods)?.0;
    out.push(u8::try_from(compression.len()).map_err(|_| too_long(Field::CompressionMethods))?);
    out.extend_from_slice(compression);
    if body.0.is_empty() {
        return Ok(out);
    }
    let (mut list, mut extensions) = (body.vector16(Field::Extensions)?, Vec::new());
    while !list.0.is_empty() {
        let kind = list.u16(Field::Extensions)?;
        let data = list.vector16(Field::Extensions)?.0;
        let data = match kind {
            extension::PRE_SHARED_KEY | extension::EARLY_DATA => continue,
            extension::SESSION_TICKET => &[],
            _ => data,
        };
        extensions.extend_from_slice(&kind.to_be_bytes());
        append(&mut extensions, data, Field::Extensions)?;
    }
    append(&mut out, &extensions, Field::Extensions)?;
    Ok(out)
}

/// A vector behind its length.
fn append(out: &mut Vec<u8>, vector: &[u8], field: Field) -> Result<(), HelloError> {
    let length = u16::try_from(vector.len()).map_err(|_| too_long(field))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(vector);
    Ok(())
}

/// Cannot happen: nothing becomes longer.
fn too_long(field: Field) -> HelloError {
    HelloError::Length(field)
}
