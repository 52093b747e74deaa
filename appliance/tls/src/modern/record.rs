//! Records in a stream of bytes (RFC 8446 section 5.1).
//!
//! For: finding where one ends, before anything of it is believed. Not for: opening it. What no
//! implementation takes for a record is told as soon as its first bytes are there.

/// Type, version, length.
pub(super) const HEADER: usize = 5;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;
/// What a header may announce: rustls' own bound, the most that TLS 1.2 has (RFC 5246 section 6.2.3).
const LONGEST: usize = (1 << 14) + 2048;

/// Versions that rustls takes for a record's beside 3.x, and then says something to: SSL 2.0, DTLS.
const OTHERS: [&[u8]; 4] = [&[2, 0], &[0xfe, 0xff], &[0xfe, 0xfd], &[0xfe, 0xfc]];
const MAJORS: [u8; 3] = [2, 3, 0xfe];

/// What a stream begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// One record with its header, and what is behind it.
    Record(&'a [u8], &'a [u8]),
    /// Its beginning: so many bytes are missing, at least.
    Incomplete(usize),
    NoRecord,
}

pub(super) fn next(bytes: &[u8]) -> Next<'_> {
    if bytes.first().is_some_and(|kind| !(20..=24).contains(kind))
        || bytes.get(1).is_some_and(|major| !MAJORS.contains(major))
        || bytes
            .get(1..3)
            .is_some_and(|version| version.first() != Some(&3) && !OTHERS.contains(&version))
    {
        return Next::NoRecord;
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Next::Incomplete(HEADER.saturating_sub(bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length >= LONGEST {
        return Next::NoRecord;
    }
    match bytes.split_at_checked(HEADER + length) {
        Some((record, rest)) => Next::Record(record, rest),
        None => Next::Incomplete((HEADER + length).saturating_sub(bytes.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_cut_where_its_header_says() {
        let stream = [23, 3, 3, 0, 2, 7, 8, 22, 3];
        assert_eq!(next(&stream), Next::Record(&stream[..7], &[22, 3]));
        for length in 1..7 {
            let missing = if length < 5 { 5 - length } else { 7 - length };
            assert_eq!(next(&stream[..length]), Next::Incomplete(missing), "{length}");
        }
    }

    #[test]
    fn what_is_no_record_is_told_with_its_first_wrong_byte() {
        for bytes in [&b"H"[..], &[22, 4], &[22, 2, 1], &[23, 3, 3, 0xff, 0xff], &[19], &[25]] {
            assert_eq!(next(bytes), Next::NoRecord, "{bytes:?}");
        }
        assert_eq!(next(&[]), Next::Incomplete(5));
    }
}
