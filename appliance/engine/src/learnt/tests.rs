//! What is learnt, of whom, and for how long.

use weir_policy::SecretBytes;
use weir_policy::snapshot::{CertifiedKey, ClientProxy, SegmentId, Service};

use super::*;

const NAME: Option<&str> = Some("a.example");

/// Without a certificate to sign with.
pub(crate) fn proxy(certificates: OnRefusal, pinned: OnRefusal) -> ClientProxy {
    ClientProxy {
        name: "p".into(),
        detection_ports: Vec::new(),
        service: Service::Http,
        signing_certificate: CertifiedKey { chain: Vec::new(), key: SecretBytes::new(Vec::new()) },
        block_invalid_certificates: false,
        block_expired_certificates: false,
        reset_client_on_block: true,
        logging: false,
        downgrade_http2: false,
        minimum_rsa_key_length: 2048,
        allowed: weir_policy::suites::Allowed::default(),
        on_encrypted_client_hello: Default::default(),
        on_client_certificate_request: certificates,
        on_pinned_client: pinned,
        learnt_bypass_time: 100,
        revocation: Default::default(),
        revocation_unknown: Default::default(),
    }
}

fn ends() -> (IpAddr, ServerAt) {
    ("10.0.0.1".parse().unwrap(), Place::default().server("192.0.2.1:443".parse().unwrap()))
}

fn later(start: Instant, seconds: u64) -> Instant {
    start.checked_add(Duration::from_secs(seconds)).unwrap()
}

#[test]
fn server_that_asks_for_certificates_is_bypassed_for_all_until_it_expires() {
    let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Bypass, OnRefusal::Block);
    let of = |proxy, client, name, seconds| {
        learnt.bypass(proxy, client, server, name, later(start, seconds))
    };
    assert_eq!(of(&on, client, NAME, 0), None);
    learnt.client_certificate_requested(&on, server, NAME, start);
    let other = "10.0.0.2".parse().unwrap();
    let asked = Some(Bypassed::ClientCertificateRequested);
    assert_eq!(of(&on, client, NAME, 1), asked);
    assert_eq!(of(&on, other, Some("A.Example."), 99), asked);
    assert_eq!(of(&on, client, Some("b.example"), 1), None);
    let off = proxy(OnRefusal::Block, OnRefusal::Bypass);
    assert_eq!(of(&off, client, NAME, 1), None);
    // Another network with the same addresses.
    let elsewhere = Place::new(SegmentId(1), Some(7)).server(server.address);
    assert_eq!(learnt.bypass(&on, client, elsewhere, NAME, later(start, 1)), None);
    assert_eq!(of(&on, client, NAME, 100), None);
}

#[test]
fn server_that_leaves_unrenegotiated_asks_for_certificates_if_it_does_so_twice_within_a_minute() {
    let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Bypass, OnRefusal::Block);
    let of = |name, seconds| learnt.bypass(&on, client, server, name, later(start, seconds));
    let leaves = |name, seconds| {
        learnt.client_certificate_suspected(&on, server, name, later(start, seconds));
    };
    leaves(NAME, 0);
    leaves(Some("b.example"), 1);
    assert_eq!(of(NAME, 1), None);
    // Too late for the first.
    leaves(NAME, 61);
    assert_eq!(of(NAME, 61), None);
    leaves(NAME, 121);
    let asked = Some(Bypassed::ClientCertificateRequested);
    assert_eq!((of(NAME, 121), of(Some("b.example"), 121)), (asked, None));
    assert_eq!((of(NAME, 220), of(NAME, 221)), (asked, None));
    let off = proxy(OnRefusal::Block, OnRefusal::Bypass);
    for seconds in [300, 301] {
        learnt.client_certificate_suspected(&off, server, NAME, later(start, seconds));
    }
    assert_eq!(of(NAME, 301), None);
}

#[test]
fn client_that_rejects_twice_within_a_minute_is_bypassed_for_that_name() {
    let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
    let of =
        |client, name, seconds| learnt.bypass(&on, client, server, name, later(start, seconds));
    let rejects = |server, seconds| {
        learnt.rejected(&on, client, server, NAME, Rejection::Told, later(start, seconds));
    };
    let listed =
        |seconds| learnt.list(&[(&on).into()], EvasionAction::Bypass, 10, later(start, seconds));
    rejects(server, 0);
    assert_eq!(of(client, NAME, 1), None);
    // Too late for the first, so it is a first one again.
    rejects(server, 61);
    assert_eq!(of(client, NAME, 61), None);
    rejects(server, 80);
    assert_eq!(of(client, NAME, 81), Some(Bypassed::PinnedClient));
    assert_eq!(of("10.0.0.2".parse().unwrap(), NAME, 81), None);
    assert_eq!(of(client, None, 81), None);
    assert_eq!(listed(90).len(), 1);
    assert_eq!(listed(90)[0].seconds, 10);
    // The same name at another address: taken over until the client rejects it there, once.
    let elsewhere = server.place.server("192.0.2.2:443".parse().unwrap());
    let there = |seconds| learnt.bypass(&on, client, elsewhere, NAME, later(start, seconds));
    assert_eq!(there(95), None);
    rejects(elsewhere, 95);
    assert_eq!(there(96), Some(Bypassed::PinnedClient));
    assert_eq!(listed(96).len(), 2);
    learnt.forget();
    assert_eq!(of(client, NAME, 82), None);
}

#[test]
fn browser_that_drops_connections_it_does_not_need_pins_nothing() {
    let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
    let of = |seconds| learnt.bypass(&on, client, server, NAME, later(start, seconds));
    let leaves = |rejection, seconds| {
        learnt.rejected(&on, client, server, NAME, rejection, later(start, seconds));
    };
    // On one of them it goes on.
    learnt.accepted(&on, client, server, Some("A.example."), start);
    for seconds in 0..3 {
        leaves(Rejection::Left, seconds);
    }
    assert_eq!(of(3), None);
    // Another program of the same client says that it does not.
    leaves(Rejection::Told, 4);
    leaves(Rejection::Told, 5);
    assert_eq!(of(6), Some(Bypassed::PinnedClient));
    learnt.forget();
    // Much later nobody goes on.
    leaves(Rejection::Left, 100);
    leaves(Rejection::Left, 101);
    assert_eq!(of(102), Some(Bypassed::PinnedClient));
}

/// What is blocked is not told as bypassed, nor what is decrypted again.
#[test]
fn told_is_only_what_is_bypassed_and_for_how_long() {
    let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let [blocks, bypasses] = [OnRefusal::Block, OnRefusal::Bypass].map(|on| proxy(on, on));
    let learns = |proxy: &ClientProxy| {
        learnt.client_certificate_requested(proxy, server, NAME, start);
        learnt.rejected(proxy, client, server, NAME, Rejection::Left, start);
        learnt.rejected(proxy, client, server, NAME, Rejection::Left, start);
    };
    learns(&blocks);
    assert!(learnt.known(&(&blocks).into()).is_none());
    learns(&bypasses);
    let told = |proxy: &ClientProxy, seconds| {
        let told = learnt.list(&[proxy.into()], EvasionAction::Bypass, 10, later(start, seconds));
        told.iter().map(|one| (one.seconds, one.left)).collect::<Vec<_>>()
    };
    assert_eq!(told(&bypasses, 99), [(99, 1); 2]);
    assert_eq!(told(&bypasses, 100), []);
    assert_eq!(told(&blocks, 1), [], "policy has changed");
    let other = ClientProxy { name: "other".into(), ..bypasses };
    assert_eq!(told(&other, 1), []);
    let bypass = learnt.bypass(&other, client, server, NAME, later(start, 1));
    assert_eq!(bypass, None, "it learns for itself");
}

#[test]
fn what_was_learnt_of_one_name_or_address_is_forgotten_and_nothing_else() {
    let (learnt, now, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Bypass, OnRefusal::Bypass);
    let other = server.place.server("192.0.2.2:443".parse().unwrap());
    for name in [NAME, Some("b.example")] {
        learnt.client_certificate_requested(&on, server, name, now);
    }
    learnt.client_certificate_requested(&on, other, None, now);
    for _ in 0..2 {
        learnt.rejected(&on, client, other, NAME, Rejection::Told, now);
    }
    let bypass = |server, name| learnt.bypass(&on, client, server, name, now).is_some();
    let forget = |what| learnt.forget_of(what, &[(&on).into()], EvasionAction::Bypass, now);
    assert_eq!(forget("c.example"), 0);
    assert_eq!(forget("A.example."), 2);
    assert!(!bypass(server, NAME) && !bypass(other, NAME));
    // Nor is it half known still that the client pins it.
    learnt.rejected(&on, client, other, NAME, Rejection::Told, now);
    assert!(!bypass(other, NAME));
    assert!(bypass(server, Some("b.example")) && bypass(other, None));
    assert_eq!(forget("192.0.2.2"), 1);
    assert!(bypass(server, Some("b.example")) && !bypass(other, None));
}

/// As many as were shown before.
#[test]
fn what_has_expired_or_is_bypassed_no_more_is_not_counted_as_forgotten() {
    let (start, (_, server)) = (Instant::now(), ends());
    let on = proxy(OnRefusal::Bypass, OnRefusal::Block);
    let off = proxy(OnRefusal::Block, OnRefusal::Block);
    for (set, seconds, count) in [(&on, 99, 1), (&on, 100, 0), (&off, 1, 0)] {
        let learnt = Learnt::default();
        learnt.client_certificate_requested(&on, server, NAME, start);
        let (proxies, now) = ([set.into()], later(start, seconds));
        assert_eq!(learnt.list(&proxies, EvasionAction::Bypass, 10, now).len(), count);
        assert_eq!(learnt.forget_of("a.example", &proxies, EvasionAction::Bypass, now), count);
        assert_eq!(learnt.forget_of("a.example", &[(&on).into()], EvasionAction::Bypass, start), 0);
    }
}

/// Else one more rejection would have it back.
#[test]
fn what_is_forgotten_of_an_address_is_not_half_known_still_by_its_name() {
    let (learnt, now, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
    let rejected = || learnt.rejected(&on, client, server, NAME, Rejection::Told, now);
    let bypass = || learnt.bypass(&on, client, server, NAME, now).is_some();
    rejected();
    rejected();
    assert!(bypass());
    let address = server.address.ip().to_string();
    assert_eq!(learnt.forget_of(&address, &[(&on).into()], EvasionAction::Bypass, now), 1);
    rejected();
    assert!(!bypass());
    rejected();
    assert!(bypass());
}

#[test]
fn what_is_learnt_stays_bounded() {
    let (learnt, now, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
    for number in 0..6000 {
        let name = format!("host-{number}.example");
        learnt.rejected(&on, client, server, Some(&name), Rejection::Left, now);
    }
    assert_eq!(learnt.known(&(&on).into()).unwrap().entries.count(), BOUND);
}

/// Anybody who reaches a server proxy names as many servers as he likes.
#[test]
fn what_one_proxy_learns_pushes_out_nothing_that_another_has_learnt() {
    let (learnt, now, (client, server)) = (Learnt::default(), Instant::now(), ends());
    let quiet = proxy(OnRefusal::Bypass, OnRefusal::Block);
    let crowded = ClientProxy { name: "crowded".into(), ..quiet.clone() };
    learnt.client_certificate_requested(&quiet, server, NAME, now);
    for number in 0..6000 {
        let name = format!("host-{number}.example");
        learnt.client_certificate_requested(&crowded, server, Some(&name), now);
    }
    let asked = Some(Bypassed::ClientCertificateRequested);
    assert_eq!(learnt.bypass(&quiet, client, server, NAME, now), asked);
    // One that there is no more keeps no room.
    learnt.keep_only(&[(&quiet).into()]);
    assert!(learnt.known(&(&crowded).into()).is_none());
    assert_eq!(learnt.bypass(&quiet, client, server, NAME, now), asked);
}

#[test]
fn server_that_shares_nothing_is_told_where_that_is_bypassed_until_it_is_found_otherwise() {
    let (learnt, start, (_, server)) = (Learnt::default(), Instant::now(), ends());
    let on = proxy(OnRefusal::Block, OnRefusal::Block);
    let known = |name, seconds| learnt.is_unshared(&on, server, name, later(start, seconds));
    let told = |set| learnt.list(&[(&on).into()], set, 10, start).len();
    assert!(!known(NAME, 0));
    learnt.unshared(&on, server, Some("A.example."), true, start);
    assert!(known(NAME, 99) && !known(None, 1));
    assert_eq!((told(EvasionAction::Bypass), told(EvasionAction::Block)), (1, 0));
    assert_eq!(learnt.bypass(&on, ends().0, server, NAME, start), None, "it is asked each time");
    assert!(!known(NAME, 100));
    learnt.unshared(&on, server, NAME, true, start);
    learnt.unshared(&on, server, NAME, false, start);
    assert!(!known(NAME, 1));
}
