//! init's own socket: status, reboot, power off, and the killing of a service.
//!
//! For: the agent, and root at a shell. Not for: deciding what happens; the supervisor does.
//! Frames are those of `weir_api::frame` (32-bit big-endian length, then JSON), read here without
//! a runtime and never waited for. A client that sends what is no request, or does not read its
//! answers, is cut off; one that is not allowed to ask is told so and cut off.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;
use weir_api::init::{FromInit, MachineStatus, ToInit};

/// Most clients at once; the oldest is cut off for a new one.
const CLIENTS: usize = 8;
/// Longest request, bytes.
const LONGEST_REQUEST: usize = 4096;
/// Most requests of one client in a turn.
const REQUESTS_A_TURN: usize = 16;

pub struct Control {
    listener: UnixListener,
    /// Besides root.
    allowed: Vec<Uid>,
    machine: Box<dyn Fn() -> MachineStatus>,
    clients: Vec<Client>,
    /// The next client's number.
    next: u64,
}

struct Client {
    number: u64,
    stream: UnixStream,
    received: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("request of {0} bytes is over the bound of {LONGEST_REQUEST}")]
    TooLong(usize),
    #[error("not a request: {0}")]
    NotARequest(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("closed")]
    Closed,
}

impl Control {
    /// `machine` is asked anew for each status; the services are filled in by the supervisor.
    pub fn bind(
        path: &Path,
        allowed: Vec<Uid>,
        machine: Box<dyn Fn() -> MachineStatus>,
    ) -> io::Result<Self> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        // Anybody may connect; who did is checked by credentials.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, allowed, machine, clients: Vec::new(), next: 0 })
    }

    pub fn machine(&self) -> MachineStatus {
        (self.machine)()
    }

    /// What to poll.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.clients.iter().map(|c| c.stream.as_fd()))
    }

    /// What came in since the last call, with the number of the client to answer.
    pub fn requests(&mut self) -> Vec<(u64, ToInit)> {
        self.accept();
        let mut requests = Vec::new();
        self.clients.retain_mut(|client| match client.read(&mut requests) {
            Ok(()) => true,
            Err(ClientError::Closed) => false,
            Err(error) => {
                tracing::warn!(%error, "client of the control socket cut off");
                let _ = client.send(&FromInit::Refused(error.to_string()));
                false
            }
        });
        requests
    }

    pub fn answer(&mut self, number: u64, answer: &FromInit) {
        self.clients.retain_mut(|client| {
            client.number != number
                || client
                    .send(answer)
                    .inspect_err(|error| tracing::warn!(%error, "client cut off"))
                    .is_ok()
        });
    }

    fn accept(&mut self) {
        for _ in 0..CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else { return };
            let mut client = Client { number: self.next, stream, received: Vec::new() };
            self.next = self.next.wrapping_add(1);
            if client.stream.set_nonblocking(true).is_err() {
                continue;
            }
            match getsockopt(&client.stream, sockopt::PeerCredentials) {
                Ok(peer) if self.may_ask(Uid::from_raw(peer.uid())) => {
                    if self.clients.len() >= CLIENTS {
                        self.clients.remove(0);
                    }
                    self.clients.push(client);
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "may not ask init");
                    let _ = client.send(&FromInit::Refused(
                        "only root and the agent may ask init".to_owned(),
                    ));
                }
                Err(error) => tracing::warn!(%error, "credentials of a client"),
            }
        }
    }

    fn may_ask(&self, uid: Uid) -> bool {
        uid.is_root() || self.allowed.contains(&uid)
    }
}

impl Client {
    fn read(&mut self, requests: &mut Vec<(u64, ToInit)>) -> Result<(), ClientError> {
        for _ in 0..REQUESTS_A_TURN {
            if let Some(request) = self.request()? {
                requests.push((self.number, request));
                continue;
            }
            let mut buffer = [0; LONGEST_REQUEST];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(length) => self.received.extend(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes one whole request out of what was received. What is kept is bounded by the longest
    /// request and one read.
    fn request(&mut self) -> Result<Option<ToInit>, ClientError> {
        let Some((length, rest)) = self.received.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST_REQUEST {
            return Err(ClientError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let request = serde_json::from_slice(body)?;
        self.received.drain(..4 + length);
        Ok(Some(request))
    }

    /// Whole or not at all: an answer is far smaller than a socket's buffer.
    fn send(&mut self, answer: &FromInit) -> Result<(), ClientError> {
        let body = serde_json::to_vec(answer)?;
        let length = u32::try_from(body.len()).map_err(|_| ClientError::TooLong(body.len()))?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(body);
        Ok(self.stream.write_all(&frame)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Client { number: 7, stream: ours, received: Vec::new() }, theirs)
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    #[test]
    fn requests_in_pieces_and_in_heaps_are_read() {
        let (mut client, mut peer) = client();
        let mut requests = Vec::new();
        let one = frame(br#""Status""#);
        peer.write_all(&one[..6]).unwrap();
        client.read(&mut requests).unwrap();
        assert!(requests.is_empty());
        peer.write_all(&one[6..]).unwrap();
        peer.write_all(&frame(br#"{"KillService":{"name":"engine"}}"#)).unwrap();
        client.read(&mut requests).unwrap();
        assert!(matches!(requests.as_slice(),
            [(7, ToInit::Status), (7, ToInit::KillService { name })] if name == "engine"));
    }

    #[test]
    fn a_request_over_the_bound_is_refused_by_its_length_alone() {
        let (mut client, mut peer) = client();
        peer.write_all(&u32::MAX.to_be_bytes()).unwrap();
        let error = client.read(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, ClientError::TooLong(_)), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        let (mut client, mut peer) = client();
        peer.write_all(&frame(b"\"Explode\"")).unwrap();
        let error = client.read(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, ClientError::NotARequest(_)), "{error}");
    }
}
