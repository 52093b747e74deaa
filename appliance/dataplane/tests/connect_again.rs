//! A taken flow whose connection to the server gives way to another: same addresses, same ports, and the
//! client sees nothing of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, SockRef, Socket, Type};
use weir_dataplane::namespace::inside;
use weir_dataplane::{Attach, HeldFlow, HeldFlows, TakenFlow};
use weir_policy::Candidate;
use wire::engine::pass_through;
use wire::{CLIENT, PATIENCE, SERVER, Wire, says};

/// None of the ports that the kernel chooses.
const FROM: u16 = 2_000;

/// Kernels and address translators give a client's port out once for each server.
#[test]
fn server_is_connected_to_again_while_its_client_has_the_same_port_towards_others() {
    const MORE: [&str; 3] = ["10.77.0.3/24", "10.77.0.4/24", "fd77::3/64"];
    let wire = Wire::new();
    for more in MORE {
        wire.add_address(&wire.server, more);
    }
    let (engine, held) = wire.engine(Attach::Auto);
    connect_each_again(held);
    let mut pairs = Vec::new();
    for server in [SERVER, "10.77.0.3", "10.77.0.4", "fd77::2", "fd77::3"] {
        let listener = wire.listen_at(server);
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = from_one_port(&wire, listener.local_addr().unwrap());
        client.write_all(b"first").unwrap();
        let reset = accept(&listener).read(&mut [0]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{server}");
        let mut again = accept(&listener);
        assert_eq!(again.peer_addr().unwrap(), client.local_addr().unwrap());
        let mut first = [0; 5];
        again.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"first");
        pairs.push((client, again));
    }
    for (client, server) in &mut pairs {
        says(client, server);
    }
    assert_eq!(engine.counter("flow_taken_over"), 5);
}

/// Takes every flow over, and asks its server again before anything is said to it.
fn connect_each_again(held: HeldFlows) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
            let mut held = held;
            while let Some(flow) = held.next().await {
                tokio::task::spawn_local(connected_again(flow));
            }
        }));
    });
}

async fn connected_again(flow: HeldFlow) {
    let Candidate { client, server, .. } = flow.candidate();
    let taken = flow.take_over().await.unwrap();
    match taken.guard.connect_again(taken.server, client, server).await {
        Ok(again) => pass_through(TakenFlow { server: again, ..taken }).await,
        Err(error) => eprintln!("{server} was not connected to again: {error}"),
    }
}

fn from_one_port(wire: &Wire, to: SocketAddr) -> TcpStream {
    let client: IpAddr = if to.is_ipv4() { CLIENT } else { "fd77::1" }.parse().unwrap();
    let stream: TcpStream = inside(&wire.client, || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(client, FROM).into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        socket.into()
    })
    .unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
