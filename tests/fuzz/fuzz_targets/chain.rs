//! The verifier: no chain makes it panic, and what it keeps changes no verdict.
//!
//! Seeds: `seeds/chain`, of the zoo of `appliance/tls/tests`, whose `seeds.rs` runs them as well.
#![no_main]

#[path = "../../../appliance/tls/tests/common/invariants.rs"]
#[allow(dead_code)]
mod invariants;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = invariants::chain(input);
});
