//! Files in which authorities have an issuer: none makes reading it panic, and what is found in one is a
//! certificate that brings the path up.
//!
//! Seeds: `seeds/bundle`, by openssl; `appliance/tls/tests/seeds.rs` runs them as well.
#![no_main]

#[path = "../../../appliance/tls/tests/common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = invariants::bundle(input);
});
