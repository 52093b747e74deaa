//! HTTP/1 sessions: what is withheld, what is forwarded, what is a violation.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod framing;
mod matching;
mod raw;
mod switching;

use common::Run;
use weir_inspect::{Dropped, HttpViolation};

/// Matches nothing that the tests send.
const QUIET: &str = "drop tcp any any -> any any (content:\"|00 de ad be ef|\"; sid:1;)";

const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn violation(verdict: Result<(), Dropped>) -> HttpViolation {
    match verdict {
        Err(Dropped::ProtocolViolation(violation)) => violation,
        other => panic!("no violation: {other:?}"),
    }
}

fn drop_rule(options: &str) -> Run {
    Run::http(&format!("drop http any any -> any any ({options} sid:7; rev:2;)"))
}
