//! Gathers the first handshake message out of TLS records (RFC 8446 section 5.1).

use std::borrow::Cow;

use super::{HelloError, MAX_HELLO};

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
pub(super) const CLIENT_HELLO: u8 = 1;
/// Longest plaintext fragment of a record.
pub(super) const MAX_FRAGMENT: usize = 1 << 14;

pub(super) enum Gathered<'a> {
    Whole(Message<'a>),
    /// Everything so far is well formed.
    Partial,
    /// The message says of itself that it is longer than [`MAX_HELLO`].
    Oversize,
}

/// A ClientHello's body, without the handshake header.
pub(super) struct Message<'a> {
    pub(super) body: Cow<'a, [u8]>,
    /// Bytes on the wire up to the end of the message's last record.
    pub(super) wire_length: usize,
}

/// Walks the records from the start of `bytes`. The first one's type is known to be right. Empty records, which
/// RFC 8446 forbids, are passed over: common servers do so too, and a hello that hid behind one from us alone
/// would not be inspected.
pub(super) fn handshake_message(bytes: &[u8]) -> Result<Gathered<'_>, HelloError> {
    // Borrowed as long as one record has it all, which is the common case.
    let mut gathered: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        let Some(Fragment { bytes: fragment, after, whole }) = next_fragment(rest)? else {
            return Ok(Gathered::Partial);
        };
        if gathered.is_empty() {
            gathered = Cow::Borrowed(fragment);
        } else {
            gathered.to_mut().extend_from_slice(fragment);
        }
        rest = after;
        if gathered.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(HelloError::NotClientHello);
        }
        if let [_, high, middle, low, ..] = *gathered {
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            if length > MAX_HELLO {
                return Ok(Gathered::Oversize);
            }
            let end = HANDSHAKE_HEADER + length;
            if gathered.len() > end {
                // A client has nothing to say before the server's answer, and a handshake message
                // may not straddle a change of keys.
                return Err(HelloError::TrailingHandshake);
            }
            if gathered.len() == end && whole {
                let wire_length = bytes.len() - rest.len();
                let body = match gathered {
                    Cow::Borrowed(message) => {
                        Cow::Borrowed(message.get(HANDSHAKE_HEADER..).unwrap_or_default())
                    }
                    Cow::Owned(mut message) => {
                        message.drain(..HANDSHAKE_HEADER);
                        Cow::Owned(message)
                    }
                };
                return Ok(Gathered::Whole(Message { body, wire_length }));
            }
        }
        if !whole {
            return Ok(Gathered::Partial);
        }
    }
}

/// A record's fragment, as far as it is there.
struct Fragment<'a> {
    bytes: &'a [u8],
    /// What follows the record.
    after: &'a [u8],
    whole: bool,
}

/// The next record's fragment; `None` when its header is not all there. A header is refused by its
/// first wrong byte.
fn next_fragment(bytes: &[u8]) -> Result<Option<Fragment<'_>>, HelloError> {
    const HANDSHAKE: u8 = 22;
    match bytes {
        [kind, ..] if *kind != HANDSHAKE => return Err(HelloError::InterruptedByRecord(*kind)),
        // What some servers take (`super::first_bytes`); there is no version to hold it against yet.
        [_, 0x10..=0xff, ..] => return Err(HelloError::RecordVersion),
        _ => {}
    }
    let Some((&[_, _, _, high, low], rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_FRAGMENT {
        return Err(HelloError::OversizedRecord(length));
    }
    Ok(Some(match rest.split_at_checked(length) {
        Some((bytes, after)) => Fragment { bytes, after, whole: true },
        None => Fragment { bytes: rest, after: &[], whole: false },
    }))
}
