//! Sessions that leave HTTP by its own means: an upgrade, or CONNECT.

use super::common::{Run, ToClient, ToServer, filter};
use super::{GET, QUIET, violation};

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn after_an_upgrade_both_directions_are_raw_streams() {
    let mut run = Run::http("drop tcp any any -> any any (content:\"evil\"; sid:7;)");
    run.send(ToServer, UPGRADE).unwrap();
    run.send(ToClient, format!("{SWITCH}\x01\x02")).unwrap();
    run.send(ToServer, "\n\r not HTTP ev").unwrap();
    assert_eq!(run.to_client, format!("{SWITCH}\x01\x02").as_bytes());
    assert_eq!(filter(run.send(ToServer, "il")), 7);
    assert!(run.to_server.ends_with(b"evi"));
}

#[test]
fn refused_upgrade_stays_http() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, UPGRADE).unwrap();
    run.send(ToClient, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    run.send(ToServer, GET).unwrap();
    assert_eq!(run.to_server, format!("{UPGRADE}{GET}").as_bytes());
}

#[test]
fn bytes_before_the_answer_to_an_upgrade_are_a_violation() {
    use weir_inspect::HttpViolation as V;
    let mut run = Run::http(QUIET);
    assert_eq!(violation(run.send(ToServer, format!("{UPGRADE}x"))), V::BytesBeforeSwitch);

    let mut run = Run::http(QUIET);
    run.send(ToServer, GET).unwrap();
    assert_eq!(violation(run.send(ToClient, SWITCH)), V::UnexpectedSwitch);

    let mut run = Run::http(QUIET);
    run.send(ToServer, UPGRADE).unwrap();
    let http2 = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(violation(run.send(ToClient, http2)), V::Http2Upgrade);
}

#[test]
fn connect_opens_a_raw_tunnel() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").unwrap();
    run.send(ToClient, "HTTP/1.1 200 OK\r\n\r\n\x16\x03").unwrap();
    run.send(ToServer, b"\x16\x03\x01").unwrap();
    assert!(run.to_client.ends_with(b"\x16\x03"));
    assert!(run.to_server.ends_with(b"\x16\x03\x01"));
}
