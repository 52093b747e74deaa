//! Entering and making network namespaces, on threads of their own.
//!
//! For: running a piece of work inside a namespace without moving the caller. Not for: what is in a
//! namespace (`segment`). Fails with the I/O error of the namespace's file or of `setns`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// Runs `work` on a new thread inside the namespace at `path`, and waits for it.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    on_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Makes the namespace at `path` as `ip netns add` does, unless it is there already.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    share(directory)?;
    File::create(path)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        let _ = fs::remove_file(path); // what failed is reported; the empty file must not stay
    }
    made
}

/// Mounts made below `directory` must reach processes in other mount namespaces.
fn share(directory: &Path) -> io::Result<()> {
    let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
    if mount(None::<&str>, directory, None::<&str>, shared, None::<&str>).is_ok() {
        return Ok(());
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, None::<&str>, bind, None::<&str>)?;
    mount(None::<&str>, directory, None::<&str>, shared, None::<&str>)?;
    Ok(())
}

/// Whether a namespace is mounted at `path`, and not just a file left behind.
pub(crate) fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the thread inside the namespace panicked")),
    })
}
