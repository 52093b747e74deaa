//! The worker of the legacy TLS stack (SPEC T13): OpenSSL, with SSL 3.0 and weak suites compiled in,
//! in a process of its own that reaches nothing but its descriptors.
//!
//! For: TLS endpoints whose wire bytes and plaintext come and go over one Unix socket each. The
//! engine starts it, with the control socket as standard input, and passes each leg's socket over
//! that. Not for: sockets to peers, policy, verdicts on certificates, signing certificates: it gets
//! leaf keys only, each with the leg that shows the leaf. One thread; it ends with its engine.
//! Fails by ending, before it says that it is ready, where the library is not the one it must be or
//! the sandbox cannot be had; later, by what ends one leg.

mod alert;
mod bindings;
mod contexts;
mod endpoint;
mod leg;
mod library;
mod observed;
mod sandbox;
mod sessions;
mod worker;

use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::Context as _;
use weir_api::legacy::MAX_LEGS;

fn main() -> anyhow::Result<()> {
    sandbox::close_inherited().context("sandbox")?;
    // SAFETY: standard input is open from the start and nothing else in this process uses it.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    let contexts = contexts::Contexts::new().context("OpenSSL")?;
    library::check().context("OpenSSL")?;
    let legs = sandbox::limit_files(MAX_LEGS).context("sandbox")?;
    let worker = worker::Worker::new(control, contexts, legs)?;
    sandbox::enter().context("sandbox")?;
    let refused = sandbox::prove().context("sandbox")?;
    worker.run(&refused)
}
