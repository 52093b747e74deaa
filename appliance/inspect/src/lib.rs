//! Inspection of decrypted sessions: rules in Suricata's syntax, matched across reads, before a byte
//! is forwarded (SPEC I1, I2).
//!
//! For: parsing rule texts into a [`RuleSet`], and one [`Session`] a decrypted session, which takes
//! the plaintext of both directions and says what may be sent on. Not for: I/O, TLS, what happens to
//! the connection after a drop; the engine does that. Fails by [`RuleError`] (a rule that cannot be
//! honoured is refused with its place) and by [`Dropped`] (the session's traffic must stop here).
//!
//! A session's memory is bounded: two withheld heads of [`MAX_HEAD`] bytes, [`MAX_OUTSTANDING`]
//! open requests of two bytes each, and a bit for each content of the rule set in four places and a
//! bit for each rule in one. With the largest rule set that is 192 KiB, with a small one and no head
//! in flight less than 1 KiB.
#![forbid(unsafe_code)]

mod alert;
mod bits;
pub mod http;
mod judging;
mod patterns;
pub mod rules;
mod session;

pub use alert::{Alert, MAX_ALERTS};
pub use http::{HttpViolation, MAX_HEAD, MAX_OUTSTANDING};
pub use rules::{RuleError, RuleProblem, RuleSet, RuleText};
pub use session::{Direction, Dropped, Session};
pub use weir_policy::snapshot::Service;
