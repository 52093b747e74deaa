//! Packets of one flow that two processors have at the same moment: its entry moves from the table of
//! handshakes to that of flows while the next packet looks for it. None may cross unjudged for that, nor be
//! lost, which costs its client a retransmission.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use weir_dataplane::Attach;
use wire::engine::{Does, judge_all};
use wire::raw::{ACK, Arrived, Raw, SYN, URGENT};
use wire::{PATIENCE, Wire};

const FLOWS: u16 = 1000;
const HELLO: &[u8] = b"the client's first bytes";

#[test]
fn the_first_payload_beside_the_handshakes_last_acknowledgement_is_held() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, HELLO.len(), Does::Release);
    let lost = race(&wire, |client| client.send_ack(), |client| client.send(0, HELLO));
    let (held, dropped) = (engine.counter("flow_held"), engine.counter("state_race_dropped"));
    // A processor may be away for long amid the move, and an acknowledgement's is not worth a wait.
    assert_eq!(held + dropped, u64::from(FLOWS), "{lost:?}");
    assert_eq!(lost.len() as u64, dropped);
    assert!(dropped <= u64::from(FLOWS) / 50, "{dropped} dropped");
}

#[test]
fn two_halves_of_a_first_payload_at_one_moment_are_both_held() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, HELLO.len(), Does::Release);
    let (first, second) = HELLO.split_at(10);
    let first = |client: &Raw| {
        client.send_ack();
        client.send(0, first);
    };
    let lost = race(&wire, first, |client| client.send(10, second));
    let (held, dropped) = (engine.counter("flow_held"), engine.counter("state_race_dropped"));
    assert_eq!(held, u64::from(FLOWS), "{lost:?}");
    assert_eq!(engine.counter("packet_held") + dropped, 2 * u64::from(FLOWS), "{lost:?}");
    assert!(dropped <= u64::from(FLOWS) / 50, "{dropped} dropped");
}

#[test]
fn an_urgent_mark_beside_the_handshakes_last_acknowledgement_is_cleared() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, HELLO.len(), Does::Release);
    let marked = |client: &Raw| {
        let mut mark = client.segment(0, &[]);
        mark.flags = ACK | URGENT;
        mark.urgent = 5;
        client.put(&mark);
        client.send(0, HELLO);
    };
    let lost = race(&wire, |client| client.send_ack(), marked);
    let dropped = engine.counter("state_race_dropped");
    assert!(dropped <= u64::from(FLOWS) / 50 && lost.len() as u64 <= dropped, "{dropped} {lost:?}");
    // The mark was dropped, or cleared.
    assert!(engine.counter("urgent_cleared") + dropped >= u64::from(FLOWS));
}

/// What the server knows to be heard it does not say again: the engine's socket must stand behind it.
#[test]
fn what_a_client_acknowledges_beside_its_first_payload_is_not_forgotten() {
    const GREETING: &[u8] = b"220 ready";
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    judge_all(held, HELLO.len(), Does::TakeOver);
    let greeted = |client: &Raw, server: &Raw| {
        client.send_ack();
        server.expect("ACK", |a| a.flags == ACK);
        server.send(0, GREETING);
        client.expect("the greeting", |a| a.payload == GREETING);
    };
    let acknowledges = |client: &Raw| client.acknowledge(0, GREETING.len() as u32);
    let (mut known, mut forgotten) = (false, vec![]);
    let arrived = |server: &Raw, arrived: &Arrived| {
        let heard = arrived.acknowledged.wrapping_sub(server.first) as usize == GREETING.len();
        match arrived.payload.is_empty() {
            true => known = heard,
            false if known && !heard => forgotten.push(server.remote.1),
            false => {}
        }
        known &= arrived.payload.is_empty();
    };
    let says = |client: &Raw| client.send(0, HELLO);
    let lost = race_behind(&wire, greeted, acknowledges, says, arrived);
    assert_eq!(forgotten, [], "{lost:?}");
    // An acknowledgement that is dropped costs nothing: whoever is the server's client then says it again.
    let dropped = engine.counter("state_race_dropped");
    let few = lost.len() <= usize::from(FLOWS) / 50 && lost.len() as u64 <= dropped;
    assert!(few, "{dropped} dropped: {lost:?}");
}

/// Connections whose client does one thing on one processor while it does another on a second; the ports of
/// those whose server did not get all of its first payload.
fn race(wire: &Wire, one: impl Fn(&Raw) + Sync, other: impl Fn(&Raw)) -> Vec<u16> {
    race_behind(wire, |_, _| {}, one, other, |_, _| {})
}

/// As above, once both ends did something before; `arrived` is told of what the server gets.
fn race_behind(
    wire: &Wire,
    before: impl Fn(&Raw, &Raw),
    one: impl Fn(&Raw) + Sync,
    other: impl Fn(&Raw),
    mut arrived: impl FnMut(&Raw, &Arrived),
) -> Vec<u16> {
    let (mut client, mut server) = Raw::ends(wire, 1);
    let (mut second_client, _) = Raw::ends(wire, 1);
    let processors = two_processors();
    let mut lost = vec![];
    for port in 10_000..10_000 + FLOWS {
        for client in [&mut client, &mut second_client] {
            client.local.1 = port;
            client.first = 0x1000_0000 + u32::from(port);
            client.expected = server.first;
        }
        server.remote.1 = port;
        client.send_syn(|| server.receive_some(|a| a.flags & (SYN | ACK) == SYN));
        server.expected = client.first;
        let mut answer = server.syn();
        answer.flags |= ACK;
        answer.acknowledged = server.expected;
        server.put(&answer);
        client.expect("SYN-ACK", |a| a.flags & (SYN | ACK) == SYN | ACK);
        before(&client, &server);
        let here = AtomicU8::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                run_on(processors[0]);
                meet(&here, Duration::ZERO);
                one(&client);
            });
            run_on(processors[1]);
            // The moment that matters is a microsecond: it is looked for.
            meet(&here, Duration::from_nanos(u64::from(port % 64) * 100));
            other(&second_client);
        });
        let mut got = 0;
        while got < HELLO.len()
            && let Some(came) = server.receive_some(|_| true)
        {
            assert_eq!(came.flags & URGENT, 0, "{came:?}");
            arrived(&server, &came);
            got += came.payload.len();
        }
        if got < HELLO.len() {
            lost.push(port);
        }
    }
    lost
}

/// Two processors that this may run on.
fn two_processors() -> [usize; 2] {
    let usable = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut each = (0..CpuSet::count()).filter(|number| usable.is_set(*number).unwrap());
    [each.next().unwrap(), each.next().expect("a machine with two processors")]
}

fn run_on(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// Returns on both processors at one moment, and so long after it.
fn meet(here: &AtomicU8, after: Duration) {
    here.fetch_add(1, Ordering::SeqCst);
    let begun = Instant::now();
    while here.load(Ordering::SeqCst) < 2 {
        assert!(begun.elapsed() < PATIENCE);
        std::hint::spin_loop();
    }
    let met = Instant::now();
    while met.elapsed() < after {
        std::hint::spin_loop();
    }
}
