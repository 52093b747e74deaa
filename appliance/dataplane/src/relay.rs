//! Moving a taken flow's bytes from one socket to the other, unread.
//!
//! For: flows that were taken over and then proved excepted (SPEC D12). Not for: bytes that anybody
//! looks at. Little at a time is copied, which costs least; where there is much, bytes stay in the
//! kernel: they go from socket to socket through a pipe (splice(2)). What one end ends in order is
//! ended at the other; an error of either ends both ways, and the streams, dropped as they come, reset
//! both ends. So does an end that is gone while nobody reads of it ([`crate::gone`]): at once where it had
//! ended in order, else when its peer has acknowledged nothing more for some seconds, or has been at it for
//! too long.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use socket2::SockRef;
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::Instant;

use crate::gone::{Patience, ask_seldom, gone, why_gone};
use crate::taken::TakenFlow;
use crate::tcp_info::idle_for;

/// Bytes that are copied at one time, on the stack. As many at once are taken for many to come.
const COPIED: usize = 16 * 1024;
/// Bytes a pipe takes at one time. Where the kernel grants no pipe of that size (its bound for each
/// user, /proc/sys/fs/pipe-user-pages-soft, is reached) a smaller one serves, in smaller steps.
const CHUNK: usize = 256 * 1024;
/// Chunks after which a flow lets the runtime's others have a turn.
const TURN: u32 = 8;
/// Empty pipes a thread keeps for the next chunk; more are closed. One is in use only while a chunk
/// is on its way, or waits for its receiver.
const SPARE_PIPES: usize = 8;
/// Pipes of this process, the spare ones included: two descriptors each, and memory of a chunk where its
/// receiver does not take it. Where there are as many, bytes are copied.
const MOST_PIPES: usize = 1024;
static PIPES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Bytes moved, those received before the takeover included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    pub to_server: u64,
    pub to_client: u64,
    /// Since when an end is gone whose last bytes waited for the other: what of them is left has the rest of
    /// [`crate::DYING`].
    pub gone_since: Option<Instant>,
}

/// Why a relay stopped before its ends had ended.
#[derive(Debug, thiserror::Error)]
pub enum RelayFault {
    /// An end broke, or is gone.
    #[error("TCP: {0}")]
    Tcp(#[from] io::Error),
    #[error("idle for too long")]
    Idle,
}

/// Until no data went over these streams for so long; `None`: for ever. Nothing is kept of what goes over
/// them: the kernel is asked when the time could be over.
async fn until_idle(streams: [&TcpStream; 2], lasts: Option<Duration>) {
    let Some(lasts) = lasts else { return std::future::pending().await };
    let mut idle = Duration::ZERO;
    while idle < lasts {
        tokio::time::sleep(lasts - idle).await;
        idle = idle_for(streams);
    }
}

impl TakenFlow {
    /// Moves bytes both ways until both ends have ended, and counts them in `relayed`, which tells
    /// them after an error, too; or until no byte of data came for as long as `idle`. The streams stay open:
    /// close them in order (see [`crate::set_reset_on_close`]).
    pub async fn relay(
        &mut self,
        relayed: &mut Relayed,
        idle: Option<Duration>,
    ) -> Result<(), RelayFault> {
        self.guard.settle();
        let received = std::mem::take(&mut self.received);
        let (from_client, to_client) = self.client.split();
        let (from_server, to_server) = self.server.split();
        let [client, server] = [to_client.as_ref(), to_server.as_ref()];
        let mut to_server = OneWay::new(from_client, client, server);
        let mut to_client = OneWay::new(from_server, server, client);
        to_server.waiting = Some(Waiting::Copied { bytes: received, sent: 0 });
        let mut asked = pin!(self.guard.asked());
        let mut acknowledged = pin!(self.acknowledgement.in_time());
        let mut idle = pin!(until_idle([client, server], idle));
        let ended = poll_fn(|cx| {
            let Poll::Pending = acknowledged.as_mut().poll(cx);
            while let Poll::Ready(ends) = asked.as_mut().poll(cx) {
                // Who ended in order may be gone, and would answer with a reset.
                let [client_asks, server_asks] = ends;
                let ends = [client_asks && !to_client.ended, server_asks && !to_server.ended];
                self.guard.pass_on(ends, client, server);
                asked.set(self.guard.asked());
            }
            let ended = [
                to_server.poll(cx, &mut relayed.to_server)?,
                to_client.poll(cx, &mut relayed.to_client)?,
            ];
            if ended.iter().all(Poll::is_ready) {
                return Poll::Ready(Ok(()));
            }
            for way in [&mut to_server, &mut to_client] {
                if let Poll::Ready(error) = way.poll_gone(cx) {
                    return Poll::Ready(Err(error.into()));
                }
            }
            idle.as_mut().poll(cx).map(|()| Err(RelayFault::Idle))
        })
        .await;
        relayed.gone_since =
            [&to_server, &to_client].into_iter().filter_map(|way| way.gone_since).min();
        ended
    }
}

/// From one end to the other.
struct OneWay<'a> {
    from: ReadHalf<'a>,
    /// The stream of `from`, watched while nobody reads of it.
    source: &'a TcpStream,
    gone: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    gone_since: Option<Instant>,
    patience: Option<Patience>,
    to: &'a TcpStream,
    /// Received, and not yet taken by `to`.
    waiting: Option<Waiting>,
    /// Much came at once the last time.
    much: bool,
    ended: bool,
}

enum Waiting {
    Copied { bytes: Vec<u8>, sent: usize },
    Piped { pipe: Pipe, bytes: usize },
}

impl<'a> OneWay<'a> {
    fn new(from: ReadHalf<'a>, source: &'a TcpStream, to: &'a TcpStream) -> Self {
        let (gone, gone_since, patience, waiting) = (None, None, None, None);
        let [much, ended] = [false; 2];
        Self { from, source, gone, gone_since, patience, to, waiting, much, ended }
    }

    /// Until `from` has ended, and `to` has all of it and has been told so; adds to `moved` what `to`
    /// has taken.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut u64) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.poll_send(self.to, cx, moved))?;
                if let Some(Waiting::Piped { pipe, .. }) = self.waiting.take() {
                    pipe.put_back();
                }
            }
            let received = match self.much.then(Pipe::take) {
                Some(Ok(pipe)) => self.poll_splice(pipe, cx),
                // Little; or too many pipes, or no descriptors, or no memory: slower is better than broken.
                None | Some(Err(_)) => self.poll_copy(cx, moved),
            };
            match ready!(received)? {
                0 => {
                    self.ended = true;
                    ask_seldom(self.source);
                    end(self.to)?;
                }
                received => self.much = received >= COPIED,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Until `from` is gone, and `to` has had its time to take what it said last. To be called after
    /// [`Self::poll`].
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.waiting.is_none() && !self.ended {
            // It is read, which tells by itself.
            self.patience = None;
            return Poll::Pending;
        }
        let gone_since = match self.gone_since {
            Some(since) => since,
            None => {
                let source = self.source;
                ready!(self.gone.get_or_insert_with(|| Box::pin(gone(source))).as_mut().poll(cx));
                self.gone = None;
                *self.gone_since.insert(Instant::now())
            }
        };
        if !self.ended {
            let with = || Patience::with(self.to, gone_since);
            ready!(self.patience.get_or_insert_with(with).poll(self.to, cx));
        }
        Poll::Ready(why_gone(self.source))
    }

    /// Receives by way of this process, and sends on what is taken at once; how much was received.
    fn poll_copy(&mut self, cx: &mut Context<'_>, moved: &mut u64) -> Poll<io::Result<usize>> {
        let mut storage = [MaybeUninit::uninit(); COPIED];
        let mut buffer = ReadBuf::uninit(&mut storage);
        ready!(Pin::new(&mut self.from).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        if !bytes.is_empty() {
            let sent = match self.to.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            *moved = moved.saturating_add(sent as u64);
            let bytes = bytes.get(sent..).unwrap_or_default();
            if !bytes.is_empty() {
                self.waiting = Some(Waiting::Copied { bytes: bytes.to_vec(), sent: 0 });
            }
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Receives into the pipe, which then waits to be sent; how much was received.
    fn poll_splice(&mut self, pipe: Pipe, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let from = self.from.as_ref();
        loop {
            if from.poll_read_ready(cx)?.is_pending() {
                pipe.put_back();
                return Poll::Pending;
            }
            match pipe.fill(from) {
                Ok(0) => {
                    pipe.put_back();
                    return Poll::Ready(Ok(0));
                }
                Ok(bytes) => {
                    self.waiting = Some(Waiting::Piped { pipe, bytes });
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Waiting {
    /// Until `to` has taken all.
    fn poll_send(
        &mut self,
        to: &TcpStream,
        cx: &mut Context<'_>,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            let taken = match self {
                Self::Copied { bytes, sent } => match bytes.get(*sent..).unwrap_or_default() {
                    [] => return Poll::Ready(Ok(())),
                    waiting => {
                        let taken = to.try_write(waiting);
                        *sent = sent.saturating_add(*taken.as_ref().unwrap_or(&0));
                        taken
                    }
                },
                Self::Piped { bytes: 0, .. } => return Poll::Ready(Ok(())),
                Self::Piped { pipe, bytes } => {
                    let taken = pipe.empty(to, *bytes);
                    *bytes = bytes.saturating_sub(*taken.as_ref().unwrap_or(&0));
                    taken
                }
            };
            match taken {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => *moved = moved.saturating_add(taken as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(to.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
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

/// A pipe without bytes in it, except between [`Pipe::fill`] and the last [`Pipe::empty`].
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    _counted: CountedPipe,
}

/// One of the pipes that there may be.
struct CountedPipe;

impl CountedPipe {
    fn new() -> Option<Self> {
        // Before anything is compared: with the object it is taken back.
        let pipes = PIPES.fetch_add(1, Ordering::Relaxed);
        let counted = Self;
        (pipes < MOST_PIPES).then_some(counted)
    }
}

impl Drop for CountedPipe {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = SPARE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let _counted = CountedPipe::new().ok_or(io::ErrorKind::QuotaExceeded)?;
        let (output, input) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Refused where the user has too many: the pipe keeps the size it has.
        let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(CHUNK as i32));
        Ok(Self { output, input, _counted })
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

    /// Gives `to` of the `bytes` that it has what `to` takes.
    fn empty(&self, to: &TcpStream, bytes: usize) -> io::Result<usize> {
        to.try_io(Interest::WRITABLE, || move_bytes(&self.output, to, bytes))
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}

#[cfg(test)]
mod tests;
