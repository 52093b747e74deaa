//! A TLS client whose records and segments the test decides, unlike curl's.
#![allow(dead_code)] // each test binary uses its part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use weir_lab::bench::Bench;
use weir_lab::ends::{Ends, SERVER};
use weir_lab::wire::lab::Lab;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Weir's processes between the ends, inspecting.
pub fn lab() -> Bench<Lab> {
    Bench::start(Lab::start).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A finished handshake with a server of others, its certificate verified.
pub fn connect(ends: &Ends, host: &str) -> Tls {
    connect_in_pieces(ends, host, &[])
}

/// The same with the ClientHello cut at these places, and a pause before each piece but the first.
pub fn connect_in_pieces(ends: &Ends, host: &str, cuts: &[usize]) -> Tls {
    let stream = ends.connect_from_client(SocketAddr::from((SERVER, 443))).unwrap();
    shake_hands_in_pieces(ends, stream, host, cuts).unwrap()
}

/// The same with another server.
pub fn connect_to(ends: &Ends, server: SocketAddr, host: &str) -> Tls {
    try_connect(ends, host, server).unwrap()
}

/// The same, where it may fail.
pub fn try_connect(ends: &Ends, host: &str, server: SocketAddr) -> anyhow::Result<Tls> {
    shake_hands_in_pieces(ends, ends.connect_from_client(server)?, host, &[])
}

fn shake_hands_in_pieces(
    ends: &Ends,
    mut stream: TcpStream,
    host: &str,
    cuts: &[usize],
) -> anyhow::Result<Tls> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&ends.certificates.client_trust)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned())?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    let mut from = 0;
    for to in cuts.iter().copied().chain([hello.len()]) {
        stream.write_all(&hello[from..to])?;
        if to < hello.len() {
            std::thread::sleep(Duration::from_millis(120));
        }
        from = to;
    }
    while connection.is_handshaking() {
        let moved = connection.complete_io(&mut stream)?;
        anyhow::ensure!(moved != (0, 0), "closed amid the handshake");
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Writes `bytes` as a record of its own.
pub fn write_record(tls: &mut Tls, bytes: &[u8]) -> std::io::Result<()> {
    tls.write_all(bytes)?;
    tls.flush()
}

/// Reads until `ends` are seen `count` times, the peer closes, or an error comes; what came.
pub fn read_until(tls: &mut Tls, what: &str, count: usize) -> (String, std::io::Result<()>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match tls.read(&mut buffer) {
            Ok(0) => break (String::from_utf8_lossy(&text).into_owned(), Ok(())),
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(error) => break (String::from_utf8_lossy(&text).into_owned(), Err(error)),
        }
        if String::from_utf8_lossy(&text).matches(what).count() >= count {
            break (String::from_utf8_lossy(&text).into_owned(), Ok(()));
        }
    }
}
