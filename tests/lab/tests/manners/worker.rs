//! What sessions on the legacy stack leave behind in its worker: nothing, wherever they stop.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use weir_lab::ends::{Ends, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;

use super::ends::worker_of;
use super::never::hello;
use super::passes;

/// Of each: after its hello, after the first bytes of the answer, and to its end.
const SESSIONS: usize = 100;
/// What the allocator may keep.
const KEPT_KIB: u64 = 4 << 10;

fn open_files(process: Pid) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

fn resident_kib(process: Pid) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Clients of TLS 1.1 that vanish, half of them by RST; then one that does not.
fn sessions(ends: &Ends) -> anyhow::Result<()> {
    let hello = hello([3, 2], 0x002f);
    for number in 0..SESSIONS {
        for hears in [false, true] {
            let mut stream = ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
            if number.is_multiple_of(2) {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
            stream.write_all(&hello)?;
            if hears {
                let mut answer = [0; 5];
                stream.read_exact(&mut answer)?;
                anyhow::ensure!(answer[0] == 0x16, "no handshake: {answer:?}");
            }
        }
    }
    let old = ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"];
    for _ in 0..5 {
        Fetch::new("public.example", "/").arguments(&old).run(ends)?.succeeded()?;
    }
    Ok(())
}

#[test]
fn sessions_of_old_clients_that_vanish_leave_nothing_in_the_worker() {
    passes(|bench| {
        let worker = worker_of(bench.wire.engine()?)?;
        let files = open_files(worker)?;
        // What is made once, for all of them.
        sessions(&bench.ends)?;
        let proven = "its sandbox proven: refused opening a file, an Internet socket, ";
        anyhow::ensure!(bench.wire.log()?.contains(proven), "it proved nothing");
        let settled = || -> anyhow::Result<()> {
            let deadline = Instant::now() + Duration::from_secs(40);
            while open_files(worker)? > files {
                let now = open_files(worker)?;
                anyhow::ensure!(Instant::now() < deadline, "{now} are open, {files} were");
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        settled()?;
        let before = resident_kib(worker)?;
        sessions(&bench.ends)?;
        settled()?;
        let kept = resident_kib(worker)?.saturating_sub(before);
        anyhow::ensure!(kept <= KEPT_KIB, "{kept} KiB stayed");
        assert_eq!(worker_of(bench.wire.engine()?)?, worker);
        let shown = bench.wire.console("show tls-inspection")?;
        let legs = shown.lines().find(|line| line.contains("  legs on the legacy stack")).unwrap();
        let count: usize = legs.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        anyhow::ensure!(count >= SESSIONS, "they were on the other stack: {shown}");
        Ok(())
    });
}
