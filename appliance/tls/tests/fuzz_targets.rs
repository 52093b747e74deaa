//! The fuzz targets of this crate, on all seeds and on changed ones: tests/fuzz/plain.rs.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::duplicate_mod, reason = "each target is a program of its own elsewhere")]
#![allow(unused_attributes, reason = "what a target's root says is nothing to a module")]

extern crate self as libfuzzer_sys;

#[path = "../../../tests/fuzz/fuzz_targets/bundle.rs"]
mod bundle;
#[path = "../../../tests/fuzz/fuzz_targets/certificate.rs"]
mod certificate;
#[path = "../../../tests/fuzz/fuzz_targets/chain.rs"]
mod chain;
#[path = "../../../tests/fuzz/fuzz_targets/client_hello.rs"]
mod client_hello;
#[path = "../../../tests/fuzz/fuzz_targets/leg.rs"]
mod leg;
#[path = "../../../tests/fuzz/plain.rs"]
mod plain;
#[path = "../../../tests/fuzz/fuzz_targets/revocation.rs"]
mod revocation;
#[path = "../../../tests/fuzz/fuzz_targets/staple.rs"]
mod staple;

#[test]
fn answers_of_authorities_are_believed_whole_or_not() {
    plain::run("revocation", revocation::target);
}

#[test]
fn bundles_have_issuers_or_nothing() {
    plain::run("bundle", bundle::target);
}

#[test]
fn certificates_are_copied_or_refused() {
    plain::run("certificate", certificate::target);
}

#[test]
fn chains_get_the_same_verdict_twice() {
    plain::run("chain", chain::target);
}

#[test]
fn hellos_are_whole_or_not() {
    plain::run("client_hello", client_hello::target);
}

#[test]
fn first_flights_tell_no_plaintext() {
    plain::run("leg", leg::target);
}

#[test]
fn staples_say_revoked_or_nothing() {
    plain::run("staple", staple::target);
}
