//! Every version and suite of the table on each leg, the other leg modern, between ends that are legs
//! themselves, over loopback.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use weir_api::legacy::BINDING;
use weir_policy::SecretBytes;
use weir_policy::snapshot::{CertifiedKey, SegmentId};
use weir_policy::suites::{Authentication, Protocol, Stack, Suite, TABLE};
use weir_tls::Negotiated;
use weir_tls::hello::{Peek, peek};
use weir_tls::verify::Failure;

use super::*;
use crate::leg::{progress, reset_on_close};

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

fn only(version: Protocol, suite: &Suite) -> Allowed {
    Allowed { weakest: version, strongest: version, suites: vec![suite.id] }
}

struct World {
    legacy: Arc<Legacy>,
    modern: ModernStack,
    modern_servers: KnownServers,
    everything: Allowed,
    /// Of two policy generations, and which is in force.
    sessions: [SessionScope; 2],
    generation: Cell<usize>,
    keys: [Arc<LegKey>; 2],
}

impl World {
    fn new() -> Rc<Self> {
        let everything = Allowed::everything();
        Rc::new(Self {
            legacy: Legacy::start(program()).unwrap(),
            modern: ModernStack::under(&everything).unwrap().unwrap(),
            modern_servers: KnownServers::default(),
            everything,
            sessions: [SessionScope::new().unwrap(), SessionScope::new().unwrap()],
            generation: Cell::new(0),
            keys: [key(Authentication::Rsa), key(Authentication::Ecdsa)],
        })
    }

    fn stacks(&self) -> Stacks<'_> {
        Stacks {
            modern: Some(&self.modern),
            modern_servers: &self.modern_servers,
            legacy: &self.legacy,
            allowed: &self.everything,
            sessions: &self.sessions[self.generation.get()],
            encrypt_then_mac: false,
        }
    }

    fn key(&self, suite: &Suite) -> &Arc<LegKey> {
        let [rsa, ecdsa] = &self.keys;
        if suite.authentication == Authentication::Ecdsa { ecdsa } else { rsa }
    }

    /// An end that knows nothing but this.
    fn end(&self, version: Protocol, suite: &Suite, role: Role) -> Open {
        let LegacyBounds { versions, suites } = LegacyBounds::under(&only(version, suite)).unwrap();
        let versions = (versions.0.code(), versions.1.code());
        Open { versions, suites, encrypt_then_mac: false, role }
    }
}

/// Of a client end: its sessions are kept under this number.
fn client_role(session: u8) -> Role {
    let server_name = Some(NAME.to_owned());
    Role::ToServer { server_name, alpn: vec![], session: [session; BINDING] }
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
                    let (key, session) = (key.pkcs8().clone(), [0; BINDING]);
                    let role = Role::ToClient { chain, key, alpn: None, staple: None, session };
                    world.legacy.leg(world.end(version, suite, role)).await.unwrap()
                }
            };
            spawn_local(echo(Leg::new(stream, tls)));
        }
    });
    address
}

async fn echo(mut leg: Leg) {
    if leg.handshake(&[]).await.is_ok() {
        let came = receive(&mut leg, 4).await;
        leg.send_plain(&came).unwrap();
        leg.flush_all().await.unwrap();
        let _ = receive(&mut leg, 1).await;
    }
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
) -> [Negotiated; 2] {
    judged(world, server, client, shown, Verdict::default(), cell).await
}

/// The same after a verdict on the server's certificate.
async fn judged(
    world: &Rc<World>,
    server: SocketAddr,
    client: Box<dyn TlsLeg>,
    shown: &Arc<LegKey>,
    verdict: Verdict,
    cell: &str,
) -> [Negotiated; 2] {
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
    let tls = stacks.client_leg(&hello, shown, verdict, None).await.unwrap();
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
        for (number, (version, suite)) in cells().enumerate() {
            let cell = format!("{version} {}", suite.name);
            let role = client_role(u8::try_from(number).unwrap());
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
        let open = || world.end(Protocol::Tls10, suite, client_role(1));
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
        let open = world.end(Protocol::Tls10, Suite::by_id(0x002f).unwrap(), client_role(1));
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

#[test]
fn legacy_sessions_are_resumed_on_both_sides_within_one_generation_and_verdict() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let server = serve(Rc::clone(&world), Some((Protocol::Tls11, suite))).await;
        let resumed = async |shown: &Arc<LegKey>, verdict| {
            let open = world.end(Protocol::Tls10, suite, client_role(1));
            let client = world.legacy.leg(open).await.unwrap();
            let got = judged(&world, server, client, shown, verdict, "resumed").await;
            got.map(|negotiated| negotiated.resumed)
        };
        let (shown, verified) = (&world.keys[0], Verdict::default());
        assert_eq!(resumed(shown, verified).await, [false, false]);
        assert_eq!(resumed(shown, verified).await, [true, true]);
        // The client is not resumed into what it was shown under another verdict or certificate.
        let expired = Verdict::from(Failure::Expired);
        assert_eq!(resumed(shown, expired).await, [false, true]);
        assert_eq!(resumed(shown, expired).await, [true, true]);
        assert_eq!(resumed(&key(Authentication::Rsa), expired).await, [false, true]);
        world.generation.set(1);
        assert_eq!(resumed(shown, verified).await, [false, false]);
        assert_eq!(resumed(shown, verified).await, [true, true]);
    });
}

/// A server of which each connection behaves as the next of these says, the last for ever.
async fn moody(world: Rc<World>, moods: &'static [Mood]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let inner = [
        serve(Rc::clone(&world), None).await,
        serve(world, Some((Protocol::Tls10, Suite::by_id(0x002f).unwrap()))).await,
    ];
    spawn_local(async move {
        for number in 0.. {
            let (mut outer, _) = listener.accept().await.unwrap();
            let server = match moods[number.min(moods.len() - 1)] {
                Mood::Resets => {
                    outer.readable().await.unwrap();
                    reset_on_close(&outer, true);
                    continue;
                }
                Mood::Modern => inner[0],
                Mood::Old => inner[1],
            };
            spawn_local(async move {
                let mut inner = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    address
}

#[derive(Clone, Copy)]
enum Mood {
    Resets,
    Modern,
    Old,
}

/// Sessions of a modern client with it, one for each: whether the server was remembered afterwards,
/// and which version it got.
async fn visits(world: &Rc<World>, server: SocketAddr, times: usize) -> Vec<(bool, Protocol)> {
    let mut seen = Vec::new();
    for time in 0..times {
        let client = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
        let cell = format!("visit {time}");
        let [_, got] = through(world, server, client, &world.keys[1], &cell).await;
        let knows = world.legacy.servers.knows(server, Some(NAME), Instant::now());
        seen.push((knows, Protocol::by_code(got.version.0).unwrap()));
    }
    seen
}

#[test]
fn modern_server_that_resets_once_is_asked_again_on_the_modern_stack() {
    for moods in [&[Mood::Resets, Mood::Modern][..], &[Mood::Modern, Mood::Resets, Mood::Modern]] {
        run(async |world| {
            let server = moody(Rc::clone(&world), moods).await;
            assert_eq!(visits(&world, server, 2).await, [(false, Protocol::Tls13); 2]);
            let counts = world.legacy.counts();
            assert_eq!(counts.legs.load(Ordering::Relaxed), 0);
            assert_eq!(counts.opened_again_on_modern.load(Ordering::Relaxed), 1);
        });
    }
}

/// It may still be modern, whoever resets its connections: one session is on the legacy stack.
#[test]
fn modern_server_that_resets_twice_before_it_is_known_is_not_remembered_as_old() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Resets, Mood::Resets, Mood::Modern]).await;
        assert_eq!(visits(&world, server, 2).await, [(false, Protocol::Tls13); 2]);
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn server_known_as_modern_is_not_put_on_the_legacy_stack_by_resets() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Modern, Mood::Resets]).await;
        assert_eq!(visits(&world, server, 1).await, [(false, Protocol::Tls13)]);
        let stream = TcpStream::connect(server).await.unwrap();
        let record = SessionRecord::new(1, 0, SegmentId(1), server, server);
        let (stacks, again) = (world.stacks(), Reconnect(server));
        let failed =
            stacks.server_handshake(stream, &again, Some(NAME), vec![], &record, TIME).await;
        let failed = failed.map(drop).unwrap_err();
        assert_eq!(needs_legacy(&failed.fault), Some(Evidence::Silence), "{}", failed.fault);
        assert_eq!(world.legacy.counts().legs.load(Ordering::Relaxed), 0);
        assert!(world.modern_servers.knows(server, Some(NAME), Instant::now()));
    });
}

#[test]
fn server_known_as_modern_that_says_otherwise_twice_is_believed_and_counted() {
    run(async |world| {
        let server = moody(Rc::clone(&world), &[Mood::Modern, Mood::Old]).await;
        let expected = [(false, Protocol::Tls13), (true, Protocol::Tls10), (true, Protocol::Tls10)];
        assert_eq!(visits(&world, server, 3).await, expected);
        let counts = world.legacy.counts();
        assert_eq!(counts.aged.load(Ordering::Relaxed), 1);
        assert_eq!(counts.opened_again_on_modern.load(Ordering::Relaxed), 1);
        assert_eq!(counts.opened_again.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn old_server_that_resets_is_remembered_for_minutes_only() {
    run(async |world| {
        let moods = &[Mood::Resets, Mood::Resets, Mood::Old];
        let server = moody(Rc::clone(&world), moods).await;
        assert_eq!(visits(&world, server, 1).await, [(true, Protocol::Tls10)]);
        let knows = |seconds| {
            let then = Instant::now().checked_add(Duration::from_secs(seconds)).unwrap();
            world.legacy.servers.knows(server, Some(NAME), then)
        };
        assert!(knows(500));
        assert!(!knows(601));
    });
}

#[test]
fn server_that_was_upgraded_is_forgotten() {
    run(async |world| {
        let moods = &[Mood::Old, Mood::Old, Mood::Modern];
        let server = moody(Rc::clone(&world), moods).await;
        let expected =
            [(true, Protocol::Tls10), (false, Protocol::Tls13), (false, Protocol::Tls13)];
        assert_eq!(visits(&world, server, 3).await, expected);
    });
}

/// A chain and key by openssl, as the agent reads them: rcgen does not make all.
fn by_openssl(algorithm: &str) -> CertifiedKey {
    let at = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let done = Command::new("openssl").current_dir(&at).args(words.split(' ')).output();
        assert!(done.unwrap().status.success(), "openssl {words}");
    };
    openssl(&format!(
        "req -x509 -newkey {algorithm} -nodes -keyout k.pem -out c.pem -subj /CN={NAME} -addext \
         subjectAltName=DNS:{NAME}"
    ));
    let read = |name: &str| std::fs::read(at.path().join(name)).unwrap();
    let pki: &dyn weir_policy::material::Certificates = &weir_pki::Pki;
    pki.certified_key(&read("c.pem"), &read("k.pem")).unwrap().certified
}

#[test]
fn keys_that_the_agent_takes_from_a_document_are_keys_that_a_leg_can_show() {
    for algorithm in ["rsa:2048", "rsa:4096"].map(str::to_owned).into_iter().chain(
        ["P-224", "P-256", "P-384", "P-521"]
            .map(|curve| format!("ec -pkeyopt ec_paramgen_curve:{curve}")),
    ) {
        let loaded = LegKey::new(&by_openssl(&algorithm));
        assert!(loaded.is_ok(), "{algorithm}: {loaded:?}");
    }
}

#[test]
fn key_on_p521_is_shown_on_either_stack() {
    run(async |world| {
        let key =
            Arc::new(LegKey::new(&by_openssl("ec -pkeyopt ec_paramgen_curve:P-521")).unwrap());
        let server = serve(Rc::clone(&world), None).await;
        let legs = || world.legacy.counts().legs.load(Ordering::Relaxed);
        for (number, (version, suite)) in
            cells().filter(|(_, suite)| suite.authentication == Authentication::Ecdsa).enumerate()
        {
            let role = client_role(u8::try_from(number).unwrap());
            let client = world.legacy.leg(world.end(version, suite, role)).await.unwrap();
            let (before, cell) = (legs(), format!("{version} {}", suite.name));
            let [got, _] = through(&world, server, client, &key, &cell).await;
            assert_eq!((got.version.0, got.suite.0), (version.code(), suite.id), "{cell}");
            assert_eq!(legs() - before, u64::from(suite.stack == Stack::Legacy), "{cell}");
        }
    });
}

#[test]
fn key_on_p224_is_reached_and_shown_on_the_legacy_stack_only() {
    run(async |world| {
        let key =
            Arc::new(LegKey::new(&by_openssl("ec -pkeyopt ec_paramgen_curve:P-224")).unwrap());
        let suite = Suite::by_id(0xc02b).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        // A server that would speak 1.3, were it not for its key.
        let serving = (Rc::clone(&world), Arc::clone(&key));
        spawn_local(async move {
            loop {
                let (world, key) = &serving;
                let (stream, _) = listener.accept().await.unwrap();
                let bounds = LegacyBounds::with_key(key.kind(), &world.everything).unwrap();
                let chain = key.chain().iter().map(|one| one.as_ref().to_vec()).collect();
                let (key, session) = (key.pkcs8().clone(), [0; BINDING]);
                let role = Role::ToClient { chain, key, alpn: None, staple: None, session };
                let tls = world.legacy.leg(world.stacks().open(Some(bounds), role).unwrap());
                let tls = tls.await.unwrap();
                spawn_local(echo(Leg::new(stream, tls)));
            }
        });
        for _ in 0..2 {
            let open = world.end(Protocol::Tls12, suite, client_role(1));
            let client = world.legacy.leg(open).await.unwrap();
            let got = through(&world, server, client, &key, "P-224").await;
            assert_eq!(got.map(|one| one.version.0), [Protocol::Tls12.code(); 2]);
        }
        assert!(world.legacy.servers.knows(server, Some(NAME), Instant::now()));
        // A client that knows 1.3 only cannot be answered with it, on either stack.
        let mut hello = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
        let mut wire = Vec::new();
        hello.write_wire(&mut wire);
        let Peek::Hello(hello) = peek(&wire) else { panic!("no hello") };
        assert!(!hello.supported_with(key.kind(), &world.everything));
        let only = only(Protocol::Tls13, Suite::by_id(0x1301).unwrap());
        assert!(!hello.supported_by_legacy(key.kind(), &only));
    });
}
