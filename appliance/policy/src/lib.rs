//! The vocabulary of Weir: segments, proxies, policies, outcomes; what a configuration may say and
//! the order in which a flow is judged.
//!
//! For: types that every other crate shares, parsing and validating the configuration document,
//! compiling it to an immutable [`Snapshot`], and [`judge`], the one place where the order of
//! judgement stands. Not for: I/O of any kind; nothing here opens a file or a socket.
//! Fails by typed errors that name the place in the document, what was wrong and what would be
//! right.
#![forbid(unsafe_code)]

pub mod configuration;
mod device;
mod document;
pub mod error;
pub mod judge;
pub mod layers;
pub mod located;
pub mod material;
pub mod outcome;
mod place;
pub mod precedence;
pub mod quic;
mod revocation;
pub mod secret;
pub mod snapshot;
pub mod suites;

pub use configuration::Configuration;
pub use error::LocatedError;
pub use judge::{
    Candidate, Decision, FirstBytes, Inspection, Resets, Support, covering_policy, judge,
    judge_classified,
};
pub use layers::{Layer, Syntax};
pub use material::Material;
pub use outcome::Outcome;

pub use place::{Place, ServerAt, Tunnel};
pub use quic::{Quic, judge_quic, quic_exceptions};
pub use secret::SecretBytes;
pub use snapshot::Snapshot;
