//! Record protection: the AEAD of one direction of a leg, from the keys that rustls derived.
//!
//! For: records of application data, sealed and opened here without rustls, its buffers and their
//! copies; and all others through rustls, whose encrypters and decrypters ([`super::suites`]) are
//! the same keys with the same sequence number, so that both ways may take turns. Nonces cannot come
//! twice: only [`Protection::next`] gives them. Not for: framing of what comes in
//! ([`super::record`]), what a message means. A record that does not open, or is not of application
//! data, is left as it was, for rustls to find out why.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{
    InboundOpaqueMessage, InboundPlainMessage, OutboundOpaqueMessage, OutboundPlainMessage,
    PrefixedPayload, make_tls12_aad, make_tls13_aad,
};
use rustls::{ContentType, Error, ProtocolVersion};
use zeroize::Zeroizing;

use super::record::{APPLICATION_DATA, HEADER};

/// Plaintext of a record (RFC 8446 section 5.1).
pub(super) const LONGEST_PLAIN: usize = 1 << 14;
/// Of all suites of this stack.
const TAG: usize = 16;
const NONCE: usize = 12;
/// Of TLS 1.2's GCM: the nonce's part that is kept, and the part that each record carries (RFC 5288
/// section 3).
const SALT: usize = 4;
const EXPLICIT: usize = 8;
/// What sealing adds to a record's plaintext at most, the header included.
pub(super) const MOST_ADDED: usize = HEADER + EXPLICIT + TAG;

/// How the nonce and the additional data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Construction {
    /// RFC 8446 section 5.2: the type is encrypted, behind the plaintext.
    Tls13,
    /// ChaCha20 in TLS 1.2 (RFC 7905).
    Tls12Implicit,
    /// GCM in TLS 1.2 (RFC 5288). Its own records count in the explicit part from a random number on.
    Tls12Explicit,
}

/// One direction, until its key changes.
pub(super) struct Protection {
    key: LessSafeKey,
    construction: Construction,
    iv: Zeroizing<[u8; NONCE]>,
    sequence: AtomicU64,
    /// Records that may be sealed with the key.
    limit: u64,
    /// Of what rustls had decrypted.
    framing: HandshakeFraming,
}

impl std::fmt::Debug for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Protection({:?}, record {})", self.construction, self.sequence.load(Relaxed))
    }
}

/// The key has sealed all it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Protection {
    /// `iv`: 12 bytes, or the salt alone. `None`: key or IV is not as long as the algorithm has it.
    pub(super) fn new(
        algorithm: &'static Algorithm,
        construction: Construction,
        key: &[u8],
        iv: &[u8],
        limit: u64,
    ) -> Option<Self> {
        let mut whole = Zeroizing::new([0; NONCE]);
        whole.get_mut(..iv.len())?.copy_from_slice(iv);
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        let (sequence, framing) = (AtomicU64::new(0), HandshakeFraming::default());
        Some(Self { key, construction, iv: whole, sequence, limit, framing })
    }

    /// Of the next record: its number, and its nonce.
    fn next(&self) -> (u64, [u8; NONCE]) {
        let sequence = self.sequence.fetch_add(1, Relaxed);
        (sequence, self.nonce(sequence))
    }

    fn nonce(&self, sequence: u64) -> [u8; NONCE] {
        let mut nonce = *self.iv;
        for (byte, of) in nonce.iter_mut().skip(NONCE - 8).zip(sequence.to_be_bytes()) {
            *byte ^= of;
        }
        nonce
    }

    /// Appends a record of application data; `plain` is [`LONGEST_PLAIN`] at most.
    pub(super) fn seal(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Exhausted> {
        if self.sequence.load(Relaxed) >= self.limit {
            return Err(Exhausted);
        }
        let (sequence, nonce) = self.next();
        let typed = usize::from(self.construction == Construction::Tls13);
        let explicit = self.explicit(&nonce);
        let length = explicit.len() + plain.len() + typed + TAG;
        let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[APPLICATION_DATA, 3, 3, high, low]);
        out.extend_from_slice(explicit);
        let start = out.len();
        out.extend_from_slice(plain);
        if typed > 0 {
            out.push(APPLICATION_DATA);
        }
        let sealed = out.get_mut(start..).unwrap_or_default();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.construction {
            Construction::Tls13 => {
                let aad = Aad::from(make_tls13_aad(length));
                self.key.seal_in_place_separate_tag(nonce, aad, sealed)
            }
            _ => {
                let aad = make_tls12_aad(sequence, DATA, VERSION, plain.len());
                self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), sealed)
            }
        };
        // It fails for more bytes than a record can have only.
        out.extend_from_slice(tag.map_err(|_| Exhausted)?.as_ref());
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn wear_out(&self) {
        self.sequence.store(self.limit, Relaxed);
    }

    fn explicit<'a>(&self, nonce: &'a [u8; NONCE]) -> &'a [u8] {
        match self.construction {
            Construction::Tls12Explicit => nonce.get(SALT..).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Appends the plaintext of a record of application data, header included; `false`: it is none,
    /// or does not open. Nothing has changed then.
    pub(super) fn open(&self, record: &[u8], plain: &mut Vec<u8>) -> bool {
        let start = plain.len();
        let opened = self.open_behind(record, plain, start);
        plain.truncate(opened.unwrap_or(start));
        if opened.is_some() {
            self.sequence.fetch_add(1, Relaxed);
        }
        opened.is_some()
    }

    /// Where the plaintext ends in `plain` that begins at `start`.
    fn open_behind(&self, record: &[u8], plain: &mut Vec<u8>, start: usize) -> Option<usize> {
        let (header, sealed) = record.split_at_checked(HEADER)?;
        let sequence = self.sequence.load(Relaxed);
        let (nonce, sealed) = match self.construction {
            Construction::Tls12Explicit => self.carried_nonce(sealed)?,
            _ => (self.nonce(sequence), sealed),
        };
        plain.extend_from_slice(sealed);
        let sealed = plain.get_mut(start..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = match self.construction {
            Construction::Tls13 => {
                let aad = Aad::from(<[u8; HEADER]>::try_from(header).ok()?);
                self.key.open_in_place(nonce, aad, sealed).ok()?.len()
            }
            _ => {
                let length = sealed.len().checked_sub(TAG)?;
                let version = u16::from_be_bytes([*header.get(1)?, *header.get(2)?]);
                let aad = make_tls12_aad(sequence, DATA, version.into(), length);
                self.key.open_in_place(nonce, Aad::from(aad), sealed).ok()?.len()
            }
        };
        let opened = plain.get(start..start.checked_add(length)?)?;
        let data = match self.construction {
            // Behind the type there may be zeros (RFC 8446 section 5.4).
            Construction::Tls13 => {
                let typed = opened.iter().rposition(|byte| *byte != 0)?;
                (opened.get(typed) == Some(&APPLICATION_DATA)).then_some(typed)?
            }
            _ => length,
        };
        // RFC 8446 section 5.2: padding counts.
        let typed = usize::from(self.construction == Construction::Tls13);
        (length <= LONGEST_PLAIN + typed).then(|| start.saturating_add(data))
    }

    /// Of TLS 1.2's GCM, and what is behind it.
    fn carried_nonce<'a>(&self, sealed: &'a [u8]) -> Option<([u8; NONCE], &'a [u8])> {
        let (explicit, sealed) = sealed.split_first_chunk::<EXPLICIT>()?;
        let mut nonce = *self.iv;
        nonce.get_mut(SALT..)?.copy_from_slice(explicit);
        Some((nonce, sealed))
    }

    /// For rustls: any record.
    pub(super) fn encrypt(
        &self,
        message: &OutboundPlainMessage<'_>,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let (sequence, nonce) = self.next();
        let explicit = self.explicit(&nonce);
        let length = self.sealed_length(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_slice(explicit);
        payload.extend_from_chunks(&message.payload);
        let tls13 = self.construction == Construction::Tls13;
        if tls13 {
            payload.extend_from_slice(&[message.typ.into()]);
        }
        let sealed = payload.as_mut().get_mut(explicit.len()..).unwrap_or_default();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = if tls13 {
            let aad = Aad::from(make_tls13_aad(length));
            self.key.seal_in_place_separate_tag(nonce, aad, sealed)
        } else {
            let length = message.payload.len();
            let aad = Aad::from(make_tls12_aad(sequence, message.typ, message.version, length));
            self.key.seal_in_place_separate_tag(nonce, aad, sealed)
        };
        payload.extend_from_slice(tag.map_err(|_| Error::EncryptError)?.as_ref());
        let typ = if tls13 { DATA } else { message.typ };
        let version = if tls13 { VERSION } else { message.version };
        Ok(OutboundOpaqueMessage::new(typ, version, payload))
    }

    /// A record's payload that has so much plaintext.
    pub(super) fn sealed_length(&self, plain: usize) -> usize {
        let beside = match self.construction {
            Construction::Tls13 => 1 + TAG,
            Construction::Tls12Implicit => TAG,
            Construction::Tls12Explicit => EXPLICIT + TAG,
        };
        plain.saturating_add(beside)
    }

    /// For rustls: any record.
    pub(super) fn decrypt<'a>(
        &self,
        mut message: InboundOpaqueMessage<'a>,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let sequence = self.sequence.load(Relaxed);
        let whole = message.payload.len();
        let beside = match self.construction {
            Construction::Tls13 => TAG, // the type that it lacks then is told as such
            _ => self.sealed_length(0),
        };
        let plain = whole.checked_sub(beside).ok_or(Error::DecryptError)?;
        let (nonce, skipped) = match self.construction {
            Construction::Tls12Explicit => {
                let (nonce, _) = self.carried_nonce(&message.payload).ok_or(Error::DecryptError)?;
                (nonce, EXPLICIT)
            }
            _ => (self.nonce(sequence), 0),
        };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = match self.construction {
            Construction::Tls13 => {
                let aad = Aad::from(make_tls13_aad(whole));
                self.key.open_in_place(nonce, aad, &mut message.payload)
            }
            _ => {
                let aad = make_tls12_aad(sequence, message.typ, message.version, plain);
                self.key.open_within(nonce, Aad::from(aad), &mut message.payload, skipped..)
            }
        };
        let length = opened.map_err(|_| Error::DecryptError)?.len();
        self.sequence.fetch_add(1, Relaxed);
        message.payload.truncate(length);
        let message = if self.construction == Construction::Tls13 {
            message.into_tls13_unpadded_message()?
        } else if length > LONGEST_PLAIN {
            return Err(Error::PeerSentOversizedRecord);
        } else {
            message.into_plain_message()
        };
        if message.typ == ContentType::Handshake {
            self.framing.pass(message.payload);
        }
        Ok(message)
    }

    /// The last record of a handshake message's beginning was not its end.
    pub(super) fn amid_handshake_message(&self) -> bool {
        self.framing.amid()
    }
}

/// Where the stream of handshake messages stands that records of their type have carried so far: how
/// many bytes of a header were seen, in the upper half, and in the lower the length that they tell,
/// or what is missing of it. A key changes between messages only, so that each has its own.
#[derive(Default)]
struct HandshakeFraming(AtomicU64);

impl HandshakeFraming {
    /// Type, and three bytes of length (RFC 8446 section 4).
    const HEADER: u64 = 4;

    fn pass(&self, mut payload: &[u8]) {
        let state = self.0.load(Relaxed);
        let (mut seen, mut length) = (state >> 32, state & 0xff_ffff);
        while let Some((byte, rest)) = payload.split_first() {
            if seen < Self::HEADER {
                length = if seen == 0 { 0 } else { (length << 8) | u64::from(*byte) };
                seen = seen.saturating_add(1);
                payload = rest;
            } else {
                let here = payload.len().min(usize::try_from(length).unwrap_or(usize::MAX));
                length = length.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                payload = payload.get(here..).unwrap_or_default();
            }
            if seen == Self::HEADER && length == 0 {
                seen = 0;
            }
        }
        self.0.store((seen << 32) | length, Relaxed);
    }

    fn amid(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

const DATA: ContentType = ContentType::ApplicationData;
/// What records say, of TLS 1.3 as well.
const VERSION: ProtocolVersion = ProtocolVersion::TLSv1_2;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
