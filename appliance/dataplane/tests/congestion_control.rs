//! What taken flows' sockets send by: what the device's setting says, whatever the machine's own is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{Read, Write};
use std::sync::mpsc::{Sender, channel};

use socket2::SockRef;
use tokio::net::TcpStream;
use weir_dataplane::{Attach, HeldFlow, HeldFlows};
use weir_policy::snapshot::{CongestionControl, Layer2Fallback};
use wire::engine::snapshot;
use wire::{PATIENCE, Wire};

#[test]
fn sockets_of_taken_flows_control_congestion_as_the_device_says() {
    let wire = Wire::new();
    let (engine, held) = wire.engine(Attach::Auto);
    let (tell, told) = channel();
    take_over_and_connect_again(held, tell);
    let listener = wire.listen();
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    let mut policy = snapshot(Layer2Fallback::PermitAll);
    assert_eq!(policy.device.congestion_control, CongestionControl::Cubic);
    let kernels =
        || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
    for control in [CongestionControl::Cubic, CongestionControl::Bbr, CongestionControl::Cubic] {
        policy.device.congestion_control = control;
        if let Err(error) = engine.dataplane.apply(&policy) {
            assert!(!kernels().contains(control.word()), "{error}");
            let refused = "device.congestion-control: is bbr, which this kernel does not have; \
                           cubic is expected (or a kernel with tcp_bbr)";
            assert_eq!(error.to_string(), refused);
            continue;
        }
        let (mut client, _first) = wire.pair(&listener);
        client.write_all(b"hello").unwrap();
        let mut again = listener.accept().unwrap().0;
        for _ in 0..3 {
            assert_eq!(told.recv_timeout(PATIENCE).unwrap(), control.word());
        }
        again.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }
}

/// Takes every flow over, and asks its server again; tells what each of its three sockets sends by.
fn take_over_and_connect_again(held: HeldFlows, tell: Sender<String>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
            let mut held = held;
            while let Some(flow) = held.next().await {
                tokio::task::spawn_local(take(flow, tell.clone()));
            }
        }));
    });
}

async fn take(flow: HeldFlow, tell: Sender<String>) {
    let control = |socket: &TcpStream| {
        let mut name = SockRef::from(socket).tcp_congestion().unwrap();
        name.retain(|byte| *byte != 0);
        tell.send(String::from_utf8(name).unwrap()).unwrap();
    };
    let ends = flow.candidate();
    let mut taken = flow.take_over().await.unwrap();
    control(&taken.client);
    control(&taken.server);
    let old = taken.server;
    taken.server = taken.guard.connect_again(old, ends.client, ends.server).await.unwrap();
    control(&taken.server);
    wire::engine::pass_through(taken).await;
}
