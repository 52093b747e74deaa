//! Hundreds of flows of every kind over bad cables, the engine killed again and again: no byte may
//! be wrong, and who was not taken over must not notice, be it held when its engine is killed.
//!
//! `WEIR_CHAOS_SECONDS` is how long it lasts (three minutes unless told otherwise), `WEIR_CHAOS_SEED`
//! repeats what was done to frames in an earlier run. Captures of both ends and the processes' log
//! are kept after a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod flows;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flows::{BEGINNERS, Beginners, CLIENTS, Conditions, Flow, Kill};
use weir_lab::bench::Bench;
use weir_lab::capture::Capture;
use weir_lab::ends::INTERFACE;
use weir_lab::random::Random;
use weir_lab::wire::Wire as _;
use weir_lab::wire::impair::{Relay, Trouble};
use weir_lab::wire::lab::{Lab, lay_impaired_segment};

/// Of each cable, in ten thousand frames.
const TROUBLE: Trouble = Trouble { lost: 100, duplicated: 100, delayed: 200 };
/// From kill to kill. Supervision doubles its delay with each kill that comes within a minute of a
/// start: six of them are 0.2 to 6.4 s.
const KILL_EVERY: Duration = Duration::from_secs(27);
/// Where a packet may be too large.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// A router with a smaller link behind it, on the client's cable or the server's: ICMP comes.
    ClientCable,
    ServerCable,
    /// The end's own interface.
    Client,
    Server,
}

/// What links let through from then on, one after the other and again from the first. The cables are
/// small for longer than [`flows::PATIENCE`]: who does not hear of it hangs.
const MTUS: [(Link, usize); 10] = [
    (Link::ServerCable, 1400),
    (Link::Client, 1420),
    (Link::Client, 1500),
    (Link::ServerCable, 1500),
    (Link::ClientCable, 1280),
    (Link::Server, 1400),
    (Link::Server, 1500),
    (Link::ClientCable, 1500),
    (Link::ServerCable, 1000),
    (Link::Client, 1300),
];
const MTU_EVERY: Duration = Duration::from_secs(11);
/// Flows that a full run has at least.
const FLOWS: usize = 500;
/// And kills.
const KILLS: usize = 5;
const FULL: u64 = 180;

#[test]
fn no_byte_is_wrong_and_only_taken_flows_die_with_their_engine() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("WEIR_CHAOS_SECONDS").unwrap_or(FULL);
    let seed = number("WEIR_CHAOS_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Random::new(u64::try_from(now.unwrap().as_nanos()).unwrap_or(0)).number()
    });
    println!("chaos: {seconds} s, WEIR_CHAOS_SEED={seed}");

    let mut relays = None;
    let mut bench = Bench::start(|ends| {
        relays = Some(lay_impaired_segment(ends, TROUBLE, seed)?);
        Lab::start_on_segment(ends)
    })
    .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    let relays = relays.unwrap();
    let (client, server) = (&bench.ends.client, &bench.ends.server);
    let captures = [
        Capture::start_ring(&bench.run, client, "client").unwrap(),
        Capture::start_ring(&bench.run, server, "server").unwrap(),
    ];

    let conditions = Conditions::new(&bench.ends).unwrap();
    let served = conditions.serve(&bench.ends).unwrap();
    let (stop, beginners) = (AtomicBool::new(false), Beginners::default());
    let (flows, kills) = std::thread::scope(|scope| {
        let (bench, stop, conditions, relays) = (&bench, &stop, &conditions, &relays);
        let (ends, beginners) = (&bench.ends, &beginners);
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || conditions.client(ends, number, seed, stop)))
            .collect();
        clients.extend((0..BEGINNERS).map(|number| {
            scope.spawn(move || conditions.beginner(ends, number, seed, stop, beginners))
        }));
        // Also where this thread panics: the others must end, or the scope waits for ever.
        let _stop = StopOnDrop(stop);
        relays.iter().for_each(|relay| relay.set_troubled(true));
        let kills = trouble(bench, beginners, relays, seed, Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let flows: Vec<Flow> =
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        (flows, kills)
    });
    let served = served.finish();
    drop(captures);

    for (cable, relay) in ["client's", "server's"].iter().zip(&relays) {
        println!("chaos: the {cable} cable: {:?}", relay.counts());
    }
    let verdict = verdict::Verdict::of(&flows, &kills, &served);
    println!("chaos: {verdict}");
    let part = |of: usize| of * usize::try_from(seconds).unwrap() / usize::try_from(FULL).unwrap();
    let wrong = verdict.wrong(part(FLOWS), part(KILLS).max(1));
    assert!(
        wrong.is_empty(),
        "seed {seed}, {} of {} flows:\n{}\n{}",
        wrong.len(),
        flows.len(),
        wrong.join("\n"),
        bench.wire.state()
    );
    bench.run.succeeded();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the engine and changes MTUs until the time is over; when the kills were.
fn trouble(
    bench: &Bench<Lab>,
    beginners: &Beginners,
    relays: &[Relay; 2],
    seed: u64,
    time: Duration,
) -> Vec<Kill> {
    let began = Instant::now();
    let mut random = Random::of(seed, 0xc4a0);
    let mut kills = Vec::new();
    let mut mtus = MTUS.iter().cycle();
    let mut jitter = move || Duration::from_millis(random.between(0, 4000));
    let (mut kill_at, mut mtu_at) = (KILL_EVERY / 3 + jitter(), MTU_EVERY / 2);
    // The last kill leaves time to see what becomes of the flows.
    while began.elapsed() < time {
        std::thread::sleep(Duration::from_millis(50));
        if began.elapsed() > kill_at && began.elapsed() + Duration::from_secs(5) < time {
            kills.push(Kill::now(bench, beginners));
            kill_at = began.elapsed() + KILL_EVERY + jitter();
        }
        if began.elapsed() > mtu_at {
            if let Some((link, mtu)) = mtus.next() {
                println!("chaos: {link:?}: an MTU of {mtu} from now on");
                change_mtu(bench, relays, *link, *mtu);
            }
            mtu_at = began.elapsed() + MTU_EVERY;
        }
    }
    kills
}

fn change_mtu(bench: &Bench<Lab>, relays: &[Relay; 2], link: Link, mtu: usize) {
    let end = match link {
        Link::ClientCable => return relays[0].set_mtu(mtu),
        Link::ServerCable => return relays[1].set_mtu(mtu),
        Link::Client => &bench.ends.client,
        Link::Server => &bench.ends.server,
    };
    let changed = end.ip(&["link", "set", INTERFACE, "mtu", &mtu.to_string()]);
    changed.unwrap_or_else(|error| panic!("{error:#}"));
}
