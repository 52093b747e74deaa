//! Servers that reset their connections, at any stage.

use super::*;

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

/// The client was told the end: by an alert, a reset or a FIN, and not by its own patience.
fn was_told(ended: &anyhow::Error) -> bool {
    let told = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];
    ended.chain().any(|cause| {
        let of_tls = |cause: &(dyn std::error::Error + 'static)| cause.is::<rustls::Error>();
        let of_io = cause.downcast_ref::<std::io::Error>();
        of_tls(cause)
            || of_io.is_some_and(|io| {
                told.contains(&io.kind()) || io.get_ref().is_some_and(|inner| of_tls(inner))
            })
    })
}

#[test]
fn server_that_resets_at_any_stage_ends_its_session_and_no_other() {
    /// Of each stage.
    const TIMES: usize = 5;
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
    }
    for _ in 0..TIMES {
        for (port, stage) in (4000..).zip(stages) {
            let result = try_connect(&bench.ends, HOST, SocketAddr::from((ODD, port)));
            let Err(ended) = result else { panic!("{stage:?}: it goes on") };
            assert!(was_told(&ended), "{stage:?} ends by {ended:?}");
        }
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
    files_are_back(engine, before, TIMES * stages.len());
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
