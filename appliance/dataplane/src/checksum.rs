//! Internet checksums (RFC 1071) and big-endian fields.

/// Sum of big-endian 16-bit words.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|word| u64::from(word[0]) << 8 | u64::from(word[1])).sum();
    whole + words.remainder().first().map_or(0, |last| u64::from(*last) << 8)
}

/// The sum with its carries, in 16 bits; the checksum is its complement.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

/// Writes a field that is known to be there; past the end it writes nothing.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at.saturating_add(value.len())) {
        field.copy_from_slice(value);
    }
}

/// Makes the checksum of the IPv4 header at `at`, of `length` bytes, right.
pub fn complete_ipv4(bytes: &mut [u8], at: usize, length: usize) {
    put(bytes, at + 10, &[0, 0]);
    let checksum = !fold(sum(bytes.get(at..at + length).unwrap_or_default()));
    put(bytes, at + 10, &checksum.to_be_bytes());
}
