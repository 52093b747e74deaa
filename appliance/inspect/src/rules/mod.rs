//! Rules in Suricata's syntax, a subset of it (SPEC I2).
//!
//! ```text
//! alert|drop tcp|http any any -> any any (msg:"..."; flow:established,to_server;
//!     http.uri; content:"..."; nocase; content:!"..."; sid:1; rev:1;)
//! ```
//!
//! For: turning texts into a [`RuleSet`] ready to match. Not for: matching. A rule that cannot be
//! honoured exactly is refused with its place, its keyword and what would be right; no rule is
//! skipped, and a set with one refused rule is no set. All errors are collected.
//!
//! What a rule means here:
//! - `tcp` rules see the raw stream of either direction of every session, an HTTP head and the
//!   framing of chunks included. They have no sticky buffers.
//! - `http` rules see the messages of sessions that carry HTTP. Contents before any sticky buffer
//!   are searched in one message: its head as sent, then its body without the framing of chunks,
//!   then trailers. `http.uri`, `http.method` and `http.host` are those of the request, so a rule
//!   with one of them looks at requests only.
//! - All contents of a rule must be found in the same stream or message, in any order; overlaps
//!   are allowed.
//! - A negated content is judged when its buffer is complete. A stream or a body is complete only
//!   when all of it has been forwarded, so negated contents are accepted in sticky buffers only. A
//!   buffer the request lacks (no Host) is an empty one: its negated contents hold.
//! - `flow` names the direction; `established` is always true of a decrypted session.
//! - A line that ends in a backslash goes on in the next, comments as well, as in Suricata.

mod content;
mod error;
mod lines;
mod parse;
mod set;

pub use error::{RuleError, RuleProblem};
pub(crate) use set::Action;
pub use set::{MAX_CONTENTS, RuleSet};

/// A text of rules and the name that errors call it by: a file, or a place in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    pub origin: String,
    pub text: String,
}
