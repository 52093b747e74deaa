//! The forger: no certificate makes it panic, and every copy is a certificate.
//!
//! Seeds: `seeds/certificate`, of the zoo of `appliance/tls/tests`, whose `seeds.rs` runs them as well.
#![no_main]

#[path = "../../../appliance/tls/tests/common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = invariants::certificate(input);
});
