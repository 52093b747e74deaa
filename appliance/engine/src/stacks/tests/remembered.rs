//! Which servers are remembered as old, by what they said and by resets that anybody could have sent.

use super::*;
use crate::leg::reset_on_close;

#[test]
fn modern_server_that_resets_once_is_asked_again_on_the_modern_stack() {
    for moods in [&[Mood::Resets, Mood::Modern][..], &[Mood::Modern, Mood::Resets, Mood::Modern]] {
        run(async |world| {
            let server = moody(Rc::clone(&world), moods).await;
            assert_eq!(visits(&world, server, 2).await, [(false, Protocol::Tls13); 2]);
            let counts = world.legacy.counts();
            assert_eq!(counts.legs.load(Ordering::Relaxed), 0);
            assert_eq!(counts.opened_again_on_modern.load(Ordering::Relaxed), 1);
        });
    }
}

/// It may still be modern, whoever resets its connections: one session is on the legacy stack.
#[test]
fn modern_server_that_resets_twice_before_it_is_known_is_not_remembered_as_old() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Resets, Mood::Resets, Mood::Modern]).await;
        assert_eq!(visits(&world, server, 2).await, [(false, Protocol::Tls13); 2]);
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn server_known_as_modern_is_not_put_on_the_legacy_stack_by_resets() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Modern, Mood::Resets]).await;
        assert_eq!(visits(&world, server, 1).await, [(false, Protocol::Tls13)]);
        let stream = TcpStream::connect(server).await.unwrap();
        let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
        let (stacks, again) = (world.stacks(), Reconnect(server));
        let failed = stacks
            .server_handshake(stream, &again, Some(NAME), vec![], &record, within(TIME))
            .await;
        let failed = failed.map(drop).unwrap_err();
        assert_eq!(needs_legacy(&failed.fault), Some(Evidence::Silence), "{}", failed.fault);
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 0);
        assert!(world.modern_servers.knows(at(server), Some(NAME), Instant::now()));
    });
}

#[test]
fn server_known_as_modern_that_says_otherwise_twice_is_believed_and_counted() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Modern, Mood::Old]).await;
        let expected = [(false, Protocol::Tls13), (true, Protocol::Tls10), (true, Protocol::Tls10)];
        assert_eq!(visits(&world, server, 3).await, expected);
        let counts = world.legacy.counts();
        assert_eq!(counts.aged.load(Ordering::Relaxed), 1);
        assert_eq!(counts.opened_again_on_modern.load(Ordering::Relaxed), 1);
        assert_eq!(counts.opened_again.load(Ordering::Relaxed), 1);
    });
}

/// Neither what it is nor the session's fault hangs on the connection that was not made.
#[test]
fn server_that_cannot_be_connected_to_again_fails_as_it_did_first_and_is_counted() {
    struct Never;
    impl ConnectAgain for Never {
        async fn again(&self, _: TcpStream, _: &SessionRecord) -> io::Result<TcpStream> {
            Err(io::ErrorKind::AddrInUse.into())
        }
    }
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Old]).await;
        let stream = TcpStream::connect(server).await.unwrap();
        let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
        let stacks = world.stacks();
        let failed = stacks
            .server_handshake(stream, &Never, Some(NAME), vec![], &record, within(TIME))
            .await;
        let failed = failed.map(drop).unwrap_err();
        assert_eq!(needs_legacy(&failed.fault), Some(Evidence::Protocol), "{}", failed.fault);
        let counts = world.legacy.counts();
        assert_eq!(counts.not_connected_again.load(Ordering::Relaxed), 1);
        assert!(!world.legacy.servers.knows(at(server), Some(NAME), Instant::now()));
    });
}

#[test]
fn old_server_that_resets_is_remembered_for_minutes_only() {
    run(async |world| {
        let moods = &[Mood::Resets, Mood::Resets, Mood::Old];
        let server = moody(Rc::clone(&world), moods).await;
        assert_eq!(visits(&world, server, 1).await, [(true, Protocol::Tls10)]);
        let knows = |seconds| {
            let then = Instant::now().checked_add(Duration::from_secs(seconds)).unwrap();
            world.legacy.servers.knows(at(server), Some(NAME), then)
        };
        assert!(knows(500));
        assert!(!knows(601));
    });
}

#[test]
fn server_that_was_upgraded_is_forgotten() {
    run(async |world| {
        let moods = &[Mood::Old, Mood::Old, Mood::Modern];
        let server = moody(Rc::clone(&world), moods).await;
        let expected =
            [(true, Protocol::Tls10), (false, Protocol::Tls13), (false, Protocol::Tls13)];
        assert_eq!(visits(&world, server, 3).await, expected);
    });
}

/// Its strongest may be hidden from us by what the client can: a client of TLS 1.3 is to find out.
#[test]
fn server_that_goes_as_far_as_an_old_client_is_remembered_for_such_only() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let server = serve(Rc::clone(&world), Some((Protocol::Tls12, suite))).await;
        world.client.set(Protocol::Tls12);
        let open = world.end(Protocol::Tls12, suite, client_role(1));
        let client = world.legacy.leg(open).await.unwrap();
        let got = through(&world, server, client, &world.keys[0], "an old client").await;
        assert_eq!(got.map(|one| one.version.0), [Protocol::Tls12.code(); 2]);
        let now = Instant::now();
        assert!(!world.legacy.servers.knows(at(server), Some(NAME), now));
        assert!(world.legacy.servers_of_old_clients.knows(at(server), Some(NAME), now));
    });
}

/// Sessions of a modern client with it, one for each: whether the server was remembered afterwards,
/// and which version it got.
async fn visits(world: &Rc<World>, server: SocketAddr, times: usize) -> Vec<(bool, Protocol)> {
    let mut seen = Vec::new();
    for time in 0..times {
        let client = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
        let cell = format!("visit {time}");
        let [_, got] = through(world, server, client, &world.keys[1], &cell).await;
        let knows = world.legacy.servers.knows(at(server), Some(NAME), Instant::now());
        seen.push((knows, Protocol::by_code(got.version.0).unwrap()));
    }
    seen
}

/// A server of which each connection behaves as the next of these says, the last for ever.
async fn moody(world: Rc<World>, moods: &'static [Mood]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inner = [
        serve(Rc::clone(&world), None).await,
        serve(world, Some((Protocol::Tls10, Suite::by_id(0x002f).unwrap()))).await,
    ];
    spawn_local(async move {
        for number in 0.. {
            let (mut outer, _) = listener.accept().await.unwrap();
            let server = match moods[number.min(moods.len() - 1)] {
                Mood::Resets => {
                    outer.readable().await.unwrap();
                    reset_on_close(&outer, true);
                    continue;
                }
                Mood::Modern => inner[0],
                Mood::Old => inner[1],
            };
            spawn_local(async move {
                let mut inner = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    address
}

#[derive(Clone, Copy)]
enum Mood {
    Resets,
    Modern,
    Old,
}
