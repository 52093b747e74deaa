//! A service's notification socket, the receiving end of sd_notify(3).
//!
//! For: READY=1, WATCHDOG=1, STATUS=. Not for: file descriptors, reloads. Fails to bind with the
//! system's error. A datagram that did not come from the service's main process is dropped, and
//! so is one that does not parse: neither is worth more than a line in the log.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use nix::unistd::Pid;

use super::account::Account;

/// Longest datagram; a longer one is cut and its last line lost.
const LONGEST: usize = 4096;
/// Most datagrams of one service in one turn; the rest wait for the next.
const A_TURN: usize = 32;
/// Longest status text kept, characters.
const LONGEST_STATUS: usize = 200;

#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    Ready,
    Alive,
    /// Control characters taken out.
    Status(String),
}

pub struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notify {
    /// A file `<service>.notify` in `directory`. A path and not an abstract name: those belong to
    /// a network namespace, and services change theirs. Only `owner` (absent: the supervisor's own
    /// user) and root can send to it, so that no other service can fill its queue.
    pub fn bind(
        directory: &Path,
        service: &str,
        owner: Option<Account>,
    ) -> Result<Self, std::io::Error> {
        let path = directory.join(format!("{service}.notify"));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        // Whoever wrote is checked by credentials as well: the user may have other processes.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        if let Some(Account { uid, gid }) = owner {
            chown(&path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self { socket, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the process `main` said since the last call.
    pub fn receive(&self, main: Pid) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..A_TURN {
            let mut buffer = [0; LONGEST];
            let Some((length, sender)) = self.datagram(&mut buffer) else { break };
            if sender != Some(main) {
                tracing::debug!(?sender, "notification from another process dropped");
                continue;
            }
            messages.extend(parse(buffer.get(..length).unwrap_or_default()));
        }
        messages
    }

    /// Length, and the sender's process as the kernel vouches for it.
    fn datagram(&self, buffer: &mut [u8]) -> Option<(usize, Option<Pid>)> {
        let mut control = cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            // Descriptors that somebody sends are closed by the kernel: there is no room for them.
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .ok()?;
        let sender = received.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => {
                    Some(Pid::from_raw(credentials.pid()))
                }
                _ => None,
            })
        });
        Some((received.bytes, sender))
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `NAME=value` lines; names that mean nothing here are passed over.
fn parse(datagram: &[u8]) -> Vec<Message> {
    String::from_utf8_lossy(datagram)
        .lines()
        .filter_map(|line| match line.split_once('=')? {
            ("READY", "1") => Some(Message::Ready),
            ("WATCHDOG", "1") => Some(Message::Alive),
            ("STATUS", text) => Some(Message::Status(
                text.chars().filter(|c| !c.is_control()).take(LONGEST_STATUS).collect(),
            )),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_messages() {
        assert_eq!(
            parse(b"READY=1\nSTATUS=at \x1b[1mwork\nMAINPID=1\nWATCHDOG=trigger\nWATCHDOG=1"),
            [Message::Ready, Message::Status("at [1mwork".into()), Message::Alive]
        );
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(parse(&[0xff, 0xfe, b'\n', b'=', b'\n']), []);
    }

    #[test]
    fn only_the_main_process_is_heard() {
        let directory = std::env::temp_dir().join(format!("weir-notify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let notify = Notify::bind(&directory, "x", None).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1", notify.path()).unwrap();
        assert_eq!(notify.receive(Pid::from_raw(1)), []);
        sender.send_to(b"READY=1", notify.path()).unwrap();
        assert_eq!(notify.receive(Pid::this()), [Message::Ready]);
        drop(notify);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
