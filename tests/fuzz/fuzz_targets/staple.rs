//! What servers staple: no response makes reading it panic, or says of anything but a certificate that it
//! is revoked.
//!
//! Input: the length of a certificate in two bytes, the certificate, the OCSP response.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (leaf, response) = rest.split_at(length);
    if weir_tls::says_revoked(leaf, response) {
        assert!(weir_tls::Names::of(leaf).is_some(), "only a certificate is revoked");
        assert!(!weir_tls::says_revoked(&leaf[..length - 1], response));
        assert!(!weir_tls::says_revoked(leaf, &response[..1]));
    }
});
