//! Keep-alives of one end of a decrypted session cause one to its other end (SPEC D17).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{Tls, lab, read_until, write_record};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};
use weir_lab::capture::{Capture, connection};
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::wire::Wire as _;

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(ADDRESS), 443);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 8);
const EVERY: Duration = Duration::from_secs(2);

/// A server of `public.example` that sends back what it gets. Each connection's socket, so that the test
/// can set options of it.
fn server(ends: &Ends) -> mpsc::Receiver<TcpStream> {
    let address = format!("{ADDRESS}/24");
    ends.server.ip(&["address", "add", &address, "dev", INTERFACE]).unwrap();
    let public = &ends.certificates.public;
    let chain = CertificateDer::pem_file_iter(&public.certificate).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&public.key).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.unwrap());
    let listener = ends.server.enter(|| Ok(TcpListener::bind(SERVER)?)).unwrap();
    let (tell, sockets) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            tell.send(stream.try_clone().unwrap()).unwrap();
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let (mut tls, mut buffer) = (StreamOwned::new(connection, stream), [0; 1024]);
            while let Ok(length @ 1..) = tls.read(&mut buffer) {
                let _ = tls.write_all(&buffer[..length]).and_then(|()| tls.flush());
            }
        }
    });
    sockets
}

fn talk(tls: &mut Tls) {
    write_record(tls, b"anybody there?\n").unwrap();
    let (answer, end) = read_until(tls, "\n", 1);
    end.unwrap();
    assert_eq!(answer, "anybody there?\n");
}

#[test]
fn keep_alives_of_either_end_cross_a_decrypted_session() {
    let mut bench = lab();
    let sockets = server(&bench.ends);
    let mut tls = common::connect_to(&bench.ends, SERVER, "public.example");
    let port = tls.sock.local_addr().unwrap().port();
    talk(&mut tls);
    let server = sockets.recv_timeout(Duration::from_secs(20)).unwrap();
    let keep_alive = TcpKeepalive::new().with_time(EVERY).with_interval(EVERY);
    let client = tls.sock.try_clone().unwrap();
    let ends = [("server", &client, &bench.ends.server), ("client", &server, &bench.ends.client)];
    for (name, asking, asked) in ends {
        let capture = Capture::start(&bench.run, asked, &format!("keep-alive-{name}")).unwrap();
        SockRef::from(asking).set_tcp_keepalive(&keep_alive).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let frames = loop {
            let frames = connection(capture.path(), port).unwrap().1;
            if frames >= 4 || Instant::now() > deadline {
                break frames;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        SockRef::from(asking).set_keepalive(false).unwrap();
        capture.stop().unwrap();
        // Keep-alives and their answers.
        assert!(frames >= 4, "the {name} saw {frames} frames");
        std::thread::sleep(Duration::from_secs(1));
    }
    talk(&mut tls);
    drop((tls, client, server));
    // It was none of the bridge's.
    let inspected = format!(":{port} > {SERVER}\n  decrypted and inspected");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let shown = bench.wire.console("show sessions 3").unwrap();
        if shown.contains(&inspected) {
            break;
        }
        assert!(Instant::now() < deadline, "{inspected:?} is not in {shown}");
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.run.succeeded();
}
