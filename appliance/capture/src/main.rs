//! `weir-capture`: packet captures on the segments' ports (SPEC D11).
//!
//! For: what is on the wire, into pcapng files, whether an engine lives or not. A process of its own
//! because it parses what anybody sends: after entering the wire namespace it keeps CAP_NET_RAW and
//! nothing else. It sees ciphertext only; what was decrypted never crosses a port. Not for: deciding
//! who may capture (the agent does). Fails at start where its socket or directory cannot be had;
//! afterwards it answers with a refusal.

mod filter;
mod packet;
mod pcapng;
mod port;
mod running;
mod serve;
mod store;
mod summary;

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};
use clap::Parser;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, User};

use crate::serve::Captures;
use crate::store::Store;

#[derive(Parser)]
#[command(version, about = "Packet captures on the segments' ports")]
struct Arguments {
    /// Where to listen for the agent.
    #[arg(long, value_name = "PATH", default_value = weir_api::paths::CAPTURE_SOCKET)]
    socket: PathBuf,
    /// Where captures are kept.
    #[arg(long, value_name = "DIR", default_value = "/data/captures")]
    directory: PathBuf,
    /// The network namespace of the ports; where it is missing there are none.
    #[arg(long, value_name = "PATH", default_value = "/run/netns/wire")]
    namespace: PathBuf,
    /// Largest file, MiB; less where the disk is small.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    largest_file: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // While it may still do everything it was started with.
    let listener = listen(&arguments.socket)
        .with_context(|| format!("{}: listen", arguments.socket.display()))?;
    enter(&arguments.namespace)?;
    fs::create_dir_all(&arguments.directory)
        .with_context(|| arguments.directory.display().to_string())?;
    let mut captures = Captures {
        store: Store { directory: arguments.directory },
        largest_file: arguments.largest_file.saturating_mul(1 << 20),
        known: VecDeque::new(),
    };
    let agent = User::from_name("weir-agent").ok().flatten().map(|user| user.uid);
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        if !is_allowed(&stream, agent) {
            continue; // closed
        }
        if let Err(error) = captures.answer(&mut stream) {
            eprintln!("weir-capture: {error}");
        }
    }
    Ok(())
}

/// Who may ask is judged by credentials, not by the file's mode.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// root, this user itself, and the agent.
fn is_allowed(stream: &UnixStream, agent: Option<Uid>) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| {
        let uid = Uid::from_raw(peer.uid());
        uid.is_root() || uid == Uid::current() || Some(uid) == agent
    })
}

/// Into the wire namespace, then without any capability but CAP_NET_RAW. Threads come later, so
/// that all of them are there.
fn enter(namespace: &Path) -> anyhow::Result<()> {
    match File::open(namespace) {
        Ok(namespace) => setns(&namespace, CloneFlags::CLONE_NEWNET).context("setns")?,
        // An appliance without segments: every capture is refused because there is no such port.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| namespace.display().to_string()),
    }
    let keep = CapsHashSet::from([Capability::CAP_NET_RAW]);
    caps::clear(None, CapSet::Ambient).context("ambient capabilities")?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())
        .context("inheritable capabilities")?;
    caps::set(None, CapSet::Effective, &keep).context("effective capabilities")?;
    caps::set(None, CapSet::Permitted, &keep).context("permitted capabilities")
}
