//! Servers that stumble over a hello of TLS 1.3, and which older clients reach by themselves.

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::leg::reset_on_close;

/// What such a server does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stumbles {
    Resets,
    Hangs,
}

const SUPPORTED_VERSIONS: u16 = 43;
const LONGEST: usize = 512;

/// A server of TLS 1.0 that takes no hello that is long, or that lists versions.
async fn stumbling(world: Rc<World>, how: Stumbles) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inner = serve(world, Some((Protocol::Tls10, Suite::by_id(0x002f).unwrap()))).await;
    spawn_local(async move {
        loop {
            let (outer, _) = listener.accept().await.unwrap();
            spawn_local(answer(outer, inner, how));
        }
    });
    address
}

async fn answer(mut outer: TcpStream, inner: SocketAddr, how: Stumbles) {
    let mut bytes = Vec::new();
    let hello = loop {
        outer.readable().await.unwrap();
        if matches!(outer.try_read_buf(&mut bytes), Ok(0)) {
            return;
        }
        if let Peek::Hello(hello) = peek(&bytes) {
            break hello;
        }
    };
    if bytes.len() <= LONGEST && !hello.extensions.contains(&SUPPORTED_VERSIONS) {
        let mut inner = TcpStream::connect(inner).await.unwrap();
        inner.write_all(&bytes).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    } else if how == Stumbles::Resets {
        reset_on_close(&outer, true);
    } else {
        while outer.readable().await.is_ok() && outer.try_read(&mut [0]).is_err() {}
    }
}

/// By an old client: the second time nothing is tried that it stumbles over.
#[test]
fn server_that_resets_on_newer_hellos_is_reached_by_a_client_that_sends_none() {
    run(async |world| {
        let server = stumbling(Rc::clone(&world), Stumbles::Resets).await;
        let suite = Suite::by_id(0x002f).unwrap();
        world.client.set(Protocol::Tls10);
        for visit in ["first", "second"] {
            let open = world.end(Protocol::Tls10, suite, client_role(1));
            let client = world.legacy.leg(open).await.unwrap();
            let got = through(&world, server, client, &world.keys[0], visit).await;
            assert_eq!(got.map(|one| one.version.0), [Protocol::Tls10.code(); 2], "{visit}");
        }
        assert_eq!(world.legacy.counts().opened_again.load(Ordering::Relaxed), 1);
        // That it went no further than its client says nothing of it to newer ones.
        let now = Instant::now();
        assert!(world.legacy.servers_of_old_clients.knows(at(server), Some(NAME), now));
        assert!(!world.legacy.servers.knows(at(server), Some(NAME), now));
    });
}

#[test]
fn server_that_never_answers_newer_hellos_is_reached_by_a_client_that_sends_none() {
    run(async |world| {
        let server = stumbling(Rc::clone(&world), Stumbles::Hangs).await;
        for (client, seconds, reached) in [(Protocol::Tls10, 60, true), (Protocol::Tls13, 1, false)]
        {
            world.client.set(client);
            let stream = TcpStream::connect(server).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
            let (stacks, again) = (world.stacks(), Reconnect(server));
            let deadline = Duration::from_secs(seconds);
            let shaken = stacks.server_handshake(
                stream,
                &again,
                Some(NAME),
                vec![],
                &record,
                within(deadline),
            );
            match shaken.await {
                Ok(leg) => {
                    let version = leg.tls.negotiated().unwrap().version.0;
                    assert!(reached && version == Protocol::Tls10.code(), "{client}");
                }
                Err(failed) => {
                    assert!(!reached && matches!(failed.fault, LegFault::Slow), "{client}");
                }
            }
        }
    });
}

/// There are some, and middleboxes before others. What a client without ML-KEM sends is one segment.
#[test]
fn modern_server_that_never_answers_hellos_of_two_segments_is_reached_as_its_client_reaches_it() {
    run(async |world| {
        let inner = serve(Rc::clone(&world), None).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        spawn_local(async move {
            loop {
                let (outer, _) = listener.accept().await.unwrap();
                spawn_local(one_segment(outer, inner));
            }
        });
        for (shares, reached) in [(Shares::PostQuantum, false), (Shares::Classic, true)] {
            world.shares.set(shares);
            let stream = TcpStream::connect(server).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
            let (stacks, again) = (world.stacks(), Reconnect(server));
            let deadline = Duration::from_secs(if reached { 60 } else { 1 });
            let shaken = stacks.server_handshake(
                stream,
                &again,
                Some(NAME),
                vec![],
                &record,
                within(deadline),
            );
            match shaken.await {
                Ok(leg) => {
                    let version = leg.tls.negotiated().unwrap().version.0;
                    assert!(reached && version == Protocol::Tls13.code(), "{shares:?}");
                }
                Err(failed) => {
                    assert!(!reached && matches!(failed.fault, LegFault::Slow), "{shares:?}");
                }
            }
        }
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 0);
    });
}

/// Hears nothing of a hello that is longer than this.
async fn one_segment(mut outer: TcpStream, inner: SocketAddr) {
    const SEGMENT: usize = 1208;
    let mut bytes = Vec::new();
    while !matches!(peek(&bytes), Peek::Hello(_)) {
        outer.readable().await.unwrap();
        if matches!(outer.try_read_buf(&mut bytes), Ok(0)) {
            return;
        }
    }
    if bytes.len() > SEGMENT {
        while outer.readable().await.is_ok() && outer.try_read(&mut [0]).is_err() {}
        return;
    }
    let mut inner = TcpStream::connect(inner).await.unwrap();
    inner.write_all(&bytes).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
}

/// It had no time to answer: the next session asks as if there had been none.
#[test]
fn server_that_had_little_time_left_is_neither_taken_for_mute_nor_forgotten() {
    run(async |world| {
        let server = stumbling(Rc::clone(&world), Stumbles::Hangs).await;
        world.client.set(Protocol::Tls10);
        let old = &world.legacy.servers_of_old_clients;
        let stacks = world.stacks();
        let visit = async |server: SocketAddr| {
            let stream = TcpStream::connect(server).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
            let (again, until) = (Reconnect(server), within(Duration::from_millis(300)));
            let shaken =
                stacks.server_handshake(stream, &again, Some(NAME), vec![], &record, until);
            let fault = shaken.await.err().unwrap().fault;
            assert!(matches!(fault, LegFault::Slow), "{fault}");
        };
        visit(server).await;
        assert_eq!(world.legacy.counts().opened_again.load(Ordering::Relaxed), 0);
        assert!(!old.knows(at(server), Some(NAME), Instant::now()));

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = silent.local_addr().unwrap();
        old.remember(at(server), Some(NAME), Evidence::Mute.lasts(), Instant::now());
        visit(server).await;
        assert!(old.knows(at(server), Some(NAME), Instant::now()));
    });
}

/// Its client waits for all of them.
#[test]
fn all_attempts_at_a_server_have_one_deadline() {
    run(async |world| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.set(counted.get() + 1);
                tokio::time::sleep(Duration::from_millis(700)).await;
                reset_on_close(&stream, true);
            }
        });
        let stream = TcpStream::connect(server).await.unwrap();
        let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
        let (stacks, again) = (world.stacks(), Reconnect(server));
        let until = within(Duration::from_secs(1));
        let shaken = stacks.server_handshake(stream, &again, Some(NAME), vec![], &record, until);
        let fault = shaken.await.err().unwrap().fault;
        assert!(matches!(fault, LegFault::Slow), "{fault}");
        assert!(connections.get() <= 2, "and none on the legacy stack");
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 0);
    });
}
