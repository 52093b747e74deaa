//! Hellos in pieces, and clients that vanish or send mangled ones.

use super::*;

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

/// Open descriptors of a process.
pub fn open_files(process: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// Descriptors by which pools of sockets may differ.
const OF_POOLS: usize = 16;

/// As many as before, once all sessions are over, but for those of pools. `sessions`: how many there were; one
/// descriptor left behind by each must not pass for a pool's.
pub fn files_are_back(process: Pid, before: usize, sessions: usize) {
    assert!(sessions > 2 * OF_POOLS, "too few sessions to tell a leak of theirs");
    let deadline = Instant::now() + Duration::from_secs(40);
    while open_files(process) > before + OF_POOLS {
        let now = open_files(process);
        assert!(Instant::now() < deadline, "{now} descriptors are open, {before} were");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A hello of openssl's, as it leaves it.
pub fn hello_of(ends: &Ends, options: &[&str]) -> Vec<u8> {
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
    files_are_back(engine, before, CLIENTS.len() * EACH);
    bench.run.succeeded();
}
