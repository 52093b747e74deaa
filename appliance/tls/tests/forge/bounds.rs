//! What forging costs and keeps, and what it refuses.

use super::*;

#[test]
fn serial_numbers_are_long_positive_and_never_repeat() {
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forger = forger(&signing.pair);
    let upstream = upstream();
    let mut seen = HashSet::new();
    for number in 0..50 {
        let server = leaf(&upstream, &[&format!("host-{number}.example")]);
        let forged = forger.forge(&server.chain[0], Signer::Trusted, LeafKind::Ecdsa).unwrap();
        let serial = parsed(&forged).raw_serial().to_vec();
        assert!(serial.len() == 16 && serial[0] & 0x80 == 0 && serial[0] != 0);
        assert!(seen.insert(serial));
    }
}

#[test]
fn parallel_first_visits_sign_once() {
    const THREADS: usize = 100;
    let signing = authority("Corporate CA", &PKCS_RSA_SHA256);
    let forger = Arc::new(forger(&signing.pair));
    let server = Arc::new(leaf(&upstream(), &["busy.example"]).chain[0].clone());
    let barrier = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (forger, server, barrier) = (forger.clone(), server.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                forger.forge(&server, Signer::Trusted, LeafKind::Ecdsa).unwrap()
            })
        })
        .collect();
    let keys: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(keys.iter().all(|key| Arc::ptr_eq(key, &keys[0])));
    assert_eq!(forger.signatures(), 1);
    forger.forge(&server, Signer::Untrusted, LeafKind::Ecdsa).unwrap();
    assert_eq!(forger.signatures(), 2);
}

#[test]
fn cache_forgets_the_least_recently_used_past_its_bound() {
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let forger = forger(&signing.pair);
    let template = leaf(&upstream(), &["a.example"]).chain[0].clone();
    // The signature is not looked at here, so its last bytes tell many certificates apart.
    let variant = |number: usize| {
        let mut der = template.clone();
        let end = der.len() - 2;
        der[end..].copy_from_slice(&(number as u16).to_be_bytes());
        der
    };
    // Twice as many: the bound is that of each part of the cache, which are not filled evenly.
    let most = 2 * CACHE_BOUND;
    for number in 0..=most {
        forger.forge(&variant(number), Signer::Trusted, LeafKind::Ecdsa).unwrap();
    }
    let signed = forger.signatures();
    assert_eq!(signed, most as u64 + 1);
    forger.forge(&variant(most), Signer::Trusted, LeafKind::Ecdsa).unwrap();
    assert_eq!(forger.signatures(), signed, "kept");
    forger.forge(&variant(0), Signer::Trusted, LeafKind::Ecdsa).unwrap();
    assert_eq!(forger.signatures(), signed + 1, "forgotten");
}

#[test]
fn only_authorities_sign() {
    let good = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let plain = leaf(&good, &["www.example.org"]);
    assert_eq!(
        Forger::new(&plain, &good.pair, leaf_keys()).err(),
        Some(ForgerError::NotAuthority("signing"))
    );
}

#[test]
fn what_is_no_certificate_is_not_forged() {
    let signing = authority("Corporate CA", &PKCS_ECDSA_P256_SHA256);
    let error = forger(&signing.pair)
        .forge(b"\x30\x03\x02\x01\x05", Signer::Trusted, LeafKind::Ecdsa)
        .unwrap_err();
    assert!(matches!(error, ForgeError::Certificate(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn altered_certificates_never_make_the_forger_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        thread_local! {
            static FIXTURE: (Forger, Vec<u8>) = (
                forger(&authority("Corporate CA", &PKCS_ECDSA_P256_SHA256).pair),
                leaf(&upstream(), &["www.example.org", "192.0.2.1"]).chain[0].clone(),
            );
        }
        FIXTURE.with(|(forger, certificate)| {
            let mut certificate = certificate.clone();
            for (at, byte) in changes {
                let at = at.index(certificate.len());
                certificate[at] = byte;
            }
            if let Ok(key) = forger.forge(&certificate, Signer::Trusted, LeafKind::Ecdsa) {
                // Whatever was copied, the frame around it is right.
                assert_eq!(key.chain().len(), 2);
            }
        });
    }
}
