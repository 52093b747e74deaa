//! The one order of judgement, from documents to decisions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod properties;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;

use properties::every_first_bytes;
use proptest::prelude::*;
use support::load;
use weir_policy::judge::{Answers, PolicyKind};
use weir_policy::outcome::{Blocked, Bypassed, NotDecrypted};
use weir_policy::snapshot::*;
use weir_policy::{
    Candidate, Decision, FirstBytes, Inspection, Outcome, Quic, Resets, Snapshot, Support, judge,
    judge_quic,
};

/// Server proxy on 192.0.2.0/24 and 2001:db8::/32 ports 443, 8440-8449; client proxy on port 443
/// anywhere; one virtual segment on segment 1 from side A, sources 10.0.0.0/8.
fn whole() -> Snapshot {
    load(include_str!("../documents/whole.yaml")).unwrap().compile(1, None)
}

const SERVED: &str = "192.0.2.9:443";
const ELSEWHERE: &str = "198.51.100.1:443";

fn flow(server: &str) -> Candidate {
    Candidate {
        segment: SegmentId(1),
        from: Side::A,
        vlan: None,
        client: "10.1.1.1:50000".parse().unwrap(),
        server: server.parse().unwrap(),
    }
}

fn hello(name: &str) -> FirstBytes<'_> {
    FirstBytes::ClientHello { server_name: Some(name), support: Support::Full, encrypted: false }
}

fn take_over(policy: PolicyKind) -> Decision {
    let answers = Answers { profile: 0, trusted: false };
    let (virtual_segment, profile) = (0, 0);
    Decision::TakeOver(Inspection { virtual_segment, profile, policy, trusted: false, answers })
}

fn bypassed(reason: Bypassed) -> Decision {
    Decision::Release(Outcome::Bypassed(reason))
}

#[test]
fn server_policy_wins_over_client_policy() {
    let snapshot = whole();
    let decide = |server| judge(&snapshot, &flow(server), &hello("x.example"));
    assert_eq!(decide(SERVED), take_over(PolicyKind::Server(0)));
    assert_eq!(decide("192.0.2.9:8449"), take_over(PolicyKind::Server(0)));
    assert_eq!(decide("[2001:db8::1]:443"), take_over(PolicyKind::Server(0)));
    assert_eq!(decide(ELSEWHERE), take_over(PolicyKind::Client(0)));
}

#[test]
fn what_no_policy_covers_is_bypassed() {
    let snapshot = whole();
    let no_policy = bypassed(Bypassed::NoPolicy);
    let covered = flow(SERVED);
    for candidate in [
        Candidate { segment: SegmentId(2), ..covered },
        Candidate { from: Side::B, ..covered },
        Candidate { client: "172.16.0.1:50000".parse().unwrap(), ..covered },
        flow("192.0.2.9:8450"),
        flow("198.51.100.1:8440"),
    ] {
        assert_eq!(judge(&snapshot, &candidate, &hello("x.example")), no_policy, "{candidate:?}");
    }
    assert_eq!(judge(&Snapshot::default(), &covered, &hello("x.example")), no_policy);
}

#[test]
fn device_settings_turn_each_side_off() {
    let mut snapshot = whole();
    snapshot.device.server_inspection = false;
    let decide = |snapshot: &Snapshot| judge(snapshot, &flow(SERVED), &hello("x.example"));
    assert_eq!(decide(&snapshot), take_over(PolicyKind::Client(0)));
    snapshot.device.client_inspection = false;
    assert_eq!(decide(&snapshot), bypassed(Bypassed::NoPolicy));
}

#[test]
fn first_virtual_segment_that_matches_owns_the_flow() {
    let mut snapshot = whole();
    snapshot.profiles.push(Profile {
        name: "nothing".into(),
        server_policies: vec![],
        client_policies: vec![],
        filters: vec![],
    });
    let mut tagged = snapshot.virtual_segments[0].clone();
    tagged.vlans = vec![7];
    tagged.profile = 1;
    snapshot.virtual_segments.insert(0, tagged);
    let candidate = Candidate { vlan: Some(7), ..flow(SERVED) };
    assert_eq!(judge(&snapshot, &candidate, &hello("x")), bypassed(Bypassed::NoPolicy));
    let candidate = Candidate { vlan: Some(8), ..flow(SERVED) };
    let Decision::TakeOver(inspection) = judge(&snapshot, &candidate, &hello("x")) else {
        panic!("untouched by the virtual segment of another VLAN");
    };
    assert_eq!(inspection.virtual_segment, 1);
}

#[test]
fn source_exception_comes_before_everything_the_client_sends() {
    let snapshot = whole();
    let candidate = Candidate { client: "10.9.3.4:50000".parse().unwrap(), ..flow(SERVED) };
    for first in every_first_bytes() {
        assert_eq!(
            judge(&snapshot, &candidate, &first),
            Decision::Release(Outcome::NotDecrypted(NotDecrypted::SourceException))
        );
    }
}

#[test]
fn what_is_no_whole_hello_is_blocked_on_a_server_proxy_and_bypassed_on_a_client_proxy() {
    let mut snapshot = whole();
    let not_tls = Blocked::NotTlsOnServerProxy;
    for (first, blocked, reason) in [
        (FirstBytes::NotTls, not_tls, Bypassed::NotTls),
        (FirstBytes::Sslv2Hello, not_tls, Bypassed::UnsupportedTls),
        (FirstBytes::Malformed, not_tls, Bypassed::MalformedHello),
        (FirstBytes::Oversize, not_tls, Bypassed::OversizeHello),
        (FirstBytes::Incomplete, Blocked::IncompleteHello, Bypassed::IncompleteHello),
        (FirstBytes::Ended, Blocked::IncompleteHello, Bypassed::EndedWhileHeld),
        (FirstBytes::ServerSpokeFirst, Blocked::ServerSpokeFirst, Bypassed::ServerSpokeFirst),
    ] {
        for server in [true, false] {
            snapshot.server_proxies[0].reset_server_on_block = server;
            let resets = Resets { client: true, server };
            let outcome = Outcome::Blocked(blocked);
            let decided = judge(&snapshot, &flow(SERVED), &first);
            assert_eq!(decided, Decision::Block { outcome, resets });
        }
        assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &first), bypassed(reason));
    }
}

/// Not let through as what cannot be understood, nor taken for a hello without a name.
#[test]
fn server_name_that_names_no_host_is_blocked_unless_policy_lets_it_pass() {
    let mut snapshot = whole();
    let outcome = Outcome::Blocked(Blocked::InvalidServerName);
    let first = FirstBytes::InvalidServerName;
    for action in [EvasionAction::Block, EvasionAction::Bypass] {
        assert_eq!(snapshot.device.evasion.invalid_server_name, EvasionAction::Block);
        snapshot.device.evasion.invalid_server_name = action;
        let on_server = judge(&snapshot, &flow(SERVED), &first);
        assert_eq!(on_server, Decision::Block { outcome, resets: Resets::BOTH });
        let expected = match action {
            EvasionAction::Block => Decision::Block { outcome, resets: Resets::BOTH },
            EvasionAction::Bypass => bypassed(Bypassed::InvalidServerName),
        };
        assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &first), expected);
    }
}

#[test]
fn what_could_be_evasion_is_bypassed_or_blocked_as_policy_says() {
    let mut snapshot = whole();
    let evasion = &mut snapshot.device.evasion;
    for action in [
        &mut evasion.malformed_hello,
        &mut evasion.oversize_hello,
        &mut evasion.incomplete_hello,
        &mut evasion.server_speaks_first,
    ] {
        *action = EvasionAction::Block;
    }
    for (first, passes, reason) in [
        (FirstBytes::Malformed, Bypassed::MalformedHello, Blocked::MalformedHello),
        (FirstBytes::Oversize, Bypassed::OversizeHello, Blocked::OversizeHello),
        (FirstBytes::Incomplete, Bypassed::IncompleteHello, Blocked::IncompleteHello),
        (FirstBytes::Ended, Bypassed::EndedWhileHeld, Blocked::IncompleteHello),
        (FirstBytes::ServerSpokeFirst, Bypassed::ServerSpokeFirst, Blocked::ServerSpokeFirst),
    ] {
        let outcome = Outcome::Blocked(reason);
        for client in [true, false] {
            snapshot.client_proxies[0].reset_client_on_block = client;
            let resets = Resets { client, server: true };
            let decided = judge(&snapshot, &flow(ELSEWHERE), &first);
            assert_eq!(decided, Decision::Block { outcome, resets });
        }
        assert_eq!(judge(&whole(), &flow(ELSEWHERE), &first), bypassed(passes));
    }
}

#[test]
fn hello_that_cannot_be_decrypted_is_bypassed_with_its_reason() {
    let snapshot = whole();
    for (support, reason) in [
        (Support::NoSuite, Bypassed::UnsupportedTls),
        (Support::NoGroupOrSignature, Bypassed::UnsupportedGroupOrSignature),
    ] {
        let first = FirstBytes::ClientHello { server_name: None, support, encrypted: false };
        for server in [SERVED, ELSEWHERE] {
            assert_eq!(judge(&snapshot, &flow(server), &first), bypassed(reason));
        }
    }
}

#[test]
fn hello_that_cannot_be_decrypted_is_blocked_where_policy_says_so() {
    let mut snapshot = whole();
    snapshot.device.evasion.unsupported_tls = EvasionAction::Block;
    let unsupported =
        FirstBytes::ClientHello { server_name: None, support: Support::NoSuite, encrypted: false };
    let outcome = Outcome::Blocked(Blocked::UnsupportedTls);
    for reset in [true, false] {
        snapshot.client_proxies[0].reset_client_on_block = reset;
        snapshot.server_proxies[0].reset_server_on_block = reset;
        for (server, resets) in [
            (ELSEWHERE, Resets { client: reset, server: true }),
            (SERVED, Resets { client: true, server: reset }),
        ] {
            let blocked = Decision::Block { outcome, resets };
            assert_eq!(judge(&snapshot, &flow(server), &unsupported), blocked);
        }
        let resets = Resets { client: reset, server: true };
        let decided = judge(&snapshot, &flow(ELSEWHERE), &FirstBytes::Sslv2Hello);
        assert_eq!(decided, Decision::Block { outcome, resets });
    }
    // What is excepted is nobody's to decrypt, and what can be decrypted is.
    let excepted = FirstBytes::ClientHello {
        server_name: Some("www.bank.example"),
        support: Support::NoSuite,
        encrypted: false,
    };
    let released = Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &excepted), released);
    let taken = take_over(PolicyKind::Client(0));
    assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &hello("x.example")), taken);
}

#[test]
fn domain_exception_holds_for_client_policies_only() {
    let snapshot = whole();
    let excepted = Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &hello("www.bank.example")), excepted);
    assert_eq!(
        judge(&snapshot, &flow(SERVED), &hello("www.bank.example")),
        take_over(PolicyKind::Server(0))
    );
    let unsupported = FirstBytes::ClientHello {
        server_name: Some("www.bank.example"),
        support: Support::NoSuite,
        encrypted: false,
    };
    assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &unsupported), excepted);
    let nameless =
        FirstBytes::ClientHello { server_name: None, support: Support::Full, encrypted: false };
    assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &nameless), take_over(PolicyKind::Client(0)));
}

#[test]
fn server_names_are_excepted_in_any_case_with_a_trailing_dot_and_never_as_addresses() {
    let mut snapshot = whole();
    snapshot.decryption_policies[0].domains_not_to_decrypt = vec![
        DomainPattern { domain: "bank.example".into(), wildcard: true },
        DomainPattern { domain: "xn--bcher-kva.example".into(), wildcard: false },
    ];
    let excepted = Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    for name in ["WWW.Bank.Example", "www.bank.example.", "XN--bcher-kva.example"] {
        assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &hello(name)), excepted, "{name}");
    }
    for name in ["198.51.100.1", "2001:db8::1", "bucher.example", "bank.example"] {
        let taken = take_over(PolicyKind::Client(0));
        assert_eq!(judge(&snapshot, &flow(ELSEWHERE), &hello(name)), taken, "{name}");
    }
}

#[test]
fn server_name_excepts_nothing_where_the_certificate_decides() {
    let mut snapshot = whole();
    snapshot.decryption_policies[0].decided_by = DecidedBy::ServerCertificate;
    assert_eq!(
        judge(&snapshot, &flow(ELSEWHERE), &hello("www.bank.example")),
        take_over(PolicyKind::Client(0))
    );
}

#[test]
fn encrypted_hello_is_decrypted_bypassed_or_blocked_as_the_client_proxy_says() {
    let mut snapshot = whole();
    let hello = |name| FirstBytes::ClientHello {
        server_name: Some(name),
        support: Support::Full,
        encrypted: true,
    };
    let mut of = |action, server, name| {
        for proxy in &mut snapshot.client_proxies {
            proxy.on_encrypted_client_hello = action;
            proxy.reset_client_on_block = true;
        }
        judge(&snapshot, &flow(server), &hello(name))
    };
    let blocked = Decision::Block {
        outcome: Outcome::Blocked(Blocked::EncryptedClientHello),
        resets: Resets::BOTH,
    };
    let taken = take_over(PolicyKind::Client(0));
    use OnEncryptedClientHello as On;
    assert_eq!(of(On::Decrypt, ELSEWHERE, "x.example"), taken);
    assert_eq!(of(On::Bypass, ELSEWHERE, "x.example"), bypassed(Bypassed::EncryptedClientHello));
    assert_eq!(of(On::Block, ELSEWHERE, "x.example"), blocked);
    // What is excepted stays so, and servers of ours have no such keys but by us.
    let excepted = Decision::Release(Outcome::NotDecrypted(NotDecrypted::DomainException));
    assert_eq!(of(On::Block, ELSEWHERE, "www.bank.example"), excepted);
    assert_eq!(of(On::Block, SERVED, "x.example"), take_over(PolicyKind::Server(0)));
}

#[test]
fn wildcard_matches_any_depth_below_and_not_the_bare_domain() {
    let wildcard = DomainPattern { domain: "bank.example".into(), wildcard: true };
    for name in ["www.bank.example", "a.b.bank.example", "WWW.Bank.EXAMPLE", "www.bank.example."] {
        assert!(wildcard.matches(name), "{name}");
    }
    for name in
        ["bank.example", "bank.example.", ".bank.example", "mybank.example", "bank.example.org", ""]
    {
        assert!(!wildcard.matches(name), "{name}");
    }
    let numbered = DomainPattern { domain: "7".into(), wildcard: true };
    assert!(numbered.matches("rack.7") && numbered.matches("192.0.2.256.7"));
    for address in ["192.0.2.7", "192.0.2.7.", "::ffff:192.0.2.7"] {
        assert!(!numbered.matches(address), "{address}");
    }
    let exact = DomainPattern { domain: "bank.example".into(), wildcard: false };
    assert!(exact.matches("Bank.Example.") && exact.matches("bank.example"));
    assert!(!exact.matches("www.bank.example") && !exact.matches("bank.example.."));
}

/// SPEC P5: a certificate's wildcard is of one label.
#[test]
fn certificate_is_excepted_by_its_names_and_by_what_its_wildcards_cover() {
    let policy = |domain: &str, wildcard| DecryptionPolicy {
        name: "except".into(),
        domains_not_to_decrypt: vec![DomainPattern { domain: domain.into(), wildcard }],
        decided_by: DecidedBy::ServerName,
    };
    let exact = policy("www.bank.example", false);
    for name in ["www.bank.example", "*.bank.example", "*.Bank.Example.", "WWW.bank.example"] {
        assert!(exact.excepts_certified(name), "{name}");
    }
    for name in ["bank.example", "*.example", "*.www.bank.example", "*.", "*", ""] {
        assert!(!exact.excepts_certified(name), "{name}");
    }
    let below = policy("bank.example", true);
    for name in ["www.bank.example", "*.bank.example", "*.www.bank.example"] {
        assert!(below.excepts_certified(name), "{name}");
    }
    for name in ["bank.example", "*.example"] {
        assert!(!below.excepts_certified(name), "{name}");
    }
}

#[test]
fn blocked_quic_passes_to_names_that_the_policy_of_its_client_excepts() {
    let mut snapshot = whole();
    let passes =
        |snapshot: &Snapshot, flow: &Candidate, name| judge_quic(snapshot, flow).passes(name);
    assert!(passes(&snapshot, &flow(ELSEWHERE), Some("www.bank.example")));
    for name in [Some("x.example"), None] {
        assert!(!passes(&snapshot, &flow(ELSEWHERE), name), "{name:?}");
    }
    // No word of the client's is trusted there, and no certificate is seen.
    snapshot.decryption_policies[0].decided_by = DecidedBy::ServerCertificate;
    assert_eq!(judge_quic(&snapshot, &flow(ELSEWHERE)), Quic::Blocked);
    // Other rules stop it first; and where policy lets QUIC pass meanwhile, nothing stops it.
    snapshot.profiles[0].client_policies[0].quic = QuicAction::Bypass;
    assert_eq!(judge_quic(&snapshot, &flow(ELSEWHERE)), Quic::Passes);
}
