//! Just enough DER (X.690) to take a certificate apart without changing a byte of it, and to put
//! one together.
//!
//! For: raw slices of what must be copied faithfully, which parsers that build values lose. Not
//! for: BER, values of types that certificates do not have. Definite, minimal lengths only; fails
//! by [`DerError`] on everything else.

use thiserror::Error;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag of a context-specific, primitive element.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag of a context-specific, constructed element.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// What kept bytes from being read as DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum DerError {
    #[error("element of tag {found:#04x} where {expected:#04x} belongs")]
    Tag { expected: u8, found: u8 },
    #[error("an element ends beyond what holds it")]
    Truncated,
    #[error("a length that is not definite and minimal")]
    Length,
    #[error("tag numbers over 30")]
    LongTag,
    #[error("bytes after the last element")]
    Trailing,
    #[error("a time that is none")]
    Time,
    #[error("a value outside its range")]
    Value,
}

/// One element. `raw` is tag, length and contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) contents: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// Reads elements one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn any(&mut self) -> Result<Element<'a>, DerError> {
        let all = self.0;
        let [tag, first, rest @ ..] = all else { return Err(DerError::Truncated) };
        if tag & 0x1f == 0x1f {
            return Err(DerError::LongTag);
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // Four bytes of length are more than any message that carries a certificate.
            0x81..=0x84 => {
                let (bytes, rest) =
                    rest.split_at_checked(usize::from(first & 0x0f)).ok_or(DerError::Truncated)?;
                let length = bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
                let minimal = bytes.first() != Some(&0) && length > 0x7f;
                let length = usize::try_from(length).map_err(|_| DerError::Length)?;
                if !minimal {
                    return Err(DerError::Length);
                }
                (length, rest)
            }
            _ => return Err(DerError::Length),
        };
        let (contents, rest) = rest.split_at_checked(length).ok_or(DerError::Truncated)?;
        let raw = all.get(..all.len() - rest.len()).ok_or(DerError::Truncated)?;
        self.0 = rest;
        Ok(Element { tag: *tag, contents, raw })
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let found = self.0.first().ok_or(DerError::Truncated)?;
        if *found != tag {
            return Err(DerError::Tag { expected: tag, found: *found });
        }
        self.any()
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.0.first() == Some(&tag) { self.any().map(Some) } else { Ok(None) }
    }

    pub(crate) fn end(&self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError::Trailing) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An element of `tag` whose contents are `parts`, one after another.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
            let significant = bytes.iter().skip(skipped);
            // At most eight bytes of length, so the count fits.
            out.push(0x80 | (bytes.len() - skipped) as u8);
            out.extend(significant);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}
