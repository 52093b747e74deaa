//! What is never agreed on, whoever asks for it: renegotiation, compression and heartbeat.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use weir_lab::ends::SERVER;
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;

use super::{OTHER, give_address, passes};

/// RFC 6520.
const HEARTBEAT: u16 = 15;

/// On each stack; openssl says by itself that it was refused, and ends.
#[test]
fn client_that_asks_to_renegotiate_is_told_that_there_is_none() {
    passes(|bench| {
        for options in [&["-tls1_2"][..], &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]] {
            let mut command = bench.ends.client.command("timeout");
            command.args(["30", "openssl", "s_client", "-connect", &format!("{SERVER}:443")]);
            command.args(["-servername", "public.example"]).args(options);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            // Open until openssl has ended: it ends with its input, too.
            let mut input = child.stdin.take().unwrap();
            input.write_all(b"R\n")?;
            let output = child.wait_with_output()?;
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            assert!(text.contains("RENEGOTIATING"), "{options:?}: {text}");
            assert!(text.contains("no renegotiation"), "{options:?}: {text}");
        }
        Ok(())
    });
}

/// A hello of a client that would compress by DEFLATE (RFC 3749), and allow heartbeats.
pub fn hello([major, minor]: [u8; 2], suite: u16) -> Vec<u8> {
    let extension =
        |kind: u16, body: &[u8]| [&kind.to_be_bytes(), &length(body.len())[..], body].concat();
    let name = b"public.example";
    let extensions = [
        extension(0, &[&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat()),
        extension(10, &[0, 2, 0, 23]),
        extension(11, &[1, 0]),
        extension(13, &[0, 6, 4, 3, 4, 1, 8, 4]),
        extension(HEARTBEAT, &[1]),
        extension(0xff01, &[0]),
    ]
    .concat();
    let body = [
        &[major, minor][..],
        &[7; 32],
        &[0],
        &[0, 2],
        &suite.to_be_bytes(),
        &[2, 1, 0],
        &length(extensions.len()),
        &extensions,
    ]
    .concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[0x16, 3, 1][..], &length(message.len()), &message].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap().to_be_bytes()
}

/// The body of the first handshake message that comes, all in one record.
fn first_message(stream: &mut TcpStream) -> anyhow::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let mut record = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut record)?;
    anyhow::ensure!(header[0] == 0x16, "a record of type {}: {record:?}", header[0]);
    let end = 4 + usize::from(u16::from_be_bytes([record[2], record[3]]));
    Ok((record[0], record[4..end].to_vec()))
}

/// Takes a vector with a length of so many bytes from the front.
fn vector<'a>(rest: &mut &'a [u8], size: usize) -> &'a [u8] {
    let length = rest[..size].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (vector, after) = rest[size..].split_at(length);
    *rest = after;
    vector
}

/// Types of the extensions that are left.
fn extensions(mut rest: &[u8]) -> Vec<u16> {
    let mut kinds = Vec::new();
    let mut all = if rest.is_empty() { rest } else { vector(&mut rest, 2) };
    while let [first, second, after @ ..] = all {
        kinds.push(u16::from_be_bytes([*first, *second]));
        all = after;
        vector(&mut all, 2);
    }
    kinds
}

#[test]
fn hello_that_offers_compression_and_heartbeats_gets_neither() {
    passes(|bench| {
        for (version, suite) in [([3, 3], 0xc02b), ([3, 2], 0x002f)] {
            let mut stream = bench.ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
            stream.write_all(&hello(version, suite))?;
            let (kind, body) = first_message(&mut stream)?;
            assert_eq!(kind, 2, "no ServerHello");
            assert_eq!(body[..2], version);
            let mut rest = &body[34..];
            vector(&mut rest, 1);
            assert_eq!(rest[..2], suite.to_be_bytes());
            assert_eq!(rest[2], 0, "a compression method");
            let extensions = extensions(&rest[3..]);
            assert!(extensions.contains(&0xff01), "none are read: {extensions:?}");
            assert!(!extensions.contains(&HEARTBEAT), "{extensions:?}");
        }
        Ok(())
    });
}

/// Servers in Go take any below 0x1000 of the first record.
#[test]
fn hello_in_a_record_of_a_version_that_only_some_servers_take_does_not_pass_unread() {
    passes(|bench| {
        let mut odd = hello([3, 3], 0xc02b);
        odd[1..3].copy_from_slice(&[2, 1]);
        let mut stream = bench.ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
        stream.write_all(&odd)?;
        // An alert or none, and the end.
        let _ = stream.read_to_end(&mut Vec::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let shown = bench.wire.console("show sessions 1")?;
            if shown.contains("TLS handshake with the client failed") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn servers_are_offered_neither_compression_nor_heartbeats() {
    passes(|bench| {
        give_address(&bench.ends)?;
        let listener = bench.ends.server.enter(|| Ok(TcpListener::bind((OTHER, 443))?))?;
        let (tell, told) = mpsc::channel();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = tell.send(first_message(&mut stream));
                // "protocol_version": the legacy stack may be the right one.
                let _ = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70]);
            }
        });
        let fetched = Fetch::new("public.example", "/").at(OTHER).run(&bench.ends)?;
        assert_ne!(fetched.exit, 0);
        // Each stack's own: TLS 1.3, and what only the other one has.
        for suite in [0x1301_u16, 0x002f] {
            let (kind, body) = told.recv_timeout(Duration::from_secs(30))??;
            assert_eq!(kind, 1);
            let mut rest = &body[34..];
            vector(&mut rest, 1);
            let suites = vector(&mut rest, 2);
            assert!(suites.chunks(2).any(|one| one == suite.to_be_bytes()), "{suites:?}");
            assert_eq!(vector(&mut rest, 1), [0], "compression methods");
            let extensions = extensions(rest);
            assert!(extensions.contains(&0), "none are read: {extensions:?}");
            assert!(!extensions.contains(&HEARTBEAT), "{extensions:?}");
        }
        Ok(())
    });
}
