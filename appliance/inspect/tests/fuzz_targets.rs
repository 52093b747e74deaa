//! The fuzz targets of this crate, on all seeds and on changed ones: tests/fuzz/plain.rs.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unused_attributes, reason = "what a target's root says is nothing to a module")]

extern crate self as libfuzzer_sys;

#[path = "../../../tests/fuzz/fuzz_targets/http.rs"]
mod http;
#[path = "../../../tests/fuzz/plain.rs"]
mod plain;
#[path = "../../../tests/fuzz/fuzz_targets/rules.rs"]
mod rules;

#[test]
fn http_is_judged_alike_however_it_is_read() {
    plain::run("http", http::target);
}

#[test]
fn texts_of_rules_are_parsed_or_refused_by_line() {
    plain::run("rules", rules::target);
}
