use std::path::PathBuf;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::Shares;
use crate::names::{Group, SignatureScheme, Suite, Version};

fn seed(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/seeds/client_hello")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden(name: &str) -> ClientHello {
    match peek(&seed(name)) {
        Peek::Hello(hello) => hello,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn openssl_hello_of_tls_1_3_is_read() {
    let hello = golden("openssl-3.0-tls13.bin");
    assert_eq!(hello.legacy_version, Version::TLS12);
    assert_eq!(hello.versions, [0x0304, 0x0303, 0x0302, 0x0301].map(Version));
    assert_eq!(hello.server_name.as_deref(), Some("www.example.org"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(hello.groups.starts_with(&[Group(0x001d), Group(0x0017)]));
    assert!(hello.cipher_suites.starts_with(&[Suite(0x1302), Suite(0x1303), Suite(0x1301)]));
    assert!(hello.signature_schemes.contains(&SignatureScheme(0x0403)));
    assert!(!hello.encrypted_client_hello && !hello.pre_shared_key && !hello.early_data);
    assert!(hello.encrypt_then_mac && hello.null_compression && hello.session_id);
    assert_eq!(hello.wire_length, seed("openssl-3.0-tls13.bin").len());
    assert!(hello.supported());
}

#[test]
fn openssl_hello_of_tls_1_2_is_read_and_its_name_kept_as_sent() {
    let hello = golden("openssl-3.0-tls12.bin");
    assert_eq!(hello.versions, [Version::TLS12]);
    assert_eq!(hello.server_name.as_deref(), Some("WWW.Example.ORG"));
    assert!(hello.alpn.is_empty());
    assert!(hello.supported());
}

#[test]
fn hellos_without_a_modern_version_or_suite_are_not_supported() {
    let old = golden("openssl-3.0-tls11.bin");
    assert_eq!((old.versions.as_slice(), old.server_name.as_ref()), (&[Version(0x0302)][..], None));
    assert!(!old.supported());
    let rsa = golden("openssl-3.0-rsa-key-exchange.bin");
    assert_eq!(rsa.versions, [Version::TLS12]);
    assert!(!rsa.supported());
}

#[test]
fn groups_that_the_modern_stack_lacks_are_answered_by_the_legacy_one() {
    // X448, ffdhe2048 to ffdhe4096; ffdhe8192, brainpoolP256r1. In TLS 1.2 there is no DHE.
    let groups = [0x001e, 0x0100, 0x0101, 0x0102, 0x0104, 0x001a];
    for (hello, answered) in [
        ("openssl-3.0-tls13.bin", [true, true, true, true, false, false]),
        ("openssl-3.0-tls12.bin", [true, false, false, false, false, false]),
    ] {
        for (group, answered) in groups.into_iter().zip(answered) {
            let cipher_suites = vec![Suite(0x1301), Suite(0xc02f)];
            let groups = vec![Group(group)];
            let hello = ClientHello { groups, cipher_suites, ..golden(hello) };
            assert!(!hello.supported(), "{group:#x}");
            assert_eq!(hello.supported_by_any_stack(), answered, "{group:#x}");
            assert!(hello.with_all_groups_and_signatures().supported_by_any_stack());
        }
    }
}

/// RFC 8422 section 5.1: before TLS 1.3 the groups are those of certificates' keys, too. OpenSSL looks.
#[test]
fn client_of_tls_1_2_that_does_not_know_p_256_is_shown_an_rsa_leaf_where_it_takes_one() {
    use weir_policy::suites::Allowed;

    use crate::LeafKind;
    let leaf = |name: &str, groups: &[u16], suites: &[u16]| {
        let groups = groups.iter().copied().map(Group).collect();
        let cipher_suites = suites.iter().copied().map(Suite).collect();
        let hello = ClientHello { groups, cipher_suites, ..golden(name) };
        LeafKind::for_client(&hello, &Allowed::default())
    };
    let (tls12, both) = ("openssl-3.0-tls12.bin", [0xc02b, 0xc02f]);
    assert_eq!(leaf(tls12, &[0x1d, 0x17], &both), Some(LeafKind::Ecdsa));
    assert_eq!(leaf(tls12, &[0x1d], &both), Some(LeafKind::Rsa));
    // Many do not look.
    assert_eq!(leaf(tls12, &[0x1d], &[0xc02b]), Some(LeafKind::Ecdsa));
    assert_eq!(leaf("openssl-3.0-tls13.bin", &[0x1d], &[0x1301]), Some(LeafKind::Ecdsa));
}

#[test]
fn client_of_tls_1_3_is_answered_as_one_of_tls_1_2_where_the_proxy_has_no_suite_of_tls_1_3() {
    use weir_policy::suites::Allowed;

    use crate::LeafKind;
    let both = [0x1301, 0xc02b, 0xc02f];
    let hello = ClientHello {
        versions: vec![Version::TLS13, Version::TLS12],
        groups: vec![Group(0x1d)],
        cipher_suites: both.map(Suite).to_vec(),
        ..golden("openssl-3.0-tls12.bin")
    };
    let leaf = |suites: &[u16]| {
        let allowed = Allowed { suites: suites.to_vec(), ..Allowed::default() };
        LeafKind::for_client(&hello, &allowed)
    };
    assert_eq!(leaf(&both[1..]), Some(LeafKind::Rsa));
}

#[test]
fn hello_tells_the_strongest_version_that_it_offers() {
    use weir_policy::suites::Protocol;
    for (name, version) in [
        ("openssl-3.0-tls13.bin", Protocol::Tls13),
        ("openssl-3.0-tls12.bin", Protocol::Tls12),
        ("openssl-3.0-tls11.bin", Protocol::Tls11),
    ] {
        assert_eq!(golden(name).strongest_version(), Some(version), "{name}");
    }
}

#[test]
fn hello_in_several_records_is_read() {
    let hello = golden("openssl-3.0-split-records.bin");
    assert_eq!(hello.server_name.as_deref(), Some("split.example"));
    assert_eq!(hello.alpn.len(), 60);
}

#[test]
fn curl_hello_is_read() {
    let hello = golden("curl.bin");
    assert_eq!(hello.server_name.as_deref(), Some("curl.example"));
    assert!(hello.alpn.contains(&b"http/1.1".to_vec()));
}

#[test]
fn rustls_hello_with_post_quantum_key_share_is_read() {
    let mut wire = Vec::new();
    let stack = crate::ModernStack::new().unwrap();
    let address = "192.0.2.1:443".parse().unwrap();
    let alpn = vec![b"http/1.1".to_vec()];
    let mut leg = stack.server_leg(Some("pq.example"), address, alpn.clone()).unwrap();
    leg.write_wire(&mut wire);
    let Peek::Hello(hello) = peek(&wire) else { panic!("{:?}", peek(&wire)) };
    assert!(wire.len() > 1184, "a key share of ML-KEM-768: {}", wire.len());
    assert_eq!(hello.groups.first(), Some(&Group(0x11ec)));
    assert_eq!(hello.server_name.as_deref(), Some("pq.example"));
    assert_eq!(hello.alpn, alpn);
    assert!(hello.supported());
    assert_eq!(Shares::as_client(&hello), Shares::PostQuantum);
    // It lists the group, and has no share of it.
    let listing = ClientHello { wire_length: 600, ..hello };
    assert_eq!(Shares::as_client(&listing), Shares::Classic);
}

/// The legacy stack serves nobody who only has to say nonsense.
#[test]
fn only_names_whose_one_fault_is_a_hyphen_or_a_number_are_not_the_modern_stacks() {
    for (name, takes) in [
        ("a.example", true),
        ("a-.example", false),
        ("a-.b--.example", false),
        ("-a.example", false),
        ("node.10", false),
        ("node.10.", false),
        ("node..10", true),
        ("a..example", true),
        ("a-..example", true),
        ("-.example", true),
        ("host:443", true),
        ("192.0.2.1", true),
    ] {
        assert_eq!(crate::ModernStack::takes_name(name), takes, "{name}");
    }
}

/// There are servers that never answer a hello of two segments.
#[test]
fn hello_to_the_server_of_a_client_without_ml_kem_fits_into_the_smallest_segment() {
    let stack = crate::ModernStack::new().unwrap();
    let server = weir_policy::Place::default().server("192.0.2.1:443".parse().unwrap());
    let name = [["a"; 60].concat(), "example".to_owned()].join(".");
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let leg = stack.server_leg_offering(Some(&name), server, alpn, Shares::Classic);
    let mut wire = Vec::new();
    leg.unwrap().write_wire(&mut wire);
    let Peek::Hello(hello) = peek(&wire) else { panic!("{:?}", peek(&wire)) };
    // TCP's default maximum segment size (RFC 9293 section 3.7.1).
    assert!(wire.len() <= 536, "{}", wire.len());
    assert!(hello.supported());
    assert_eq!(Shares::as_client(&hello), Shares::Classic);
}

#[test]
fn cleartext_is_named() {
    assert_eq!(peek(&seed("http-request.bin")), Peek::NotTls(Cleartext::Http));
    assert_eq!(peek(&seed("smtp-ehlo.bin")), Peek::NotTls(Cleartext::Smtp));
    assert_eq!(peek(&seed("ssh.bin")), Peek::NotTls(Cleartext::Ssh));
    assert_eq!(peek(b"\x15\x03\x01\x00\x02"), Peek::NotTls(Cleartext::Other));
}

#[test]
fn sslv2_format_hello_is_recognised() {
    let hello = seed("sslv2-format.bin");
    assert_eq!(peek(&hello), Peek::Sslv2);
    for length in 0..5 {
        assert_eq!(peek(&hello[..length]), Peek::Incomplete);
    }
}

#[test]
fn what_cannot_become_tls_is_told_by_the_first_byte_that_excludes_it() {
    assert_eq!(peek(b""), Peek::Incomplete);
    assert_eq!(peek(b"G"), Peek::NotTls(Cleartext::Other));
    assert_eq!(peek(&[0x16]), Peek::Incomplete);
    assert_eq!(peek(&[0x16, 0x10]), Peek::NotTls(Cleartext::Other));
    assert_eq!(peek(&[0x16, 2, 0, 0x49]), Peek::NotTls(Cleartext::Other));
    assert_eq!(peek(&[0x16, 2, 0, 0, 9]), Peek::Incomplete);
    assert_eq!(peek(&[0x16, 2, 0, 0, 9, 2]), Peek::NotTls(Cleartext::Other));
    assert_eq!(peek(&[0x80, 0x2e]), Peek::Incomplete);
    assert_eq!(peek(&[0x80, 0x2e, 2]), Peek::NotTls(Cleartext::Other));
    assert_eq!(peek(&[0x16, 3, 1, 0x40, 1]), Peek::Malformed(HelloError::OversizedRecord(0x4001)));
    assert_eq!(peek(&[0x16, 3, 1, 0, 5, 2]), Peek::Malformed(HelloError::NotClientHello));
}

/// Servers in Go take any below 0x1000, and of each record until they know the session's.
#[test]
fn record_versions_that_only_some_servers_take_do_not_hide_a_hello() {
    let plain = seed("openssl-3.0-tls13.bin");
    for version in [[2, 1], [0, 0], [15, 255]] {
        let mut odd = plain.clone();
        odd[1..3].copy_from_slice(&version);
        assert_eq!(peek(&odd), peek(&plain), "{version:?}");
        // The first half in a record of a usual version, the rest in one of this.
        let (first, rest) = plain[5..].split_at(100);
        let mut two = [&[0x16, 3, 1, 0, 100], first, &[0x16], &version].concat();
        two.extend((rest.len() as u16).to_be_bytes());
        two.extend(rest);
        assert!(matches!(peek(&two), Peek::Hello(_)), "{version:?}");
    }
}

/// Servers in use pass over them: they must not hide a hello from us.
#[test]
fn empty_records_do_not_hide_a_hello() {
    let hello = seed("openssl-3.0-tls13.bin");
    let empty = [0x16, 3, 1, 0, 0];
    assert_eq!(peek(&empty), Peek::Incomplete);
    let found = peek(&[&empty[..], &empty, &hello].concat());
    assert!(matches!(found, Peek::Hello(_)), "{found:?}");
}

#[test]
fn hello_over_the_bound_is_oversize_at_once() {
    // A handshake header that announces 64 KiB and a byte.
    assert_eq!(peek(&[0x16, 3, 1, 0x40, 0, 1, 1, 0, 1]), Peek::Oversize);
    // Exactly 64 KiB is waited for.
    assert_eq!(peek(&[0x16, 3, 1, 0x40, 0, 1, 1, 0, 0]), Peek::Incomplete);
}

#[test]
fn hello_in_endless_small_records_is_oversize() {
    let mut wire = Vec::new();
    for byte in [1, 1, 0, 0].into_iter().chain(std::iter::repeat(0)).take(MAX_WIRE / 6 + 1) {
        wire.extend_from_slice(&[0x16, 3, 1, 0, 1, byte]);
    }
    assert_eq!(peek(&wire[..MAX_WIRE - 1]), Peek::Incomplete);
    assert_eq!(peek(&wire), Peek::Oversize);
}

/// Else who sends one would pass as a client that cannot be understood.
#[test]
fn hello_whose_server_name_names_no_host_is_well_formed_and_without_a_name() {
    let with = |name: &[u8]| {
        let length = |more: usize| u16::try_from(name.len() + more).unwrap().to_be_bytes();
        let extension = [&[0, 0][..], &length(5), &length(3), &[0], &length(0), name].concat();
        let generated = Generated { raw_extensions: extension, ..Generated::plain() };
        match peek(&records(&generated.message(), &[])) {
            Peek::Hello(hello) => (hello.server_name, hello.invalid_server_name),
            other => panic!("{other:?}"),
        }
    };
    let invalid = |text: &str| (None, Some(text.to_owned()));
    assert_eq!(with(b"a.example"), (Some("a.example".to_owned()), None));
    assert_eq!(with(b"\0"), invalid(r"\x00"));
    assert_eq!(with("\u{fc}.example".as_bytes()), invalid(r"\xc3\xbc.example"));
    assert_eq!(with(b"a..b"), invalid("a..b"));
    assert_eq!(with(&[b'l'; 300]), invalid(&"l".repeat(255)));
    assert_eq!(with(b""), invalid("\"\""));
}

#[test]
fn broken_hellos_are_malformed_by_name() {
    let with = |extensions: &[u8]| {
        let generated = Generated { raw_extensions: extensions.to_vec(), ..Generated::plain() };
        peek(&records(&generated.message(), &[]))
    };
    let twice = [0, 22, 0, 0, 0, 22, 0, 0];
    assert_eq!(with(&twice), Peek::Malformed(HelloError::DuplicateExtension(22)));
    let key_then_more = [0, 41, 0, 0, 0, 22, 0, 0];
    assert_eq!(with(&key_then_more), Peek::Malformed(HelloError::PreSharedKeyNotLast));
    let two_names = [0, 0, 0, 10, 0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'];
    assert_eq!(with(&two_names), Peek::Malformed(HelloError::SeveralServerNames));
    let odd = [0, 10, 0, 5, 0, 3, 0, 29, 0];
    assert_eq!(with(&odd), Peek::Malformed(HelloError::Length(Field::Groups)));
    let short = [0, 22, 0, 1];
    assert_eq!(with(&short), Peek::Malformed(HelloError::Truncated(Field::Extensions)));

    let mut trailing = Generated::plain().message();
    trailing.push(0);
    assert_eq!(peek(&records(&trailing, &[])), Peek::Malformed(HelloError::TrailingHandshake));

    let message = Generated::plain().message();
    let mut interrupted = records(&message, &[10]);
    interrupted[15] = 23;
    assert_eq!(peek(&interrupted), Peek::Malformed(HelloError::InterruptedByRecord(23)));
}

#[test]
fn seeds_are_looked_at_without_a_panic_at_every_length() {
    let directory =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/client_hello");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let whole = peek(&bytes);
        for length in 0..bytes.len() {
            let part = peek(&bytes[..length]);
            if matches!(whole, Peek::Hello(_)) {
                assert_eq!(part, Peek::Incomplete, "prefix of {length}");
            }
        }
        count += 1;
    }
    assert!(count >= 10);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2048)) {
        peek(&bytes);
    }

    #[test]
    fn arbitrary_bytes_in_a_handshake_record_never_panic(bytes in vec(any::<u8>(), 1..2048)) {
        let mut message = vec![1, 0];
        message.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        message.extend_from_slice(&bytes);
        peek(&records(&message, &[]));
    }

    #[test]
    fn mutated_seeds_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = seed("openssl-3.0-tls13.bin");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        peek(&bytes);
    }

    #[test]
    fn what_was_generated_is_read(generated in generated()) {
        let wire = records(&generated.message(), &[]);
        let Peek::Hello(hello) = peek(&wire) else { panic!("{:?}", peek(&wire)) };
        let grease = |code: &u16| code & 0x0f0f == 0x0a0a && code >> 8 == code & 0xff;
        let kept = |codes: &[u16]| -> Vec<u16> {
            codes.iter().copied().filter(|code| !grease(code)).collect()
        };
        let (host, other) = match generated.server_name {
            Some(name) if is_host_name(&name) => (Some(name), false),
            other => (None, other.is_some()),
        };
        prop_assert_eq!(hello.server_name, host);
        prop_assert_eq!(hello.invalid_server_name.is_some(), other);
        prop_assert_eq!(hello.alpn, generated.alpn);
        prop_assert_eq!(
            hello.cipher_suites.iter().map(|suite| suite.0).collect::<Vec<_>>(),
            kept(&generated.suites)
        );
        prop_assert_eq!(
            hello.groups.iter().map(|group| group.0).collect::<Vec<_>>(),
            kept(&generated.groups)
        );
        prop_assert_eq!(
            hello.versions.iter().map(|version| version.0).collect::<Vec<_>>(),
            match &generated.versions {
                Some(versions) => kept(versions),
                None => vec![0x0303],
            }
        );
        prop_assert_eq!(hello.wire_length, wire.len());
    }

    #[test]
    fn every_prefix_is_incomplete(generated in generated(), cut in any::<prop::sample::Index>()) {
        let wire = records(&generated.message(), &[7, 100]);
        let length = cut.index(wire.len());
        prop_assert_eq!(peek(&wire[..length]), Peek::Incomplete);
    }

    #[test]
    fn fragmentation_into_records_changes_nothing(
        generated in generated(),
        sizes in vec(1usize..400, 0..40),
        behind in vec(any::<u8>(), 0..20),
    ) {
        let message = generated.message();
        let Peek::Hello(mut whole) = peek(&records(&message, &[])) else { panic!("generator") };
        let mut wire = records(&message, &sizes);
        whole.wire_length = wire.len();
        // What follows the hello's records, early data perhaps, is not its business.
        wire.extend_from_slice(&behind);
        prop_assert_eq!(peek(&wire), Peek::Hello(whole));
    }
}

/// All that a server goes by, else: what it would agree on in a full handshake must not depend on it.
#[test]
fn hello_without_its_session_is_the_same_else() {
    let ticket = [&[0, 35][..], &prefixed(2, &[9; 160])].concat();
    let early_data = [0, 42, 0, 0];
    let pre_shared_key = [&[0, 41][..], &prefixed(2, &[7; 90])].concat();
    for (more, length) in [(0, 0), (1, 20_000)] {
        let long = [&[0, 21][..], &prefixed(2, &vec![0; length])].concat();
        let long = if more == 0 { Vec::new() } else { long };
        let raw_extensions = [&ticket[..], &early_data, &long, &pre_shared_key].concat();
        let generated = Generated {
            server_name: Some("a.example".into()),
            groups: vec![0x001d, 0x001a],
            versions: Some(vec![0x0304, 0x0303]),
            raw_extensions,
            ..Generated::plain()
        };
        let wire = records(&generated.message(), &[9, 100]);
        let Peek::Hello(hello) = peek(&wire) else { panic!("{:?}", peek(&wire)) };
        assert!(hello.session_id && hello.session_ticket);
        assert!(hello.pre_shared_key && hello.early_data);
        let behind = [&wire[..], b"early data"].concat();
        let without = without_session(&behind).unwrap();
        let mut extensions = hello.extensions.clone();
        extensions.retain(|kind| ![41, 42].contains(kind));
        let expected = ClientHello {
            session_id: false,
            session_ticket: false,
            pre_shared_key: false,
            early_data: false,
            extensions,
            wire_length: without.len(),
            ..hello
        };
        assert_eq!(peek(&without), Peek::Hello(expected));
        assert_eq!(without_session(&without), Some(without));
    }
    assert_eq!(without_session(b"GET / HTTP/1.1"), None);
}

/// A hello to be encoded; the parser's mirror image, written apart from it.
#[derive(Clone, Debug)]
struct Generated {
    suites: Vec<u16>,
    server_name: Option<String>,
    alpn: Vec<Vec<u8>>,
    groups: Vec<u16>,
    versions: Option<Vec<u16>>,
    /// Appended as they are.
    raw_extensions: Vec<u8>,
}

impl Generated {
    fn plain() -> Self {
        Self {
            suites: vec![0x1301],
            server_name: None,
            alpn: Vec::new(),
            groups: Vec::new(),
            versions: None,
            raw_extensions: Vec::new(),
        }
    }

    fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut add = |kind: u16, data: Vec<u8>| {
            extensions.extend_from_slice(&kind.to_be_bytes());
            extensions.extend_from_slice(&prefixed(2, &data));
        };
        add(0x2a2a, Vec::new());
        if let Some(name) = &self.server_name {
            let entry = [vec![0], prefixed(2, name.as_bytes())].concat();
            add(0, prefixed(2, &entry));
        }
        if !self.alpn.is_empty() {
            let list: Vec<u8> = self.alpn.iter().flat_map(|name| prefixed(1, name)).collect();
            add(16, prefixed(2, &list));
        }
        if !self.groups.is_empty() {
            add(10, prefixed(2, &codes(&self.groups)));
        }
        if let Some(versions) = &self.versions {
            add(43, prefixed(1, &codes(versions)));
        }
        extensions.extend_from_slice(&self.raw_extensions);
        let body = [
            vec![3, 3],
            vec![7; 32],
            prefixed(1, &[1, 2, 3]),
            prefixed(2, &codes(&self.suites)),
            prefixed(1, &[0]),
            prefixed(2, &extensions),
        ]
        .concat();
        [vec![1], prefixed(3, &body)].concat()
    }
}

fn generated() -> impl Strategy<Value = Generated> {
    // Names of two bytes could be GREASE.
    let protocol = vec(any::<u8>(), 3..20);
    (
        vec(any::<u16>(), 1..80),
        option::of(prop_oneof!["[a-z0-9.-]{1,200}", r"([a-z0-9]{1,20}\.){0,5}[a-z]{2,9}"]),
        vec(protocol, 0..8),
        vec(any::<u16>(), 0..20),
        option::of(vec(any::<u16>(), 1..8)),
    )
        .prop_map(|(suites, server_name, alpn, groups, versions)| Generated {
            suites,
            server_name,
            alpn,
            groups,
            versions,
            raw_extensions: Vec::new(),
        })
}

fn codes(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|code| code.to_be_bytes()).collect()
}

/// `data` behind its length in `width` bytes.
fn prefixed(width: usize, data: &[u8]) -> Vec<u8> {
    let length = data.len().to_be_bytes();
    [&length[length.len() - width..], data].concat()
}

/// `message` in records of these sizes; what is left over in records as long as may be.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = message;
    let mut sizes = sizes.iter().copied();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1 << 14).min(rest.len());
        let (fragment, after) = rest.split_at(size);
        wire.extend_from_slice(&[0x16, 3, 1]);
        wire.extend_from_slice(&prefixed(2, fragment));
        rest = after;
    }
    wire
}
