//! What is expected of each animal. Two tests hold it against what happens: the one in memory, and
//! that of the lab, between real ends.

use weir_tls::Signer;
use weir_tls::verify::Action;

/// Verdict of the log, and what becomes of a session with no block option, with "block invalid", and
/// with "block expired".
pub struct Expected {
    pub verdict: &'static str,
    pub signer: Signer,
    pub blocked: &'static [Action],
}

const GOOD: Expected = Expected { verdict: "verified", signer: Signer::Trusted, blocked: &[] };

const fn dates(verdict: &'static str) -> Expected {
    Expected { verdict, signer: Signer::Trusted, blocked: &[Action::BlockExpired] }
}

const fn invalid(verdict: &'static str) -> Expected {
    Expected { verdict, signer: Signer::Untrusted, blocked: &[Action::BlockInvalid] }
}

const fn both(verdict: &'static str) -> Expected {
    let blocked = &[Action::BlockInvalid, Action::BlockExpired];
    Expected { verdict, signer: Signer::Untrusted, blocked }
}

pub fn expected(name: &str) -> Expected {
    match name {
        "good" | "address" | "wildcard" | "no common name" | "1000 names" | "shuffled chain"
        | "RSA-8192" | "P-384" | "P-224" => GOOD,
        "expired" => dates("expired"),
        "not yet valid" => dates("not yet valid"),
        "self-signed"
        | "unknown root"
        | "missing intermediate"
        | "authority as leaf"
        | "unknown critical extension"
        | "version 1" => invalid("untrusted"),
        "wrong name" | "common name only" => invalid("name mismatch"),
        "RSA-1024" => invalid("weak key"),
        "SHA-1" | "MD5" | "SHA-1 intermediate" => invalid("untrusted, weak signature"),
        "name constraint" | "path length" | "client authentication only" => {
            invalid("constraint violated")
        }
        "expired intermediate" => invalid("intermediate expired or not yet valid"),
        "everything" => both("expired, untrusted, name mismatch, weak key"),
        other => panic!("no expectation for {other}"),
    }
}
