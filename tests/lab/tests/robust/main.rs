//! Ends that misbehave, or are only slow, amid their handshakes: nothing panics, nothing hangs, and
//! nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod hellos;
mod resets;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{lab, read_until, try_connect, write_record};
use hellos::{files_are_back, hello_of, open_files};
use nix::unistd::Pid;
use weir_lab::bench::Bench;
use weir_lab::ends::{Ends, INTERFACE, SERVER};
use weir_lab::process::finish;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

/// Where the misbehaving servers are.
const ODD: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);
const HOST: &str = "public.example";

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
