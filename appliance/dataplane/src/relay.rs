//! Moving a taken flow's bytes from one socket to the other, unread.
//!
//! For: flows that were taken over and then proved excepted (SPEC D12). Not for: bytes that anybody
//! looks at. Bytes stay in the kernel: they go from socket to socket through a pipe (splice(2)).
//! What one end ends in order is ended at the other; an error of either ends both ways, and the
//! streams, dropped as they come, reset both ends.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::taken::TakenFlow;

/// Bytes a pipe takes at one time. Where the kernel grants no pipe of that size (its bound for each
/// user, /proc/sys/fs/pipe-user-pages-soft, is reached) a smaller one serves, in smaller steps.
const CHUNK: usize = 256 * 1024;
/// Chunks after which a flow lets the runtime's others have a turn.
const TURN: u32 = 8;
/// Empty pipes a thread keeps for the next chunk; more are closed. One is in use only while a chunk
/// is on its way, or waits for its receiver.
const SPARE_PIPES: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Bytes moved, those received before the takeover included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    pub to_server: u64,
    pub to_client: u64,
}

impl TakenFlow {
    /// Moves bytes both ways until both ends have ended, and counts them in `relayed`, which tells
    /// them after an error, too. The streams stay open: close them in order (see
    /// [`crate::set_reset_on_close`]).
    pub async fn relay(&mut self, relayed: &mut Relayed) -> io::Result<()> {
        self.guard.settle();
        let received = std::mem::take(&mut self.received);
        write(&self.server, &received).await?;
        relayed.to_server = received.len() as u64;
        let Relayed { to_server, to_client } = relayed;
        let both_ways = async {
            tokio::try_join!(
                one_way(&self.client, &self.server, to_server),
                one_way(&self.server, &self.client, to_client)
            )
        };
        tokio::select! {
            ended = both_ways => ended.map(drop),
            never = self.guard.pass_keep_alives(&self.client, &self.server) => match never {},
        }
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, moved: &mut u64) -> io::Result<()> {
    let mut chunks: u32 = 0;
    loop {
        from.readable().await?;
        let pipe = match Pipe::take() {
            Ok(pipe) => pipe,
            // No descriptors, or no memory, for a pipe: slower is better than broken.
            Err(_) => {
                let Some(bytes) = copy(from, to).await? else { return end(to) };
                *moved = moved.saturating_add(bytes);
                chunks = chunks.wrapping_add(1);
                if chunks.is_multiple_of(TURN) {
                    tokio::task::yield_now().await;
                }
                continue;
            }
        };
        match pipe.fill(from) {
            Ok(0) => {
                pipe.put_back();
                return end(to);
            }
            Ok(bytes) => {
                pipe.empty(to, bytes).await?;
                *moved = moved.saturating_add(bytes as u64);
                pipe.put_back();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipe.put_back(),
            Err(error) => return Err(error),
        }
        chunks = chunks.wrapping_add(1);
        if chunks.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// Ends the other side in order, as this one ended.
fn end(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        // It was reset meanwhile: its own direction says so.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Moves what `from` has by way of this process, a little at a time; `None` at its end.
async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<Option<u64>> {
    const COPIED: usize = 16 * 1024;
    let mut bytes = Vec::with_capacity(COPIED);
    match from.try_read_buf(&mut bytes) {
        Ok(0) => Ok(None),
        Ok(read) => {
            write(to, &bytes).await?;
            Ok(Some(read as u64))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// A pipe without bytes in it, except between [`Pipe::fill`] and [`Pipe::empty`].
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = SPARE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (output, input) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused where the user has too many: the pipe keeps the size it has.
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(CHUNK as i32));
        Ok(Self { output, input })
    }

    /// For the next chunk, of whatever flow: it must be empty. One that is not is dropped instead.
    fn put_back(self) {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_PIPES {
                spare.push(self);
            }
        });
    }

    /// Takes what `from` has; 0 at its end.
    fn fill(&self, from: &TcpStream) -> io::Result<usize> {
        // The pipe is empty: it cannot be the one that would block.
        from.try_io(Interest::READABLE, || move_bytes(from, &self.input, CHUNK))
    }

    /// Gives `to` all that [`Pipe::fill`] took.
    async fn empty(&self, to: &TcpStream, mut bytes: usize) -> io::Result<()> {
        while bytes > 0 {
            match to.try_io(Interest::WRITABLE, || move_bytes(&self.output, to, bytes)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => bytes = bytes.saturating_sub(moved),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
