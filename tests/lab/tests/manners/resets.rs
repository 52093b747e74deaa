//! Servers of TLS 1.2 and older that reset at a stage of their handshake or after it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weir_lab::bench::Bench;
use weir_lab::ends::Ends;
use weir_lab::fetch::Fetch;
use weir_lab::wire::Wire as _;
use weir_lab::wire::lab::Lab;

use super::common::{connect, read_until, write_record};
use super::{OTHER, give_address, passes, record_of, serve};

/// Where the real server is, behind the one that resets.
const BEHIND: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9443);

/// What the server in front does with its connections, and saw of the last one.
#[derive(Clone, Default)]
struct Front(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// After so many bytes of the server it resets; `None`: never.
    resets_after: Option<usize>,
    /// What the server sent.
    sent: Vec<u8>,
}

impl Front {
    fn start(ends: &Ends) -> anyhow::Result<Self> {
        give_address(ends)?;
        let listener = ends.server.enter(|| Ok(TcpListener::bind((OTHER, 443))?))?;
        let namespace = std::fs::File::open(format!("/run/netns/{}", ends.server.name()))?;
        let front = Self::default();
        let shared = front.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for stream in listener.incoming() {
                let Ok(client) = stream else { return };
                shared.0.lock().unwrap().sent.clear();
                // One at a time, as the visits are.
                let _ = shared.carry(client);
            }
        });
        Ok(front)
    }

    fn carry(&self, mut client: TcpStream) -> std::io::Result<()> {
        let resets_after = self.0.lock().unwrap().resets_after;
        if resets_after == Some(0) {
            // Its hello at least: what ends before is no session yet.
            client.read_exact(&mut [0; 64])?;
            return socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        }
        let mut server = TcpStream::connect(BEHIND)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let onward = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut buffer, mut sent) = ([0; 4096], 0);
        let mut resets = false;
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            let part = resets_after.map_or(read, |bytes| read.min(bytes - sent));
            client.write_all(&buffer[..part])?;
            sent += part;
            self.0.lock().unwrap().sent.extend_from_slice(&buffer[..part]);
            resets = resets_after == Some(sent);
            if resets {
                break;
            }
        }
        if resets {
            // So that what was sent arrives before the reset does.
            std::thread::sleep(Duration::from_millis(30));
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            // The thread that reads of it lets go of it, too: the last one to do so resets it.
            client.shutdown(Shutdown::Read)?;
        } else {
            client.shutdown(Shutdown::Write)?;
        }
        server.shutdown(Shutdown::Both)?;
        drop(client);
        let _ = onward.join();
        Ok(())
    }

    /// Bytes to the end of the server's Finished in the last connection: the record after its
    /// ChangeCipherSpec.
    fn handshake_length(&self) -> usize {
        let seen = self.0.lock().unwrap();
        let (mut at, mut changed) = (0, false);
        loop {
            let length = u16::from_be_bytes([seen.sent[at + 3], seen.sent[at + 4]]);
            let kind = seen.sent[at];
            at += 5 + usize::from(length);
            if changed {
                return at;
            }
            changed = kind == 20;
        }
    }
}

/// A visit that the server sees to its end, on the stack that it needs, which is then known.
fn good_visit(bench: &mut Bench<Lab>, front: &Front, told: &str) -> anyhow::Result<()> {
    front.0.lock().unwrap().resets_after = None;
    let fetched = Fetch::new("old.example", "/").at(OTHER).trust_anybody().run(&bench.ends)?;
    fetched.succeeded()?;
    let record = record_of(bench, fetched.port)?;
    anyhow::ensure!(record.contains(&format!("TLS with the server {told}")), "{record}");
    Ok(())
}

fn resets_at_every_stage(server: &[&str], told: &str) {
    passes(|bench| {
        let engine = bench.wire.engine()?;
        // A session that has nothing to do with them.
        let mut other = connect(&bench.ends, "public.example");
        let front = Front::start(&bench.ends)?;
        let shop = bench.ends.certificates.shop.clone();
        let mut command = bench.ends.server.command("openssl");
        let place = format!("{}:{}", BEHIND.0, BEHIND.1);
        // Without sessions to resume each handshake is as long as the other.
        command.args(["s_server", "-www", "-no_ticket", "-no_cache", "-accept", &place]);
        command.arg("-cert").arg(&shop.certificate).arg("-key").arg(&shop.key).args(server);
        let _server = serve(&bench.ends, &mut command, &place)?;
        good_visit(bench, &front, told)?;
        let whole = front.handshake_length();
        let amid = [0, 1, 6, whole / 3, whole * 2 / 3, whole - 50, whole - 1];
        for (stage, is_amid) in
            amid.map(|stage| (stage, true)).into_iter().chain([(whole, false), (whole + 20, false)])
        {
            // A server that failed is known no more.
            good_visit(bench, &front, told)?;
            front.0.lock().unwrap().resets_after = Some(stage);
            let visit = Fetch::new("old.example", "/").at(OTHER).trust_anybody().limit(25);
            let fetched = visit.run(&bench.ends)?;
            // 28: nothing came in time.
            let ended = ![0, 28].contains(&fetched.exit);
            anyhow::ensure!(ended, "after {stage} of {whole}: {fetched:?}");
            let record = record_of(bench, fetched.port)?;
            let wanted = if is_amid {
                "Outcome blocked (TLS handshake with the server failed)"
            } else {
                "Broken off by the server: "
            };
            anyhow::ensure!(record.contains(wanted), "after {stage} of {whole}: {record}");
        }
        write_record(&mut other, b"GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")?;
        read_until(&mut other, "benign page", 1).1?;
        assert_eq!(bench.wire.engine()?, engine);
        let shown = bench.wire.console("show tls-inspection")?;
        let ended = shown.lines().find(|line| line.contains("legacy workers that ended")).unwrap();
        anyhow::ensure!(ended.trim_start().starts_with("0 "), "{shown}");
        Ok(())
    });
}

#[test]
fn modern_server_of_tls_1_2_that_resets_at_any_stage_ends_its_session_and_no_other() {
    resets_at_every_stage(&["-tls1_2"], "TLS 1.2 TLS_ECDHE_RSA_WITH_");
}

#[test]
fn server_known_to_need_the_legacy_stack_that_resets_at_any_stage_ends_its_session_and_no_other() {
    resets_at_every_stage(&["-tls1_2", "-cipher", "AES128-SHA256"], "TLS 1.2 TLS_RSA_WITH_");
    let old = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
    resets_at_every_stage(&old, "TLS 1.0 TLS_ECDHE_RSA_WITH_");
}
