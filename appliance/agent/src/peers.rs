//! Unix sockets that only certain users may speak on.
//!
//! For: binding a socket every user can connect to (engine, console and agent run as different
//! users) and judging a peer by the credentials the kernel gives (SO_PEERCRED, unix(7)). Not for:
//! what a peer may ask (see [`crate::console`]). Fails by refusing the peer.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use nix::unistd::{Uid, User};
use tokio::net::{UnixListener, UnixStream};

/// The users that may connect: root, the agent's own, and some by name.
pub struct AllowedPeers {
    users: Vec<Uid>,
}

impl AllowedPeers {
    /// Names that /etc/passwd does not have are left out: the lab has none of them.
    pub fn named(names: &[&str]) -> Self {
        let mut users = vec![Uid::from_raw(0), Uid::current()];
        users.extend(names.iter().filter_map(|name| Some(User::from_name(name).ok()??.uid)));
        Self { users }
    }

    /// The peer's user, where it is allowed.
    pub fn admit(&self, stream: &UnixStream) -> io::Result<Uid> {
        let uid = Uid::from_raw(stream.peer_cred()?.uid());
        if self.users.contains(&uid) {
            Ok(uid)
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("user {uid} is not allowed"),
            ))
        }
    }
}

/// Whether the user needs no login: root and the agent's own could change the agent anyway.
pub fn needs_no_login(uid: Uid) -> bool {
    uid.is_root() || uid == Uid::current()
}

/// Binds `path`, removing the socket that an earlier agent left.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!("{}: exists and is not a socket", path.display());
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("{}: another agent listens there", path.display());
        }
        fs::remove_file(path).with_context(|| format!("{}: remove", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("{}: bind", path.display()))?;
    // Open to connect for all: who may speak is judged by credentials, not by the file's mode.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("{}: set mode", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_are_judged_by_their_credentials() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(AllowedPeers::named(&[]).admit(&one).unwrap(), Uid::current());
        let nobody = AllowedPeers { users: Vec::new() };
        assert_eq!(nobody.admit(&one).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn socket_of_a_dead_agent_is_replaced_and_that_of_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let first = listen(&path).unwrap();
        assert!(listen(&path).unwrap_err().to_string().contains("another agent listens"));
        drop(first);
        assert!(listen(&path).is_ok());
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(listen(&file).unwrap_err().to_string().contains("is not a socket"));
    }
}
