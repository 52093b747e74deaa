//! Answers as servers make them, whole, cut short, and none at all.

use super::*;
use crate::hello::{Peek, peek};

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3], &length(body)[..], body].concat()
}

fn length(body: &[u8]) -> [u8; 2] {
    u16::try_from(body.len()).unwrap().to_be_bytes()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0], &length(body)[..], body].concat()
}

fn server_hello_of(version: u16, suite: u16, extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &length(body), body].concat())
        .collect();
    let version = version.to_be_bytes();
    let suite = suite.to_be_bytes();
    let body = [&version[..], &[7; 32], &[2, 1, 1], &suite, &[0], &length(&extensions)].concat();
    message(SERVER_HELLO, &[body, extensions].concat())
}

fn tls13(suite: u16, group: u16) -> Vec<u8> {
    let group = group.to_be_bytes();
    server_hello_of(0x0303, suite, &[(SUPPORTED_VERSIONS, &[3, 4]), (KEY_SHARE, &group)])
}

fn of(messages: &[Vec<u8>]) -> Agreed {
    agreed(&record(HANDSHAKE, &messages.concat()), &Allowed::default())
}

#[test]
fn what_stands_in_the_servers_hello_tells_whether_weir_has_it() {
    assert_eq!(of(&[tls13(0x1301, 0x001d)]), Agreed::Within);
    assert_eq!(of(&[tls13(0x1301, 0x0100)]), Agreed::Within);
    // CCM, and the longest group of finite fields.
    assert_eq!(of(&[tls13(0x1304, 0x001d)]), Agreed::Beyond);
    assert_eq!(of(&[tls13(0x1301, 0x0104)]), Agreed::Beyond);
    let tls12 = |suite| server_hello_of(0x0303, suite, &[]);
    // DHE; RSA, which this device has; in SSL 3.0, which is off.
    assert_eq!(of(&[tls12(0x009e)]), Agreed::Beyond);
    assert_eq!(of(&[tls12(0x002f)]), Agreed::Within);
    assert_eq!(of(&[server_hello_of(0x0300, 0x002f, &[])]), Agreed::Beyond);
}

#[test]
fn group_of_an_older_version_comes_with_the_key_exchange() {
    let hello = || server_hello_of(0x0303, 0xc02f, &[]);
    let certificate = || message(11, &[0; 4000]);
    let key_exchange = |curve: [u8; 3]| message(SERVER_KEY_EXCHANGE, &curve);
    assert_eq!(of(&[hello(), certificate()]), Agreed::Unknown);
    let done = || message(SERVER_HELLO_DONE, &[]);
    let with = |curve| of(&[hello(), certificate(), key_exchange(curve), done()]);
    assert_eq!(with([3, 0, 0x17]), Agreed::Within);
    assert_eq!(with([3, 0, 26]), Agreed::Beyond);
    assert_eq!(with([1, 0, 0]), Agreed::Beyond);
    assert_eq!(of(&[hello(), certificate(), done()]), Agreed::Nothing);
    // Resumed: the group is not told, and may be one that Weir has.
    let resumed = [record(HANDSHAKE, &hello()), record(CHANGE_CIPHER_SPEC, &[1])].concat();
    assert_eq!(agreed(&resumed, &Allowed::default()), Agreed::Resumed);
}

#[test]
fn a_warning_that_goes_before_is_passed_over_and_an_alert_that_ends_is_no_answer() {
    let hello = record(HANDSHAKE, &server_hello_of(0x0303, 0x009e, &[]));
    let alert = |level| [record(ALERT, &[level, 112]), hello.clone()].concat();
    assert_eq!(agreed(&alert(1), &Allowed::default()), Agreed::Beyond);
    assert_eq!(agreed(&alert(2), &Allowed::default()), Agreed::Nothing);
}

#[test]
fn what_is_cut_short_is_waited_for_and_what_is_no_answer_is_none() {
    let whole = [
        record(HANDSHAKE, &server_hello_of(0x0303, 0xc02f, &[(23, &[])])),
        record(HANDSHAKE, &message(11, &[0; 100])),
        record(HANDSHAKE, &message(SERVER_KEY_EXCHANGE, &[3, 0, 26, 1, 2])),
    ]
    .concat();
    let allowed = Allowed::default();
    for end in 0..whole.len() {
        assert_eq!(agreed(&whole[..end], &allowed), Agreed::Unknown, "{end}");
    }
    assert_eq!(agreed(&whole, &allowed), Agreed::Beyond);
    // An alert, a request of HTTP, another message, a hello that breaks its grammar.
    let none: [&[u8]; 4] = [
        &[21, 3, 3, 0, 2, 2, 40],
        b"HTTP/1.1 400",
        &record(HANDSHAKE, &message(0, &[])),
        &record(HANDSHAKE, &message(SERVER_HELLO, &[3, 3, 1])),
    ];
    for bytes in none {
        assert_eq!(agreed(bytes, &allowed), Agreed::Nothing, "{bytes:?}");
    }
    let long = record(HANDSHAKE, &[SERVER_HELLO, 0xff, 0xff, 0xff]);
    assert_eq!(agreed(&long, &allowed), Agreed::Nothing);
}

/// A client that offers nothing else than Weir shares with the server what Weir could.
#[test]
fn client_offers_more_by_a_suite_a_group_or_a_version() {
    let hello = |suites: &[u16], groups: &[u16]| {
        let codes = |codes: &[u16]| codes.iter().flat_map(|one| one.to_be_bytes()).collect();
        let (suites, groups): (Vec<u8>, Vec<u8>) = (codes(suites), codes(groups));
        let list = [&length(&groups)[..], &groups].concat();
        let extensions =
            [[&[0, 10], &length(&list)[..], &list].concat(), vec![0, 43, 0, 5, 4, 3, 4, 3, 3]]
                .concat();
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &length(&suites),
            &suites,
            &[1, 0],
            &length(&extensions),
            &extensions,
        ]
        .concat();
        match peek(&record(HANDSHAKE, &message(1, &body))) {
            Peek::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    };
    let allowed = Allowed::default();
    let ours: &[u16] = &[0x1301, 0xc02f, 0x00ff, 0x5600];
    assert!(!hello(ours, &[0x11ec, 0x1d, 0x17]).offers_beyond(&allowed));
    assert!(hello(&[0x1301, 0x009e], &[0x1d]).offers_beyond(&allowed));
    assert!(hello(&[0x1301, 0x1304], &[0x1d]).offers_beyond(&allowed));
    assert!(hello(ours, &[0x1d, 26]).offers_beyond(&allowed));
    let narrow = Allowed { strongest: Protocol::Tls12, ..allowed };
    assert!(hello(&[0xc02f], &[0x1d]).offers_beyond(&narrow));
}
