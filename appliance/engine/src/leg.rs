//! One side of a decrypted session: a TCP stream and the TLS state that speaks on it.
//!
//! For: moving wire bytes between the two, with bounded buffers. Not for: what the plaintext means.
//! Fails by [`LegFault`], which says whether TCP or TLS failed.

use std::io;

use nix::libc::{MSG_MORE, MSG_NOSIGNAL};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use weir_tls::{Alert, LegError, TlsLeg};

/// Wire bytes waiting for a slow peer; past it nothing more is read from the other side. One read
/// of the other side may come on top.
pub const HIGH_WATER: usize = 256 << 10;

/// Wire bytes that a peer has not taken; past it nothing more is read from itself. Data of the other
/// side, bound by [`HIGH_WATER`], stays under it: it is what TLS answers to a peer that makes it
/// answer and does not listen (renegotiation refused, a KeyUpdate for each one asked for).
pub const UNHEARD: usize = 2 * HIGH_WATER;

/// One side of a session.
pub struct Leg {
    pub stream: TcpStream,
    pub tls: Box<dyn TlsLeg>,
    /// Wire bytes to send: `out[sent..]`.
    out: Vec<u8>,
    sent: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum LegFault {
    #[error("TCP: {0}")]
    Tcp(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] LegError),
    #[error("the peer closed the connection amid the handshake")]
    Closed,
    #[error("the handshake took too long")]
    Slow,
    #[error("the peer did not answer")]
    Mute,
}

impl LegFault {
    /// What the other side's peer is told of it inside its session; `None`: nothing, it is reset, as
    /// it would be without us, or because the fault is ours.
    pub fn alert_for_other_side(&self) -> Option<Alert> {
        match self {
            Self::Tls(LegError::Internal(_) | LegError::Overfed) => None,
            Self::Tls(error) => Some(error.alert_for_other_side()),
            Self::Tcp(_) | Self::Closed | Self::Slow | Self::Mute => None,
        }
    }

    /// As the record of a broken session has it, after its peer's name.
    pub fn in_short(&self) -> String {
        match self {
            Self::Tls(LegError::AlertReceived(alert)) => format!("alert {alert}"),
            Self::Tls(error) => error.to_string(),
            Self::Tcp(error) => error.to_string(),
            Self::Closed | Self::Slow | Self::Mute => self.to_string(),
        }
    }
}

impl Leg {
    pub fn new(stream: TcpStream, tls: Box<dyn TlsLeg>) -> Self {
        Self { stream, tls, out: Vec::new(), sent: 0 }
    }

    /// Says what TLS has to say, and waits until anything comes: bytes, or the end.
    pub async fn is_answered(&mut self) -> io::Result<()> {
        self.flush_all().await?;
        self.stream.readable().await
    }

    /// Drives the handshake to its end. `received` is fed first. A last flight that the peer does not
    /// wait for is left in the out buffer: it goes with the first data, or by [`Self::flush_some`].
    pub async fn handshake(&mut self, received: &[u8]) -> Result<(), LegFault> {
        let mut fed = if received.is_empty() { Ok(()) } else { self.tls.read_wire(received) };
        let mut closed = false;
        loop {
            self.collect();
            if fed.is_ok() && !self.tls.handshaking() && !self.tls.peer_awaits_last_flight() {
                return Ok(());
            }
            self.flush_all().await?;
            // What came behind the last message is the session's, an alert too: it is told again.
            if !self.tls.handshaking() {
                return Ok(());
            }
            fed?;
            if closed && self.tls.in_progress().wire == 0 {
                return Err(LegFault::Closed);
            }
            fed = tokio::select! {
                ready = self.stream.readable(), if !closed
                    && (self.tls.wants_read() || self.tls.peer_closed()) =>
                {
                    ready?;
                    match self.receive() {
                        // What came before may be the handshake's end, still with the worker.
                        Err(LegFault::Closed) if self.tls.in_progress().wire > 0 => {
                            closed = true;
                            Ok(())
                        }
                        received => received?,
                    }
                }
                () = progress(&mut self.tls) => self.tls.read_wire(&[]),
            };
        }
    }

    /// Feeds what TCP has now. The buffer is not kept across an await, where it would be part of
    /// every session's task for as long as that lives.
    fn receive(&mut self) -> Result<Result<(), LegError>, LegFault> {
        let mut buffer = [0; 4096];
        match self.try_read(&mut buffer) {
            Ok(0) => Err(LegFault::Closed),
            Ok(read) => Ok(buffer.get(..read).map_or(Ok(()), |bytes| self.tls.read_wire(bytes))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Ok(())),
            Err(error) => Err(error.into()),
        }
    }

    /// What TCP has now. A read that does not fill the buffer has emptied the socket: its next bytes
    /// are an event of their own, and until then nobody needs to ask the kernel in vain.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.try_read(buffer)?;
        if (1..buffer.len()).contains(&read) {
            let nothing_more = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.stream.try_io(Interest::READABLE, nothing_more);
        }
        Ok(read)
    }

    /// Takes plaintext whole: what TCP does not take at once is kept in the out buffer, whose bound
    /// the caller keeps by not reading the other side while [`Self::pending`] is over
    /// [`HIGH_WATER`].
    pub fn send_plain(&mut self, mut bytes: &[u8]) -> Result<(), LegFault> {
        while !bytes.is_empty() {
            let taken = self.tls.write_plain(bytes);
            self.pass_on()?;
            match bytes.get(taken..) {
                Some(rest) if taken > 0 => bytes = rest,
                _ => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            }
        }
        Ok(())
    }

    /// Gives TCP what TLS wants to send, past the out buffer where that is empty; what TCP does not
    /// take goes there.
    fn pass_on(&mut self) -> io::Result<()> {
        if self.unsent() == 0 {
            match self.tls.send_wire(&mut Unbuffered(&self.stream)) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        self.collect();
        Ok(())
    }

    /// Moves what TLS wants to send into the out buffer.
    pub fn collect(&mut self) {
        // A peer that takes some at a time, and never all, would have what it took kept as well.
        if self.sent > self.unsent() {
            self.out.drain(..self.sent.min(self.out.len()));
            self.sent = 0;
        }
        while self.tls.wants_write() {
            let before = self.out.len();
            self.tls.write_wire(&mut self.out);
            if self.out.len() == before {
                return;
            }
        }
    }

    /// Bytes for the peer that TCP has not taken: records, and plaintext that is yet to become some.
    pub fn pending(&self) -> usize {
        self.unsent().saturating_add(self.tls.in_progress().plain)
    }

    /// Records not yet taken by TCP.
    pub fn unsent(&self) -> usize {
        self.out.len().saturating_sub(self.sent)
    }

    /// Sends what TCP takes now.
    pub fn flush_some(&mut self) -> io::Result<()> {
        self.flush_by(TcpStream::try_write)
    }

    /// The same where FIN follows the last byte at once: the two go in one segment.
    pub fn flush_before_end(&mut self) -> io::Result<()> {
        self.flush_by(|stream, waiting| {
            let socket = SockRef::from(stream);
            let more = MSG_MORE | MSG_NOSIGNAL;
            stream.try_io(Interest::WRITABLE, || socket.send_with_flags(waiting, more))
        })
    }

    fn flush_by(
        &mut self,
        send: impl Fn(&TcpStream, &[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while let Some(waiting) = self.out.get(self.sent..).filter(|waiting| !waiting.is_empty()) {
            match send(&self.stream, waiting) {
                Ok(written) => self.sent = self.sent.saturating_add(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.unsent() == 0 {
            self.sent = 0;
            // An idle session keeps no buffer: that of the handshake would stay as long as it lives.
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Forgets what is still to be sent.
    pub fn discard(&mut self) {
        self.collect();
        self.out = Vec::new();
        self.sent = 0;
    }

    /// Waits until TCP has taken everything.
    pub async fn flush_all(&mut self) -> io::Result<()> {
        self.flush_to(0).await
    }

    /// Waits until TCP has taken all but so many bytes. Safe to cancel: what was taken is.
    pub async fn flush_to(&mut self, most: usize) -> io::Result<()> {
        loop {
            self.collect();
            self.flush_some()?;
            if self.pending() <= most {
                return Ok(());
            }
            let unsent = self.unsent() > 0;
            tokio::select! {
                ready = self.stream.writable(), if unsent => ready?,
                () = progress(&mut self.tls) => {}
            }
        }
    }
}

/// A stream that takes what it can at once.
struct Unbuffered<'a>(&'a TcpStream);

impl io::Write for Unbuffered<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Until a leg whose work is done elsewhere has come further; on any other, for ever.
pub async fn progress(tls: &mut Box<dyn TlsLeg>) {
    std::future::poll_fn(|context| tls.poll_progress(context)).await;
}

/// Whether a close of the stream resets its peer. A stream that refuses stays as it was: a reset.
pub fn reset_on_close(stream: &TcpStream, on: bool) {
    if let Err(error) = weir_dataplane::set_reset_on_close(stream, on) {
        tracing::debug!(%error, on, "cannot say how the stream shall close");
    }
}
