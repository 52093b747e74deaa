//! Legs that end by an alert, their own or the peer's, and what bytes of anybody's do to them.

use proptest::prelude::*;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use weir_policy::suites::{Allowed, Authentication, Protocol, Stack, TABLE};
use weir_tls::leg::Fault;
use weir_tls::{Alert, LegError, LegKey, ModernStack, Verdict};

use super::common::{authority, leaf_with, plain, pump};
use super::{ADDRESS, foreign_server, joined, pump_foreign, stack, test_key};

#[test]
fn alerts_tell_who_refused_whom() {
    // A group that Weir does not offer: the server refuses.
    let mut server = foreign_server(
        |provider| {
            provider.kx_groups = vec![kx_group::MLKEM1024];
            provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        },
        false,
    );
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    let error = pump_foreign(leg.as_mut(), &mut server).unwrap_err();
    assert_eq!(error, LegError::AlertReceived(Alert::HANDSHAKE_FAILURE));
    assert_eq!(error.alert_for_other_side(), Alert::HANDSHAKE_FAILURE);
    assert!(!leg.wants_read());
    assert_eq!(leg.read_wire(b"x"), Err(error));

    // No TLS at all: we refuse, and an alert is due.
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    leg.write_wire(&mut Vec::new());
    let error = leg.read_wire(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
    assert!(matches!(error, LegError::Refused { fault: Fault::Malformed, .. }), "{error:?}");
    assert_eq!(error.alert_for_other_side(), Alert::INTERNAL_ERROR);
    let mut alert = Vec::new();
    leg.write_wire(&mut alert);
    assert_eq!(alert.first(), Some(&21));
}

#[test]
fn alert_of_the_owners_choice_ends_the_session_after_what_was_written() {
    let of_tls12 = Allowed { strongest: Protocol::Tls12, ..Allowed::default() };
    let suites = TABLE.iter().filter(|suite| suite.stack == Stack::Modern);
    let mut alerts = 0;
    for (allowed, suite) in
        suites.flat_map(|suite| [(Allowed::default(), suite), (of_tls12.clone(), suite)])
    {
        let only = Allowed { suites: vec![suite.id], ..allowed };
        let Some(stack) = ModernStack::under(&only).unwrap() else { continue };
        let algorithm = match suite.authentication {
            Authentication::Rsa => &PKCS_RSA_SHA256,
            _ => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = leaf_with(&authority("CA", &PKCS_ECDSA_P256_SHA256), &["x"], algorithm, |_| {});
        let key = LegKey::new(&pair).unwrap();
        let mut server_leg = stack.server_leg(None, ADDRESS, Vec::new()).unwrap();
        let mut client_leg = stack.client_leg(&key, Verdict::default(), None).unwrap();
        // Not yet, and not instead of a handshake message.
        client_leg.fatal_alert(Alert::ACCESS_DENIED);
        pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        assert_eq!(client_leg.write_plain(b"last words"), 10);
        client_leg.fatal_alert(Alert::ACCESS_DENIED);
        client_leg.fatal_alert(Alert::INTERNAL_ERROR);
        client_leg.close_notify();
        assert_eq!(client_leg.write_plain(b"more"), 0);
        let (error, _) = pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap_err();
        assert_eq!(error, LegError::AlertReceived(Alert::ACCESS_DENIED), "{}", suite.name);
        assert_eq!(plain(server_leg.as_mut()), b"last words");
        assert!(!server_leg.peer_closed());
        alerts += 1;
    }
    assert!(alerts >= 9, "{alerts}");
}

#[test]
fn alert_record_ends_a_leg_that_waits_for_its_server_hello() {
    let mut leg = stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
    let record = Alert::HANDSHAKE_FAILURE.fatal_record();
    assert_eq!(leg.read_wire(&record), Err(LegError::AlertReceived(Alert::HANDSHAKE_FAILURE)));
}

#[test]
fn altered_record_ends_the_leg_after_what_came_before_it() {
    let (mut server_leg, mut client_leg) = joined(&test_key());
    let mut wire = Vec::new();
    server_leg.write_plain(b"good");
    server_leg.write_wire(&mut wire);
    let good = wire.len();
    server_leg.write_plain(b"bad");
    server_leg.write_wire(&mut wire);
    wire[good + 6] ^= 1;
    let error = client_leg.read_wire(&wire).unwrap_err();
    assert_eq!(
        error,
        LegError::Refused { fault: Fault::Undecryptable, alert: Alert::BAD_RECORD_MAC }
    );
    assert_eq!(plain(client_leg.as_mut()), b"good");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_make_a_leg_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        as_record in any::<bool>(),
    ) {
        let mut input = Vec::new();
        if as_record {
            input.extend_from_slice(&[22, 3, 3]);
            input.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        }
        input.extend_from_slice(&bytes);
        let key = test_key();
        let legs = [
            stack().client_leg(&key, Verdict::default(), None).unwrap(),
            stack().server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap(),
        ];
        for mut leg in legs {
            let _ = leg.read_wire(&input);
            leg.write_wire(&mut Vec::new());
            prop_assert!(plain(leg.as_mut()).is_empty());
        }
    }

    #[test]
    fn altered_handshakes_end_in_an_error_or_in_silence(
        flip in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let key = test_key();
        let stack = stack();
        let mut server_leg =
            stack.server_leg(Some("www.example.org"), ADDRESS, Vec::new()).unwrap();
        let mut client_leg = stack.client_leg(&key, Verdict::default(), None).unwrap();
        let mut wire = Vec::new();
        server_leg.write_wire(&mut wire);
        client_leg.read_wire(&wire).unwrap();
        wire.clear();
        client_leg.write_wire(&mut wire);
        let at = flip.index(wire.len());
        wire[at] ^= 1 << bit;
        let _ = server_leg.read_wire(&wire);
        // A flipped legacy version in a record header is the only change that may go unseen.
        prop_assert!(server_leg.handshaking() || server_leg.peer_chain().unwrap() == key.chain());
    }
}
