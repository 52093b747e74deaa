//! What authorities say of certificates, and what it is worth: made by the openssl command.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod issuers;
mod lists;
mod ocsp;
mod sources;

use std::path::Path;

use common::{Authority, authority, authority_with, intermediate, leaf, leaf_with, openssl, write};
use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weir_policy::snapshot::CertifiedKey;
use weir_tls::TrustAnchors;
use weir_tls::verify::revocation::{
    Answer, AnswerError, RevocationList, SOURCES_BOUND, Sources, Status, judge_ocsp, ocsp_request,
};
use weir_tls::verify::{BUNDLE_BOUND, Failure, Issuer, Judged};

/// A leaf below an intermediate; the index of that authority in `directory`.
struct World {
    directory: tempfile::TempDir,
    middle: Authority,
    server: CertifiedKey,
    anchors: TrustAnchors,
    issuer: Issuer,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = authority("Root", &PKCS_RSA_SHA256);
        let middle = intermediate("Middle", &root, |_| {});
        let server = leaf(&middle, &["www.example.org"]);
        let anchors = TrustAnchors::new(&[root.der().to_vec()], false).unwrap();
        let judged = anchors.judge(&ders(&server.chain), None, 2048, UnixTime::now());
        assert!(judged.verdict.is_verified(), "{}", judged.verdict);
        let path = directory.path();
        pem(path, "middle", &middle.pair);
        pem(path, "leaf", &server);
        Self { middle, server, anchors, issuer: issuer_of(&judged), directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn leaf(&self) -> &[u8] {
        &self.server.chain[0]
    }

    /// openssl-ca's index: `V` or `R`, or nothing at all.
    fn index(&self, status: Option<&str>) {
        let shown = openssl(self.path(), &["x509", "-noout", "-serial", "-in", "leaf.pem"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let serial = shown.trim().trim_start_matches("serial=").to_owned();
        let line = status.map_or(String::new(), |status| {
            let revoked = if status == "R" { "260101000000Z" } else { "" };
            format!("{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n")
        });
        write(self.path(), "index", line.as_bytes());
        write(self.path(), "index.attr", b"unique_subject = no\n");
    }

    /// openssl's answer to our own request, signed by `signer`.
    fn ocsp(&self, status: Option<&str>, signer: &str, options: &[&str]) -> Vec<u8> {
        self.index(status);
        write(self.path(), "request", &ocsp_request(self.leaf(), &self.issuer).unwrap());
        let (certificate, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let fixed = ["ocsp", "-index", "index", "-CA", "middle.pem", "-reqin", "request"];
        let signed = ["-rsigner", &certificate, "-rkey", &key, "-respout", "answer"];
        openssl(self.path(), &[&fixed[..], &signed, options].concat());
        std::fs::read(self.path().join("answer")).unwrap()
    }

    fn judged(&self, answer: &[u8]) -> Result<Status, AnswerError> {
        let judged = judge_ocsp(self.leaf(), &self.issuer, answer, UnixTime::now());
        judged.map(|answer| answer.status)
    }

    /// openssl's list of what the index has revoked, signed by the authority of this name.
    fn list(&self, status: Option<&str>, signer: &str, extensions: &str) -> Vec<u8> {
        self.index(status);
        let configuration = format!(
            "[ca]\ndefault_ca=one\n[one]\ndatabase=index\ndefault_md=sha256\n\
             default_crl_days=7\ncrlnumber=number\n\
             [extensions]\nauthorityKeyIdentifier=keyid:always\n{extensions}\n"
        );
        write(self.path(), "number", b"01\n");
        write(self.path(), "ca.cnf", configuration.as_bytes());
        let (certificate, key) = (format!("{signer}.pem"), format!("{signer}.key"));
        let fixed = ["ca", "-gencrl", "-config", "ca.cnf", "-crlexts", "extensions"];
        let signed = ["-cert", &certificate, "-keyfile", &key, "-out", "list.pem"];
        openssl(self.path(), &[&fixed[..], &signed].concat());
        openssl(self.path(), &["crl", "-in", "list.pem", "-outform", "DER", "-out", "list"]);
        std::fs::read(self.path().join("list")).unwrap()
    }

    fn listed(&self, list: &[u8]) -> Result<Status, AnswerError> {
        self.listed_of(&ders(&self.server.chain), list)
    }

    /// Of a server that sends this chain.
    fn listed_of(&self, chain: &[CertificateDer<'_>], list: &[u8]) -> Result<Status, AnswerError> {
        let issuer = issuer_of(&self.anchors.judge(chain, None, 2048, UnixTime::now()));
        let judged = judge_list(&chain[0], &issuer, list, UnixTime::now());
        judged.map(|answer| answer.status)
    }
}

fn judge_list(
    certificate: &[u8],
    issuer: &Issuer,
    list: &[u8],
    now: UnixTime,
) -> Result<Answer, AnswerError> {
    RevocationList::read(list, issuer)?.says(certificate, now)
}

/// The leaf's.
fn issuer_of(judged: &Judged) -> Issuer {
    judged.issued(&[]).next().unwrap().issuer.clone()
}

fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

/// NAME.pem and NAME.key.
fn pem(directory: &Path, name: &str, pair: &CertifiedKey) {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    write(directory, "one.der", &pair.chain[0]);
    openssl(directory, &["x509", "-inform", "DER", "-in", "one.der", "-out", &certificate]);
    write(directory, "one.der", pair.key.expose());
    openssl(directory, &["pkey", "-inform", "DER", "-in", "one.der", "-out", &key]);
}

fn later(seconds: i64) -> UnixTime {
    let now = UnixTime::now().as_secs().checked_add_signed(seconds).unwrap();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(now))
}

fn short(tag: u8, contents: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(contents.len()).unwrap()], contents].concat()
}
