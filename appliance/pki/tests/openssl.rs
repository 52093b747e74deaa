//! Certificates and keys made by `openssl`, read by this crate.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use weir_pki::{Pki, describe, fingerprint, generate_untrusted_authority};
use weir_policy::material::{Certificates, CertifiedKeyError, KeyAlgorithm};

/// A directory with a root, an intermediate and a leaf made with `algorithm` (`-newkey`'s words).
fn chain(algorithm: &[&str]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    let request = |name: &str| {
        let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
        let mut words = vec!["req", "-new", "-nodes", "-newkey"];
        words.extend(algorithm);
        let subject = format!("/O=Weir test/CN={name}");
        words.extend(["-keyout", &key, "-out", &csr, "-subj", &subject]);
        openssl(at, &words);
    };
    for name in ["root", "middle", "leaf"] {
        request(name);
    }
    fs::write(at.join("ca.ext"), "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        .unwrap();
    fs::write(at.join("leaf.ext"), "basicConstraints=CA:FALSE\nsubjectAltName=DNS:leaf.example\n")
        .unwrap();
    openssl(at, &words("x509 -req -in root.csr -signkey root.key -extfile ca.ext -out root.pem"));
    let sign = "x509 -req -in middle.csr -CA root.pem -CAkey root.key -CAcreateserial \
                -extfile ca.ext -out middle.pem";
    openssl(at, &words(sign));
    let sign = "x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial \
                -extfile leaf.ext -out leaf.pem";
    openssl(at, &words(sign));
    dir
}

fn words(command: &str) -> Vec<&str> {
    command.split_whitespace().collect()
}

fn openssl(at: &Path, words: &[&str]) -> String {
    let output = Command::new("openssl").current_dir(at).args(words).output().expect("openssl");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn file(dir: &TempDir, name: &str) -> Vec<u8> {
    fs::read(dir.path().join(name)).unwrap()
}

#[test]
fn chains_of_every_key_kind_are_ordered_leaf_first() {
    let kinds: [(&[&str], KeyAlgorithm); 5] = [
        (&["rsa:2048"], KeyAlgorithm::Rsa(2048)),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-224"], KeyAlgorithm::P224),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], KeyAlgorithm::P256),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], KeyAlgorithm::P384),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-521"], KeyAlgorithm::P521),
    ];
    for (words, algorithm) in kinds {
        let dir = chain(words);
        let shuffled = [file(&dir, "root.pem"), file(&dir, "leaf.pem"), file(&dir, "middle.pem")];
        let found = Pki.certified_key(&shuffled.concat(), &file(&dir, "leaf.key")).unwrap();
        assert_eq!(found.algorithm, algorithm);
        assert!(!found.is_authority);
        let subjects = found.certified.chain.iter().map(|der| describe(der)).collect::<Vec<_>>();
        for (subject, name) in subjects.iter().zip(["leaf", "middle", "root"]) {
            assert!(subject.starts_with(&format!("O=Weir test, CN={name} (SHA-256 ")), "{subject}");
        }
        assert_eq!(subjects.len(), 3);
        let root = Pki.certified_key(&file(&dir, "root.pem"), &file(&dir, "root.key")).unwrap();
        assert!(root.is_authority);
    }
}

#[test]
fn every_key_format_comes_out_as_the_same_pkcs8() {
    for (algorithm, traditional) in [
        (&["rsa:2048"][..], "rsa -in leaf.key -traditional -out old.key"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "ec -in leaf.key -out old.key"),
        (&["ec", "-pkeyopt", "ec_paramgen_curve:P-224"], "ec -in leaf.key -out old.key"),
    ] {
        let dir = chain(algorithm);
        openssl(dir.path(), &words(traditional));
        let old = file(&dir, "old.key");
        assert!(!old.starts_with(b"-----BEGIN PRIVATE KEY"));
        let certificate = file(&dir, "leaf.pem");
        let one = Pki.certified_key(&certificate, &old).unwrap();
        let other = Pki.certified_key(&certificate, &file(&dir, "leaf.key")).unwrap();
        assert_eq!(one.certified, other.certified);
        fs::write(dir.path().join("out.der"), one.certified.key.expose()).unwrap();
        let from_ours = openssl(dir.path(), &words("pkey -inform der -in out.der -pubout"));
        assert_eq!(from_ours, openssl(dir.path(), &words("pkey -in leaf.key -pubout")));
    }
}

#[test]
fn wrong_keys_are_refused_in_plain_words() {
    let dir = chain(&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let rsa = chain(&["rsa:2048"]);
    let certificate = file(&dir, "leaf.pem");
    let refused = |key: &[u8]| match Pki.certified_key(&certificate, key).unwrap_err() {
        CertifiedKeyError::Key(message) => message,
        CertifiedKeyError::Certificate(message) => panic!("blames the certificate: {message}"),
    };
    for key in [file(&dir, "root.key"), file(&rsa, "leaf.key")] {
        let message = refused(&key);
        assert!(
            message.contains("does not belong to the certificate O=Weir test, CN=leaf"),
            "{message}"
        );
    }
    openssl(dir.path(), &words("pkey -in leaf.key -aes256 -passout pass:x -out encrypted.key"));
    assert!(refused(&file(&dir, "encrypted.key")).contains("openssl pkey -in"));
    openssl(dir.path(), &words("ec -in leaf.key -aes128 -passout pass:x -out encrypted.key"));
    assert!(refused(&file(&dir, "encrypted.key")).contains("openssl pkey -in"));
    openssl(dir.path(), &words("genpkey -algorithm ed25519 -out ed.key"));
    assert!(refused(&file(&dir, "ed.key")).contains("ECDSA keys on P-224"));
    assert!(refused(b"hello").contains("holds no private key"));
    assert!(refused(&certificate).contains("holds no private key"));
    let both = [file(&dir, "leaf.key"), file(&dir, "root.key")].concat();
    assert!(refused(&both).contains("several private keys"));
}

#[test]
fn unsuitable_certificates_are_refused_in_plain_words() {
    let weak = chain(&["rsa:1024"]);
    let refused =
        |certificate: &[u8], key: &[u8]| match Pki.certified_key(certificate, key).unwrap_err() {
            CertifiedKeyError::Certificate(message) => message,
            CertifiedKeyError::Key(message) => panic!("blames the key: {message}"),
        };
    let message = refused(&file(&weak, "leaf.pem"), &file(&weak, "leaf.key"));
    assert!(message.contains("fewer than 2048 bits"), "{message}");
    let brainpool = chain(&["ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"]);
    let message = refused(&file(&brainpool, "leaf.pem"), &file(&brainpool, "leaf.key"));
    assert!(message.contains("P-224, P-256, P-384 and P-521"), "{message}");
    let key = file(&brainpool, "leaf.key");
    assert!(refused(b"", &key).contains("holds no certificate"));
    openssl(weak.path(), &words("x509 -in leaf.pem -outform der -out leaf.der"));
    assert!(refused(&file(&weak, "leaf.der"), &key).contains("openssl x509 -inform der"));
    let torn = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    assert!(refused(torn, &key).contains("certificate 1 is not readable"));
}

#[test]
fn bundle_of_authorities_keeps_each_once() {
    let dir = chain(&["rsa:2048"]);
    let (root, middle) = (file(&dir, "root.pem"), file(&dir, "middle.pem"));
    let found = Pki.authorities(&[&root[..], &middle, &root].concat()).unwrap();
    assert_eq!(found.len(), 2);
    assert!(Pki.authorities(b"# nothing\n").unwrap_err().contains("holds no certificate"));
}

#[test]
fn fingerprint_is_what_openssl_prints() {
    let dir = chain(&["rsa:2048"]);
    let printed = openssl(dir.path(), &words("x509 -in leaf.pem -noout -fingerprint -sha256"));
    let leaf = Pki.authorities(&file(&dir, "leaf.pem")).unwrap().remove(0);
    assert_eq!(printed.trim().split_once('=').unwrap().1, fingerprint(&leaf));
}

#[test]
fn untrusted_authority_is_a_certificate_that_openssl_accepts_as_a_strict_ca() {
    let dir = TempDir::new().unwrap();
    let authority = generate_untrusted_authority().unwrap();
    fs::write(dir.path().join("ca.der"), &authority.chain[0]).unwrap();
    fs::write(dir.path().join("key.der"), authority.key.expose()).unwrap();
    openssl(dir.path(), &words("x509 -inform der -in ca.der -out ca.pem"));
    openssl(dir.path(), &words("pkey -inform der -in key.der -out key.pem"));
    openssl(dir.path(), &words("verify -x509_strict -CAfile ca.pem ca.pem"));
    let text = openssl(dir.path(), &words("x509 -in ca.pem -noout -text"));
    for part in [
        "CN = Weir untrusted CA",
        "CA:TRUE, pathlen:0",
        "Subject Key Identifier",
        "Certificate Sign",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let pem = |name| fs::read(dir.path().join(name)).unwrap();
    let read = Pki.certified_key(&pem("ca.pem"), &pem("key.pem")).unwrap();
    assert!(read.is_authority);
    assert_ne!(generate_untrusted_authority().unwrap().chain, authority.chain);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(certificate: Vec<u8>, key: Vec<u8>, tag in "[A-Z ]{0,20}") {
        let _ = Pki.certified_key(&certificate, &key);
        let body = String::from_utf8_lossy(&key);
        let text = format!("-----BEGIN {tag}-----\n{body}\n-----END {tag}-----\n");
        let _ = Pki.certified_key(text.as_bytes(), text.as_bytes());
        let _ = Pki.authorities(&certificate);
        let _ = describe(&certificate);
    }
}
