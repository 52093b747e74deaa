//! What a chain decides of the sessions to come.

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair};
use weir_policy::snapshot::{DecidedBy, DomainPattern};

use super::*;

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// That the server forgot its intermediate and nobody had it in time must not stand for an hour.
#[test]
fn a_chain_that_lacks_an_issuer_decides_nothing_of_the_sessions_to_come() {
    let [root_key, middle_key, leaf_key]: [KeyPair; 3] =
        std::array::from_fn(|_| KeyPair::generate().unwrap());
    let root = authority("Root").self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(authority("Root"), root_key);
    let middle = authority("Middle").signed_by(&middle_key, &root_issuer).unwrap().der().clone();
    let middle_issuer = Issuer::new(authority("Middle"), middle_key);
    let url = b"http://ca.example/";
    let access = [&[0x30, 32, 0x30, 30, 6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 2, 0x86, 18][..], url];
    let leaf = |access: Option<Vec<u8>>| {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let of = |value| CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], value);
        params.custom_extensions = access.map(of).into_iter().collect();
        params.signed_by(&leaf_key, &middle_issuer).unwrap().der().clone()
    };
    let (silent, leaf) = (leaf(None), leaf(Some(access.concat())));
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let pattern = DomainPattern { domain: "a.example".to_owned(), wildcard: false };
    let policy = DecryptionPolicy {
        name: "except".to_owned(),
        domains_not_to_decrypt: vec![pattern],
        decided_by: DecidedBy::ServerCertificate,
    };
    let decided = |chain: &[CertificateDer<'static>], name: Option<&str>| {
        decision(chain, name, 0, &anchors, &policy)
    };
    assert_eq!(decided(&[], Some("a.example")), Decision::Unsettled);
    assert_eq!(decided(std::slice::from_ref(&leaf), Some("a.example")), Decision::Unsettled);
    // Nobody says where it is.
    assert_eq!(decided(&[silent], Some("a.example")), Decision::NotExcepted);
    let whole = [leaf.clone(), middle.clone()];
    assert_eq!(decided(&whole, Some("b.example")), Decision::NotExcepted);
    assert_eq!(decided(&whole, Some("a.example")), Decision::Excepted);
    assert_eq!(decided(&whole, None), Decision::Excepted);
    let covered = DomainPattern { domain: "www.wild.example".to_owned(), wildcard: false };
    let policy = DecryptionPolicy { domains_not_to_decrypt: vec![covered], ..policy.clone() };
    let wild = CertificateParams::new(vec!["*.wild.example".to_owned()]).unwrap();
    let wild = [wild.signed_by(&leaf_key, &middle_issuer).unwrap().der().clone(), middle.clone()];
    let of_wild = |name| decision(&wild, name, 0, &anchors, &policy);
    assert_eq!(of_wild(None), Decision::Excepted);
    assert_eq!(of_wild(Some("www.wild.example")), Decision::Excepted);
    assert_eq!(of_wild(Some("mail.wild.example")), Decision::NotExcepted);
    // It is known from then on.
    assert_eq!(decided(&[leaf], Some("a.example")), Decision::Excepted);
}
