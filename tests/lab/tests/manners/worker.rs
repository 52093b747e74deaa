//! What sessions on the legacy stack take of its worker and of others' time, and what they leave behind in
//! it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weir_lab::bench::Bench;
use weir_lab::ends::{DOWNLOAD, Ends, SERVER};
use weir_lab::fetch::Fetch;
use weir_lab::peers::{self, Conversation};
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::common::{open_files, resident_kib};
use super::never::hello;
use super::{passes, record_of};

/// Of each: after its hello, after the first bytes of the answer, and to its end.
const SESSIONS: usize = 100;
/// What the allocator may keep.
const KEPT_KIB: u64 = 4 << 10;

/// Of curl.
const OLD: [&str; 5] = ["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "ALL:@SECLEVEL=0"];

/// A counter of `show tls-inspection`.
fn counter(bench: &mut Bench<Lab>, name: &str) -> anyhow::Result<u64> {
    let shown = bench.wire.console("show tls-inspection")?;
    let line = shown.lines().find(|line| line.contains(name)).unwrap_or_default();
    let count = line.split_whitespace().find_map(|word| word.parse().ok());
    count.ok_or_else(|| anyhow::anyhow!("no {name} in {shown}"))
}

/// Until a counter has come so far: the engine tells its counters once a second.
fn counts(bench: &mut Bench<Lab>, name: &str, least: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let counted = counter(bench, name)?;
        if counted >= least {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{name}: {counted}, and not {least}");
        std::thread::sleep(Duration::from_millis(200));
    }
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
    for _ in 0..5 {
        Fetch::new("public.example", "/").arguments(&OLD).run(ends)?.succeeded()?;
    }
    Ok(())
}

#[test]
fn sessions_of_old_clients_that_vanish_leave_nothing_in_the_worker() {
    passes(|bench| {
        let worker = bench.wire.legacy_worker()?;
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
        assert_eq!(bench.wire.legacy_worker()?, worker);
        counts(bench, "  legs on the legacy stack", SESSIONS as u64)
    });
}

/// Each has its turn between the chunks of those that are busy. They are more than the worker takes in one
/// turn, and no more: where the machine has a tenth of its time for all this, the last of them must still
/// have shaken hands with its server, and be answered, within the 30 s that a handshake may take.
#[test]
fn a_hundred_new_legs_at_once_have_their_turn_beside_bulk_data_and_none_is_lost() {
    const NEW: usize = 100;
    passes(|bench| {
        let worker = bench.wire.legacy_worker()?;
        let ends = &bench.ends;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let bulk: Vec<_> = (0..3)
                .map(|number| {
                    let fetch =
                        Fetch::new("public.example", "/random.bin").arguments(&OLD).limit(300);
                    scope.spawn(move || fetch.run_into(ends, &format!("bulk-{number}")))
                })
                .collect();
            // While they are under way.
            let begun = Instant::now() + Duration::from_secs(60);
            while std::fs::metadata(ends.run.path("bulk-0")).map_or(0, |file| file.len()) == 0 {
                anyhow::ensure!(Instant::now() < begun, "nothing is downloaded");
                std::thread::sleep(Duration::from_millis(5));
            }
            let hello = hello([3, 2], 0x002f);
            let mut streams = Vec::new();
            for _ in 0..NEW {
                let mut stream = ends.connect_from_client(SocketAddr::from((SERVER, 443)))?;
                stream.write_all(&hello)?;
                streams.push(stream);
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut answer = [0; 5];
                stream.set_read_timeout(Some(Duration::from_secs(120)))?;
                stream.read_exact(&mut answer)?;
                anyhow::ensure!(answer[0] == 0x16, "{number}: no handshake: {answer:?}");
            }
            drop(streams);
            for (number, bulk) in bulk.into_iter().enumerate() {
                bulk.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??.succeeded()?;
                let length = std::fs::metadata(ends.run.path(&format!("bulk-{number}")))?.len();
                assert_eq!(length, DOWNLOAD as u64);
            }
            Ok(())
        })?;
        assert_eq!(bench.wire.legacy_worker()?, worker);
        assert_eq!(counter(bench, "legs that the legacy stack could not take")?, 0);
        assert_eq!(counter(bench, "legacy workers that ended")?, 0);
        counts(bench, "  legs on the legacy stack", NEW as u64 + 3)
    });
}

/// What it is answered has nowhere to go.
#[test]
fn client_that_asks_to_renegotiate_and_does_not_listen_takes_little_and_ends_with_a_reason() {
    /// Less than what the engine's bound lets in: each of 53 bytes is answered by one of 37.
    const ALL_READ: usize = 400_000;
    /// More than all buffers on the way hold, several times.
    const MOST: &str = "12000000";
    passes(|bench| {
        let worker = bench.wire.legacy_worker()?;
        Fetch::new("public.example", "/").arguments(&OLD).run(&bench.ends)?.succeeded()?;
        let before = resident_kib(worker)?;
        let mut command = peers::packaged(&bench.ends.client, "renegotiating_peer.py")?;
        command.args([&SERVER.to_string(), "443", "public.example", MOST]);
        let mut client = Conversation::start(&mut command, &bench.ends.run.path("asks.log"))?;
        let said = client.answer()?;
        let words: Vec<_> = said.split(' ').collect();
        // OpenSSL would refuse for ever; it is the engine that reads no more, past a bound of its own.
        let [port, "stalled", sent] = words[..] else {
            anyhow::bail!("it ended, or was read on and on: {said}")
        };
        // Not for want of time.
        anyhow::ensure!(sent.parse::<usize>()? > ALL_READ, "{said}");
        // What the engine reads no more the worker has not got.
        let more = resident_kib(worker)?.saturating_sub(before);
        anyhow::ensure!(more < KEPT_KIB, "{more} KiB more after {sent} bytes");
        // Others are served meanwhile.
        Fetch::new("public.example", "/").arguments(&OLD).run(&bench.ends)?.succeeded()?;
        drop(client);
        let record = record_of(bench, port.parse()?)?;
        assert!(
            record.contains("TLS with the client TLS 1.1 TLS_RSA_WITH_AES_128_CBC_SHA"),
            "{record}"
        );
        assert!(record.contains("Broken off by the client: "), "{record}");
        assert!(!record.contains("no_renegotiation"), "{record}");
        assert_eq!(counter(bench, "legacy workers that ended")?, 0);
        Ok(())
    });
}
