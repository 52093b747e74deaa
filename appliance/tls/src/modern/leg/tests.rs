//! Keys that are used up, and a peer that only keeps us busy: both ends of a session in one thread.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::incoming::EMPTY_BOUND;
use super::*;
use crate::leg::Fault;
use crate::modern::suites::suites;

/// Both ends of one session; neither shows the witness any certificate.
fn joined(version: &'static rustls::SupportedProtocolVersion) -> [ModernLeg; 2] {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = suites(&provider);
    let provider = Arc::new(provider);
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    let server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut legs = [client.into(), server.into()]
        .map(|connection: Connection| ModernLeg::new(connection, Arc::default()));
    for _ in 0..8 {
        exchange(&mut legs);
    }
    assert!(legs.iter().all(|leg| leg.traffic.is_some()));
    legs
}

fn exchange(legs: &mut [ModernLeg; 2]) {
    for from in [0, 1] {
        let mut wire = vec![];
        legs[from].write_wire(&mut wire);
        let to = &mut legs[1 - from];
        // Each byte by itself, then all that is left at once.
        let (bytes, rest) = wire.split_at(wire.len().min(300));
        bytes.iter().for_each(|byte| to.read_wire(&[*byte]).unwrap());
        to.read_wire(rest).unwrap();
    }
}

fn carries_data(legs: &mut [ModernLeg; 2]) {
    for from in [0, 1] {
        let data = vec![b'a' + from as u8; 40_000];
        assert_eq!(legs[from].write_plain(&data), data.len());
        exchange(legs);
        exchange(legs);
        let mut plain = vec![];
        legs[1 - from].read_plain(&mut plain);
        assert_eq!(plain, data);
    }
}

#[test]
fn worn_out_key_gets_a_successor_and_the_peer_changes_its_own() {
    let mut legs = joined(&rustls::version::TLS13);
    carries_data(&mut legs);
    for (from, to) in [(0, 1), (1, 0)] {
        let keys = |leg: &ModernLeg| {
            let traffic = leg.traffic.as_ref().unwrap();
            [Arc::clone(&traffic.sealing), Arc::clone(&traffic.opening)]
        };
        let (before, [_, opening]) = (keys(&legs[from]), keys(&legs[to]));
        before[0].wear_out();
        opening.wear_out();
        carries_data(&mut legs);
        // The peer was asked for a new key of its own, and gives one with its next data.
        carries_data(&mut legs);
        let after = keys(&legs[from]);
        assert!(before.iter().zip(&after).all(|(before, after)| !Arc::ptr_eq(before, after)));
        carries_data(&mut legs);
    }
}

#[test]
fn keys_may_change_for_ever_where_data_flows_between() {
    let mut legs = joined(&rustls::version::TLS13);
    for _ in 0..40 {
        for from in [0, 1] {
            assert!(legs[from].renew_key());
            exchange(&mut legs);
            exchange(&mut legs);
        }
        carries_data(&mut legs);
    }
}

/// Data between its requests is what makes rustls allow more of them.
#[test]
fn peer_that_asks_for_new_keys_and_reads_nothing_is_owed_one_answer() {
    let mut legs = joined(&rustls::version::TLS13);
    let [asking, asked] = &mut legs;
    for _ in 0..100 {
        for _ in 0..20 {
            assert!(asking.renew_key());
        }
        assert_eq!(asking.write_plain(b"x"), 1);
        let (mut wire, mut plain, mut answers) = (vec![], vec![], vec![]);
        asking.write_wire(&mut wire);
        asked.read_wire(&wire).unwrap();
        asked.read_plain(&mut plain);
        assert_eq!(plain, b"x");
        asked.write_wire(&mut answers);
        assert!(answers.is_empty(), "{} bytes", answers.len());
    }
    // It gets it before the first data under the new key.
    carries_data(&mut legs);
    carries_data(&mut legs);
}

#[test]
fn peer_that_sends_nothing_but_empty_records_is_refused() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut legs = joined(version);
        let mut empty = |count: usize| {
            let mut wire = vec![];
            for _ in 0..count {
                let traffic = legs[0].traffic.as_ref().unwrap();
                traffic.sealing.seal(b"", &mut wire).unwrap();
            }
            legs[1].read_wire(&wire)
        };
        assert_eq!(empty(usize::from(EMPTY_BOUND)), Ok(()));
        let (fault, alert) = (Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE);
        assert_eq!(empty(1), Err(LegError::Refused { fault, alert }));
        let mut wire = vec![];
        legs[1].write_wire(&mut wire);
        assert_eq!(legs[0].read_wire(&wire), Err(LegError::AlertReceived(alert)));
    }
}

#[test]
fn data_amid_a_handshake_message_is_refused() {
    use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut legs = joined(version);
        carries_data(&mut legs);
        let beginning = OutboundPlainMessage {
            typ: rustls::ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(&[24, 0, 0, 1]),
        };
        let sealing = Arc::clone(&legs[0].traffic.as_ref().unwrap().sealing);
        let mut wire = sealing.encrypt(&beginning).unwrap().encode();
        assert_eq!(legs[1].read_wire(&wire), Ok(()));
        wire.clear();
        sealing.seal(b"data", &mut wire).unwrap();
        let (fault, alert) = (Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE);
        assert_eq!(legs[1].read_wire(&wire), Err(LegError::Refused { fault, alert }));
        let mut plain = vec![];
        legs[1].read_plain(&mut plain);
        assert!(plain.is_empty());
        wire.clear();
        legs[1].write_wire(&mut wire);
        assert_eq!(legs[0].read_wire(&wire), Err(LegError::AlertReceived(alert)));
    }
}

#[test]
fn worn_out_key_of_tls_1_2_ends_the_session() {
    let mut legs = joined(&rustls::version::TLS12);
    carries_data(&mut legs);
    let traffic = legs[0].traffic.as_ref().unwrap();
    traffic.sealing.wear_out();
    assert_eq!(legs[0].write_plain(b"more"), 0);
}
