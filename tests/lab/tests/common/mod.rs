//! A TLS client whose records and segments the test decides, unlike curl's.
#![allow(dead_code)] // each test binary uses its part

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use weir_lab::bench::Bench;
use weir_lab::ends::{CLIENT, Ends, SERVER};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Weir's processes between the ends, inspecting.
pub fn lab() -> Bench<Lab> {
    Bench::start(Lab::start).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A lab that this is tried in.
pub fn passes(check: impl FnOnce(&mut Bench<Lab>) -> anyhow::Result<()>) {
    let mut bench = lab();
    if let Err(error) = check(&mut bench) {
        panic!("{error:#}; {}", bench.wire.state());
    }
    bench.run.succeeded();
}

/// The record of the session of this client port, as the console folds it, once it is told: an end that
/// does not hear of the session's is waited for, some 30 s for each of what it is told.
pub fn record_of(bench: &mut Bench<Lab>, port: u16) -> anyhow::Result<String> {
    anyhow::ensure!(port != 0, "the client had no connection");
    let flow = format!("{CLIENT}:{port}\n");
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let shown = bench.wire.console("show sessions detail 50")?;
        if let Some(record) = shown.split("\n\n").find(|record| record.contains(&flow)) {
            return Ok(record.to_owned());
        }
        if Instant::now() >= deadline {
            // It may have passed without one, or live on.
            let passed = bench.wire.console("show segments lab detail")?;
            let live = bench.wire.console("debug np stats show npSslInspStats")?;
            anyhow::bail!("no record of {flow}: {shown}{passed}{live}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Descriptors that a process has open.
pub fn open_files(process: Pid) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

/// Memory that it has.
pub fn resident_kib(process: Pid) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A finished handshake with a server of others, its certificate verified.
pub fn connect(ends: &Ends, host: &str) -> Tls {
    connect_in_pieces(ends, host, &[])
}

/// The same with the ClientHello cut at these places, and a pause before each piece but the first.
pub fn connect_in_pieces(ends: &Ends, host: &str, cuts: &[usize]) -> Tls {
    connect_in_pieces_to(ends, SocketAddr::from((SERVER, 443)), host, cuts)
}

/// The same with another server.
pub fn connect_in_pieces_to(ends: &Ends, server: SocketAddr, host: &str, cuts: &[usize]) -> Tls {
    let stream = ends.connect_from_client(server).unwrap();
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
