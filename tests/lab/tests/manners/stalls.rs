//! Clients that say hello, and then nothing more.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_lab::ends::SERVER;
use weir_lab::fetch::Fetch;

use super::common::open_files;
use super::never::hello;
use super::{passes, record_of};

/// The engine's pools of sockets and pipes are as full as it happens.
const POOLED: usize = 16;

#[test]
fn client_that_stalls_amid_its_handshake_is_given_up_on_either_stack() {
    passes(|bench| {
        let (engine, worker) = (bench.wire.engine()?, bench.wire.legacy_worker()?);
        let old = ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"];
        for arguments in [&[][..], &old] {
            Fetch::new("public.example", "/").arguments(arguments).run(&bench.ends)?.succeeded()?;
        }
        let before = [open_files(engine)? + POOLED, open_files(worker)?];
        let mut stalled = Vec::new();
        for (version, suite) in [([3, 3], 0xc02b), ([3, 2], 0x002f)] {
            let mut stream = bench.ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
            stream.write_all(&hello(version, suite))?;
            // Past the handshake with the server: it is the client's turn.
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            anyhow::ensure!(answer[0] == 0x16, "no handshake: {answer:?}");
            stream.set_read_timeout(Some(Duration::from_secs(90)))?;
            stalled.push(stream);
        }
        for stream in &mut stalled {
            // Reset, or ended; nothing but the end of this is waited for.
            let ended = stream.read_to_end(&mut Vec::new());
            let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            anyhow::ensure!(!ended.as_ref().is_err_and(timed_out), "it lives on");
            let record = record_of(bench, stream.local_addr()?.port())?;
            for told in [
                "Outcome blocked (TLS handshake with the client failed)",
                "Failure handshake with the client: the handshake took too long",
                "TLS with the server TLS 1.3",
            ] {
                assert!(record.contains(told), "{record}");
            }
        }
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let now = [open_files(engine)?, open_files(worker)?];
            if now.iter().zip(&before).all(|(now, before)| now <= before) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{now:?} are open, at most {before:?} were");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}
