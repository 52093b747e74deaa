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
use weir_tls::Alert;

use crate::leg::{Leg, reset_on_close};

/// After both directions ended: how long the last bytes and FINs may take.
pub const DRAIN: Duration = Duration::from_secs(30);
/// How long a peer that was sent the end of its session may go on sending: a reset for what it sends
/// could take from it what it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// Ends one side, by this alert if there is one: what waits for the peer, the alert, FIN; then what
/// the peer still sends is dropped until it ends, too.
pub async fn part(leg: &mut Leg, alert: Option<Alert>) {
    if let Some(alert) = alert {
        leg.tls.fatal_alert(alert);
    }
    let said = async {
        leg.flush_all().await?;
        shut_down(&leg.stream)?;
        wait_for_acknowledgement(&leg.stream).await;
        Ok::<(), io::Error>(())
    };
    if !matches!(tokio::time::timeout(DRAIN, said).await, Ok(Ok(()))) {
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

/// Before both streams are reset: what the end that is still there has been sent already it may take, for
/// as long as [`LINGER`].
pub async fn last_words(client: &TcpStream, server: &TcpStream) {
    let acknowledged = async {
        wait_for_acknowledgement(client).await;
        wait_for_acknowledgement(server).await;
    };
    let _ = tokio::time::timeout(LINGER, acknowledged).await;
}

/// Waits until both ends acknowledged everything, FIN included, then lets the streams close without
/// a reset. A peer that never acknowledges is reset after [`DRAIN`].
pub async fn close_in_order(client: &TcpStream, server: &TcpStream) {
    let acknowledged = async {
        wait_for_acknowledgement(client).await;
        wait_for_acknowledgement(server).await;
    };
    if tokio::time::timeout(DRAIN, acknowledged).await.is_ok() {
        reset_on_close(client, false);
        reset_on_close(server, false);
    }
}

/// The kernel has no event for it: asked in growing pauses.
pub async fn wait_for_acknowledgement(stream: &TcpStream) {
    let mut pause = Duration::from_millis(1);
    while unacknowledged(stream) {
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
    if stream.peer_addr().is_err() {
        return false; // reset by its peer: closed, whatever the queue says
    }
    let mut bytes = 0;
    // SAFETY: the descriptor is open while `stream` is borrowed, and TIOCOUTQ writes one int. No
    // safe wrapper of this ioctl exists for sockets.
    let result = unsafe { output_queue(std::os::fd::AsRawFd::as_raw_fd(stream), &raw mut bytes) };
    result.is_ok() && bytes > 0
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
