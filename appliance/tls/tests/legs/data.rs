//! Plaintext through both legs: both ways, by halves, and within the bounds of their buffers.

use weir_tls::leg::{PLAIN_BOUND, WIRE_BOUND};
use weir_tls::{LegError, PlainState, Verdict};

use super::common::{plain, pump};
use super::{ADDRESS, joined, stack, test_key};

#[test]
fn plaintext_crosses_both_ways_and_closes_by_halves() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    assert_eq!(server_leg.write_plain(b"GET / HTTP/1.1\r\n\r\n"), 18);
    pump(server_leg.as_mut(), client_leg.as_mut(), 7).unwrap();
    assert_eq!(plain(client_leg.as_mut()), b"GET / HTTP/1.1\r\n\r\n");
    server_leg.close_notify();
    assert_eq!(server_leg.write_plain(b"more"), 0);
    pump(server_leg.as_mut(), client_leg.as_mut(), 7).unwrap();
    assert!(client_leg.peer_closed() && !client_leg.wants_read());
    assert_eq!(client_leg.read_plain(&mut Vec::new()), PlainState::Closed);
    assert!(!server_leg.peer_closed());
    assert_eq!(client_leg.write_plain(b"HTTP/1.1 200 OK\r\n\r\n"), 19);
    client_leg.close_notify();
    pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
    let mut answer = b"> ".to_vec();
    assert_eq!(server_leg.read_plain(&mut answer), PlainState::Closed);
    assert_eq!(answer, b"> HTTP/1.1 200 OK\r\n\r\n");
    // What comes behind close_notify is nobody's.
    client_leg.read_wire(b"\x17\x03\x03\x00\x01x").unwrap();
    assert!(plain(client_leg.as_mut()).is_empty());
}

#[test]
fn plaintext_written_during_the_handshake_arrives() {
    let stack = stack();
    let mut server_leg = stack.server_leg(None, ADDRESS, Vec::new()).unwrap();
    let mut client_leg = stack.client_leg(&test_key(), Verdict::default(), None).unwrap();
    assert_eq!(server_leg.write_plain(b"early"), 5);
    pump(server_leg.as_mut(), client_leg.as_mut(), 4096).unwrap();
    assert_eq!(plain(client_leg.as_mut()), b"early");
}

#[test]
fn writing_stops_at_the_bound_and_goes_on_when_written_out() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let data: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while sent < data.len() {
        let accepted = server_leg.write_plain(&data[sent..]);
        assert!(accepted > 0 && accepted <= WIRE_BOUND, "{accepted}");
        sent += accepted;
        if sent < data.len() {
            assert_eq!(server_leg.write_plain(&data[sent..]), 0);
        }
        let mut wire = Vec::new();
        server_leg.write_wire(&mut wire);
        assert!(!server_leg.wants_write());
        client_leg.read_wire(&wire).unwrap();
        client_leg.read_plain(&mut received);
    }
    assert_eq!(received, data);
}

#[test]
fn leg_that_is_not_read_asks_for_no_more() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let mut wire = Vec::new();
    let mut held = 0;
    while client_leg.wants_read() {
        held += server_leg.write_plain(&[b'x'; 16 * 1024]);
        wire.clear();
        server_leg.write_wire(&mut wire);
        client_leg.read_wire(&wire).unwrap();
        assert!(held <= PLAIN_BOUND + 32 * 1024);
    }
    assert_eq!(client_leg.read_wire(b"\x17"), Err(LegError::Overfed));
    assert_eq!(plain(client_leg.as_mut()).len(), held);
    assert!(client_leg.wants_read());
}
