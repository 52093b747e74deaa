//! Frames that ordinary bridges keep for themselves cross a segment (SPEC D2).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use std::process::Command;

use wire::Wire;

/// Sends a frame from the client and waits for it at the server, with Python's packet sockets (several
/// times: the first may meet a port that is just coming up).
fn crosses(wire: &Wire, destination: &str, ethernet_type: &str) -> bool {
    let receiver = format!(
        "import socket\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n\
         s.bind(('e0', 3)); s.settimeout(5)\n\
         print('ready', flush=True)\n\
         want = bytes.fromhex('{destination}')\n\
         while True:\n  if s.recv(2000)[:6] == want: print('seen', flush=True); break\n"
    );
    let sender = format!(
        "import socket, time\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('e0', 0))\n\
         for _ in range(5):\n  \
         s.send(bytes.fromhex('{destination}' + '02aa00000001' + '{ethernet_type}') + bytes(60))\n  \
         time.sleep(0.2)\n"
    );
    let mut receiver = Command::new("ip")
        .args(["netns", "exec", &wire.name("server"), "python3", "-c", &receiver])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(receiver.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let sent = Command::new("ip")
        .args(["netns", "exec", &wire.name("client"), "python3", "-c", &sender])
        .status()
        .unwrap();
    assert!(sent.success());
    let seen = lines.next().is_some_and(|line| line.unwrap() == "seen");
    receiver.wait().unwrap();
    seen
}

#[test]
fn lldp_lacp_and_802_1x_cross_and_pause_does_not() {
    let wire = Wire::new();
    let (_engine, _held) = wire.engine(weir_dataplane::Attach::Auto);
    for (name, destination, ethernet_type) in [
        ("LLDP", "0180c200000e", "88cc"),
        ("LACP", "0180c2000002", "8809"),
        ("802.1X", "0180c2000003", "888e"),
        ("STP", "0180c2000000", "0026"),
        ("a VLAN's ARP", "ffffffffffff", "81000064080600"),
    ] {
        assert!(crosses(&wire, destination, ethernet_type), "{name} does not cross");
    }
    // The sender's own source address: a bridge that learns keeps the frame on its side.
    assert!(crosses(&wire, "02aa00000001", "88b5"), "the bridge learns addresses");
    assert!(!crosses(&wire, "0180c2000001", "8808"), "the kernel never forwards PAUSE");
}

#[test]
fn a_segment_learns_no_address_and_neither_snoops_nor_speaks_stp() {
    let wire = Wire::new();
    wire.crosses(wire::CLIENT, wire::SERVER);
    let namespace = wire.names.wire();
    let known = wire.run(&namespace, "bridge fdb show br seg1");
    assert!(!known.contains("02:aa:00:00:00:01"), "{known}");
    assert!(!known.contains("02:bb:00:00:00:02"), "{known}");
    let bridge = wire.run(&namespace, "ip -d link show seg1");
    for setting in ["stp_state 0", "mcast_snooping 0", "group_fwd_mask 0xfff8"] {
        assert!(bridge.contains(setting), "{setting} is not in {bridge}");
    }
}
