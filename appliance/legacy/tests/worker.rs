//! The worker from outside: what it can negotiate, what it refuses, what it can reach.

mod common;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use common::{Leg, Worker, all_suites, certified, join, to_server};
use weir_api::legacy::{CONTROL_PING, Failure, Frames, FromWorker, ToWorker};
use weir_policy::suites::{Authentication, Protocol, TABLE};

const EVERY: (u16, u16) = (0x0300, 0x0304);

#[test]
fn every_version_and_suite_of_the_table_carries_data_both_ways() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let ecdsa = certified(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut cells = 0;
    for version in Protocol::ALL {
        for suite in TABLE.iter().filter(|suite| suite.used_in(version)) {
            let cell = format!("{version} {}", suite.name);
            let certified =
                if suite.authentication == Authentication::Ecdsa { &ecdsa } else { &rsa };
            let only = (version.code(), version.code());
            // Each end once with everything allowed, so that the other's choice is what counts.
            let all = all_suites();
            for (client, server) in [
                (to_server(only, &[suite.id]), certified.to_client(EVERY, &all)),
                (to_server(EVERY, &all), certified.to_client(only, &[suite.id])),
            ] {
                let (mut client, mut server) = (worker.leg(client), worker.leg(server));
                join(&mut client, &mut server);
                for leg in [&client, &server] {
                    let established = leg.established();
                    let established =
                        established.unwrap_or_else(|| panic!("{cell}: {:?}", leg.failure()));
                    assert_eq!(established.version, version.code(), "{cell}");
                    assert_eq!(established.suite, suite.id, "{cell}");
                    let expected = (version >= Protocol::Tls10).then(|| b"http/1.1".to_vec());
                    assert_eq!(established.alpn, expected, "{cell}");
                }
                assert_eq!(client.established().unwrap().chain, certified.chain, "{cell}");
                carry(&mut client, &mut server, b"ping", &cell);
                carry(&mut server, &mut client, &vec![b'x'; 100_000], &cell);
                client.say(&ToWorker::CloseNotify);
                let wire = client.settle();
                server.feed(&wire);
                assert!(server.said.contains(&FromWorker::PeerClosed), "{cell}");
                // The other direction is open, and ends by an alert. SSL 3.0 has fewer of them.
                for last in [
                    ToWorker::Plain(b"last words".to_vec()),
                    ToWorker::Alert(49),
                    ToWorker::CloseNotify,
                ] {
                    server.say(&last);
                    let wire = server.settle();
                    if last == ToWorker::CloseNotify {
                        assert!(wire.is_empty(), "{cell}: an alert is the last word");
                    } else {
                        client.feed(&wire);
                    }
                }
                assert!(client.plain().ends_with(b"last words"), "{cell}");
                let alert = if version == Protocol::Ssl30 { 40 } else { 49 };
                assert_eq!(client.failure(), Some(&Failure::AlertReceived(alert)), "{cell}");
                cells += 1;
            }
        }
    }
    // 4 of SSL 3.0 and RSA's, 3 of TLS 1.3, ...: the table is not empty.
    assert!(cells > 80, "{cells}");
}

fn carry(from: &mut Leg, to: &mut Leg, plain: &[u8], cell: &str) {
    let mut wire = Vec::new();
    for part in plain.chunks(30_000) {
        from.say(&ToWorker::Plain(part.to_vec()));
        wire.extend(from.settle());
    }
    for part in wire.chunks(30_000) {
        to.feed(part);
    }
    assert!(to.plain() == plain, "{cell}");
}

#[test]
fn peer_without_common_ground_is_answered_by_an_alert() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let mut client = worker.leg(to_server((0x0301, 0x0301), &[0x002f]));
    let mut server = worker.leg(rsa.to_client((0x0303, 0x0303), &[0x009c]));
    join(&mut client, &mut server);
    assert_eq!(server.failure(), Some(&Failure::AlertSent(70)));
    assert_eq!(client.failure(), Some(&Failure::AlertReceived(70)));
}

#[test]
fn bytes_that_are_no_tls_end_their_leg_and_no_other() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let all = all_suites();
    let mut other_client = worker.leg(to_server(EVERY, &all));
    let mut other_server = worker.leg(rsa.to_client(EVERY, &all));
    let mut broken = worker.leg(rsa.to_client(EVERY, &all));
    broken.settle();
    broken.feed(b"GET / HTTP/1.1\r\n\r\n");
    let not_tls = |leg: &Leg| match leg.failure() {
        Some(Failure::NotTls(words)) => words.clone(),
        _ => panic!("{:?}", leg.said),
    };
    assert_eq!(not_tls(&broken), "http request");
    let mut asked = worker.leg(to_server(EVERY, &all));
    asked.settle();
    let answer = asked.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!((answer, not_tls(&asked).as_str()), (Vec::new(), "wrong version number"));
    // Not even a frame.
    let mut garbage = worker.leg(to_server(EVERY, &all));
    garbage.settle();
    garbage.socket.write_all(&[0xff; 64]).unwrap();
    garbage.settle();
    assert!(matches!(garbage.failure(), Some(Failure::Internal(_))), "{:?}", garbage.said);
    // Out of order.
    let mut twice = worker.leg(to_server(EVERY, &all));
    twice.settle();
    twice.say(&ToWorker::Open(Box::new(to_server(EVERY, &all))));
    twice.settle();
    assert!(matches!(twice.failure(), Some(Failure::Internal(_))), "{:?}", twice.said);
    join(&mut other_client, &mut other_server);
    assert!(other_client.established().is_some() && other_server.established().is_some());
}

/// Past a bound its words wait in the socket, and with them what they come of.
#[test]
fn engine_that_takes_no_answers_is_heard_no_more_until_it_does_and_loses_nothing() {
    const PLAIN: usize = 32 << 10;
    /// What the worker keeps and the socket holds each way, several times.
    const MOST: usize = 8 << 20;
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let only = (0x0303, 0x0303);
    let mut client = worker.leg(to_server(only, &[0x002f]));
    let mut server = worker.leg(rsa.to_client(only, &[0x002f]));
    join(&mut client, &mut server);
    let mut frame = Vec::new();
    ToWorker::plain(&[7; PLAIN], &mut frame).unwrap();
    let mut words = frame.iter().copied().cycle().take(2 * MOST).collect::<Vec<_>>();
    let mut socket = client.socket.try_clone().unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0;
    while let Ok(written) = socket.write(&words[sent..]) {
        sent += written;
        assert!(sent < MOST, "it is heard on and on");
    }
    socket.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let count = sent.div_ceil(frame.len());
    words.truncate(count * frame.len());
    let rest = words.split_off(sent);
    let says = std::thread::spawn(move || socket.write_all(&rest).unwrap());
    let (mut frames, mut taken, mut wire) = (Frames::default(), 0, 0);
    let mut buffer = [0; 65_536];
    while taken < count * PLAIN {
        let read = client.socket.read(&mut buffer).unwrap();
        assert!(read > 0, "the leg ended");
        frames.push(&buffer[..read]);
        while let Some(message) = frames.from_worker().unwrap() {
            match message {
                FromWorker::Wire(bytes) => wire += bytes.len(),
                FromWorker::Done { plain, .. } => taken += usize::try_from(plain).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }
    says.join().unwrap();
    assert!(wire > taken, "{wire} bytes of records for {taken}");
}

#[test]
fn worker_has_no_privileges_no_files_and_says_that_it_turns() {
    let worker = Worker::start();
    let process = format!("/proc/{}", worker.child.id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Seccomp:"), "2", "a filter");
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert!(!field("Uid:").split(' ').any(|user| user == "0"), "{}", field("Uid:"));
    let open: Vec<String> = std::fs::read_dir(format!("{process}/fd"))
        .unwrap()
        .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .collect();
    let inherited = std::fs::read_link("/proc/self/fd/2").unwrap().display().to_string();
    let output = std::fs::read_link("/proc/self/fd/1").unwrap().display().to_string();
    for file in &open {
        let known = file.starts_with("socket:") || file == "anon_inode:[eventpoll]";
        assert!(known || *file == inherited || *file == output, "{open:?}");
    }
    worker.control.send(&[CONTROL_PING]).unwrap();
    let mut byte = [0];
    worker.control.recv(&mut byte).unwrap();
    assert_eq!(byte, [CONTROL_PING]);
}

#[test]
fn worker_takes_as_many_legs_as_it_says_and_outlives_more() {
    let files = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = files.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most = files.split_whitespace().nth(4).unwrap();
    // The machine's own limit is enough, or the worker says how far it goes.
    let whole = Worker::start().legs;
    let given = most.parse().map_or(u32::MAX, |most: u32| most);
    assert_eq!(whole, given.saturating_sub(512).min(16_384));

    let worker = Worker::start_with_files(600);
    assert_eq!(worker.legs, 88);
    let open = || to_server((0x0301, 0x0301), &[0x002f]);
    let mut legs: Vec<Leg> = (0..worker.legs).map(|_| worker.leg(open())).collect();
    for leg in &mut legs {
        assert_eq!(leg.settle().first(), Some(&0x16), "no hello");
    }
    // More than it can have: those past its open files are closed, and it goes on.
    let more: Vec<Leg> = (0..700).map(|_| worker.leg(open())).collect();
    worker.control.send(&[CONTROL_PING]).unwrap();
    let mut byte = [0];
    worker.control.recv(&mut byte).unwrap();
    assert_eq!(byte, [CONTROL_PING]);
    drop((legs, more));
    // It hears of their ends one by one, and is full until then.
    let files = format!("/proc/{}/fd", worker.child.id());
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_dir(&files).unwrap().count() > 100 {
        assert!(Instant::now() < deadline, "they stay open");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut leg = worker.leg(open());
    assert_eq!(leg.settle().first(), Some(&0x16), "no hello");
}

#[test]
fn worker_ends_with_its_engine() {
    let mut worker = Worker::start();
    let (one, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    drop(std::mem::replace(&mut worker.control, one));
    assert_eq!(worker.child.wait().unwrap().code(), Some(0));
}
