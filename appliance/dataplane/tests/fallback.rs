//! Layer-2 fallback (SPEC D2, D10): what crosses in it, what is blocked, and who remembers it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{Making, create_as};
use weir_dataplane::{Attach, Dataplane, FallbackCause, Options};
use weir_policy::snapshot::Layer2Fallback;
use wire::engine::{Does, judge_all, snapshot};
use wire::{CLIENT, SEGMENT, SERVER, Wire, says, talks, wait_for};

#[test]
fn forced_fallback_leaves_new_flows_and_keeps_taken_ones() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    talks(&wire, &listener);
    says(&mut client, &mut server);
    assert_eq!(engine.counter("flow_taken_over"), 1);
    assert!(engine.dataplane.falls_back(FallbackCause::Told));
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    talks(&wire, &listener);
    engine.wait_for("flow_taken_over", 2);
}

#[test]
fn block_all_fallback_drops_everything_when_told_and_when_the_engine_is_gone() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&snapshot(Layer2Fallback::BlockAll)).unwrap();
    let judge = judge_all(held, 1, Does::Release);
    let listener = wire.listen();
    talks(&wire, &listener);
    engine.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    assert!(refuses(&wire, &listener));
    assert!(engine.counter("fallback_dropped") > 0);
    engine.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    talks(&wire, &listener);
    drop(engine);
    judge.join().unwrap();
    assert!(refuses(&wire, &listener));
}

#[test]
fn told_fallback_is_kept_over_engines_and_other_causes_are_not() {
    let wire = Wire::new();
    let listener = wire.listen();
    let (first, _held) = wire.engine(Attach::Auto);
    first.dataplane.fall_back(FallbackCause::Told, true).unwrap();
    first.dataplane.fall_back(FallbackCause::Overloaded, true).unwrap();
    drop(first);
    let (second, held) = wire.engine(Attach::Auto);
    let _judge = judge_all(held, 1, Does::TakeOver);
    assert!(second.dataplane.falls_back(FallbackCause::Told));
    assert!(!second.dataplane.falls_back(FallbackCause::Overloaded));
    talks(&wire, &listener);
    assert_eq!(second.counter("flow_held"), 0);
    second.dataplane.fall_back(FallbackCause::Told, false).unwrap();
    talks(&wire, &listener);
    second.wait_for("flow_taken_over", 1);
}

#[test]
fn a_block_all_segment_blocks_from_its_making_until_an_engine_is_there_and_after_it_died() {
    for attach in [Attach::Auto, Attach::Clsact] {
        let wire = Wire::made_by(|names, pins, ports| {
            let making = Making { blocked: Some((pins, attach)), ..Making::default() };
            create_as(names, SEGMENT, ports, &making).unwrap();
        });
        let listener = wire.listen();
        // An ARP request that was blocked is not sent again for seconds.
        let neighbour = |address, mac| format!("ip neigh add {address} lladdr {mac} dev e0");
        wire.run(&wire.client, &neighbour(SERVER, "02:bb:00:00:00:02"));
        wire.run(&wire.server, &neighbour(CLIENT, "02:aa:00:00:00:01"));
        assert!(refuses(&wire, &listener));

        let options = Options {
            attach,
            ..Options::new(wire.names.clone(), vec![SEGMENT], wire.pins.clone())
        };
        let (dataplane, _held) = Dataplane::prepare(options).unwrap();
        assert!(refuses(&wire, &listener), "before it has a policy");
        dataplane.apply(&snapshot(Layer2Fallback::BlockAll)).unwrap();
        dataplane.attach().unwrap();
        assert!(refuses(&wire, &listener), "before its first heartbeat");
        // Its neighbour was not found for a while: the client asks again now and then.
        wait_for(|| {
            dataplane.heartbeat();
            !refuses(&wire, &listener)
        });
        drop(dataplane);
        assert!(refuses(&wire, &listener));
    }
}

#[test]
fn taken_flows_stay_with_the_engine_in_block_all_fallback_and_are_blocked() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    engine.dataplane.apply(&snapshot(Layer2Fallback::BlockAll)).unwrap();
    let _judge = judge_all(held, 1, Does::TakeOver);
    let listener = wire.listen();
    let (mut client, mut server) = wire.pair(&listener);
    says(&mut client, &mut server);
    engine.dataplane.fall_back(FallbackCause::Overloaded, true).unwrap();
    client.write_all(b"later").unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert_eq!(server.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    engine.dataplane.fall_back(FallbackCause::Overloaded, false).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"later");
    says(&mut client, &mut server);
    assert_eq!(engine.dataplane.flows_now().taken, 1);
}

fn refuses(wire: &Wire, listener: &TcpListener) -> bool {
    inside(&wire.client, || {
        let address = listener.local_addr().unwrap();
        TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_err()
    })
    .unwrap()
}
