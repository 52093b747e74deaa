//! Threads of a bench: in a namespace, on a processor, with a runtime; and their ends.

use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// A read or write that waits longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A thread in a namespace, on a processor.
pub fn spawn<T: Send + 'static>(
    name: &str,
    namespace: &Path,
    processor: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let file = std::fs::File::open(namespace)
        .with_context(|| format!("opening {}", namespace.display()))?;
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        pin(processor);
        work()
    })?;
    Ok(thread)
}

/// Best effort: it steadies the figures, no more.
pub fn pin(processor: usize) {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = nix::sched::CpuSet::new();
    if set.set(processor % count).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}

/// What a thread came to.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the bench panicked"))?
}

/// A single-threaded runtime on the calling thread.
pub fn on_a_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Reads and writes of it wait no longer than [`PATIENCE`].
pub fn patient(stream: TcpStream) -> Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
