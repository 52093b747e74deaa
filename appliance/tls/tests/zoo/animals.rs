//! The certificates themselves, made by rcgen, or by the openssl command where rcgen makes none.

use std::path::Path;
use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use tempfile::TempDir;
use weir_tls::{Forger, LegKey, Signer};

use crate::common::{
    Authority, authority, der_of, intermediate, leaf, leaf_keys, leaf_with, openssl,
    openssl_status, write,
};

/// One chain, leaf first, and the name that the client asked for.
pub struct Animal {
    pub name: &'static str,
    pub chain: Vec<Vec<u8>>,
    pub asked: &'static str,
}

/// The authorities around the zoo.
pub struct Keeper {
    root: Authority,
    signing: Authority,
    untrusted: Authority,
    directory: TempDir,
}

/// Made once for all tests.
pub static ZOO: LazyLock<(Keeper, Vec<Animal>)> = LazyLock::new(|| {
    let keeper = Keeper::new();
    let animals = keeper.animals();
    (keeper, animals)
});

const NAME: &str = "www.example.org";

impl Keeper {
    fn new() -> Self {
        let authority = |name| authority(name, &PKCS_ECDSA_P256_SHA256);
        let keeper = Self {
            root: authority("Root"),
            signing: authority("Signing CA"),
            untrusted: authority("Untrusted CA"),
            directory: tempfile::tempdir().unwrap(),
        };
        write(keeper.at(), "root.pem", &pem(keeper.at(), keeper.root.der()));
        write(keeper.at(), "key.der", keeper.root.pair.key.expose());
        openssl(keeper.at(), &["pkey", "-inform", "DER", "-in", "key.der", "-out", "root.key"]);
        keeper
    }

    pub fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    pub fn forger(&self) -> Forger {
        Forger::new(&self.signing.pair, &self.untrusted.pair, leaf_keys()).unwrap()
    }

    pub fn signing_pem(&self) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        pem(directory.path(), self.signing.der())
    }

    /// What `openssl verify -x509_strict` says; empty: nothing.
    pub fn strict_complaint(&self, signer: Signer, forged: &LegKey) -> String {
        let authority = match signer {
            Signer::Trusted => &self.signing,
            Signer::Untrusted => &self.untrusted,
        };
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        write(at, "authority.pem", &pem(at, authority.der()));
        write(at, "forged.pem", &pem(at, &forged.chain()[0]));
        let strict = ["verify", "-x509_strict", "-no_check_time", "-CAfile", "authority.pem"];
        let output = openssl_status(at, &[&strict[..], &["forged.pem"]].concat());
        if output.status.success() { String::new() } else { text(output.stderr) }
    }

    fn animals(&self) -> Vec<Animal> {
        let root = &self.root;
        let middle = intermediate("Middle", root, |_| {});
        let other = authority("Other root", &PKCS_ECDSA_P256_SHA256);
        let good = leaf(&middle, &[NAME]).chain;
        let of = |name, chain| Animal { name, chain, asked: NAME };
        let simple = |change: fn(&mut CertificateParams)| {
            leaf_with(root, &[NAME], &PKCS_ECDSA_P256_SHA256, change).chain
        };
        let mut animals = vec![
            of("good", good.clone()),
            Animal { name: "address", chain: leaf(root, &["192.0.2.1"]).chain, asked: "192.0.2.1" },
            of("wildcard", leaf(root, &["*.example.org"]).chain),
            of("no common name", simple(|p| p.distinguished_name = DistinguishedName::new())),
            of("1000 names", many_names(root)),
            of("shuffled chain", vec![good[0].clone(), root.der().to_vec(), good[1].clone()]),
            of("RSA-8192", public_key_of(root, 8192)),
            of("RSA-1024", public_key_of(root, 1024)),
            of("P-384", leaf_with(root, &[NAME], &PKCS_ECDSA_P384_SHA384, |_| {}).chain),
            of("expired", simple(|p| dated(p, 2001, 2002))),
            of("not yet valid", simple(|p| dated(p, 2101, 2102))),
            of("self-signed", self_signed()),
            of("unknown root", leaf(&other, &[NAME]).chain),
            of("missing intermediate", vec![good[0].clone()]),
            of("wrong name", leaf(root, &["www.example.com"]).chain),
            of(
                "authority as leaf",
                simple(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            ),
            of("unknown critical extension", simple(unknown_critical)),
            of(
                "client authentication only",
                simple(|p| {
                    p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                }),
            ),
            of(
                "name constraint",
                below(root, |p| {
                    p.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
                        excluded_subtrees: Vec::new(),
                    });
                }),
            ),
            of("path length", too_long(root)),
            of("expired intermediate", below(root, |p| dated(p, 2001, 2002))),
            of("everything", everything(&other)),
        ];
        animals.extend(self.by_openssl());
        animals
    }

    fn by_openssl(&self) -> Vec<Animal> {
        let with_names = &format!("subjectAltName=DNS:{NAME}\n");
        let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n";
        let of = |name, chain| Animal { name, chain, asked: NAME };
        let root = ("root.pem", "root.key");
        let one = |key, hash, extensions| vec![self.signed("leaf", root, key, hash, extensions)];
        let sound = self.signed("sound", root, "rsa:2048", "-sha256", Some(authority));
        let middle = self.signed("middle", root, "rsa:2048", "-sha1", Some(authority));
        let sound_files = ("sound.pem", "sound.pem.key");
        let below = ("middle.pem", "middle.pem.key");
        let leaf = self.signed("leaf", below, "ec:P-256", "-sha256", Some(with_names));
        vec![
            of("P-224", one("ec:P-224", "-sha256", Some(with_names))),
            of("SHA-1", one("rsa:2048", "-sha1", Some(with_names))),
            // There is no ECDSA with MD5, so it is the RSA intermediate that signs.
            of(
                "MD5",
                vec![self.signed("leaf", sound_files, "ec:P-256", "-md5", Some(with_names)), sound],
            ),
            of("version 1", one("rsa:2048", "-sha256", None)),
            of("common name only", one("ec:P-256", "-sha256", Some("basicConstraints=CA:FALSE\n"))),
            of("SHA-1 intermediate", vec![leaf, middle]),
        ]
    }

    /// A certificate `FILE.pem` with its key, `FILE.pem.key`, under an authority's two files.
    fn signed(
        &self,
        file: &str,
        (issuer, issuer_key): (&str, &str),
        key: &str,
        hash: &str,
        extensions: Option<&str>,
    ) -> Vec<u8> {
        let (algorithm, option) = match key.split_once(':').unwrap() {
            ("rsa", bits) => ("RSA", format!("rsa_keygen_bits:{bits}")),
            (_, curve) => ("EC", format!("ec_paramgen_curve:{curve}")),
        };
        let (out, key) = (format!("{file}.pem"), format!("{file}.pem.key"));
        let made = ["genpkey", "-algorithm", algorithm, "-pkeyopt", &option, "-out", &key];
        openssl(self.at(), &made);
        let subject = format!("/CN={}", if file == "leaf" { NAME } else { file });
        openssl(self.at(), &["req", "-new", "-key", &key, "-subj", &subject, "-out", "r.pem"]);
        let mut arguments = vec!["x509", "-req", "-in", "r.pem", "-days", "30", hash, "-out", &out];
        arguments.extend(["-CA", issuer, "-CAkey", issuer_key, "-CAcreateserial"]);
        if let Some(extensions) = extensions {
            write(self.at(), "extensions", extensions.as_bytes());
            arguments.extend(["-extfile", "extensions"]);
        }
        openssl(self.at(), &arguments);
        der_of(self.at(), &out)
    }

    fn at(&self) -> &Path {
        self.directory.path()
    }
}

fn dated(params: &mut CertificateParams, from: i32, until: i32) {
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
}

fn unknown_critical(params: &mut CertificateParams) {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions.push(extension);
}

fn many_names(root: &Authority) -> Vec<Vec<u8>> {
    let mut names: Vec<String> = (0..999).map(|number| format!("host-{number}.example")).collect();
    names.push(NAME.to_owned());
    leaf(root, &names.iter().map(String::as_str).collect::<Vec<_>>()).chain
}

fn self_signed() -> Vec<Vec<u8>> {
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    vec![params.self_signed(&crate::common::p256()).unwrap().der().to_vec()]
}

fn below(root: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Vec<Vec<u8>> {
    leaf(&intermediate("Odd middle", root, change), &[NAME]).chain
}

/// An intermediate that may have none below it has one.
fn too_long(root: &Authority) -> Vec<Vec<u8>> {
    let last = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let first = intermediate("First", root, last);
    let second = intermediate("Second", &first, |_| {});
    let mut chain = leaf(&second, &[NAME]).chain;
    chain.push(first.der().to_vec());
    chain
}

fn everything(other: &Authority) -> Vec<Vec<u8>> {
    let mut params = CertificateParams::new(vec!["b.example".to_owned()]).unwrap();
    dated(&mut params, 2001, 2002);
    let key = MadeUp::new(1024);
    vec![params.signed_by(&key, &other.issuer).unwrap().der().to_vec()]
}

fn public_key_of(root: &Authority, bits: usize) -> Vec<Vec<u8>> {
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    vec![params.signed_by(&MadeUp::new(bits), &root.issuer).unwrap().der().to_vec()]
}

/// An RSA public key whose private one nobody knows: making long ones takes minutes.
struct MadeUp(Vec<u8>);

impl MadeUp {
    fn new(bits: usize) -> Self {
        let mut modulus = vec![0xa5; bits / 8];
        *modulus.last_mut().unwrap() |= 1;
        // Over 127 bytes each.
        let long = |tag: u8, contents: &[u8]| match contents.len() {
            length @ 128..256 => [&[tag, 0x81, length as u8], contents].concat(),
            length => [&[tag, 0x82], &(length as u16).to_be_bytes()[..], contents].concat(),
        };
        let integers = [long(2, &[&[0], &modulus[..]].concat()), vec![2, 3, 1, 0, 1]].concat();
        Self(long(0x30, &integers))
    }
}

impl PublicKeyData for MadeUp {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn pem(directory: &Path, der: &[u8]) -> Vec<u8> {
    write(directory, "one.der", der);
    openssl(directory, &["x509", "-inform", "DER", "-in", "one.der"]).stdout
}
