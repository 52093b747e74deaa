//! Ends that misbehave, or are only slow, amid their handshakes: nothing panics, nothing hangs, and
//! nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{lab, read_until, try_connect, write_record};
use nix::unistd::Pid;
use weir_lab::bench::Bench;
use weir_lab::ends::{Ends, INTERFACE, SERVER};
use weir_lab::process::finish;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

/// Where the misbehaving servers are.
const ODD: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);
const HOST: &str = "public.example";

/// One way to carry a connection's first bytes on: to `onward`, from what was read first.
type Carry = Arc<dyn Fn(&[u8], &mut TcpStream) -> std::io::Result<()> + Send + Sync>;

/// A relay in the client's namespace, which carries each client's first bytes as it is told to, and
/// all others as they come. Its address.
fn relay(ends: &Ends, carry: Carry) -> SocketAddr {
    let listener = ends.client.enter(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)).unwrap();
    let address = listener.local_addr().unwrap();
    // Sockets are made in the namespace that the thread is in.
    let namespace = std::fs::File::open(format!("/run/netns/{}", ends.client.name())).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for stream in listener.incoming() {
            let Ok(mut client) = stream else { return };
            let carry = Arc::clone(&carry);
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut server = TcpStream::connect((SERVER, 443))?;
                server.set_nodelay(true)?;
                let mut first = vec![0; 16 << 10];
                let length = client.read(&mut first)?;
                carry(&first[..length], &mut server)?;
                let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
                let back = std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let _ = std::io::copy(&mut client, &mut server);
                let _ = server.shutdown(Shutdown::Write);
                let _ = back.join();
                Ok(())
            });
        }
    });
    address
}

/// The handshake message of one record, in so many records (RFC 8446 section 5.1).
fn in_records(record: &[u8], count: usize) -> Vec<u8> {
    let (header, message) = record.split_at(5);
    let each = message.len().div_ceil(count);
    let parts = message.chunks(each).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&header[..3], &length, part].concat()
    });
    parts.collect::<Vec<_>>().concat()
}

/// openssl as a client of that relay: what it prints.
fn openssl(ends: &Ends, relay: SocketAddr, options: &[&str]) -> String {
    let mut command = ends.client.command("timeout");
    command.args(["60", "openssl", "s_client", "-connect", &relay.to_string()]);
    command.args(["-servername", HOST, "-verify_return_error", "-CAfile"]);
    command.arg(&ends.certificates.client_trust).args(options);
    let finished = finish(&mut command).unwrap();
    format!("{}{}", finished.text(), finished.errors)
}

/// Hellos of both stacks.
const CLIENTS: [(&str, &[&str]); 3] = [
    ("TLSv1.3", &["-tls1_3"]),
    ("TLSv1.2", &["-tls1_2"]),
    ("TLSv1.1", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
];

#[test]
fn hello_in_up_to_40_records_and_byte_by_byte_is_inspected() {
    let bench = lab();
    let by_records = [1, 2, 3, 5, 8, 13, 21, 40].map(|count| {
        let carry: Carry =
            Arc::new(move |first, server| server.write_all(&in_records(first, count)));
        (format!("{count} records"), carry)
    });
    let by_bytes: Carry = Arc::new(|first, server| {
        first.iter().try_for_each(|byte| server.write_all(std::slice::from_ref(byte)))
    });
    // Longer than a hello is held (SPEC D12): the flow is taken over before it is known.
    let by_slow_bytes: Carry = Arc::new(|first, server| {
        first.iter().try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(1));
            server.write_all(std::slice::from_ref(byte))
        })
    });
    let others = [("bytes".to_owned(), by_bytes), ("slow bytes".to_owned(), by_slow_bytes)];
    for (how, carry) in by_records.into_iter().chain(others) {
        let relay = relay(&bench.ends, carry);
        for (version, options) in CLIENTS {
            let said = openssl(&bench.ends, relay, options);
            // Of TLS 1.3 it prints the first, of older ones the second.
            let told = [format!("New, {version}, Cipher is"), format!("Protocol  : {version}\n")];
            assert!(told.iter().any(|told| said.contains(told)), "{how} {version}: {said}");
            assert!(said.contains("CN = Weir lab signing CA"), "{how} {version}: {said}");
        }
    }
    bench.run.succeeded();
}

/// When a server resets, counted in bytes that its client may have of it.
#[derive(Clone, Copy, Debug)]
enum Resets {
    /// Before it read anything.
    AtOnce,
    AfterReading(usize),
    AfterSending(usize),
}

/// A server that resets its connections. Each takes the next of `when`, and what it would say is
/// said by the lab's nginx.
fn resetting_server(ends: &Ends, port: u16, when: Resets) {
    let listener = ends.server.enter(move || Ok(TcpListener::bind((ODD, port))?)).unwrap();
    let namespace = std::fs::File::open(format!("/run/netns/{}", ends.server.name())).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for stream in listener.incoming() {
            let Ok(client) = stream else { return };
            std::thread::spawn(move || reset(client, when));
        }
    });
}

fn reset(mut client: TcpStream, when: Resets) -> std::io::Result<()> {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    let mut buffer = vec![0; 16 << 10];
    match when {
        Resets::AtOnce => {}
        Resets::AfterReading(bytes) => client.read_exact(&mut buffer[..bytes])?,
        Resets::AfterSending(bytes) => {
            let mut server = TcpStream::connect((SERVER, 443))?;
            // The client is reset when nobody has its socket any more: not this thread either.
            client.set_read_timeout(Some(Duration::from_millis(200)))?;
            server.set_read_timeout(Some(Duration::from_secs(20)))?;
            let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let mut sent = 0;
            while sent < bytes {
                let length = server.read(&mut buffer)?;
                let part = length.min(bytes - sent);
                client.write_all(&buffer[..part])?;
                sent += part;
                if length == 0 {
                    break;
                }
            }
            // So that what was sent arrives before the reset does.
            std::thread::sleep(Duration::from_millis(30));
            server.shutdown(Shutdown::Both)?;
        }
    }
    Ok(())
}

#[test]
fn server_that_resets_at_any_stage_ends_its_session_and_no_other() {
    let mut bench = lab();
    let address = format!("{ODD}/24");
    bench.ends.server.ip(&["address", "add", &address, "dev", INTERFACE]).unwrap();
    let engine = bench.wire.engine().unwrap();
    let before = open_files(engine);
    // A session that has nothing to do with them.
    let mut other = common::connect(&bench.ends, HOST);
    let stages = [
        Resets::AtOnce,
        Resets::AfterReading(1),
        Resets::AfterReading(200),
        Resets::AfterSending(1),
        Resets::AfterSending(5),
        Resets::AfterSending(60),
        Resets::AfterSending(130),
        Resets::AfterSending(400),
        Resets::AfterSending(800),
    ];
    let document = weir_lab::document::weir_section(&bench.ends.certificates).unwrap();
    let document = document.replacen("[\"443\"]", "[\"443\", \"4000-4999\"]", 1);
    bench.provision(&document).unwrap();
    for (port, stage) in (4000..).zip(stages) {
        resetting_server(&bench.ends, port, stage);
        let result = try_connect(&bench.ends, HOST, SocketAddr::from((ODD, port)));
        let Err(ended) = result else { panic!("{stage:?}: it goes on") };
        // By our own patience.
        let ended = ended.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_ne!(ended, Some(ErrorKind::WouldBlock), "{stage:?} hangs");
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console("show sessions detail 9").unwrap();
        let failed = "blocked (TLS handshake with the server failed)";
        // The first may be over before there is a hello to judge.
        if shown.matches(failed).count() >= stages.len() - 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
    write_record(&mut other, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n").unwrap();
    read_until(&mut other, "benign page", 1).1.unwrap();
    drop(other);
    assert_eq!(bench.wire.engine().unwrap(), engine);
    files_are_back(engine, before);
    bench.run.succeeded();
}

/// On a new connection of the same addresses and ports, and on the stack that it was on.
#[test]
fn modern_server_that_resets_once_is_asked_again_and_its_client_sees_a_delay_only() {
    let mut bench = lab();
    let address = format!("{ODD}/24");
    bench.ends.server.ip(&["address", "add", &address, "dev", INTERFACE]).unwrap();
    let listener = bench.ends.server.enter(|| Ok(TcpListener::bind((ODD, 443))?)).unwrap();
    let namespace = format!("/run/netns/{}", bench.ends.server.name());
    let namespace = std::fs::File::open(namespace).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || -> std::io::Result<()> {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        reset(listener.accept()?.0, Resets::AfterReading(200))?;
        let (mut client, mut server) = (listener.accept()?.0, TcpStream::connect((SERVER, 443))?);
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        std::io::copy(&mut client, &mut server).map(drop)
    });
    let mut tls = common::connect_to(&bench.ends, SocketAddr::from((ODD, 443)), HOST);
    write_record(&mut tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n").unwrap();
    read_until(&mut tls, "benign page", 1).1.unwrap();
    drop(tls);
    let counted = |bench: &mut Bench<Lab>, what: &str| -> u64 {
        let shown = bench.wire.console("show tls-inspection").unwrap();
        let line = shown.lines().find(|line| line.contains(what)).unwrap_or_default().to_owned();
        let count = line.split_whitespace().find_map(|word| word.parse().ok());
        count.unwrap_or_else(|| panic!("no {what:?} in {shown}"))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while counted(&mut bench, "server legs opened again on the modern stack") != 1 {
        assert!(Instant::now() < deadline, "never counted");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(counted(&mut bench, "  legs on the legacy stack"), 0);
    bench.run.succeeded();
}

/// Open descriptors of a process.
fn open_files(process: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// As many as before, once all sessions are over; pools of sockets may differ by some.
fn files_are_back(process: Pid, before: usize) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while open_files(process) > before + 16 {
        let now = open_files(process);
        assert!(Instant::now() < deadline, "{now} descriptors are open, {before} were");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A hello of openssl's, as it leaves it.
fn hello_of(ends: &Ends, options: &[&str]) -> Vec<u8> {
    let listener = ends.client.enter(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)).unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).unwrap();
            taken.lock().unwrap().extend_from_slice(&bytes[..length]);
        });
        openssl(ends, address, options);
    });
    taken.into_inner().unwrap()
}

#[test]
fn clients_that_vanish_or_send_mangled_hellos_leave_nothing_behind() {
    const EACH: usize = 150;
    let mut bench = lab();
    let engine = bench.wire.engine().unwrap();
    let before = open_files(engine);
    // Of no secret: the same in each run.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % u64::try_from(bound).unwrap()).unwrap()
    };
    for (_, options) in CLIENTS {
        let hello = hello_of(&bench.ends, options);
        assert!(hello.len() > 100);
        for turn in 0..EACH {
            let mut mangled = hello.clone();
            match turn % 5 {
                // Whole, and then gone.
                0 => {}
                1 => mangled.truncate(1 + next(hello.len())),
                2 => mangled[next(hello.len())] ^= 1 << next(8),
                3 => {
                    let at = next(hello.len());
                    let byte = u8::try_from(next(256)).unwrap();
                    mangled.splice(at..at, [byte; 9]);
                }
                _ => {
                    let at = next(hello.len());
                    mangled.drain(at..hello.len().min(at + 1 + next(40)));
                }
            }
            let server = SocketAddr::from((SERVER, 443));
            let mut stream = bench.ends.connect_from_client(server).unwrap();
            if turn % 2 == 0 {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            stream.write_all(&mangled).unwrap();
            // Some wait for an answer first; where none is due, not for long.
            if turn % 3 == 0 {
                stream.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
                if let Err(error) = stream.read(&mut [0; 4096]).map(drop) {
                    let kinds =
                        [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::ConnectionReset];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
        }
    }
    let mut tls = common::connect(&bench.ends, HOST);
    write_record(&mut tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n").unwrap();
    read_until(&mut tls, "benign page", 1).1.unwrap();
    drop(tls);
    assert_eq!(bench.wire.engine().unwrap(), engine);
    let log = bench.wire.log().unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let shown = bench.wire.console("show tls-inspection").unwrap();
    let ended = shown.lines().find(|line| line.contains("legacy workers that ended")).unwrap();
    assert!(ended.trim_start().starts_with("0 "), "{shown}");
    files_are_back(engine, before);
    bench.run.succeeded();
}

#[test]
fn slow_ends_are_waited_for() {
    let bench = lab();
    let address = format!("{ODD}/24");
    bench.ends.server.ip(&["address", "add", &address, "dev", INTERFACE]).unwrap();
    // A server whose bytes come one by one.
    let listener = bench.ends.server.enter(|| Ok(TcpListener::bind((ODD, 443))?)).unwrap();
    let namespace =
        std::fs::File::open(format!("/run/netns/{}", bench.ends.server.name())).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        for stream in listener.incoming() {
            let Ok(mut client) = stream else { return };
            std::thread::spawn(move || -> std::io::Result<()> {
                client.set_nodelay(true)?;
                let mut server = TcpStream::connect((SERVER, 443))?;
                let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    to.shutdown(Shutdown::Write)
                });
                let mut byte = [0];
                while server.read(&mut byte)? > 0 {
                    std::thread::sleep(Duration::from_micros(300));
                    client.write_all(&byte)?;
                }
                client.shutdown(Shutdown::Write)
            });
        }
    });
    for options in [&["--tlsv1.3"][..], &["--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"]] {
        let fetch = weir_lab::fetch::Fetch::new(HOST, "/").at(ODD).arguments(options);
        let fetched = fetch.run(&bench.ends).unwrap();
        fetched.succeeded().unwrap();
        weir_lab::checks::ensure_signed_by_weir(&fetched).unwrap();
    }
    // A client that stops amid its handshake for longer than a hello is held, and then goes on.
    let mut tls = common::connect_in_pieces(&bench.ends, HOST, &[1, 6, 200, 700]);
    write_record(&mut tls, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n").unwrap();
    read_until(&mut tls, "benign page", 1).1.unwrap();
    assert!(!bench.wire.log().unwrap().contains("panicked"));
    bench.run.succeeded();
}

/// It cannot have rejected a certificate that it was never shown.
#[test]
fn client_that_leaves_while_its_server_is_slow_is_not_taken_for_one_that_pins() {
    let mut bench = lab();
    let address = format!("{ODD}/24");
    bench.ends.server.ip(&["address", "add", &address, "dev", INTERFACE]).unwrap();
    let document = weir_lab::document::weir_section(&bench.ends.certificates).unwrap();
    let logging = "logging: true\n";
    let bypass = format!("{logging}      on-pinned-client: bypass\n");
    assert!(document.contains(logging));
    bench.provision(&document.replace(logging, &bypass)).unwrap();
    let listener = bench.ends.server.enter(|| Ok(TcpListener::bind((ODD, 443))?)).unwrap();
    let namespace = format!("/run/netns/{}", bench.ends.server.name());
    let namespace = std::fs::File::open(namespace).unwrap();
    let (left, has_left) = std::sync::mpsc::channel::<()>();
    // Says nothing until it is told that its client has left. Ends with the test's process.
    std::thread::spawn(move || -> std::io::Result<()> {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        for client in listener.incoming() {
            let (mut client, mut server) = (client?, TcpStream::connect((SERVER, 443))?);
            let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
            let _ = has_left.recv();
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut client, &mut server));
        }
        Ok(())
    });
    let hello = hello_of(&bench.ends, &["-tls1_3"]);
    for _ in 0..3 {
        let mut client = bench.ends.connect_from_client(SocketAddr::from((ODD, 443))).unwrap();
        client.write_all(&hello).unwrap();
        // By then it is taken over; its FIN is on its way before the server says anything.
        std::thread::sleep(Duration::from_millis(200));
        drop(client);
        std::thread::sleep(Duration::from_millis(200));
        left.send(()).unwrap();
    }
    let failed = "blocked (TLS handshake with the client failed)";
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.wire.console("show sessions detail 3").unwrap().matches(failed).count() < 3 {
        assert!(Instant::now() < deadline, "the sessions do not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    let shown = bench.wire.console("show tls-inspection").unwrap();
    assert!(!shown.contains("which rejects forged"), "{shown}");
    left.send(()).unwrap();
    let fetched = weir_lab::fetch::Fetch::new(HOST, "/").at(ODD).run(&bench.ends).unwrap();
    fetched.succeeded().unwrap();
    weir_lab::checks::ensure_signed_by_weir(&fetched).unwrap();
    bench.run.succeeded();
}
