//! The fuzz targets of this crate, on all seeds and on changed ones: tests/fuzz/plain.rs.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unused_attributes, reason = "what a target's root says is nothing to a module")]

extern crate self as libfuzzer_sys;

#[path = "../../../tests/fuzz/fuzz_targets/from_worker.rs"]
mod from_worker;
#[path = "../../../tests/fuzz/plain.rs"]
mod plain;

#[test]
fn what_a_worker_says_is_read_or_refused() {
    plain::run("from_worker", from_worker::target);
}
