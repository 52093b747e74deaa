use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::testing::{Answering, side};
use super::*;
use crate::closing::unacknowledged;

/// As the relay does for each event.
fn takes(side: &mut Side, wire: &[u8]) {
    side.leg.tls.read_wire(wire).unwrap();
    side.leg.collect();
    side.push().unwrap();
}

#[tokio::test]
async fn peer_that_makes_tls_answer_and_does_not_listen_is_read_no_more() {
    const READ: usize = 64 << 10;
    let ((mut side, peer), (other, _its_peer)) = (side().await, side().await);
    // More than TCP takes for a peer that reads nothing.
    for _ in 0..1000 {
        if side.wanted(&other).read {
            takes(&mut side, &[0; READ]);
        }
    }
    assert!(side.leg.unsent() < UNHEARD + READ, "{}", side.leg.unsent());
    assert!(!side.reads());
    // The other side's data is not kept from it, as far as that goes.
    assert!(!other.wanted(&side).read);
    while !side.wanted(&other).read {
        tokio::select! {
            ready = peer.readable() => ready.unwrap(),
            ready = side.leg.stream.writable() => ready.unwrap(),
        }
        let _ = peer.try_read(&mut [0; READ]);
        side.push().unwrap();
    }
}

#[tokio::test]
async fn what_is_withheld_goes_with_the_end_at_the_latest() {
    let ((mut side, peer), (other, _its_peer)) = (side().await, side().await);
    side.withholds = true;
    takes(&mut side, b"tickets");
    assert_eq!(side.leg.unsent(), 7);
    // Nobody is woken for it, again and again.
    assert!(!side.wanted(&other).write);
    side.closing = true;
    side.push().unwrap();
    let mut came = Vec::new();
    while came.len() < 7 {
        peer.readable().await.unwrap();
        let _ = peer.try_read_buf(&mut came);
    }
    assert_eq!(came, b"tickets");
    peer.readable().await.unwrap();
    assert_eq!(peer.try_read(&mut [0; 8]).unwrap(), 0);
}

/// Segments that came so far: tcpi_segs_in (linux/tcp.h), which libc's structure lacks.
fn segments_in(stream: &TcpStream) -> u32 {
    const SEGMENTS_IN: usize = 140;
    let mut info = [0_u8; 256];
    let mut length = nix::libc::socklen_t::try_from(info.len()).unwrap();
    // SAFETY: the descriptor is open, and the kernel writes `length` bytes at most. nix has no
    // wrapper that gives the fields behind libc's.
    let result = unsafe {
        nix::libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(stream),
            nix::libc::SOL_TCP,
            nix::libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert!(result == 0 && length as usize >= SEGMENTS_IN + 4);
    u32::from_ne_bytes(info[SEGMENTS_IN..SEGMENTS_IN + 4].try_into().unwrap())
}

#[tokio::test]
async fn last_bytes_and_the_end_are_one_segment() {
    let (mut side, peer) = side().await;
    let before = segments_in(&peer);
    side.closing = true;
    takes(&mut side, b"close_notify");
    let mut came = Vec::new();
    loop {
        peer.readable().await.unwrap();
        match peer.try_read_buf(&mut came) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(came, b"close_notify");
    assert_eq!(segments_in(&peer) - before, 1);
}

/// By RST.
fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn other_side_gets_the_end_of_one_that_is_gone_where_that_had_ended_in_order() {
    for ended_in_order in [true, false] {
        let (mut side, mut peer) = side().await;
        // More than TCP takes at once, of an end that then is gone.
        let said = vec![7; 8 << 20];
        side.leg.send_plain(&said).unwrap();
        side.closing = ended_in_order;
        side.push().unwrap();
        assert!(side.leg.unsent() > 0);
        let mut came = Vec::new();
        let all = async {
            let mut limited = (&mut peer).take(said.len() as u64);
            limited.read_to_end(&mut came).await.unwrap();
        };
        let (delivered, ()) = tokio::join!(side.deliver_last(ended_in_order), all);
        delivered.unwrap();
        assert!(came == said);
        // As the session's streams come.
        crate::leg::reset_on_close(&side.leg.stream, true);
        drop(side);
        let end = peer.read(&mut [0; 1]).await;
        match ended_in_order {
            true => assert_eq!(end.unwrap(), 0),
            false => assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

/// Until the other side's reset is there.
async fn is_reset(side: &Side) {
    tokio::time::timeout(Duration::from_secs(20), weir_dataplane::gone(&side.leg.stream))
        .await
        .unwrap();
}

#[tokio::test]
async fn reset_of_an_end_that_had_closed_is_told_from_one_that_means_it() {
    // It ends, and closes: what is said to it then is answered by its kernel.
    let (mut late, peer) = side().await;
    late.ended = true;
    drop(peer);
    takes(&mut late, b"too late");
    is_reset(&late).await;
    assert!(late.left_by_words_of_ours());
    // It ends, hears, and resets: because of what it has not read, if it ended TLS before it had that.
    for (closed, has_tickets, ours) in
        [(false, true, false), (true, false, false), (true, true, true)]
    {
        let (mut meant, peer) = side().await;
        takes(&mut meant, b"heard");
        (meant.ended, meant.has_tickets) = (true, has_tickets);
        if closed {
            meant.leg.tls = Box::new(Answering::whose_peer_closed());
        }
        while unacknowledged(&meant.leg.stream) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        reset(peer);
        is_reset(&meant).await;
        assert_eq!(meant.left_by_words_of_ours(), ours);
    }
    // It never ended.
    let (mut broken, peer) = side().await;
    reset(peer);
    is_reset(&broken).await;
    let _ = broken.push();
    assert!(!broken.left_by_words_of_ours());
}

#[tokio::test]
async fn legacy_stack_that_holds_what_was_said_is_told_from_a_peer_that_does_not_take_it() {
    let ((mut side, _peer), (mut other, _its_peer)) = (side().await, side().await);
    assert!(!side.waits_for_worker(&other));
    // On the leg that it is to come from, and on the one that it is to go to.
    other.leg.tls = Box::new(Answering::that_holds(1, 0));
    assert!(side.waits_for_worker(&other));
    other.leg.tls = Box::<Answering>::default();
    side.leg.tls = Box::new(Answering::that_holds(0, 1));
    assert!(side.waits_for_worker(&other));
    // Of what it gave back already the peer has not taken all.
    side.leg.tls = Box::<Answering>::default();
    while side.leg.unsent() == 0 {
        takes(&mut side, &[0; 1 << 16]);
    }
    side.leg.tls = Box::new(Answering::that_holds(0, 1));
    assert!(!side.waits_for_worker(&other));
}
