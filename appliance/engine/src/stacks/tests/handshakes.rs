//! Every version and suite of the table on each leg, the other leg modern; resumed, and given up.

use weir_policy::suites::Stack;
use weir_tls::verify::Failure;

use super::*;

#[test]
fn every_suite_of_old_clients_goes_with_a_modern_server() {
    run(async |world| {
        let server = serve(Rc::clone(&world), None).await;
        let mut legacy = 0;
        for (number, (version, suite)) in cells().enumerate() {
            let cell = format!("{version} {}", suite.name);
            let role = client_role(u8::try_from(number).unwrap());
            let client = world.legacy.leg(world.end(version, suite, role)).await.unwrap();
            let before = world.legacy.counts().legs.load(Ordering::Relaxed);
            let [client, server] = through(&world, server, client, world.key(suite), &cell).await;
            assert_eq!((client.version.0, client.suite.0), (version.code(), suite.id), "{cell}");
            assert_eq!(server.version.0, Protocol::Tls13.code(), "{cell}");
            // The legacy stack is reached by the flows that need it, and by no other (SPEC T13).
            let legs = world.legacy.counts().legs.load(Ordering::Relaxed) - before;
            let needed = suite.stack == Stack::Legacy;
            assert_eq!(legs, u64::from(needed), "{cell}");
            legacy += legs;
        }
        assert!(legacy > 30, "{legacy}");
        assert_eq!(world.legacy.counts().crashes.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn every_suite_of_old_servers_goes_with_a_modern_client() {
    run(async |world| {
        for (version, suite) in cells() {
            let cell = format!("{version} {}", suite.name);
            let server = serve(Rc::clone(&world), Some((version, suite))).await;
            let opened_again = || world.legacy.counts().opened_again.load(Ordering::Relaxed);
            let before = opened_again();
            // The second time the server is known.
            for _ in 0..2 {
                let client = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
                let [client, server] = through(&world, server, client, &world.keys[1], &cell).await;
                assert_eq!(client.version.0, Protocol::Tls13.code(), "{cell}");
                let got = (server.version.0, server.suite.0);
                assert_eq!(got, (version.code(), suite.id), "{cell}");
            }
            let needed = suite.stack == Stack::Legacy;
            assert_eq!(opened_again() - before, u64::from(needed), "{cell}");
            assert_eq!(world.legacy.servers.knows(at(server), Some(NAME), Instant::now()), needed);
        }
    });
}

#[test]
fn legacy_sessions_are_resumed_on_both_sides_within_one_generation_and_verdict() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let server = serve(Rc::clone(&world), Some((Protocol::Tls11, suite))).await;
        let resumed = async |shown: &Arc<LegKey>, verdict| {
            let open = world.end(Protocol::Tls10, suite, client_role(1));
            let client = world.legacy.leg(open).await.unwrap();
            let got = judged(&world, server, client, shown, verdict, "resumed").await;
            got.map(|negotiated| negotiated.resumed)
        };
        let (shown, verified) = (&world.keys[0], Verdict::default());
        assert_eq!(resumed(shown, verified).await, [false, false]);
        assert_eq!(resumed(shown, verified).await, [true, true]);
        // The client is not resumed into what it was shown under another verdict or certificate.
        let expired = Verdict::from(Failure::Expired);
        assert_eq!(resumed(shown, expired).await, [false, true]);
        assert_eq!(resumed(shown, expired).await, [true, true]);
        assert_eq!(resumed(&key(Authentication::Rsa), expired).await, [false, true]);
        world.generation.set(1);
        assert_eq!(resumed(shown, verified).await, [false, false]);
        assert_eq!(resumed(shown, verified).await, [true, true]);
    });
}

/// Whether a session with the server was resumed.
async fn resumed(world: &Rc<World>, server: SocketAddr) -> bool {
    let stream = TcpStream::connect(server).await.unwrap();
    let record = SessionRecord::new(1, 0, SegmentId(1), stream.local_addr().unwrap(), server);
    let (stacks, again) = (world.stacks(), Reconnect(server));
    let shaken =
        stacks.server_handshake(stream, &again, Some(NAME), vec![], &record, within(TIME)).await;
    let mut leg = shaken.unwrap_or_else(|failed| panic!("{}", failed.fault));
    leg.send_plain(b"ping").unwrap();
    leg.flush_all().await.unwrap();
    assert_eq!(receive(&mut leg, 4).await, b"ping");
    leg.tls.negotiated().unwrap().resumed
}

#[test]
fn session_with_an_old_server_is_not_resumed_past_the_end_of_its_certificate() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let server = serve(Rc::clone(&world), Some((Protocol::Tls11, suite))).await;
        for (generation, hours) in [1, 3].into_iter().enumerate() {
            world.generation.set(generation);
            let valid_for = Duration::from_secs(3600 * hours);
            world.shown.replace(Some(key_until(Authentication::Rsa, valid_for)));
            for again in [false, true] {
                assert_eq!(resumed(&world, server).await, hours == 3 && again, "{hours}");
            }
        }
    });
}

#[test]
fn a_server_that_is_silent_or_dribbles_is_given_up_at_the_deadline() {
    run(async |world| {
        for dribbles in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                // A record of 16 KiB, byte by byte.
                for byte in [0x16, 3, 3, 0x40].into_iter().chain(std::iter::repeat(0)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if dribbles && stream.try_write(&[byte]).is_err() {
                        return;
                    }
                }
            });
            let server = TcpStream::connect(address).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), address, address);
            let (stacks, again) = (world.stacks(), Reconnect(address));
            let deadline = Duration::from_millis(100);
            let shaken = stacks.server_handshake(
                server,
                &again,
                Some(NAME),
                vec![],
                &record,
                within(deadline),
            );
            let fault = shaken.await.err().unwrap().fault;
            assert!(matches!(fault, LegFault::Slow), "{dribbles}: {fault}");
        }
        assert_eq!(world.legacy.counts().opened_again.load(Ordering::Relaxed), 0);
    });
}

/// Also where no host may be called so by the letter.
#[test]
fn server_is_asked_and_client_answered_under_any_name_that_the_client_gave() {
    run(async |world| {
        for (name, on_legacy) in [("abc.example", 0), ("abc-.example", 2), ("node.10", 2)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = listener.local_addr().unwrap();
            let asked = spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                loop {
                    stream.readable().await.unwrap();
                    let _ = stream.try_read_buf(&mut bytes);
                    if let Peek::Hello(hello) = peek(&bytes) {
                        return (hello, bytes);
                    }
                }
            });
            let legs = world.legacy.counts().legs.load(Ordering::Relaxed);
            let stream = TcpStream::connect(server).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
            let (stacks, again) = (world.stacks(), Reconnect(server));
            // It goes away then.
            let shaken = stacks
                .server_handshake(stream, &again, Some(name), vec![], &record, within(TIME))
                .await;
            assert!(shaken.is_err());
            let (hello, bytes) = asked.await.unwrap();
            assert_eq!(hello.server_name.as_deref(), Some(name));
            assert_eq!(hello.strongest_version(), Some(Protocol::Tls13));

            let leg = stacks.client_leg(&hello, &world.keys[0], Verdict::default(), None);
            let mut leg = leg.await.unwrap();
            leg.read_wire(&bytes).unwrap();
            while !leg.wants_write() {
                progress(&mut leg).await;
                leg.read_wire(&[]).unwrap();
            }
            let mut answer = Vec::new();
            leg.write_wire(&mut answer);
            assert_eq!(answer.first(), Some(&0x16), "{name}: a handshake, and no alert");
            let legs = world.legacy.counts().legs.load(Ordering::Relaxed) - legs;
            assert_eq!(legs, on_legacy, "{name}");
        }
    });
}
