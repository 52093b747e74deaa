//! As many certificates as a device may have (SPEC T6), between real ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::lab;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use weir_lab::bench::Bench;
use weir_lab::document;
use weir_lab::ends::{OWN_SERVER, SERVER};
use weir_lab::tls::connect;
use weir_lab::wire::lab::Lab;
use weir_policy::configuration::MAX_CERTIFICATES;

/// Of another server proxy than [`OWN_SERVER`]. A server policy wins over the client policy.
const RSA_SERVER: Ipv4Addr = SERVER;
/// Certificates of one of the two proxies; the other has the rest, of RSA.
const ECDSA: usize = 900;

struct Made {
    /// As in the document.
    certificate: String,
    key: String,
    der: Vec<u8>,
}

/// Two names each, one of them a wildcard: `host-N.example` and `*.wild-N.example`.
fn make(bench: &Bench<Lab>, numbers: std::ops::Range<usize>) -> Vec<Made> {
    let authority = &bench.ends.certificates.public_ca;
    let key = KeyPair::from_pem(&authority.key_pem().unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate_pem().unwrap(), key).unwrap();
    // RSA keys take long: these have one in common.
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let one = |number: usize| {
        let names = vec![format!("host-{number}.example"), format!("*.wild-{number}.example")];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("host {number}"));
        let own = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = if number < ECDSA { &own } else { &rsa };
        let certificate = params.signed_by(key, &issuer).unwrap();
        Made {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    };
    numbers.map(one).collect()
}

/// The lab's document with these two server proxies' certificates in place of the shop's.
fn document(bench: &Bench<Lab>, ecdsa: &[&Made], rsa: &[&Made]) -> String {
    let text = document::weir_section(&bench.ends.certificates).unwrap();
    let from = text.find("  server-proxies:\n").unwrap();
    let mut text = text[..from].replace(
        "      client-policies:\n",
        "        - name: rsa\n          server-proxy: rsa\n      client-policies:\n",
    );
    text += "  server-proxies:\n";
    for (name, address, certificates) in [("shop", OWN_SERVER, ecdsa), ("rsa", RSA_SERVER, rsa)] {
        let _ = write!(
            text,
            "    - name: {name}\n      destinations: [\"{address}/32\"]\n      \
             detection-ports: [\"443\"]\n      service: http\n      certificates:\n"
        );
        for made in certificates {
            let block = |pem: &str| -> String {
                pem.lines().map(|line| format!("            {line}\n")).collect()
            };
            let (certificate, key) = (block(&made.certificate), block(&made.key));
            let _ = write!(text, "        - certificate: |\n{certificate}          key: |\n{key}");
        }
    }
    text
}

/// The certificate that a client is shown which asks for this name.
fn shown(bench: &Bench<Lab>, address: Ipv4Addr, name: &str) -> Vec<u8> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(aws_lc_rs::default_provider())))
        .with_no_client_auth();
    let stream = bench.ends.connect_from_client(SocketAddr::from((address, 443))).unwrap();
    connect(stream, &Arc::new(config), name).unwrap().1.to_vec()
}

/// Of the engine, in KiB.
fn resident(bench: &Bench<Lab>) -> u64 {
    let status = format!("/proc/{}/status", bench.wire.engine().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until the agent's log tells this.
fn logged(bench: &Bench<Lab>, words: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !bench.wire.log().unwrap().contains(words) {
        assert!(Instant::now() < deadline, "never told: {words}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_thousand_certificates_are_chosen_from_and_not_one_more() {
    let bench = lab();
    let made = make(&bench, 0..MAX_CERTIFICATES);
    let (ecdsa, rsa) = made.split_at(ECDSA);
    let (mut ecdsa, mut rsa): (Vec<_>, Vec<_>) = (ecdsa.iter().collect(), rsa.iter().collect());
    // One of them twice.
    ecdsa.pop();
    ecdsa.insert(0, &made[7]);
    let text = document(&bench, &ecdsa, &rsa);
    let (before, started) = (resident(&bench), Instant::now());
    bench.provision(&text).unwrap();
    let grown = resident(&bench).saturating_sub(before);
    println!(
        "{MAX_CERTIFICATES} certificates, a document of {} KiB: in force after {:?}, engine grown by \
         {grown} KiB",
        text.len() >> 10,
        started.elapsed()
    );
    assert!(grown < 32 << 10, "{grown} KiB");

    let check = |bench: &Bench<Lab>| {
        for (address, name, number) in [
            (OWN_SERVER, "host-0.example", 0),
            (OWN_SERVER, "host-7.example", 7),
            (OWN_SERVER, "HOST-898.Example", 898),
            (OWN_SERVER, "www.wild-450.example", 450),
            (OWN_SERVER, "a.b.wild-450.example", 7),
            (OWN_SERVER, "wild-450.example", 7),
            (OWN_SERVER, "host-950.example", 7),
            (RSA_SERVER, "host-999.example", 999),
            (RSA_SERVER, "x.wild-900.example", 900),
            (RSA_SERVER, "host-1.example", 900),
        ] {
            let expected = &made[number].der;
            assert!(&shown(bench, address, name) == expected, "{name} at {address}");
        }
    };
    check(&bench);

    // One more: refused, with the limit in words, and what runs stays.
    rsa.push(&made[899]);
    bench.wire.configure(&document(&bench, &ecdsa, &rsa)).unwrap();
    logged(&bench, "have 1001 certificates together; at most 1000 are allowed");
    check(&bench);

    // As many, but of both kinds in one proxy.
    ecdsa.pop();
    bench.wire.configure(&document(&bench, &ecdsa, &rsa)).unwrap();
    logged(&bench, "is an ECDSA certificate, the first of this server proxy is RSA");
    check(&bench);
    bench.run.succeeded();
}

/// Whoever it is: what is shown is looked at afterwards.
#[derive(Debug)]
struct Anybody(CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
