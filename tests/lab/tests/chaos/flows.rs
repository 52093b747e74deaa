//! The flows: threads in the client's namespace, each with one connection after the other, and a
//! server that answers them.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use weir_lab::bench::Bench;
use weir_lab::ends::{Ends, INTERFACE};
use weir_lab::exchange::{self, Ended, Plan, Served};
use weir_lab::random::Random;
use weir_lab::tls::{self, Hello};
use weir_lab::wire::lab::Lab;

/// Connections at one time, but for those that begin at a kill.
pub const CLIENTS: u64 = 36;
/// Connections that begin when an engine is about to be killed.
pub const BEGINNERS: u64 = 8;
/// How long it is waited for them to be held: less than the engine may be silent (`device.heartbeat-timeout`).
const ARE_HELD: Duration = Duration::from_millis(300);
/// Beside nginx's addresses.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 4);
/// No detection port of the lab's document.
const PLAIN: u16 = 9000;
const TLS: u16 = 443;
/// What nothing may take longer than: an answer whose packets were lost time and again included, and
/// an engine that is started again after the longest delay of supervision.
pub const PATIENCE: Duration = Duration::from_secs(25);
/// How often the acceptor looks whether it is to end.
const TICK: Duration = Duration::from_millis(20);

/// What policy makes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// On a port that no proxy looks at.
    NotCandidate,
    /// Held, judged by its hello (one segment, so that it is held whole), given back.
    Released,
    /// Decrypted, as long as there is an engine.
    Inspected,
}

/// What became of a flow, as its client saw it.
#[derive(Clone, Debug)]
pub struct Flow {
    pub kind: Kind,
    pub seed: u64,
    pub port: u16,
    pub began: Instant,
    /// When the TLS handshake (for a plain flow, TCP's) was over, and whether Weir's certificate
    /// was shown in it.
    pub established: Option<(Instant, bool)>,
    /// When its last round began.
    pub last_round: Option<Instant>,
    pub rounds: u32,
    pub ended: Instant,
    pub end: Result<(), Ended>,
}

/// A kill of the engine: it was alive before the first and dead at the second.
#[derive(Clone, Debug)]
pub struct Kill {
    pub before: Instant,
    pub after: Instant,
    /// Clients' ports of the flows that the engine had, when it could not take any more.
    pub taken: BTreeSet<u16>,
    /// And of those that it had not judged.
    pub held: BTreeSet<u16>,
}

impl Kill {
    /// Stops the engine first: what it has taken then, and what it never will, stands in the flow table.
    pub fn now(bench: &Bench<Lab>, beginners: &Beginners) -> Self {
        const HELD: u8 = 3;
        const TAKEN: u8 = 6;
        const TOMBSTONE: u8 = 7;
        let engine = bench.wire.engine().unwrap_or_else(|error| panic!("{error:#}"));
        let before = Instant::now();
        stop(engine);
        let stopped = Instant::now();
        beginners.begin();
        let in_state = |states: &[u8]| -> BTreeSet<u16> {
            let table = bench.run.flow_states().unwrap_or_else(|error| panic!("{error:#}"));
            let of = table.into_iter().filter(|(_, state)| states.contains(state));
            of.flat_map(|(ports, _)| ports).filter(|port| *port != TLS).collect()
        };
        let mut held = in_state(&[HELD]);
        while (held.len() as u64) < BEGINNERS && stopped.elapsed() < ARE_HELD {
            std::thread::sleep(Duration::from_millis(5));
            held = in_state(&[HELD]);
        }
        let taken = in_state(&[TAKEN, TOMBSTONE]);
        kill(engine, Signal::SIGKILL).unwrap();
        // The kernel closes its sockets before it is gone for its parent.
        while kill(engine, None).is_ok() && before.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("chaos: killed engine {engine}: {} flows taken, {} held", taken.len(), held.len());
        Self { before, after: Instant::now(), taken, held }
    }
}

/// Until none of its threads does anything any more.
fn stop(engine: Pid) {
    kill(engine, Signal::SIGSTOP).unwrap();
    let tasks = || std::fs::read_dir(format!("/proc/{engine}/task")).unwrap().flatten();
    let is_stopped = |task: DirEntry| {
        // Its name is in brackets, and may have any in it; then comes its state.
        let text = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        text.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    };
    let begun = Instant::now();
    while !tasks().all(is_stopped) {
        assert!(begun.elapsed() < PATIENCE, "engine {engine} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the clients that begin at a kill wait for.
#[derive(Default)]
pub struct Beginners(AtomicUsize);

impl Beginners {
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Until the next time, or told to stop.
    fn wait(&self, stop: &AtomicBool) {
        let before = self.0.load(Ordering::Relaxed);
        while self.0.load(Ordering::Relaxed) == before && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What clients and server need to know.
pub struct Conditions {
    small: Arc<ClientConfig>,
    large: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The certificate that public.example has itself.
    own: CertificateDer<'static>,
}

impl Conditions {
    pub fn new(ends: &Ends) -> Result<Self> {
        let certificates = &ends.certificates;
        let names =
            [("public.example", &certificates.public), ("bank.example", &certificates.bank)];
        ends.server.ip(&["address", "add", &format!("{ADDRESS}/24"), "dev", INTERFACE])?;
        Ok(Self {
            small: tls::client(&certificates.client_trust, Hello::Small)?,
            large: tls::client(&certificates.client_trust, Hello::Large)?,
            server: tls::server(&names)?,
            own: tls::own(&certificates.public)?,
        })
    }

    /// Starts the server on both ports.
    pub fn serve(&self, ends: &Ends) -> Result<Server> {
        let listeners = ends.server.enter(|| {
            let listen = |port| -> Result<TcpListener> {
                let listener = TcpListener::bind((ADDRESS, port)).context("listening")?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            Ok([listen(PLAIN)?, listen(TLS)?])
        })?;
        let shared = Arc::new(Shared::default());
        let (work, config) = (Arc::clone(&shared), Arc::clone(&self.server));
        let acceptor = std::thread::spawn(move || accept(&listeners, &work, &config));
        Ok(Server { shared, acceptor })
    }

    /// One connection after the other, until told to stop.
    pub fn client(&self, ends: &Ends, number: u64, seed: u64, stop: &AtomicBool) -> Vec<Flow> {
        self.flows(ends, Random::of(seed, 0x1000 + number), stop, |random| {
            match random.between(0, 4) {
                0 => Kind::NotCandidate,
                1 => Kind::Released,
                _ => Kind::Inspected,
            }
        })
    }

    /// One that is a candidate each time an engine is about to be killed.
    pub fn beginner(
        &self,
        ends: &Ends,
        number: u64,
        seed: u64,
        stop: &AtomicBool,
        begin: &Beginners,
    ) -> Vec<Flow> {
        self.flows(ends, Random::of(seed, 0x2000 + number), stop, |random| {
            begin.wait(stop);
            if random.between(0, 2) == 0 { Kind::Released } else { Kind::Inspected }
        })
    }

    fn flows(
        &self,
        ends: &Ends,
        mut random: Random,
        stop: &AtomicBool,
        mut next: impl FnMut(&mut Random) -> Kind + Send,
    ) -> Vec<Flow> {
        let mut flows = Vec::new();
        let run = || {
            while !stop.load(Ordering::Relaxed) {
                let kind = next(&mut random);
                let plan = Plan {
                    seed: random.number(),
                    rounds: u32::try_from(random.between(2, 30))?,
                    up: 24 << 10,
                    down: 64 << 10,
                    pause: Duration::from_millis(500),
                };
                flows.push(self.flow(kind, plan));
            }
            Ok(())
        };
        ends.client.enter(run).unwrap_or_else(|error| panic!("{error:#}"));
        flows
    }

    fn flow(&self, kind: Kind, plan: Plan) -> Flow {
        let now = Instant::now();
        let mut flow = Flow {
            kind,
            seed: plan.seed,
            port: 0,
            began: now,
            established: None,
            last_round: None,
            rounds: 0,
            ended: now,
            end: Ok(()),
        };
        flow.end = self.converse(&plan, &mut flow);
        flow.ended = Instant::now();
        flow
    }

    fn converse(&self, plan: &Plan, flow: &mut Flow) -> Result<(), Ended> {
        let port = if flow.kind == Kind::NotCandidate { PLAIN } else { TLS };
        let stream = TcpStream::connect_timeout(&SocketAddr::from((ADDRESS, port)), PATIENCE)?;
        flow.port = stream.local_addr()?.port();
        exchange::prepare(&stream, PATIENCE).map_err(|error| Ended::Wrong(format!("{error:#}")))?;
        let (established, last_round, rounds) =
            (&mut flow.established, &mut flow.last_round, &mut flow.rounds);
        let mut round_begins = |now| {
            *last_round = Some(now);
            *rounds += 1;
        };
        let (config, host) = match flow.kind {
            Kind::NotCandidate => {
                *established = Some((Instant::now(), false));
                return exchange::ask(stream, "plain.example", plan, round_begins);
            }
            Kind::Released => (&self.small, "bank.example"),
            Kind::Inspected => (&self.large, "public.example"),
        };
        let (mut stream, shown) = tls::connect(stream, config, host)?;
        let inspected = flow.kind == Kind::Inspected && shown != self.own;
        *established = Some((Instant::now(), inspected));
        exchange::ask(&mut stream, host, plan, &mut round_begins)?;
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
        Ok(())
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    served: Mutex<Vec<Served>>,
}

/// The running server.
pub struct Server {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Server {
    /// No new connections; waits until those there are have ended, which no one may take longer to
    /// than [`PATIENCE`].
    pub fn finish(self) -> Vec<Served> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.acceptor.join().expect("the acceptor");
        std::mem::take(&mut *self.shared.served.lock().unwrap())
    }
}

fn accept(listeners: &[TcpListener; 2], shared: &Arc<Shared>, config: &Arc<ServerConfig>) {
    std::thread::scope(|scope| {
        while !shared.stop.load(Ordering::Relaxed) {
            for (listener, is_tls) in listeners.iter().zip([false, true]) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        scope.spawn(move || {
                            let served = serve(stream, is_tls.then_some(config));
                            shared.served.lock().unwrap().push(served);
                        });
                    }
                    // As with ECONNABORTED: the client has gone already.
                    Err(error) => assert!(
                        matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::ConnectionAborted
                        ),
                        "{error}"
                    ),
                }
            }
            std::thread::sleep(TICK);
        }
    });
}

fn serve(stream: TcpStream, config: Option<&Arc<ServerConfig>>) -> Served {
    stream.set_nonblocking(false).unwrap();
    exchange::prepare(&stream, PATIENCE).unwrap();
    match config {
        Some(config) => exchange::answer(tls::accept(stream, config).unwrap()),
        None => exchange::answer(stream),
    }
}
