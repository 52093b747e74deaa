//! Legs against the openssl command over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{authority, leaf, leaf_keys, leaf_with, write};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use weir_policy::snapshot::CertifiedKey;
use weir_tls::{Alert, LegError, LegKey, ModernStack, Negotiated, TlsLeg, Verdict};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Ends what it started when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Moves bytes between a leg and a socket until `done`, an error, or the socket's end.
fn run(
    leg: &mut dyn TlsLeg,
    socket: &mut TcpStream,
    mut done: impl FnMut(&mut dyn TlsLeg) -> bool,
) -> Result<(), LegError> {
    // Against a peer that hangs; nothing is measured by it.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let mut wire = Vec::new();
        leg.write_wire(&mut wire);
        let _ = socket.write_all(&wire);
        if done(leg) {
            return Ok(());
        }
        let length = socket.read(&mut buffer).expect("the peer answers");
        if length == 0 {
            return Ok(());
        }
        let result = leg.read_wire(&buffer[..length]);
        if let Err(error) = result {
            let mut alert = Vec::new();
            leg.write_wire(&mut alert);
            let _ = socket.write_all(&alert);
            return Err(error);
        }
    }
}

fn pem_files(directory: &Path, pair: &CertifiedKey) {
    for (name, der) in [("leaf.pem", &pair.chain[0]), ("authority.pem", &pair.chain[1])] {
        write(directory, "one.der", der);
        common::openssl(directory, &["x509", "-inform", "DER", "-in", "one.der", "-out", name]);
    }
    write(directory, "key.der", pair.key.expose());
    common::openssl(directory, &["pkey", "-inform", "DER", "-in", "key.der", "-out", "key.pem"]);
}

/// Runs `openssl s_server` and a server leg to it up to the end of its handshake.
fn with_server(
    options: &[&str],
) -> (Result<(), LegError>, Box<dyn TlsLeg>, TcpStream, Process, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority("CA", &PKCS_ECDSA_P256_SHA256);
    let pair = leaf_with(&authority, &["www.example.org"], &PKCS_RSA_SHA256, |_| {});
    pem_files(directory.path(), &pair);
    let mut command = Command::new("openssl");
    command
        .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "leaf.pem", "-key", "key.pem"])
        .args(["-cert_chain", "authority.pem", "-rev", "-naccept", "1"])
        .args(options)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = Process(command.spawn().unwrap());
    let output = BufReader::new(process.0.stdout.take().unwrap());
    // "ACCEPT 127.0.0.1:40123"
    let port: u16 = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit(':').next()?.trim().parse().ok())
        .expect("s_server says where it listens");
    let mut socket = TcpStream::connect((LOOPBACK, port)).unwrap();
    let mut leg = ModernStack::new()
        .unwrap()
        .server_leg(Some("www.example.org"), (LOOPBACK, port).into(), vec![b"http/1.1".to_vec()])
        .unwrap();
    let result = run(leg.as_mut(), &mut socket, |leg| !leg.handshaking());
    (result, leg, socket, process, directory)
}

#[test]
fn server_leg_speaks_to_openssl_in_both_versions() {
    for (option, version) in [("-tls1_3", "TLS 1.3"), ("-tls1_2", "TLS 1.2")] {
        let (result, mut leg, mut socket, _process, _directory) =
            with_server(&[option, "-alpn", "http/1.1"]);
        result.unwrap();
        let negotiated = leg.negotiated().unwrap();
        assert_eq!(negotiated.version.to_string(), version);
        assert_eq!(negotiated.group.unwrap().to_string(), "x25519");
        assert!(negotiated.signature.unwrap().to_string().starts_with("rsa_pss_rsae"));
        assert_eq!(negotiated.alpn_text().as_deref(), Some("http/1.1"));
        assert_eq!(leg.peer_chain().unwrap().len(), 2);
        assert!(!leg.client_certificate_requested());
        // -rev answers each line reversed.
        assert_eq!(leg.write_plain(b"weir\n"), 5);
        let mut answer = Vec::new();
        run(leg.as_mut(), &mut socket, |leg| {
            leg.read_plain(&mut answer);
            answer.ends_with(b"\n")
        })
        .unwrap();
        assert_eq!(answer, b"riew\n");
    }
}

#[test]
fn openssl_asking_for_a_client_certificate_is_told() {
    for option in ["-tls1_3", "-tls1_2"] {
        let (result, leg, _socket, _process, _directory) = with_server(&[option, "-verify", "1"]);
        result.unwrap();
        assert!(leg.client_certificate_requested(), "{option}");
    }
}

#[test]
fn openssl_that_knows_no_modern_suite_refuses_by_alert() {
    let (result, ..) = with_server(&["-tls1_2", "-cipher", "AES128-SHA"]);
    assert_eq!(result, Err(LegError::AlertReceived(Alert::HANDSHAKE_FAILURE)));
}

/// Runs `openssl s_client` against a client leg; what the leg negotiated and what the client said.
fn with_client(
    key: &LegKey,
    root: &[u8],
    options: &[&str],
    alpn: Option<&[u8]>,
) -> (Result<Option<Negotiated>, LegError>, String) {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "root.der", root);
    let pem = ["x509", "-inform", "DER", "-in", "root.der", "-out", "root.pem"];
    common::openssl(directory.path(), &pem);
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &address, "-servername", "www.example.org"])
        .args(["-CAfile", "root.pem", "-verify_return_error", "-x509_strict"])
        .args(["-verify_hostname", "www.example.org", "-brief"])
        .args(options)
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut input = process.0.stdin.take().unwrap();
    input.write_all(b"hello from openssl\n").unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let mut leg = ModernStack::new()
        .unwrap()
        .client_leg(key, Verdict::default(), alpn.map(<[u8]>::to_vec))
        .unwrap();
    let mut heard = Vec::new();
    let result = run(leg.as_mut(), &mut socket, |leg| {
        leg.read_plain(&mut heard);
        heard.ends_with(b"\n")
    });
    let negotiated = leg.negotiated();
    if result.is_ok() && !heard.is_empty() {
        assert_eq!(heard, b"hello from openssl\n");
        leg.write_plain(b"hello from weir\n");
        leg.close_notify();
        let mut wire = Vec::new();
        leg.write_wire(&mut wire);
        socket.write_all(&wire).unwrap();
    }
    drop((socket, input));
    let mut said = String::new();
    process.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    process.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (result.map(|()| negotiated), said)
}

#[test]
fn openssl_accepts_a_client_leg_with_a_forged_certificate_in_both_versions() {
    let upstream = authority("Upstream", &PKCS_ECDSA_P256_SHA256);
    let server = leaf(&upstream, &["www.example.org"]);
    let signing = authority("Corporate CA", &PKCS_RSA_SHA256);
    let untrusted = authority("Untrusted", &PKCS_ECDSA_P256_SHA256);
    let forger = weir_tls::Forger::new(&signing.pair, &untrusted.pair, leaf_keys()).unwrap();
    let forged = forger
        .forge(&server.chain[0], weir_tls::Signer::Trusted, weir_tls::LeafKind::Ecdsa)
        .unwrap();
    for (option, version) in [("-tls1_3", "TLS 1.3"), ("-tls1_2", "TLS 1.2")] {
        let (result, said) = with_client(
            &forged,
            signing.der(),
            &[option, "-alpn", "h2,http/1.1"],
            Some(b"http/1.1"),
        );
        let negotiated = result.unwrap().unwrap();
        assert_eq!(negotiated.version.to_string(), version, "{said}");
        assert_eq!(negotiated.alpn_text().as_deref(), Some("http/1.1"));
        assert!(said.contains("Verification: OK"), "{said}");
        assert!(said.contains("hello from weir"), "{said}");
    }
    let warned = forger
        .forge(&server.chain[0], weir_tls::Signer::Untrusted, weir_tls::LeafKind::Ecdsa)
        .unwrap();
    let (result, said) = with_client(&warned, signing.der(), &["-tls1_3"], None);
    assert_eq!(result, Err(LegError::AlertReceived(Alert::UNKNOWN_CA)), "{said}");
}

#[test]
fn openssl_that_knows_no_ecdsa_accepts_the_rsa_leaf() {
    let upstream = authority("Upstream", &PKCS_ECDSA_P256_SHA256);
    let server = leaf(&upstream, &["www.example.org"]);
    let signing = authority("Corporate CA", &PKCS_RSA_SHA256);
    let untrusted = authority("Untrusted", &PKCS_ECDSA_P256_SHA256);
    let forger = weir_tls::Forger::new(&signing.pair, &untrusted.pair, leaf_keys()).unwrap();
    let forge = |kind| forger.forge(&server.chain[0], weir_tls::Signer::Trusted, kind).unwrap();
    let only_rsa = ["-tls1_2", "-cipher", "aRSA", "-sigalgs", "RSA+SHA256:RSA-PSS+SHA256"];
    let (result, said) =
        with_client(&forge(weir_tls::LeafKind::Rsa), signing.der(), &only_rsa, None);
    let negotiated = result.unwrap().unwrap();
    assert!(negotiated.suite.to_string().starts_with("TLS_ECDHE_RSA_"), "{negotiated:?} {said}");
    assert!(said.contains("Verification: OK"), "{said}");
    let (result, _) =
        with_client(&forge(weir_tls::LeafKind::Ecdsa), signing.der(), &only_rsa, None);
    assert!(result.is_err());
}
