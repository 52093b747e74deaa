//! Missing issuers, and the files that have them.

use super::sources::access;
use super::*;

/// Its issuer is at this URL.
fn at(url: &'static str) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |params| {
        let contents = short(0x30, &access(2, url));
        let of = CustomExtension::from_oid_content;
        params.custom_extensions = vec![of(&[1, 3, 6, 1, 5, 5, 7, 1, 1], contents)];
    }
}

#[test]
fn the_first_issuer_that_nobody_sent_is_missing_where_its_place_is_named() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let upper = intermediate("Upper", &root, |_| {});
    let middle = intermediate("Middle", &upper, at("http://ca.example/upper"));
    let server =
        leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, at("http://ca.example/middle"));
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let missing = |chain: &[Vec<u8>]| anchors.missing_issuer(&ders(chain), UnixTime::now());
    let leaf = server.chain[0].clone();
    let first = missing(std::slice::from_ref(&leaf)).unwrap();
    assert_eq!(first.urls, ["http://ca.example/middle"]);
    assert!(first.is(middle.der()) && !first.is(upper.der()) && !first.is(b"nothing"));
    let second = missing(&[leaf.clone(), middle.der().to_vec()]).unwrap();
    assert_eq!(second.urls, ["http://ca.example/upper"]);
    let whole = [leaf.clone(), middle.der().to_vec(), upper.der().to_vec()];
    assert_eq!(missing(&whole), None);
    // One that signs itself lacks nobody; and one that says nothing of its issuer cannot be helped.
    assert_eq!(missing(&[authority("Self", &PKCS_ECDSA_P256_SHA256).der().to_vec()]), None);
    let other = authority("Other", &PKCS_ECDSA_P256_SHA256);
    let silent = common::leaf(&other, &["a.example"]);
    assert_eq!(missing(&silent.chain[..1]), None);
    // What was learnt is not missing any more.
    assert!(anchors.verify(&ders(&whole), None, 0, UnixTime::now()).is_verified());
    assert_eq!(missing(&[leaf]), None);
}

#[test]
fn an_issuer_is_found_in_whatever_file_its_authority_has_it() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let upper = intermediate("Upper", &root, |_| {});
    let middle = intermediate("Middle", &upper, |_| {});
    let others: Vec<_> = ["One", "Two", "Three", "Four", "Five", "Six", "Seven"]
        .map(|name| authority(name, &PKCS_ECDSA_P256_SHA256))
        .into();
    let url = at("http://ca.example/");
    let server = leaf_with(&middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, url).chain.remove(0);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (name, one) in [("root", &root), ("upper", &upper), ("middle", &middle)] {
        pem(path, name, &one.pair);
    }
    for (number, one) in others.iter().enumerate() {
        pem(path, &format!("other{number}"), &one.pair);
    }
    let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
    let now = UnixTime::now();
    let missing = anchors.missing_issuer(&ders(std::slice::from_ref(&server)), now).unwrap();
    let found = |file: &[u8]| missing.found_in(file);
    let message = |names: &[&str], form: &str| {
        let files: Vec<String> = names.iter().map(|name| format!("{name}.pem")).collect();
        let files = files.iter().flat_map(|file| ["-certfile", file.as_str()]);
        let files: Vec<&str> = files.collect();
        let fixed = ["crl2pkcs7", "-nocrl", "-outform", form, "-out", "message"];
        openssl(path, &[&fixed[..], &files].concat());
        std::fs::read(path.join("message")).unwrap()
    };
    let text = |names: &[&str]| -> Vec<u8> {
        names
            .iter()
            .flat_map(|name| std::fs::read(path.join(format!("{name}.pem"))).unwrap())
            .collect()
    };
    let middle_alone = ders(&[middle.der().to_vec()]);
    let both = ders(&[middle.der().to_vec(), upper.der().to_vec()]);
    assert_eq!(found(middle.der()), middle_alone);
    for form in ["DER", "PEM"] {
        assert_eq!(found(&message(&["middle"], form)), middle_alone, "{form}");
        // In any order, and beside what is no part of the path.
        assert_eq!(found(&message(&["upper", "other0", "middle"], form)), both, "{form}");
        assert_eq!(found(&message(&["upper", "other0"], form)), [], "{form}");
        let with_root = found(&message(&["root", "upper", "middle"], form));
        assert_eq!(with_root[..2], both);
    }
    assert_eq!(found(&text(&["middle"])), middle_alone);
    assert_eq!(found(&text(&["other1", "upper", "middle"])), both);
    let windows = String::from_utf8(text(&["middle"])).unwrap().replace('\n', "\r\n");
    assert_eq!(found(format!("Subject: Middle\r\n{windows}").as_bytes()), middle_alone);
    // With it the chain verifies.
    let chain: Vec<_> =
        ders(std::slice::from_ref(&server)).into_iter().chain(both.clone()).collect();
    assert!(anchors.verify(&chain, None, 0, now).is_verified());

    // Eight are looked at.
    let many = ["other0", "other1", "other2", "other3", "other4", "other5", "other6", "middle"];
    assert_eq!(found(&message(&many, "DER")), middle_alone);
    assert_eq!(many.len(), BUNDLE_BOUND);
    let more = [&many[..7], &["upper", "middle"]].concat();
    assert_eq!(found(&message(&more, "DER")), []);
    // Cut short, up to the line that ends it, a file lacks the last one at least.
    for file in [message(&["upper", "middle"], "DER"), text(&["upper", "middle"])] {
        for length in (0..file.len() - "-----END CERTIFICATE-----\n".len()).step_by(7) {
            assert!(found(&file[..length]).len() < 2, "{length}");
        }
    }
    for nothing in ["", "-----BEGIN ", "-----BEGIN A-----", "-----BEGIN A----------END A-----", "0"]
    {
        assert_eq!(found(nothing.as_bytes()), [], "{nothing}");
    }
}

#[test]
fn an_issuer_that_is_known_under_another_key_or_no_longer_valid_is_missing() {
    let root = authority("Root", &PKCS_ECDSA_P256_SHA256);
    let old = intermediate("Middle", &root, |params| {
        params.not_after = date_time_ymd(2040, 1, 1);
    });
    let new = intermediate("Middle", &root, |_| {});
    let below = |middle: &Authority| {
        let url = at("http://ca.example/middle");
        leaf_with(middle, &["a.example"], &PKCS_ECDSA_P256_SHA256, url).chain
    };
    let (before, after) = (below(&old), below(&new));
    // An anchor of the intermediate's name, too.
    let stranger = authority("Middle", &PKCS_ECDSA_P256_SHA256);
    let store = [root.der().to_vec(), stranger.der().to_vec()];
    let anchors = TrustAnchors::new(&store, false).unwrap();
    let now = UnixTime::now();
    let is_verified = |chain: &[Vec<u8>]| anchors.verify(&ders(chain), None, 0, now).is_verified();
    let missing = |chain: &[Vec<u8>], now| anchors.missing_issuer(&ders(chain), now);
    assert!(missing(&before[..1], now).is_some());
    assert!(is_verified(&before));
    assert_eq!(missing(&before[..1], now), None);

    // Another key under the same name.
    assert!(!is_verified(&after[..1]));
    let found = missing(&after[..1], now).unwrap();
    assert!(found.is(new.der()) && !found.is(old.der()) && !found.is(stranger.der()));
    assert!(is_verified(&after) && is_verified(&after[..1]) && is_verified(&before[..1]));
    assert_eq!(missing(&after[..1], now), None);

    // 2050-01-01: the old one is known, and no longer valid.
    let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(2_524_608_000));
    let verdict = anchors.verify(&ders(&before[..1]), None, 0, later);
    assert_eq!(verdict.failures().collect::<Vec<_>>(), [Failure::IntermediateDates]);
    let found = missing(&before[..1], later).unwrap();
    assert!(!found.is(old.der()));
    // What the server sends is as it is.
    assert_eq!(missing(&before, later), None);
}
