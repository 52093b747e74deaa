//! What is no TLS, on a server proxy: blocked whoever speaks first, with each setting of the reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use weir_lab::document;
use weir_lab::ends::{CLIENT, Ends, OWN_SERVER, SERVER};
use weir_lab::process::succeed;

use super::{configure, passes, told};

/// A server that greets its clients, at this port of both addresses, and echoes what they say; what
/// each connection of [`OWN_SERVER`] ended by.
fn greeter(ends: &Ends, port: u16) -> anyhow::Result<mpsc::Receiver<std::io::Result<u64>>> {
    let listener = ends.server.enter(move || Ok(TcpListener::bind(("0.0.0.0", port))?))?;
    let (tell, told) = mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let own = stream.local_addr()?.ip() == OWN_SERVER;
                stream.write_all(b"220 ready\r\n")?;
                let ended = std::io::copy(&mut stream.try_clone()?, &mut stream);
                if own {
                    let _ = tell.send(ended);
                }
                Ok::<(), std::io::Error>(())
            });
        }
    });
    Ok(told)
}

/// Connects to there, and reads: the address that it came from, and the error, which may be there as soon
/// as the connection is.
fn reset_by(server: Ipv4Addr, port: u16) -> std::io::Result<(SocketAddr, std::io::Error)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((CLIENT, 0)).into())?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let from = socket.local_addr()?.as_socket().unwrap();
    let connected = socket.connect(&SocketAddr::from((server, port)).into());
    let ended = connected.and_then(|()| (&socket).read_exact(&mut [0; 1]));
    Ok((from, ended.unwrap_err()))
}

/// SPEC T9: STARTTLS, and any other server that speaks before TLS does.
#[test]
fn a_server_that_speaks_first_is_blocked_on_a_server_proxy() {
    passes(|bench, _| {
        const PORT: u16 = 2525;
        let ports = "detection-ports: [\"443\"";
        let reset = "reset-server-on-block: true";
        let mut greeting = [0; 11];
        configure(bench, ports, &format!("{ports}, \"{PORT}\""))?;
        let ended = greeter(&bench.ends, PORT)?;
        for resets in [true, false] {
            if !resets {
                let document = document::weir_section(&bench.ends.certificates)?
                    .replace(ports, &format!("{ports}, \"{PORT}\""))
                    .replace(reset, "reset-server-on-block: false");
                bench.provision(&document)?;
            }
            let mut other = bench.ends.connect_from_client(SocketAddr::from((SERVER, PORT)))?;
            other.read_exact(&mut greeting)?;
            assert_eq!(&greeting, b"220 ready\r\n");

            let (from, error) = bench.ends.client.enter(|| Ok(reset_by(OWN_SERVER, PORT)?))?;
            let flow = format!("{from} > {OWN_SERVER}:{PORT}");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let error = ended.recv()?.unwrap_err().kind();
            // Without a reset it is left to its own patience, which here is a time-out.
            let expected = if resets { ErrorKind::ConnectionReset } else { ErrorKind::WouldBlock };
            assert_eq!(error, expected, "resets: {resets}");
            let shown = told(bench, "show sessions 5", &flow)?;
            assert!(
                shown.contains(&format!("{flow}\n  blocked (server spoke first)\n")),
                "{shown}"
            );
        }
        told(bench, "show segments detail", "server spoke first dropped").map(drop)
    });
}

/// A hello of RFC 5246 section E.2, for TLS 1.0 with TLS_RSA_WITH_AES_128_CBC_SHA: openssl's server
/// would go on from it in TLS.
const SSLV2_FORMAT: &[u8] = &[
    0x80, 0x1c, 1, 3, 1, 0, 3, 0, 0, 0, 16, 0, 0, 0x2f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
    14, 15, 16,
];

/// SPEC T9: what its client ends before it is a hello is none, whatever policy has for incomplete ones.
#[test]
fn a_hello_that_ends_before_it_is_whole_is_blocked_on_a_server_proxy() {
    passes(|bench, _| {
        let begun: [&[u8]; 4] = [
            &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
            &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            &[0x16],
            &[0x16, 3, 1],
        ];
        for first in begun {
            for waits in [false, true] {
                let mut own =
                    bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, 443)))?;
                let client = own.local_addr()?;
                own.write_all(first)?;
                if waits {
                    // It is taken over by then.
                    std::thread::sleep(Duration::from_millis(300));
                }
                // It may have been reset by then.
                let _ = own.shutdown(std::net::Shutdown::Write);
                let error = own.read(&mut [0; 16]).expect_err(&format!("{first:?}"));
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{first:?}");
                let shown = told(bench, "show sessions 3", &format!("{client} > "))?;
                let wanted = format!("{client} > {OWN_SERVER}:443\n  blocked (");
                assert!(shown.contains(&wanted), "{shown}");
            }
        }
        Ok(())
    });
}

/// SPEC T9, T8: what is no TLS, with each setting of the reset.
#[test]
fn cleartext_to_a_server_proxy_is_blocked_and_its_server_reset_as_set() {
    passes(|bench, _| {
        let reset = "reset-server-on-block: true";
        for resets in [true, false] {
            if !resets {
                configure(bench, reset, "reset-server-on-block: false")?;
            }
            for first in [
                &b"GET /cleartext HTTP/1.1\r\n\r\n"[..],
                &[0x16, 3, 1, 0, 4, 0, 0, 0, 0],
                &[0; 64],
                SSLV2_FORMAT,
            ] {
                let mut own =
                    bench.ends.connect_from_client(SocketAddr::from((OWN_SERVER, 443)))?;
                let client = own.local_addr()?;
                let of_server = |ends: &Ends| {
                    let filter = format!("dport = :{}", client.port());
                    succeed(ends.server.command("ss").args(["-Htn", &filter]))
                };
                assert!(of_server(&bench.ends)?.contains("ESTAB"));
                own.write_all(first)?;
                let error = own.read(&mut [0; 16]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{first:?}");
                let shown = told(bench, "show sessions 3", &format!("{client} > "))?;
                let wanted =
                    format!("{client} > {OWN_SERVER}:443\n  blocked (not TLS on a server proxy)\n");
                assert!(shown.contains(&wanted), "{shown}");
                // Told after its resets were sent.
                assert_eq!(of_server(&bench.ends)?.contains("ESTAB"), !resets, "{first:?}");
            }
        }
        assert!(!bench.ends.access_log()?.contains("cleartext"));
        Ok(())
    });
}
