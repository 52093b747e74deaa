//! Ends that are gone while nobody reads of them.
//!
//! A stream is not read while its bytes have nowhere to go, nor after its end in order; its reset (or that
//! the kernel has given it up) then stands where no read comes to it. For: seeing that all the same, and
//! for how long what such an end said last may wait. A FIN is no such end: who sent it may still read.
//! Not for: what follows. Cannot fail.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::link::set_option;
use crate::tcp_info::acknowledged;

/// How long a peer that acknowledges nothing keeps what an end that is gone had said. Without us it would have
/// been reset at once: what it has no room for was never sent to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a flow lives at most, decrypted or not, from when one end is gone or both have ended, whatever the
/// other acknowledges: one that takes a byte at a time would keep both for ever. What there is for it (the
/// kernel's buffers, of some megabytes, and little more of ours) it takes in this time at 10 KB/s.
pub const DYING: Duration = Duration::from_secs(900);

/// Until the stream's peer is gone: it has reset the connection, or answers no more. Safe to cancel.
pub async fn gone(stream: &TcpStream) {
    // An error of the stream's registration is one of the stream.
    let _ = stream.ready(Interest::ERROR).await;
}

/// Why a stream is [`gone`]. It is told once: a read after it would find an end in order.
pub fn why_gone(stream: &TcpStream) -> io::Error {
    match stream.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}

/// How long an end that has ended in order may be silent before it is asked whether it is there, in seconds.
const SELDOM: i32 = 3600;

/// Has a stream whose peer has ended in order asked seldom whether that is there: a peer that closed it has
/// forgotten it a minute later, and answers with a reset, while the other end may still be taking what it
/// said. Without any question the session could live for ever.
pub fn ask_seldom(stream: &TcpStream) {
    // One system call: whether it is asked at all stays as it is.
    if let Err(error) = set_option(stream, libc::SOL_TCP, libc::TCP_KEEPIDLE, SELDOM) {
        tracing::debug!(%error, "asked as often as before");
    }
}

/// How long what an end that is gone said last still waits for its peer: as long as that takes some of it, and
/// not past [`DYING`].
#[derive(Debug)]
pub struct Patience {
    lasts: Duration,
    until: Instant,
    /// How far the peer had come when the time began.
    acknowledged: u64,
    ends: Pin<Box<Sleep>>,
}

impl Patience {
    /// With the peer of this stream, from now on; its other end was first seen to be gone at that time.
    pub fn with(stream: &TcpStream, gone_since: Instant) -> Self {
        Self::lasting(PATIENCE, stream, gone_since + DYING)
    }

    /// The same for other times than what an end that is gone leaves.
    pub fn lasting(lasts: Duration, stream: &TcpStream, until: Instant) -> Self {
        let ends = Box::pin(sleep_until(until.min(Instant::now() + lasts)));
        Self { lasts, until, acknowledged: acknowledged(stream), ends }
    }

    /// Until the peer has acknowledged nothing for as long as it may, and for less than twice that: only
    /// when the time is over is the kernel asked, and a peer that came further has it again.
    pub fn poll(&mut self, stream: &TcpStream, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.ends.as_mut().poll(context));
            let (time, now) = (Instant::now(), acknowledged(stream));
            if std::mem::replace(&mut self.acknowledged, now) == now || time >= self.until {
                return Poll::Ready(());
            }
            self.ends.as_mut().reset(self.until.min(time + self.lasts));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::poll_fn;

    use socket2::{SockRef, TcpKeepalive};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        [listener.accept().await.unwrap().0, peer]
    }

    /// By whoever has to do with it next.
    async fn is_gone(stream: &TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(50), gone(stream)).await.is_ok()
    }

    #[tokio::test]
    async fn peer_that_resets_is_gone_also_behind_what_nobody_has_read() {
        let [mut stream, peer] = pair().await;
        peer.try_write(b"unread").unwrap();
        stream.readable().await.unwrap();
        assert!(!is_gone(&stream).await);
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        gone(&stream).await;
        // And what it had said can still be read, with the reset behind it.
        let mut came = [0; 6];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(&came, b"unread");
        let end = stream.read(&mut came).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn peer_that_has_said_its_last_is_there_until_it_resets() {
        let [mut stream, peer] = pair().await;
        peer.try_write(b"last").unwrap();
        SockRef::from(&peer).shutdown(std::net::Shutdown::Write).unwrap();
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await.unwrap();
        assert!(!is_gone(&stream).await);
        // Nor where both have said it.
        SockRef::from(&stream).shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_gone(&stream).await);
        let [mut stream, peer] = pair().await;
        SockRef::from(&peer).shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_end(&mut came).await.unwrap();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        gone(&stream).await;
        assert!(why_gone(&stream).raw_os_error().is_some());
    }

    #[tokio::test]
    async fn peer_that_ended_is_asked_after_an_hour() {
        let [stream, _peer] = pair().await;
        let asked = TcpKeepalive::new().with_time(Duration::from_secs(300));
        SockRef::from(&stream).set_tcp_keepalive(&asked).unwrap();
        ask_seldom(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(3600));
    }

    /// More than the buffers of both ends hold together.
    fn fill(stream: &TcpStream) {
        while stream.try_write(&[0; 1 << 16]).is_ok() {
            // What was taken is on its way, and makes room.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reads until the stream has heard of it; the kernel answers in a time of its own.
    fn takes_some(peer: &TcpStream, stream: &TcpStream) {
        let before = acknowledged(stream);
        while acknowledged(stream) == before {
            let _ = peer.try_read(&mut [0; 1 << 12]);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn peer_has_its_time_again_where_it_acknowledged_something() {
        let [stream, peer] = pair().await;
        fill(&stream);
        let started = Instant::now();
        let mut patience = Patience::with(&stream, started);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            peer.readable().await.unwrap();
            takes_some(&peer, &stream);
            let ended = poll_fn(|context| Poll::Ready(patience.poll(&stream, context))).await;
            assert!(ended.is_pending());
        }
        poll_fn(|context| patience.poll(&stream, context)).await;
        // It took some in the first 5 s, by 8 s, and in the next 5: from 13 s on nothing.
        let ended = started.elapsed();
        assert!((18_000..18_010).contains(&ended.as_millis()), "{ended:?}");
    }
}
