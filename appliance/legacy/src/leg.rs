//! One leg: its socket to the engine, and the endpoint behind it.
//!
//! For: frames in, frames out, both bounded. A leg that cannot send is not read from: the engine's
//! bytes then wait in the socket. Fails by ending: the socket is closed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use weir_api::legacy::{Failure, Frames, FromWorker, ToWorker};

use crate::contexts::Contexts;
use crate::endpoint::Endpoint;

/// Frames for the engine that wait; past it nothing is read. What one read brings comes on top.
const OUT_BOUND: usize = 256 << 10;
/// One read, so that others have their turn.
const READ: usize = 64 << 10;

pub struct Leg {
    socket: UnixStream,
    frames: Frames,
    out: Vec<u8>,
    sent: usize,
    endpoint: Option<Endpoint>,
    /// Said that it failed: what is left is to be sent.
    failed: bool,
}

/// What the poll is to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Leg {
    pub fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            frames: Frames::default(),
            out: Vec::new(),
            sent: 0,
            endpoint: None,
            failed: false,
        }
    }

    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    pub fn interest(&self) -> Interest {
        let waiting = self.out.len().saturating_sub(self.sent);
        Interest { read: waiting < OUT_BOUND, write: waiting > 0 }
    }

    /// One turn; `false`: the leg has ended.
    pub fn turn(&mut self, contexts: &Contexts, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(READ, 0);
        if self.interest().read {
            match self.socket.read(buffer) {
                Ok(0) => return false,
                Ok(read) => self.take(contexts, buffer.get(..read).unwrap_or_default()),
                Err(error) if blocks(&error) => {}
                Err(_) => return false,
            }
        }
        self.send()
    }

    fn take(&mut self, contexts: &Contexts, bytes: &[u8]) {
        if self.failed {
            return;
        }
        self.frames.push(bytes);
        if let Err(failure) = self.process(contexts) {
            self.failed = true;
            self.endpoint = None;
            self.say(&FromWorker::Failed(failure));
        }
        self.frames.shrink();
    }

    fn process(&mut self, contexts: &Contexts) -> Result<(), Failure> {
        let (mut wire, mut plain) = (0_usize, 0_usize);
        let protocol = |what: &str| Failure::Internal(what.to_owned());
        loop {
            let message =
                self.frames.to_worker().map_err(|invalid| protocol(&invalid.to_string()))?;
            match (message, &mut self.endpoint) {
                (None, _) => break,
                (Some(ToWorker::Open(open)), None) => {
                    self.endpoint = Some(Endpoint::open(contexts, &open)?);
                }
                (Some(ToWorker::Wire(bytes)), Some(endpoint)) => {
                    wire = wire.saturating_add(bytes.len());
                    endpoint.feed(&bytes);
                }
                (Some(ToWorker::Plain(bytes)), Some(endpoint)) => {
                    plain = plain.saturating_add(bytes.len());
                    endpoint.write(&bytes)?;
                }
                (Some(ToWorker::CloseNotify), Some(endpoint)) => {
                    plain = plain.saturating_add(1);
                    endpoint.close_notify();
                }
                (Some(ToWorker::Alert(alert)), Some(endpoint)) => {
                    plain = plain.saturating_add(1);
                    endpoint.fatal_alert(alert);
                }
                (Some(ToWorker::ForgetSession), Some(endpoint)) => endpoint.forget_session(),
                (Some(_), _) => return Err(protocol("a message out of its order")),
            }
        }
        let Some(mut endpoint) = self.endpoint.take() else { return Ok(()) };
        let turned = endpoint.turn(&mut |message| self.say(&message));
        self.endpoint = Some(endpoint);
        turned?;
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.say(&FromWorker::Done { wire: count(wire), plain: count(plain) });
        Ok(())
    }

    fn say(&mut self, message: &FromWorker) {
        if message.encode(&mut self.out).is_err() {
            // A chain over the bound of a frame.
            self.failed = true;
            let failure = Failure::Internal("a message over its bound".to_owned());
            let _ = FromWorker::Failed(failure).encode(&mut self.out);
        }
    }

    fn send(&mut self) -> bool {
        while let Some(waiting) = self.out.get(self.sent..).filter(|waiting| !waiting.is_empty()) {
            match self.socket.write(waiting) {
                Ok(written) => self.sent = self.sent.saturating_add(written),
                Err(error) if blocks(&error) => return true,
                Err(_) => return false,
            }
        }
        // An idle leg keeps no buffer.
        self.out = Vec::new();
        self.sent = 0;
        !self.failed
    }
}

fn blocks(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
