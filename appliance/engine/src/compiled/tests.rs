//! What sessions under one policy learn, and what of it others go by.

use weir_policy::judge::Answers;
use weir_policy::snapshot::{
    CertifiedKey, ClientPolicy, DecidedBy, DomainPattern, OnRefusal, QuicAction,
};
use weir_policy::{Place, SecretBytes, ServerAt};
use weir_tls::hello::{Peek, peek};

use super::*;

const NAME: &str = "bank.example";

fn authority(name: &str) -> CertifiedKey {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let chain = vec![parameters.self_signed(&key).unwrap().der().to_vec()];
    CertifiedKey { chain, key: SecretBytes::new(key.serialize_der()) }
}

/// Two client policies that differ in their trust stores alone: one has an authority that the other
/// has not. Both let the server's certificate decide what is not decrypted.
pub(crate) fn two_policies() -> CompiledPolicy {
    let proxy = ClientProxy {
        name: "staff".into(),
        signing_certificate: authority("signer"),
        ..crate::learnt::tests::proxy(OnRefusal::Block, OnRefusal::Block)
    };
    let policy = |trust_store| ClientPolicy {
        name: format!("policy {trust_store}"),
        client_proxy: 0,
        decryption_policy: Some(0),
        trust_store,
        source_exceptions: Vec::new(),
        quic: QuicAction::default(),
    };
    let store = |name: &str| TrustStore {
        name: name.to_owned(),
        authorities: authority(name).chain,
        default_ca_package: false,
    };
    let snapshot = Snapshot {
        generation: 1,
        profiles: vec![Profile {
            name: "profile".into(),
            server_policies: Vec::new(),
            client_policies: vec![policy(0), policy(1)],
            filters: Vec::new(),
        }],
        client_proxies: vec![proxy],
        decryption_policies: vec![DecryptionPolicy {
            name: "banks".into(),
            domains_not_to_decrypt: vec![DomainPattern { domain: NAME.into(), wildcard: false }],
            decided_by: DecidedBy::ServerCertificate,
        }],
        trust_stores: vec![store("one"), store("other")],
        untrusted_authority: Some(authority("untrusted")),
        ..Snapshot::default()
    };
    CompiledPolicy::compile(snapshot, &CompiledPolicy::default()).unwrap()
}

pub(crate) fn of(policy: &CompiledPolicy, client_policy: usize) -> FlowPolicy<'_> {
    let inspection = Inspection {
        virtual_segment: 0,
        profile: 0,
        policy: PolicyKind::Client(client_policy),
        trusted: false,
        answers: Answers { profile: 0, trusted: false },
    };
    policy.of(inspection).unwrap()
}

fn hello() -> ClientHello {
    let mut wire = Vec::new();
    let stack = ModernStack::new().unwrap();
    stack.server_leg(Some(NAME), server().address, vec![]).unwrap().write_wire(&mut wire);
    match peek(&wire) {
        Peek::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn server() -> ServerAt {
    Place::default().server("192.0.2.1:443".parse().unwrap())
}

/// A certificate that one policy's trust store vouches for may be anybody's to another.
#[test]
fn what_a_certificate_decided_under_one_policy_decides_nothing_under_another() {
    let (policy, hello) = (two_policies(), hello());
    for excepted in [true, false] {
        let (one, other) = (of(&policy, 0), of(&policy, 1));
        one.learn_exception(&hello, server(), excepted);
        assert_eq!(matches!(one.excepted(&hello, server()), Excepted::Yes), excepted);
        assert!(matches!(other.excepted(&hello, server()), Excepted::AskServer(_)));
    }
    policy.exceptions.forget();
    assert!(matches!(of(&policy, 0).excepted(&hello, server()), Excepted::AskServer(_)));
}
