//! What authorities say of certificates, OCSP answers and lists: none makes reading it panic, none is
//! believed in part, and each says the same twice.
//!
//! Seeds: `seeds/revocation`, by openssl; `appliance/tls/tests/seeds.rs` runs them as well.
#![no_main]

#[path = "../../../appliance/tls/tests/common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = invariants::answer(input);
});
