//! Both stacks on either leg, between ends that are legs themselves, over loopback.

mod crowd;
mod handshakes;
mod keys;
mod remembered;
mod stumbling;
mod worker;

use std::cell::{Cell, RefCell};
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
use weir_policy::suites::{Authentication, Protocol, Suite, TABLE};
use weir_tls::Negotiated;
use weir_tls::hello::{Peek, peek};

use super::*;
use crate::leg::progress;

const TIME: Duration = Duration::from_secs(60);

const NAME: &str = "server.test";

fn within(time: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + time
}

fn at(server: SocketAddr) -> ServerAt {
    Place::default().server(server)
}

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
    key_until(authentication, Duration::from_secs(86_400))
}

/// Its certificate is valid for so long.
fn key_until(authentication: Authentication, valid_for: Duration) -> Arc<LegKey> {
    let key = if authentication == Authentication::Ecdsa {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
    } else {
        rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
    };
    let key = key.unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    parameters.not_after = (std::time::SystemTime::now() + valid_for).into();
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
    /// What the client says it can.
    client: Cell<Protocol>,
    shares: Cell<Shares>,
    keys: [Arc<LegKey>; 2],
    /// What servers of the legacy stack show in the place of these.
    shown: RefCell<Option<Arc<LegKey>>>,
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
            client: Cell::new(Protocol::Tls13),
            shares: Cell::new(Shares::PostQuantum),
            keys: [key(Authentication::Rsa), key(Authentication::Ecdsa)],
            shown: RefCell::default(),
        })
    }

    fn stacks(&self) -> Stacks<'_> {
        Stacks {
            place: Place::default(),
            modern: Some(&self.modern),
            modern_servers: &self.modern_servers,
            legacy: &self.legacy,
            allowed: &self.everything,
            client: self.client.get(),
            shares: self.shares.get(),
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
                    let shown = world.shown.borrow().clone();
                    let key = shown.as_ref().unwrap_or_else(|| world.key(suite));
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
    let shaken = stacks
        .server_handshake(towards_server, &again, Some(NAME), vec![], &record, within(TIME))
        .await;
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
