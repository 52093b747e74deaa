#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::sleep;

use super::*;
use crate::gone::DYING;
use crate::tcp_info::acknowledged;

#[test]
fn there_are_no_more_pipes_than_there_may_be() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut pipes: Vec<Pipe> = (0..MOST_PIPES).map(|_| Pipe::take().unwrap()).collect();
    let refused = Pipe::take().err().map(|error| error.kind());
    assert_eq!(refused, Some(io::ErrorKind::QuotaExceeded));
    // One that is put back is the next one's.
    pipes.remove(0).put_back();
    pipes.push(Pipe::take().unwrap());
    pipes.remove(0);
    Pipe::take().unwrap();
}

/// A stream and its peer, which has little room.
async fn pair() -> [TcpStream; 2] {
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(32 << 10).unwrap();
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    SockRef::from(&stream).set_send_buffer_size(1 << 20).unwrap();
    [stream, listener.accept().await.unwrap().0]
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

#[tokio::test(start_paused = true)]
async fn end_that_acknowledges_a_little_at_a_time_gets_what_one_that_is_gone_said() {
    let ([mut source, source_peer], [to, to_peer]) = (pair().await, pair().await);
    // A fast start: the kernel has much more than the peer has taken.
    while to.try_write(&[0; 1 << 16]).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (from, back) = source.split();
    let mut way = OneWay::new(from, back.as_ref(), &to);
    way.waiting = Some(Waiting::Copied { bytes: b"the last of it".to_vec(), sent: 0 });
    SockRef::from(&source_peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(source_peer);
    let mut moved = 0;
    let mut ended = |way: &mut OneWay<'_>, cx: &mut Context<'_>| {
        assert!(way.poll(cx, &mut moved).is_pending());
        // The kernel takes none of it meanwhile.
        assert_eq!(moved, 0);
        way.poll_gone(cx)
    };
    let started = Instant::now();
    for _ in 0..4 {
        takes_some(&to_peer, &to).await;
        let time = sleep(Duration::from_secs(4));
        let mut time = pin!(time);
        poll_fn(|cx| {
            assert!(ended(&mut way, cx).is_pending(), "cut after {:?}", started.elapsed());
            time.as_mut().poll(cx)
        })
        .await;
    }
    // And where it takes nothing any more both are reset.
    let error = poll_fn(|cx| ended(&mut way, cx)).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// It would hold both for as long as it likes.
#[tokio::test(start_paused = true)]
async fn end_that_takes_a_little_each_time_is_cut_from_one_that_is_gone_in_the_end() {
    let ([mut source, source_peer], [to, to_peer]) = (pair().await, pair().await);
    to.try_write(&[0; 1 << 16]).unwrap();
    let (from, back) = source.split();
    let mut way = OneWay::new(from, back.as_ref(), &to);
    way.waiting = Some(Waiting::Copied { bytes: vec![0; 64 << 20], sent: 0 });
    SockRef::from(&source_peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(source_peer);
    let (mut moved, started) = (0, Instant::now());
    let mut ended = |cx: &mut Context<'_>| {
        assert!(way.poll(cx, &mut moved).is_pending());
        way.poll_gone(cx)
    };
    while started.elapsed() < DYING {
        takes_some(&to_peer, &to).await;
        let time = sleep(Duration::from_secs(4));
        let mut time = pin!(time);
        let cut = poll_fn(|cx| match ended(cx) {
            Poll::Ready(error) => Poll::Ready(Some(error)),
            Poll::Pending => time.as_mut().poll(cx).map(|()| None),
        });
        if let Some(error) = cut.await {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(started.elapsed() >= DYING, "cut after {:?}", started.elapsed());
            return;
        }
    }
    panic!("it is waited for still");
}
