//! An end that does not read makes the other wait: the engine's memory does not grow by what it has
//! not taken.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use weir_lab::bench::Bench;
use weir_lab::ends::DOWNLOAD;
use weir_lab::fetch::Fetch;
use weir_lab::wire::lab::Lab;

use super::common::{Tls, connect, connect_to, read_until, write_record};
use super::{OTHER, passes, serve};

/// What a hoard would be: so many times [`DOWNLOAD`].
const ANSWERS: usize = 4;
/// KiB that the allocator takes and gives back while it has much to do; far less than a hoard.
const COMES_AND_GOES: u64 = 32 << 10;

/// Resident memory of the engine, in KiB.
fn resident(bench: &Bench<Lab>) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.wire.engine()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_client_that_does_not_read_makes_the_server_wait_and_not_the_engine_hoard() {
    passes(|bench, _| {
        let mut tls = connect(&bench.ends, "public.example");
        write_record(&mut tls, b"GET /index.html HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        read_until(&mut tls, "benign page", 1).1?;
        // What the allocator takes once, for both runtimes, is no hoard.
        for _ in 0..4 {
            Fetch::new("public.example", "/random.bin").run(&bench.ends)?.succeeded()?;
        }
        let before = resident(bench)?;
        for number in 1..=ANSWERS {
            let last = if number == ANSWERS { "Connection: close\r\n" } else { "" };
            let request = format!("GET /random.bin HTTP/1.1\r\nHost: public.example\r\n{last}\r\n");
            write_record(&mut tls, request.as_bytes())?;
        }
        std::thread::sleep(Duration::from_secs(2));
        let grown = resident(bench)?.saturating_sub(before);
        assert!(grown < COMES_AND_GOES, "the engine grew by {grown} KiB");
        let (answer, end) = read_all(&mut tls);
        end?;
        assert!(answer > ANSWERS * DOWNLOAD, "{answer} bytes came");
        Ok(())
    });
}

/// Reads to the peer's close_notify; how many bytes came.
fn read_all(tls: &mut Tls) -> (usize, std::io::Result<()>) {
    let (mut count, mut buffer) = (0, [0; 16 << 10]);
    loop {
        match tls.read(&mut buffer) {
            Ok(0) => return (count, Ok(())),
            Ok(read) => count += read,
            Err(error) => return (count, Err(error)),
        }
    }
}

#[test]
fn a_server_that_does_not_read_makes_the_client_wait_and_not_the_engine_hoard() {
    passes(|bench, _| {
        let public = bench.ends.certificates.public.clone();
        // It ends a session at the end of its own input, which this pipe never has.
        let mut command = bench.ends.server.command("sh");
        command.args(["-c", "mkfifo \"$0\" && exec openssl s_server \"$@\" <>\"$0\""]);
        command.arg(bench.run.path("deaf.input"));
        command.args(["-quiet", "-accept", &format!("{OTHER}:443")]);
        command.arg("-cert").arg(&public.certificate).arg("-key").arg(&public.key);
        let server = serve(&bench.ends, "deaf", &mut command)?;
        let mut tls = connect_to(&bench.ends, SocketAddr::from((OTHER, 443)), "public.example");
        for _ in 0..4 {
            Fetch::new("public.example", "/random.bin").run(&bench.ends)?.succeeded()?;
        }
        server.signal(nix::sys::signal::Signal::SIGSTOP)?;
        let before = resident(bench)?;
        tls.sock.set_write_timeout(Some(Duration::from_secs(2)))?;
        let head =
            "PUT /upload HTTP/1.1\r\nHost: public.example\r\nContent-Length: 100000000\r\n\r\n";
        write_record(&mut tls, head.as_bytes())?;
        let mut sent = 0;
        let stopped = loop {
            match write_record(&mut tls, &[b'x'; 16 << 10]) {
                Ok(()) => sent += 16 << 10,
                Err(error) => break error,
            }
            anyhow::ensure!(sent < ANSWERS * DOWNLOAD, "nothing makes the client wait");
        };
        let wait = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        assert!(wait.contains(&stopped.kind()), "{stopped}");
        let grown = resident(bench)?.saturating_sub(before);
        server.signal(nix::sys::signal::Signal::SIGCONT)?;
        assert!(grown < COMES_AND_GOES, "the engine grew by {grown} KiB for {sent} bytes");
        // It goes on where it was.
        tls.sock.set_write_timeout(Some(Duration::from_secs(20)))?;
        for _ in 0..64 {
            write_record(&mut tls, &[b'x'; 16 << 10])?;
        }
        Ok(())
    });
}
