//! The worker's loop: the control socket, and all legs.
//!
//! For: taking legs' sockets, answering the engine's question whether it turns, giving each leg that
//! has something its turn. Fails by ending: where the engine is gone, in order.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, send};
use weir_api::legacy::{CONTROL_LEG, CONTROL_PING, CONTROL_READY};

use crate::contexts::Contexts;
use crate::leg::{Interest, Leg};

const CONTROL: u64 = 0;
const EVENTS: usize = 256;
/// Legs that have their turn before the control socket has its own: a new leg, and the question
/// whether we turn, wait behind no more of them.
const LEGS_A_TURN: usize = 16;
/// Datagrams of the control socket in one turn; the others wait for the next.
const DATAGRAMS_A_TURN: usize = 64;

/// What reading the control socket came to.
enum Datagram {
    Taken,
    None,
    /// The engine is gone.
    End,
}

pub struct Worker {
    control: OwnedFd,
    contexts: Contexts,
    epoll: Epoll,
    /// Most at a time, as far as the engine knows of those that ended. What is past it finds room as long
    /// as there are open files (`sandbox::limit_files`).
    most: usize,
    legs: HashMap<u64, (Box<Leg>, Interest)>,
    next: u64,
}

impl Worker {
    pub fn new(control: OwnedFd, contexts: Contexts, most: usize) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        epoll.add(&control, EpollEvent::new(EpollFlags::EPOLLIN, CONTROL)).context("control")?;
        Ok(Self { control, contexts, epoll, most, legs: HashMap::new(), next: CONTROL })
    }

    /// Until the engine is gone, which is told at first how many legs it may open, and what the sandbox
    /// has refused.
    pub fn run(mut self, refused: &[&str]) -> anyhow::Result<()> {
        let most = u32::try_from(self.most).unwrap_or(u32::MAX).to_be_bytes();
        self.tell(&[&[CONTROL_READY], &most[..], refused.join(", ").as_bytes()].concat())?;
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = Vec::new();
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll"),
            };
            for events in events.get(..ready).unwrap_or_default().chunks(LEGS_A_TURN) {
                if !self.control()? {
                    return Ok(());
                }
                for event in events.iter().filter(|event| event.data() != CONTROL) {
                    self.turn(event.data(), &mut buffer);
                }
            }
        }
    }

    /// What the engine has said; `false`: the engine is gone.
    fn control(&mut self) -> anyhow::Result<bool> {
        for _ in 0..DATAGRAMS_A_TURN {
            match self.datagram()? {
                Datagram::Taken => {}
                Datagram::None => break,
                Datagram::End => return Ok(false),
            }
        }
        Ok(true)
    }

    fn datagram(&mut self) -> anyhow::Result<Datagram> {
        let mut byte = [0];
        let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut vectors = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<UnixAddr>(self.control.as_raw_fd(), &mut vectors, Some(&mut room), flags);
        let (length, leg) = match message {
            Ok(message) => {
                // Where there is no room for one more open file the kernel has closed the leg, which its
                // session sees, and says that something is missing.
                let passed = message.cmsgs().into_iter().flatten().find_map(|part| match part {
                    ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
                    _ => None,
                });
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                (message.bytes, passed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Datagram::None),
            Err(Errno::ECONNRESET) => return Ok(Datagram::End),
            Err(error) => return Err(error).context("control"),
        };
        match (length, byte, leg) {
            (0, ..) => return Ok(Datagram::End),
            (_, [CONTROL_LEG], Some(leg)) => self.add(leg),
            (_, [CONTROL_PING], _) => self.tell(&[CONTROL_PING])?,
            _ => {}
        }
        Ok(Datagram::Taken)
    }

    fn tell(&self, what: &[u8]) -> anyhow::Result<()> {
        match send(self.control.as_raw_fd(), what, MsgFlags::MSG_DONTWAIT) {
            // The engine does not read: then it does not wait for it either.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error).context("control"),
        }
    }

    fn add(&mut self, socket: OwnedFd) {
        let socket = UnixStream::from(socket);
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        self.next = self.next.wrapping_add(1);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
        if self.epoll.add(&socket, event).is_ok() {
            let interest = Interest { read: true, write: false };
            self.legs.insert(self.next, (Box::new(Leg::new(socket)), interest));
        }
    }

    fn turn(&mut self, number: u64, buffer: &mut Vec<u8>) {
        let Some((leg, interest)) = self.legs.get_mut(&number) else { return };
        if !leg.turn(&self.contexts, buffer) {
            // Closing the socket takes it out of the poll.
            self.legs.remove(&number);
            return;
        }
        let wanted = leg.interest();
        if wanted != *interest {
            *interest = wanted;
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, wanted.read);
            flags.set(EpollFlags::EPOLLOUT, wanted.write);
            let mut event = EpollEvent::new(flags, number);
            if self.epoll.modify(leg.socket(), &mut event).is_err() {
                self.legs.remove(&number);
            }
        }
    }
}
