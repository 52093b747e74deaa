//! How the two streams of a session end without a reset.
//!
//! For: an orderly end of both sides at once, and of one side by an alert. Not for: deciding whether
//! a session ends so. A peer that does not acknowledge, or whose TCP breaks, is reset when its stream
//! is dropped: that is how every stream closes unless it is said otherwise here.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::libc::{POLLRDHUP, TIOCOUTQ, c_int};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use weir_api::engine::End;
use weir_dataplane::{DYING, acknowledged};
use weir_tls::Alert;

use crate::leg::{HIGH_WATER, Leg, reset_on_close};

/// After both directions ended, or one end is gone: how long the other may acknowledge nothing of the last
/// bytes and the FIN. One that takes them slowly has its time: there is a bound to what there is of them
/// (the kernel's buffer and [`crate::leg::HIGH_WATER`]).
pub const DRAIN: Duration = Duration::from_secs(30);
/// Since when a session is dying, which it does for [`DYING`] at most: since the first end is gone or both have
/// ended, whatever becomes of it then.
#[derive(Default)]
pub struct Dies(Option<Instant>);

impl Dies {
    /// The first time that this, or the end, is asked for.
    pub fn since(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }

    pub fn at(&mut self) -> Instant {
        self.since() + DYING
    }
}

/// How long a peer that was sent the end of its session may go on sending: a reset for what it sends
/// could take from it what it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// Ends one side, by this alert if there is one: what waits for the peer, the alert, FIN; then what
/// the peer still sends is dropped until it ends, too.
pub async fn part(leg: &mut Leg, alert: Option<Alert>) {
    if let Some(alert) = alert {
        leg.tls.fatal_alert(alert);
    }
    if deliver(leg, true).await.is_err() {
        return;
    }
    let _ = tokio::time::timeout(LINGER, discard(&leg.stream)).await;
    reset_on_close(&leg.stream, false);
}

/// Until the peer's FIN, or its reset.
async fn discard(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        if !goes_on(stream) {
            return;
        }
    }
}

/// The buffer is not kept across an await.
fn goes_on(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0; 4096]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Gives one side all that waits for it, and FIN behind it where its session `ends` so, until its peer has
/// acknowledged that. Fails where it has acknowledged nothing for as long as [`DRAIN`], and past [`DYING`].
pub async fn deliver(leg: &mut Leg, ends: bool) -> io::Result<()> {
    let until = Instant::now() + DYING;
    flush(leg, 0, DRAIN, until).await?;
    if ends {
        shut_down(&leg.stream)?;
    }
    match is_acknowledged(&leg.stream, DRAIN, until).await {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Until there is room for more behind what waits for the peer. Fails where it has acknowledged nothing for
/// as long as [`LINGER`].
pub async fn make_room(leg: &mut Leg) -> io::Result<()> {
    flush(leg, HIGH_WATER - 1, LINGER, Instant::now() + DYING).await
}

/// Until TCP has taken all but so many bytes, or the peer has acknowledged nothing for so long, or `until` then.
async fn flush(leg: &mut Leg, most: usize, patience: Duration, until: Instant) -> io::Result<()> {
    let mut taken = acknowledged(&leg.stream);
    loop {
        // A flush that is given up has lost nothing, and goes on where it was.
        let turn = until.min(Instant::now() + patience);
        if let Ok(flushed) = timeout_at(turn, leg.flush_to(most)).await {
            return flushed;
        }
        let now = acknowledged(&leg.stream);
        if std::mem::replace(&mut taken, now) == now || Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Before both streams are reset: what the end that is still there has been sent already it may take, as
/// long as it acknowledges something of it every [`LINGER`], and `until` then.
pub async fn last_words(client: &TcpStream, server: &TcpStream, until: Instant) {
    tokio::join!(is_acknowledged(client, LINGER, until), is_acknowledged(server, LINGER, until));
}

/// Waits until both ends acknowledged everything, FIN included, then lets the streams close without
/// a reset.
///
/// # Errors
/// With a peer that has acknowledged nothing for as long as [`DRAIN`], or not all `until` then: it is reset, as is
/// the other.
pub async fn close_in_order(
    client: &TcpStream,
    server: &TcpStream,
    until: Instant,
) -> Result<(), End> {
    let taken = |stream| is_acknowledged(stream, DRAIN, until);
    match tokio::join!(taken(client), taken(server)) {
        (false, _) => return Err(End::Client),
        (_, false) => return Err(End::Server),
        _ => {}
    }
    reset_on_close(client, false);
    reset_on_close(server, false);
    Ok(())
}

/// Until the peer has acknowledged everything, FIN included; whether it has: not where it acknowledges
/// nothing for so long, nor past `until`. The kernel has no event for it: asked in growing pauses.
async fn is_acknowledged(stream: &TcpStream, patience: Duration, until: Instant) -> bool {
    let mut pause = Duration::from_millis(1);
    let (mut least, mut since) = (c_int::MAX, Instant::now());
    loop {
        match outstanding(stream) {
            0 => return true,
            _ if Instant::now() >= until => return false,
            fewer if fewer < least => (least, since) = (fewer, Instant::now()),
            _ if since.elapsed() >= patience => return false,
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

nix::ioctl_read_bad!(
    /// SIOCOUTQ (tcp(7)): bytes sent and not yet acknowledged, FIN counted as one.
    output_queue, TIOCOUTQ, c_int
);

/// Whether the peer has yet to acknowledge something.
pub fn unacknowledged(stream: &TcpStream) -> bool {
    outstanding(stream) > 0
}

/// What the peer has yet to acknowledge.
fn outstanding(stream: &TcpStream) -> c_int {
    // Reset by its peer: closed, whatever the queue says.
    if stream.peer_addr().is_err() { 0 } else { queue(stream) }
}

/// Whether the stream's peer reset it without having acknowledged all that it was sent: what it answers to
/// who speaks to it when it has closed. The kernel drops what it had queued, but not how much that was.
pub fn reset_unheard(stream: &TcpStream) -> bool {
    stream.peer_addr().is_err() && queue(stream) > 0
}

/// Whether anything was sent on the stream, also after its peer reset it.
pub fn has_spoken(stream: &TcpStream) -> bool {
    queue(stream) > 0 || acknowledged(stream) > 0
}

fn queue(stream: &TcpStream) -> c_int {
    let mut bytes = 0;
    // SAFETY: the descriptor is open while `stream` is borrowed, and TIOCOUTQ writes one int. No
    // safe wrapper of this ioctl exists for sockets.
    let result = unsafe { output_queue(std::os::fd::AsRawFd::as_raw_fd(stream), &raw mut bytes) };
    if result.is_ok() { bytes.max(0) } else { 0 }
}

/// Whether the peer's FIN is there, or its reset, also behind bytes that nobody has read.
pub fn has_said_its_last(stream: &TcpStream) -> bool {
    // A reset needs no asking for. nix has no name for the FIN.
    let fin = PollFlags::from_bits_retain(POLLRDHUP);
    poll(&mut [PollFd::new(stream.as_fd(), fin)], PollTimeout::ZERO).is_ok_and(|ended| ended > 0)
}

/// FIN; the stream stays readable.
pub fn shut_down(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        // The peer reset in the meantime: the read side will tell.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpSocket;

    use super::*;
    use crate::relay::testing::Answering;

    fn dies() -> Instant {
        Instant::now() + DYING
    }

    /// A stream and its peer, which has little room.
    async fn pair() -> [TcpStream; 2] {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_recv_buffer_size(32 << 10).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        [stream, listener.accept().await.unwrap().0]
    }

    /// More than the peer has room for: so much.
    fn fill(stream: &TcpStream) -> u64 {
        let mut filled = 0;
        while let Ok(written) = stream.try_write(&[0; 1 << 16]) {
            filled += written as u64;
            std::thread::sleep(Duration::from_millis(1));
        }
        filled
    }

    /// Until it has acknowledged more than it had before.
    async fn takes_some(peer: &TcpStream, stream: &TcpStream) {
        let before = acknowledged(stream);
        while acknowledged(stream) == before {
            peer.readable().await.unwrap();
            let _ = peer.try_read(&mut [0; 4 << 10]);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// It would hold its session for as long as it likes.
    #[tokio::test(start_paused = true)]
    async fn end_that_takes_a_little_each_time_is_not_waited_for_for_ever() {
        let [stream, peer] = pair().await;
        fill(&stream);
        let slowly = async {
            let begun = Instant::now();
            while begun.elapsed() < DYING + DRAIN {
                tokio::time::sleep(DRAIN - Duration::from_secs(5)).await;
                takes_some(&peer, &stream).await;
            }
        };
        tokio::select! {
            all = is_acknowledged(&stream, DRAIN, dies()) => assert!(!all),
            () = slowly => panic!("it is waited for still, with {} bytes", outstanding(&stream)),
        }
    }

    /// Whatever ends it then: the other end may be gone as well, or both may end.
    #[tokio::test(start_paused = true)]
    async fn session_dies_in_its_time_from_the_first_end_that_is_gone() {
        let mut session = Dies::default();
        let dies = session.at();
        assert_eq!(dies, Instant::now() + DYING);
        tokio::time::sleep(DYING / 2).await;
        assert_eq!(session.at(), dies);
    }

    /// What we hold still, and what its kernel has yet to acknowledge, have that time together.
    #[tokio::test(start_paused = true)]
    async fn end_that_takes_a_little_each_time_has_one_time_for_all_that_waits_for_it() {
        let [stream, peer] = pair().await;
        let filled = fill(&stream);
        // The same socket.
        let its = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned().unwrap());
        let its = TcpStream::from_std(its).unwrap();
        let mut leg = Leg::new(stream, Box::new(Answering::default()));
        leg.send_plain(&[0; 1 << 10]).unwrap();
        assert!(leg.unsent() > 0);
        let slowly = async {
            let (begun, mut made_room) = (Instant::now(), false);
            while begun.elapsed() < DYING + DRAIN {
                tokio::time::sleep(DRAIN - Duration::from_secs(5)).await;
                takes_some(&peer, &its).await;
                // For what we hold.
                while !made_room && begun.elapsed() > DYING / 2 {
                    takes_some(&peer, &its).await;
                    made_room = acknowledged(&its) > filled / 2;
                }
            }
        };
        tokio::select! {
            all = deliver(&mut leg, true) => assert_eq!(all.unwrap_err().kind(), io::ErrorKind::TimedOut),
            () = slowly => panic!("it is waited for still"),
        }
        assert_eq!(leg.unsent(), 0);
    }

    /// It had the rest of its time before.
    #[tokio::test(start_paused = true)]
    async fn end_that_takes_a_little_each_time_of_last_words_has_no_other_time_for_them() {
        let ([stream, peer], [other, _its_peer]) = (pair().await, pair().await);
        fill(&stream);
        let until = Instant::now() + 4 * LINGER;
        let slowly = async {
            while Instant::now() < until + LINGER {
                tokio::time::sleep(LINGER - Duration::from_secs(1)).await;
                takes_some(&peer, &stream).await;
            }
        };
        tokio::select! {
            () = last_words(&stream, &other, until) => {}
            () = slowly => panic!("they are waited for still"),
        }
        assert!(outstanding(&stream) > 0 && Instant::now() >= until);
    }

    #[tokio::test(start_paused = true)]
    async fn end_that_takes_what_is_left_slowly_is_waited_for_and_one_that_takes_nothing_is_not() {
        let [stream, mut peer] = pair().await;
        fill(&stream);
        let before = Instant::now();
        let slowly = async {
            for _ in 0..4 {
                tokio::time::sleep(DRAIN - Duration::from_secs(5)).await;
                takes_some(&peer, &stream).await;
            }
        };
        tokio::select! {
            all = is_acknowledged(&stream, DRAIN, dies()) => panic!("{all} after {:?}", before.elapsed()),
            () = slowly => {}
        }
        assert!(!is_acknowledged(&stream, DRAIN, dies()).await);
        // And to its end.
        shut_down(&stream).unwrap();
        let rest = async { peer.read_to_end(&mut Vec::new()).await.unwrap() };
        let (all, _) = tokio::join!(is_acknowledged(&stream, DRAIN, dies()), rest);
        assert!(all);
    }
}
