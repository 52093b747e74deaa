//! Every version and suite of the table on each leg, the other leg modern, between ends that are legs
//! themselves, over loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use weir_policy::SecretBytes;
use weir_policy::snapshot::{CertifiedKey, SegmentId};
use weir_policy::suites::{Authentication, Protocol, Stack, Suite, TABLE};
use weir_tls::hello::{Peek, peek};

use super::*;
use crate::leg::progress;

const TIME: Duration = Duration::from_secs(60);
const NAME: &str = "server.test";

/// The worker's program, beside this one where the workspace's tests were built; else built here.
fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let own = std::env::current_exe().unwrap();
        let program = own.parent().and_then(Path::parent).unwrap().join("weir-legacy");
        if program.exists() {
            return program;
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "weir-legacy"]);
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success(), "weir-legacy does not build");
        program
    };
    BUILT.get_or_init(build).clone()
}

fn key(authentication: Authentication) -> Arc<LegKey> {
    let key = if authentication == Authentication::Ecdsa {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
    } else {
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
    };
    let key = key.unwrap();
    let parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let chain = vec![parameters.self_signed(&key).unwrap().der().to_vec()];
    let key = SecretBytes::new(key.serialize_der());
    Arc::new(LegKey::new(&CertifiedKey { chain, key }).unwrap())
}

/// Everything in the table, SSL 3.0 included.
fn everything() -> Allowed {
    Allowed {
        weakest: Protocol::Ssl30,
        strongest: Protocol::Tls13,
        suites: TABLE.iter().map(|suite| suite.id).collect(),
    }
}

fn only(version: Protocol, suite: &Suite) -> Allowed {
    Allowed { weakest: version, strongest: version, suites: vec![suite.id] }
}

struct World {
    legacy: Arc<Legacy>,
    modern: ModernStack,
    everything: Allowed,
    keys: [Arc<LegKey>; 2],
}

impl World {
    fn new() -> Rc<Self> {
        let everything = everything();
        Rc::new(Self {
            legacy: Legacy::start(program()).unwrap(),
            modern: ModernStack::under(&everything).unwrap().unwrap(),
            everything,
            keys: [key(Authentication::Rsa), key(Authentication::Ecdsa)],
        })
    }

    fn stacks(&self) -> Stacks<'_> {
        let modern = Some(&self.modern);
        Stacks { modern, legacy: &self.legacy, allowed: &self.everything }
    }

    fn key(&self, suite: &Suite) -> &Arc<LegKey> {
        let [rsa, ecdsa] = &self.keys;
        if suite.authentication == Authentication::Ecdsa { ecdsa } else { rsa }
    }

    /// An end that knows nothing but this.
    fn end(&self, version: Protocol, suite: &Suite, role: Role) -> Open {
        let LegacyBounds { versions, suites } = LegacyBounds::under(&only(version, suite)).unwrap();
        Open { versions: (versions.0.code(), versions.1.code()), suites, role }
    }
}

/// A server that shakes hands with whoever connects and sends back what it gets.
async fn serve(world: Rc<World>, cell: Option<(Protocol, &'static Suite)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = match cell {
                None => world.modern.client_leg(&world.keys[0], Verdict::default(), None).unwrap(),
                Some((version, suite)) => {
                    let key = world.key(suite);
                    let chain = key.chain().iter().map(|one| one.as_ref().to_vec()).collect();
                    let role = Role::ToClient { chain, key: key.pkcs8().clone(), alpn: None };
                    world.legacy.leg(world.end(version, suite, role)).await.unwrap()
                }
            };
            spawn_local(async move {
                let mut leg = Leg::new(stream, tls);
                if leg.handshake(&[]).await.is_ok() {
                    let came = receive(&mut leg, 4).await;
                    leg.send_plain(&came).unwrap();
                    leg.flush_all().await.unwrap();
                    let _ = receive(&mut leg, 1).await;
                }
            });
        }
    });
    address
}

/// So many bytes of plaintext, or what came until the end.
async fn receive(leg: &mut Leg, wanted: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    loop {
        leg.tls.read_plain(&mut plain);
        if plain.len() >= wanted {
            return plain;
        }
        let mut buffer = [0; 4096];
        tokio::select! {
            ready = leg.stream.readable() => {
                if ready.is_err() {
                    return plain;
                }
                match leg.stream.try_read(&mut buffer) {
                    Ok(0) => return plain,
                    Ok(read) => leg.tls.read_wire(&buffer[..read]).unwrap(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return plain,
                }
            }
            () = progress(&mut leg.tls) => leg.tls.read_wire(&[]).unwrap(),
        }
    }
}

/// Connects to the same server from another port, where the data plane keeps the port.
struct Reconnect(SocketAddr);

impl ConnectAgain for Reconnect {
    async fn again(&self, old: TcpStream, _: &SessionRecord) -> io::Result<TcpStream> {
        drop(old);
        TcpStream::connect(self.0).await
    }
}

/// Weir between a client end and a server; what both its legs negotiated.
async fn through(
    world: &Rc<World>,
    server: SocketAddr,
    client: Box<dyn TlsLeg>,
    shown: &Arc<LegKey>,
    cell: &str,
) -> [weir_tls::Negotiated; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let client: JoinHandle<Vec<u8>> = spawn_local(async move {
        let mut leg = Leg::new(stream, client);
        leg.handshake(&[]).await.unwrap();
        leg.send_plain(b"ping").unwrap();
        leg.flush_all().await.unwrap();
        receive(&mut leg, 4).await
    });
    let (towards_client, peer) = listener.accept().await.unwrap();
    let towards_server = TcpStream::connect(server).await.unwrap();
    let record = SessionRecord::new(1, 0, SegmentId(1), peer, server);
    let stacks = world.stacks();
    let again = Reconnect(server);
    let shaken =
        stacks.server_handshake(towards_server, &again, Some(NAME), vec![], &record, TIME).await;
    let mut to_server = shaken.unwrap_or_else(|failed| panic!("{cell}: {}", failed.fault));

    let mut received = Vec::new();
    let hello = loop {
        towards_client.readable().await.unwrap();
        let _ = towards_client.try_read_buf(&mut received);
        match peek(&received) {
            Peek::Hello(hello) => break hello,
            Peek::Incomplete => {}
            other => panic!("{cell}: {other:?}"),
        }
    };
    let tls = stacks.client_leg(&hello, shown, Verdict::default(), None).await.unwrap();
    let mut to_client = Leg::new(towards_client, tls);
    let shaken = to_client.handshake(&received).await;
    shaken.unwrap_or_else(|fault| panic!("{cell}: {fault}"));

    let asked = receive(&mut to_client, 4).await;
    to_server.send_plain(&asked).unwrap();
    to_server.flush_all().await.unwrap();
    let answered = receive(&mut to_server, 4).await;
    to_client.send_plain(&answered).unwrap();
    to_client.flush_all().await.unwrap();
    assert_eq!(client.await.unwrap(), b"ping", "{cell}");
    [to_client.tls.negotiated().unwrap(), to_server.tls.negotiated().unwrap()]
}

fn cells() -> impl Iterator<Item = (Protocol, &'static Suite)> {
    let all = Protocol::ALL.into_iter().flat_map(|version| {
        TABLE.iter().filter(move |suite| suite.used_in(version)).map(move |suite| (version, suite))
    });
    all.filter(|(version, _)| *version < Protocol::Tls13)
}

fn run(test: impl AsyncFnOnce(Rc<World>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { test(World::new()).await });
}

#[test]
fn every_suite_of_old_clients_goes_with_a_modern_server() {
    run(async |world| {
        let server = serve(Rc::clone(&world), None).await;
        let mut legacy = 0;
        for (version, suite) in cells() {
            let cell = format!("{version} {}", suite.name);
            let role = Role::ToServer { server_name: Some(NAME.to_owned()), alpn: vec![] };
            let client = world.legacy.leg(world.end(version, suite, role)).await.unwrap();
            let before = world.legacy.counts().legs.load(Ordering::Relaxed);
            let [client, server] = through(&world, server, client, world.key(suite), &cell).await;
            assert_eq!((client.version.0, client.suite.0), (version.code(), suite.id), "{cell}");
            assert_eq!(server.version.0, Protocol::Tls13.code(), "{cell}");
            // The legacy stack is reached by the flows that need it, and by no other (SPEC T13).
            let legs = world.legacy.counts().legs.load(Ordering::Relaxed) - before;
            let needed = suite.stack == Stack::Legacy;
            assert_eq!(legs, u64::from(needed), "{cell}");
            legacy += legs;
        }
        assert!(legacy > 30, "{legacy}");
        assert_eq!(world.legacy.counts().crashes.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn every_suite_of_old_servers_goes_with_a_modern_client() {
    run(async |world| {
        for (version, suite) in cells() {
            let cell = format!("{version} {}", suite.name);
            let server = serve(Rc::clone(&world), Some((version, suite))).await;
            let opened_again = || world.legacy.counts().opened_again.load(Ordering::Relaxed);
            let before = opened_again();
            // The second time the server is known.
            for _ in 0..2 {
                let client = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
                let [client, server] = through(&world, server, client, &world.keys[1], &cell).await;
                assert_eq!(client.version.0, Protocol::Tls13.code(), "{cell}");
                let got = (server.version.0, server.suite.0);
                assert_eq!(got, (version.code(), suite.id), "{cell}");
            }
            let needed = suite.stack == Stack::Legacy;
            assert_eq!(opened_again() - before, u64::from(needed), "{cell}");
            assert_eq!(world.legacy.servers.knows(server, Some(NAME), Instant::now()), needed);
        }
    });
}

#[test]
fn leg_of_a_worker_that_ends_fails_and_the_next_worker_serves() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let open = || {
            let role = Role::ToServer { server_name: None, alpn: vec![] };
            world.end(Protocol::Tls10, suite, role)
        };
        let mut leg = world.legacy.leg(open()).await.unwrap();
        let process = || world.legacy.counts().process.load(Ordering::Relaxed);
        let first = process();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let failed = async {
            while leg.read_wire(&[]).is_ok() {
                progress(&mut leg).await;
            }
        };
        tokio::time::timeout(TIME, failed).await.unwrap();
        // Told to be gone, and then asked for nothing more.
        assert!(matches!(leg.read_wire(b"more"), Err(LegError::Internal(_))));
        assert_eq!(leg.write_plain(b"more"), 0);
        while world.legacy.counts().crashes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut leg = world.legacy.leg(open()).await.unwrap();
        while !leg.wants_write() {
            progress(&mut leg).await;
        }
        assert_ne!(process(), first);
    });
}

#[test]
fn worker_that_is_stuck_is_killed() {
    run(async |world| {
        let role = Role::ToServer { server_name: None, alpn: vec![] };
        let open = world.end(Protocol::Tls10, Suite::by_id(0x002f).unwrap(), role);
        drop(world.legacy.leg(open).await.unwrap());
        let process = world.legacy.counts().process.load(Ordering::Relaxed);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let replaced = async {
            while [0, process].contains(&world.legacy.counts().process.load(Ordering::Relaxed)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TIME, replaced).await.unwrap();
        assert_eq!(world.legacy.counts().crashes.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_server_that_is_silent_or_dribbles_is_given_up_at_the_deadline() {
    run(async |world| {
        for dribbles in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                // A record of 16 KiB, byte by byte.
                for byte in [0x16, 3, 3, 0x40].into_iter().chain(std::iter::repeat(0)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if dribbles && stream.try_write(&[byte]).is_err() {
                        return;
                    }
                }
            });
            let server = TcpStream::connect(address).await.unwrap();
            let record = SessionRecord::new(1, 0, SegmentId(1), address, address);
            let (stacks, again) = (world.stacks(), Reconnect(address));
            let deadline = Duration::from_millis(100);
            let shaken =
                stacks.server_handshake(server, &again, Some(NAME), vec![], &record, deadline);
            let fault = shaken.await.err().unwrap().fault;
            assert!(matches!(fault, LegFault::Slow), "{dribbles}: {fault}");
        }
        assert_eq!(world.legacy.counts().opened_again.load(Ordering::Relaxed), 0);
    });
}
