//! HTTP/1 as far as inspection needs it: where heads, bodies and messages begin and end.
//!
//! For: framing both directions of one connection ([`Connection`]) strictly enough that this side
//! and both ends agree on it (RFC 9112), and the parts of a request that rules name. Not for:
//! matching, nor rewriting: bytes are forwarded as they came or not at all. Fails by
//! [`HttpViolation`]: what is HTTP but could be read in two ways is refused, because the other
//! reading is how a request is smuggled past inspection.
//!
//! What is not HTTP at all is told apart by the first line of the client, and is then matched as a
//! raw stream. A server that speaks first is one in its own direction only: a client that speaks
//! HTTP after it is a violation. So is what only a lenient server would take for HTTP (a known
//! method in a line without a version, blanks before it).

mod chunked;
mod connection;
mod head;
mod lines;
mod recognise;
mod target;
mod violation;

pub use connection::MAX_OUTSTANDING;
pub(crate) use connection::{Connection, Ending, Step};
pub(crate) use head::RequestHead;
pub use violation::HttpViolation;

/// Longest head, and longest trailers, in bytes, with what precedes them. They are withheld whole;
/// past this the session is dropped ([`Dropped::HeadTooLarge`](crate::Dropped::HeadTooLarge)).
pub const MAX_HEAD: usize = 64 * 1024;
