//! The messages between Weir's processes, and how they are framed on their Unix sockets.
//!
//! For: the types agent, engine, init and console exchange. Not for: what the messages mean to the
//! one that gets them. Fails by [`frame::FrameError`]: a frame over its bound, JSON that does not
//! fit, a peer that went away.
#![forbid(unsafe_code)]

pub mod capture;
pub mod console;
pub mod engine;
pub mod fetch;
pub mod frame;
pub mod init;
pub mod legacy;
pub mod links;
pub mod paths;
pub mod rules;
pub mod session;
pub mod sight;
