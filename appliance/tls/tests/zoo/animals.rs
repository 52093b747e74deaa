//! The certificates themselves, made by rcgen, or by the openssl command where rcgen makes none.

use std::path::Path;
use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, SubjectPublicKeyInfo, date_time_ymd,
};
use tempfile::TempDir;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::{Forger, LegKey, Signer};

use crate::common::{
    Authority, authority, der_of, intermediate, leaf, leaf_keys, leaf_with, openssl,
    openssl_status, p256, pair, pkcs8_of, write,
};

/// One chain, leaf first, with the leaf's key, and the name that the client asked for.
pub struct Animal {
    pub name: &'static str,
    pub pair: CertifiedKey,
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
/// Of this zoo alone.
const RSA_8192: &[u8] = include_bytes!("rsa-8192.pem");

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
        let good = leaf(&middle, &[NAME]);
        let chain_of = |chain: &[&[u8]]| CertifiedKey {
            chain: chain.iter().map(|one| one.to_vec()).collect(),
            key: good.key.clone(),
        };
        let bare = chain_of(&[&good.chain[0]]);
        let shuffled = chain_of(&[&good.chain[0], root.der(), &good.chain[1]]);
        let of = |name, pair| Animal { name, pair, asked: NAME };
        let simple = |change: fn(&mut CertificateParams)| {
            leaf_with(root, &[NAME], &PKCS_ECDSA_P256_SHA256, change)
        };
        let mut animals = vec![
            of("good", good),
            Animal { name: "address", pair: leaf(root, &["192.0.2.1"]), asked: "192.0.2.1" },
            of("wildcard", leaf(root, &["*.example.org"])),
            of("no common name", simple(|p| p.distinguished_name = DistinguishedName::new())),
            of("1000 names", many_names(root)),
            of("shuffled chain", shuffled),
            of("RSA-8192", self.with_rsa(root, 8192, &[NAME], |_| {})),
            of("RSA-1024", self.with_rsa(root, 1024, &[NAME], |_| {})),
            of("P-384", leaf_with(root, &[NAME], &PKCS_ECDSA_P384_SHA384, |_| {})),
            of("expired", simple(|p| dated(p, 2001, 2002))),
            of("not yet valid", simple(|p| dated(p, 2101, 2102))),
            of("self-signed", self_signed()),
            of("unknown root", leaf(&other, &[NAME])),
            of("missing intermediate", bare),
            of("wrong name", leaf(root, &["www.example.com"])),
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
            of("everything", self.with_rsa(&other, 1024, &["b.example"], |p| dated(p, 2001, 2002))),
        ];
        animals.extend(self.by_openssl());
        animals
    }

    fn by_openssl(&self) -> Vec<Animal> {
        let with_names = &format!("subjectAltName=DNS:{NAME}\n");
        let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n";
        let of = |name, pair| Animal { name, pair, asked: NAME };
        let root = ("root.pem", "root.key");
        // The leaf, made last, and what is above it.
        let with = |above: &[&Vec<u8>], leaf: Vec<u8>| CertifiedKey {
            chain: [&[&leaf], above].concat().into_iter().cloned().collect(),
            key: pkcs8_of(self.at(), "leaf.pem.key"),
        };
        let one =
            |key, hash, extensions| with(&[], self.signed("leaf", root, key, hash, extensions));
        let sound = self.signed("sound", root, "rsa:2048", "-sha256", Some(authority));
        let middle = self.signed("middle", root, "rsa:2048", "-sha1", Some(authority));
        let sound_files = ("sound.pem", "sound.pem.key");
        let below = ("middle.pem", "middle.pem.key");
        let below_sha1 =
            with(&[&middle], self.signed("leaf", below, "ec:P-256", "-sha256", Some(with_names)));
        // There is no ECDSA with MD5, so it is an RSA intermediate that signs.
        let md5 = self.signed("leaf", sound_files, "ec:P-256", "-md5", Some(with_names));
        let md5 = with(&[&sound], md5);
        vec![
            of("P-224", one("ec:P-224", "-sha256", Some(with_names))),
            of("SHA-1", one("rsa:2048", "-sha1", Some(with_names))),
            of("MD5", md5),
            of("version 1", one("rsa:2048", "-sha256", None)),
            of("common name only", one("ec:P-256", "-sha256", Some("basicConstraints=CA:FALSE\n"))),
            of("SHA-1 intermediate", below_sha1),
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

    /// An RSA key that rcgen does not make: too short, or too long to be made for each run.
    fn with_rsa(
        &self,
        issuer: &Authority,
        bits: usize,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertifiedKey {
        let option = format!("rsa_keygen_bits:{bits}");
        if bits == 8192 {
            write(self.at(), "rsa.key", RSA_8192);
        } else {
            let made = ["genpkey", "-algorithm", "RSA", "-pkeyopt", &option, "-out", "rsa.key"];
            openssl(self.at(), &made);
        }
        let public = openssl(self.at(), &["pkey", "-pubout", "-in", "rsa.key"]).stdout;
        let public = SubjectPublicKeyInfo::from_pem(&text(public)).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let certificate = params.signed_by(&public, &issuer.issuer).unwrap();
        CertifiedKey {
            chain: vec![certificate.der().to_vec()],
            key: pkcs8_of(self.at(), "rsa.key"),
        }
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

fn many_names(root: &Authority) -> CertifiedKey {
    let mut names: Vec<String> = (0..999).map(|number| format!("host-{number}.example")).collect();
    names.push(NAME.to_owned());
    leaf(root, &names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn self_signed() -> CertifiedKey {
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let key = p256();
    pair(vec![params.self_signed(&key).unwrap().der().to_vec()], &key)
}

fn below(root: &Authority, change: impl FnOnce(&mut CertificateParams)) -> CertifiedKey {
    leaf(&intermediate("Odd middle", root, change), &[NAME])
}

/// An intermediate that may have none below it has one.
fn too_long(root: &Authority) -> CertifiedKey {
    let last = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let first = intermediate("First", root, last);
    let second = intermediate("Second", &first, |_| {});
    let mut pair = leaf(&second, &[NAME]);
    pair.chain.push(first.der().to_vec());
    pair
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn pem(directory: &Path, der: &[u8]) -> Vec<u8> {
    write(directory, "one.der", der);
    openssl(directory, &["x509", "-inform", "DER", "-in", "one.der"]).stdout
}
