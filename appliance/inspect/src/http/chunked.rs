//! The chunked transfer coding (RFC 9112 section 7.1), without its data and trailers.

use super::violation::HttpViolation;

/// Longest chunk extension, with white space before it, in bytes.
const MAX_EXTENSION: usize = 1024;

/// Most digits of a chunk size: it fits 64 bits.
const MAX_DIGITS: u8 = 15;

/// Where in the coding a body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    Size {
        value: u64,
        digits: u8,
    },
    /// White space after the size, which old servers pad it with.
    Padding {
        value: u64,
        length: usize,
    },
    Extension {
        value: u64,
        length: usize,
    },
    SizeLineFeed {
        value: u64,
    },
    /// Bytes of data to come; never zero.
    Data(u64),
    DataCarriageReturn,
    DataLineFeed,
    /// After the last chunk: trailers, or the empty line.
    Trailers,
}

impl Chunked {
    pub(super) const START: Self = Self::Size { value: 0, digits: 0 };

    /// Takes one byte of framing. Not to be called in `Data` and `Trailers`, which stay as they
    /// are. `padding`: white space may follow a size.
    pub(super) fn next(self, byte: u8, padding: bool) -> Result<Self, HttpViolation> {
        Ok(match (self, byte) {
            (Self::Size { digits: 1.., value }, b'\r') => Self::SizeLineFeed { value },
            (Self::Size { digits: 1.., value }, b';') => Self::Extension { value, length: 0 },
            (Self::Size { digits: 1.., value }, b' ' | b'\t') if padding => {
                Self::Padding { value, length: 0 }
            }
            (Self::Size { value, digits: digits @ ..MAX_DIGITS }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(HttpViolation::ChunkSize)?;
                Self::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { .. }, _) => return Err(HttpViolation::ChunkSize),
            (Self::Padding { value, .. }, b'\r') => Self::SizeLineFeed { value },
            (Self::Padding { value, length }, b';') => Self::Extension { value, length },
            (Self::Padding { value, length }, b' ' | b'\t') if length < MAX_EXTENSION => {
                Self::Padding { value, length: length + 1 }
            }
            (Self::Padding { .. }, _) => return Err(HttpViolation::ChunkSize),
            (Self::Extension { value, .. }, b'\r') => Self::SizeLineFeed { value },
            (Self::Extension { value, length }, b'\t' | b' '..=b'~' | 0x80..)
                if length < MAX_EXTENSION =>
            {
                Self::Extension { value, length: length + 1 }
            }
            (Self::Extension { .. }, _) => return Err(HttpViolation::ChunkExtension),
            (Self::SizeLineFeed { value: 0 }, b'\n') => Self::Trailers,
            (Self::SizeLineFeed { value }, b'\n') => Self::Data(value),
            (Self::SizeLineFeed { .. }, _) => return Err(HttpViolation::BareCarriageReturn),
            (Self::DataCarriageReturn, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::START,
            (Self::DataCarriageReturn | Self::DataLineFeed, _) => {
                return Err(HttpViolation::ChunkEnd);
            }
            (Self::Data(_) | Self::Trailers, _) => self,
        })
    }
}
