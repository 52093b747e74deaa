//! Sessions resumed by the worker, on either side, and what binds them; what else a peer sees of a
//! leg's settings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{
    Leg, Worker, all_suites, bound_to, certified, certified_by_another, certified_on_p224, join,
    random, to_server,
};
use weir_api::legacy::{Established, Open, Role, ToWorker};
use weir_policy::suites::Protocol;

const TLS12: (u16, u16) = (0x0303, 0x0303);

/// Both ends after their handshake.
fn shake(worker: &Worker, client: &Open, server: &Open) -> [Leg; 2] {
    let (mut client, mut server) = (worker.leg(client.clone()), worker.leg(server.clone()));
    join(&mut client, &mut server);
    [client, server]
}

/// What both say of it; they agree whether the session was resumed.
fn established(legs: &[Leg; 2]) -> [Established; 2] {
    let [client, server] = legs
        .each_ref()
        .map(|leg| leg.established().unwrap_or_else(|| panic!("{:?}", leg.failure())).clone());
    assert_eq!(client.resumed, server.resumed);
    [client, server]
}

fn resumed(legs: &[Leg; 2]) -> bool {
    established(legs)[0].resumed
}

#[test]
fn sessions_of_every_version_up_to_1_2_are_resumed_with_the_chain_they_began_with() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    for version in Protocol::ALL.into_iter().filter(|version| *version < Protocol::Tls13) {
        let only = (version.code(), version.code());
        let (client, server) = (to_server(only, &all_suites()), rsa.to_client(only, &all_suites()));
        assert!(!resumed(&shake(&worker, &client, &server)), "{version}");
        for _ in 0..2 {
            let mut legs = shake(&worker, &client, &server);
            let [to_server, to_client] = established(&legs);
            assert!(to_server.resumed, "{version}");
            assert_eq!(to_server.chain, rsa.chain, "{version}");
            assert_eq!((to_server.version, to_client.version), (version.code(), version.code()));
            assert_eq!(to_server.suite, to_client.suite, "{version}");
            assert_eq!((to_server.group, to_server.signature), (0, 0), "{version}");
            let expected = (version >= Protocol::Tls10).then(|| b"http/1.1".to_vec());
            assert_eq!(to_server.alpn, expected, "{version}");
            // And it carries data.
            let [client, server] = &mut legs;
            client.say(&ToWorker::Plain(b"ping".to_vec()));
            let wire = client.settle();
            server.feed(&wire);
            assert_eq!(server.plain(), b"ping", "{version}");
        }
    }
}

#[test]
fn session_is_resumed_under_both_ends_own_bindings_only() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let (client, server) = (to_server(TLS12, &all_suites()), rsa.to_client(TLS12, &all_suites()));
    assert!(!resumed(&shake(&worker, &client, &server)));
    // Another policy generation, another verdict or another certificate: another binding.
    assert!(!resumed(&shake(&worker, &bound_to(client.clone(), random()), &server)));
    assert!(!resumed(&shake(&worker, &client, &bound_to(server.clone(), random()))));
    // The full handshake brought a session under the other binding, which takes the first one's
    // place; the first end's own comes next, and is resumed then.
    assert!(!resumed(&shake(&worker, &client, &server)));
    assert!(resumed(&shake(&worker, &client, &server)));
}

#[test]
fn clients_without_tickets_are_resumed_by_identifier() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    // SSL 3.0 has no extensions, so no tickets.
    let only = (0x0300, 0x0300);
    let (client, server) = (to_server(only, &all_suites()), rsa.to_client(only, &all_suites()));
    assert!(!resumed(&shake(&worker, &client, &server)));
    assert!(resumed(&shake(&worker, &client, &server)));
    assert!(!resumed(&shake(&worker, &client, &bound_to(server.clone(), random()))));
}

#[test]
fn session_that_the_engine_forgets_is_not_resumed() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let (client, server) = (to_server(TLS12, &all_suites()), rsa.to_client(TLS12, &all_suites()));
    let [mut first, _server] = shake(&worker, &client, &server);
    first.say(&ToWorker::ForgetSession);
    first.settle();
    assert!(!resumed(&shake(&worker, &client, &server)));
    assert!(resumed(&shake(&worker, &client, &server)));
}

#[test]
fn session_that_ended_by_a_fatal_alert_is_not_resumed() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let (client, server) = (to_server(TLS12, &all_suites()), rsa.to_client(TLS12, &all_suites()));
    let [mut first, _server] = shake(&worker, &client, &server);
    // A record that does not decrypt.
    first.feed(&[&[23, 3, 3, 0, 64][..], &[0; 64]].concat());
    assert!(first.failure().is_some());
    assert!(!resumed(&shake(&worker, &client, &server)));
}

#[test]
fn tls_1_3_is_not_resumed_here() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    let only = (0x0304, 0x0304);
    let (client, server) = (to_server(only, &all_suites()), rsa.to_client(only, &all_suites()));
    for _ in 0..2 {
        assert!(!resumed(&shake(&worker, &client, &server)));
    }
}

#[test]
fn staple_is_shown_to_the_client_and_told_of_the_server() {
    let worker = Worker::start();
    let rsa = certified_by_another(&rcgen::PKCS_RSA_SHA256);
    let stapled = |response: Option<Vec<u8>>| {
        let mut server = rsa.to_client(TLS12, &all_suites());
        if let Role::ToClient { staple, .. } = &mut server.role {
            *staple = response;
        }
        let [client, server] =
            established(&shake(&worker, &to_server(TLS12, &all_suites()), &server));
        assert_eq!(server.staple, None);
        client.staple
    };
    // OCSPResponse: tryLater.
    let response = vec![0x30, 3, 0x0a, 1, 3];
    assert_eq!(stapled(Some(response.clone())), Some(response));
    assert_eq!(stapled(None), None);
    // What is no response is not shown, and ends nothing.
    assert_eq!(stapled(Some(b"no response".to_vec())), None);
}

#[test]
fn encrypt_then_mac_is_agreed_on_only_where_both_ends_have_it_on() {
    let worker = Worker::start();
    let rsa = certified(&rcgen::PKCS_RSA_SHA256);
    for (client_has_it, server_has_it) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        for version in [Protocol::Tls10, Protocol::Tls11, Protocol::Tls12] {
            let only = (version.code(), version.code());
            let mut client = to_server(only, &[0x002f]);
            let mut server = rsa.to_client(only, &[0x002f]);
            client.encrypt_then_mac = client_has_it;
            server.encrypt_then_mac = server_has_it;
            let (mut client, mut server) = (worker.leg(client), worker.leg(server));
            let hello = client.settle();
            server.settle();
            assert_eq!(extensions(&hello).contains(&ENCRYPT_THEN_MAC), client_has_it, "{version}");
            let answer = server.feed(&hello);
            let both = client_has_it && server_has_it;
            assert_eq!(extensions(&answer).contains(&ENCRYPT_THEN_MAC), both, "{version}");
            let mut to_server = client.feed(&answer);
            while !to_server.is_empty() {
                let to_client = server.feed(&to_server);
                to_server = client.feed(&to_client);
            }
            client.say(&ToWorker::Plain(b"ping".to_vec()));
            let wire = client.settle();
            server.feed(&wire);
            assert_eq!(server.plain(), b"ping", "{version}");
        }
    }
}

const ENCRYPT_THEN_MAC: u16 = 22;

/// The extensions of the hello, of either end, that these bytes begin with.
fn extensions(wire: &[u8]) -> Vec<u16> {
    let number = |at: usize| usize::from(wire[at]) << 8 | usize::from(wire[at + 1]);
    let (kind, session) = (wire[5], 5 + 4 + 2 + 32);
    let mut at = session + 1 + usize::from(wire[session]);
    at += match kind {
        1 => {
            let compressions = at + 2 + number(at);
            compressions + 1 + usize::from(wire[compressions]) - at
        }
        2 => 3,
        other => panic!("message {other}"),
    };
    let end = 5 + 4 + number(7);
    let mut found = Vec::new();
    at += 2;
    while at < end {
        found.push(u16::try_from(number(at)).unwrap());
        at += 4 + number(at + 2);
    }
    found
}

#[test]
fn key_on_p224_serves_up_to_tls_1_2() {
    let worker = Worker::start();
    let p224 = certified_on_p224();
    let ecdsa = [0xc02b, 0xc023, 0xc009];
    for version in [Protocol::Tls10, Protocol::Tls11, Protocol::Tls12] {
        let only = (version.code(), version.code());
        let legs =
            shake(&worker, &to_server((0x0301, 0x0303), &ecdsa), &p224.to_client(only, &ecdsa));
        let [client, server] = established(&legs);
        assert_eq!((client.version, server.version), (version.code(), version.code()));
        assert_eq!(client.chain, p224.chain);
    }
    // Never 1.3, which has no scheme for it.
    let any = (0x0301, 0x0304);
    let legs = shake(&worker, &to_server(any, &all_suites()), &p224.to_client(any, &all_suites()));
    assert_eq!(established(&legs)[0].version, Protocol::Tls12.code());
}
