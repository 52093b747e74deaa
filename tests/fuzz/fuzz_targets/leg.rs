//! The modern stack's legs: no bytes of a peer make one panic, or tell plaintext that nobody agreed on
//! keys for.
//!
//! Seeds: `seeds/leg`, first flights of openssl's client and server; `appliance/tls/tests/seeds.rs`
//! runs them as well.
#![no_main]

#[path = "../../../appliance/tls/tests/common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = invariants::leg(input);
});
