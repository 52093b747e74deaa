//! Documents in, configurations or located errors out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;
use support::{errors, load, load_layers, messages};

use weir_policy::snapshot::{
    CongestionControl, Device, Evasion, EvasionAction, Layer2Fallback, LinkDownSynchronisation,
    OnEncryptedClientHello, OnRefusal, OverThreshold, Revocation, RevocationUnknown, SegmentId,
    Side,
};
use weir_policy::suites::{Allowed, Protocol};
use weir_policy::{Layer, Syntax};

const WHOLE: &str = include_str!("documents/whole.yaml");

#[test]
fn empty_section_is_valid_and_only_bridges() {
    for text in ["weir:\n", "weir: {}\n", "hostname: x\n"] {
        let configuration = load(text).unwrap();
        let snapshot = configuration.compile(1, None);
        assert!(configuration.boot_segments().is_empty());
        assert!(snapshot.virtual_segments.is_empty() && snapshot.profiles.is_empty());
        assert_eq!(snapshot.device.max_concurrent_sessions, 10_000);
    }
}

#[test]
fn whole_document_compiles_to_indices() {
    let configuration = load(WHOLE).unwrap();
    let snapshot = configuration.compile(7, None);
    snapshot.check().unwrap();
    assert_eq!(snapshot.generation, 7);
    assert_eq!(configuration.boot_segments()[0].id, SegmentId(1));
    assert_eq!(configuration.boot_segments()[0].layer2_fallback, Layer2Fallback::PermitAll);
    assert_eq!(snapshot.virtual_segments[0].from, Some(Side::A));
    let profile = &snapshot.profiles[snapshot.virtual_segments[0].profile];
    assert_eq!(profile.name, "default");
    let proxy = &snapshot.server_proxies[profile.server_policies[0].server_proxy];
    assert_eq!(proxy.name, "web");
    assert_eq!(proxy.detection_ports[1].last, 8449);
    assert!(proxy.reset_server_on_block);
    let policy = &profile.client_policies[0];
    assert_eq!(snapshot.client_proxies[policy.client_proxy].name, "staff");
    assert_eq!(snapshot.trust_stores[policy.trust_store].name, "corporate");
    let private = &snapshot.decryption_policies[policy.decryption_policy.unwrap()];
    assert_eq!(private.domains_not_to_decrypt[0].domain, "bank.example");
    assert!(private.domains_not_to_decrypt[0].wildcard);
    assert_eq!(private.domains_not_to_decrypt[2].domain, "xn--bcher-kva.example");
    assert_eq!(snapshot.filters[profile.filters[0]].origin, "user-data:47");
}

#[test]
fn later_layer_wins_and_its_lists_replace() {
    let image = "
[device]
max-concurrent-sessions = 5
client-inspection = false
[[segments]]
id = 1
name = 'from the image'
";
    let provisioned =
        "weir:\n  device: { max-concurrent-sessions: 6 }\n  segments: [ { id: 2 } ]\n";
    let configuration = load_layers(&[
        Layer { name: "weir.toml", syntax: Syntax::Toml, text: image, section: None },
        Layer { name: "user-data", syntax: Syntax::Yaml, text: provisioned, section: Some("weir") },
    ])
    .unwrap();
    let device = configuration.compile(0, None).device;
    assert_eq!(device.max_concurrent_sessions, 6);
    assert!(!device.client_inspection && device.server_inspection);
    assert_eq!(configuration.boot_segments().len(), 1);
    assert_eq!(configuration.boot_segments()[0].name, "segment 2");
}

#[test]
fn error_names_the_layer_it_stands_in() {
    let image = "[device]\nclient-inspection = 3\n[[segments]]\nid = 99\n";
    let layer = Layer { name: "weir.toml", syntax: Syntax::Toml, text: image, section: None };
    let found = messages(load_layers(&[layer]).unwrap_err());
    assert_eq!(
        found,
        ["weir.toml:2: device.client-inspection: is the number 3; true or false is expected"]
    );
    let fixed = image.replace('3', "true");
    let layer = Layer { text: &fixed, ..layer };
    let found = messages(load_layers(&[layer]).unwrap_err());
    assert_eq!(found, ["weir.toml:4: segments[0].id: is 99; 1 to 16 is expected"]);
}

#[test]
fn one_profile_without_virtual_segments_takes_all_traffic() {
    let snapshot = load("weir:\n  profiles: [ { name: only } ]\n").unwrap().compile(1, None);
    assert_eq!(snapshot.virtual_segments.len(), 1);
    assert!(snapshot.virtual_segments[0].segments.is_empty());
}

#[test]
fn client_policy_without_trust_store_trusts_the_default_package() {
    let text = WHOLE.replace("trust-store: corporate,", "");
    let snapshot = load(&text).unwrap().compile(1, None);
    let store = &snapshot.trust_stores[snapshot.profiles[0].client_policies[0].trust_store];
    assert_eq!(store.name, "default CA package");
    assert!(store.default_ca_package && store.authorities.is_empty());
}

#[test]
fn virtual_segments_are_tried_in_their_order() {
    let text = "weir:
  profiles: [ { name: p } ]
  virtual-segments:
    - { name: last, order: 20, profile: p }
    - { name: first, order: 10, vlans: [5], profile: p }
";
    let snapshot = load(text).unwrap().compile(1, None);
    let names = snapshot.virtual_segments.iter().map(|s| s.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["first", "last"]);
}

#[test]
fn settings_of_device_and_segments_have_their_defaults_and_can_be_given() {
    let device = load("weir: {}").unwrap().compile(1, None).device;
    assert_eq!(device, Device::default());
    let text = "weir:
  device:
    over-threshold: block
    max-handshakes-per-client: 100
    congestion-control: bbr
    idle-timeout: 3600
    health: { heartbeat-timeout: 700, recovery-time: 5 }
    evasion: { fragments: block, unsupported-tls: block }
  segments:
    - { id: 1, link-down-synchronisation: wire, wait-time: 3 }
    - { id: 2, link-down-synchronisation: breaker }
    - { id: 3 }
";
    let snapshot = load(text).unwrap().compile(1, None);
    assert_eq!(snapshot.device.over_threshold, OverThreshold::Block);
    assert_eq!(snapshot.device.max_handshakes_per_client, 100);
    assert_eq!(snapshot.device.congestion_control, CongestionControl::Bbr);
    assert_eq!(snapshot.device.idle_timeout, 3600);
    assert_eq!(snapshot.device.health.heartbeat_timeout, Duration::from_millis(700));
    assert_eq!(snapshot.device.health.recovery_time, Duration::from_secs(5));
    assert_eq!(snapshot.device.health.drain_time, Duration::from_secs(300));
    let evasion = snapshot.device.evasion;
    let block = EvasionAction::Block;
    assert_eq!(evasion, Evasion { fragments: block, unsupported_tls: block, ..Evasion::default() });
    let links = snapshot.segments.iter().map(|s| (s.link_down_synchronisation, s.wait_time));
    let wait = Duration::from_secs;
    assert_eq!(
        links.collect::<Vec<_>>(),
        [
            (LinkDownSynchronisation::Wire, wait(3)),
            (LinkDownSynchronisation::Breaker, wait(0)),
            (LinkDownSynchronisation::Hub, wait(0)),
        ]
    );
}

#[test]
fn asymmetric_mode_web_mode_and_vlan_translation_exclude_tls_inspection() {
    for mode in ["asymmetric-mode", "web-mode", "vlan-translation"] {
        let off = "client-inspection: false, server-inspection: false";
        let text = format!("weir:\n  device: {{ {off}, {mode}: true }}\n");
        assert!(load(&text).is_ok(), "{mode} without TLS inspection");
        for on in ["client-inspection: false", "server-inspection: false"] {
            let text = format!("weir:\n  device: {{ {on}, {mode}: true }}\n");
            let found = messages(errors(&text));
            let expected = format!("user-data:2: device.{mode}: is true while ");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:#?}");
        }
    }
}

#[test]
fn encrypt_then_mac_is_off_unless_the_device_has_it_on() {
    let of = |text: &str| load(text).unwrap().compile(1, None).device.encrypt_then_mac;
    assert!(!of("weir: {}\n"));
    assert!(of("weir: { device: { encrypt-then-mac: true } }\n"));
}

#[test]
fn nothing_is_fetched_unless_the_document_says_so() {
    let snapshot = load(WHOLE).unwrap().compile(1, None);
    let proxy = &snapshot.client_proxies[0];
    assert_eq!(proxy.revocation, Revocation::Stapled);
    assert_eq!(proxy.revocation_unknown, RevocationUnknown::Accept);
    assert!(!snapshot.device.fetch_intermediates);
    let keys = "revocation: fetched
      revocation-unknown: untrusted
      reset-client-on-block: true";
    let text = WHOLE.replace("reset-client-on-block: true", keys);
    let configuration = load(&text).unwrap();
    let proxy = &configuration.compile(1, None).client_proxies[0];
    assert_eq!(proxy.revocation, Revocation::Fetched);
    assert_eq!(proxy.revocation_unknown, RevocationUnknown::Untrusted);
    let shown = configuration.to_document();
    assert!(shown.contains("revocation: fetched\n"), "{shown}");
    assert!(shown.contains("revocation-unknown: untrusted\n"), "{shown}");
    let device = "fetch-intermediates: true, fetch-private-networks: [10.1.0.0/16, 192.0.2.1]";
    let configuration = load(&format!("weir: {{ device: {{ {device} }} }}\n")).unwrap();
    let device = configuration.compile(1, None).device;
    assert!(device.fetch_intermediates);
    assert_eq!(device.fetch_private_networks.len(), 2);
    let shown = configuration.to_document();
    assert!(shown.contains("fetch-private-networks: [10.1.0.0/16, 192.0.2.1/32]\n"), "{shown}");
}

#[test]
fn duplicate_certificates_are_dropped() {
    let text = WHOLE.replace(
        "certificates: [ { certificate: /pki/web.pem, key: /pki/web.key } ]",
        "certificates: [ { certificate: /pki/web.pem, key: /pki/web.key }, \
         { certificate: /pki/web.pem, key: /pki/web.key } ]",
    );
    assert_ne!(text, WHOLE);
    let snapshot = load(&text).unwrap().compile(1, None);
    assert_eq!(snapshot.server_proxies[0].certificates.len(), 1);
}

#[test]
fn server_proxies_bypass_servers_that_ask_for_certificates_where_they_say_so() {
    let proxy = |text: &str| load(text).unwrap().compile(1, None).server_proxies[0].clone();
    let default = proxy(WHOLE);
    assert_eq!(default.on_client_certificate_request, OnRefusal::Block);
    assert_eq!(default.learnt_bypass_time, 86_400);
    let keys = "reset-server-on-block: true
      on-client-certificate-request: bypass
      learnt-bypass-time: 600";
    let text = WHOLE.replace("reset-server-on-block: true", keys);
    let set = proxy(&text);
    assert_eq!(set.on_client_certificate_request, OnRefusal::Bypass);
    assert_eq!(set.learnt_bypass_time, 600);
}

#[test]
fn protocols_and_suites_of_a_proxy_are_bounds() {
    let keys = "protocols: [TLS 1.3, TLSv1.2, tls1.1]
      suites-off: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
      minimum-rsa-key-length: 3072
      on-pinned-client: bypass
      learnt-bypass-time: 600
      logging: true
      downgrade-http2: true
      on-encrypted-client-hello: block
      reset-client-on-block: true";
    let text = WHOLE.replace("reset-client-on-block: true", keys);
    let configuration = load(&text).unwrap();
    assert!(configuration.warnings().is_empty());
    let proxy = &configuration.compile(1, None).client_proxies[0];
    assert_eq!(proxy.minimum_rsa_key_length, 3072);
    assert_eq!(proxy.on_pinned_client, OnRefusal::Bypass);
    assert_eq!(proxy.on_client_certificate_request, OnRefusal::Block);
    assert_eq!(proxy.learnt_bypass_time, 600);
    assert!(proxy.logging && proxy.downgrade_http2);
    assert_eq!(proxy.on_encrypted_client_hello, OnEncryptedClientHello::Block);
    assert_eq!(
        (proxy.allowed.weakest, proxy.allowed.strongest),
        (Protocol::Tls11, Protocol::Tls13)
    );
    let default = Allowed::default();
    assert_eq!(proxy.allowed.suites.len(), default.suites.len() - 2);
    assert!(!proxy.allowed.suites.contains(&0x1301));
    let shown = configuration.to_document();
    assert!(shown.contains("protocols: [TLS 1.1, TLS 1.2, TLS 1.3]"), "{shown}");
    assert!(shown.contains("minimum-rsa-key-length: 3072"), "{shown}");
    assert!(!shown.contains("- TLS_AES_128_GCM_SHA256"), "{shown}");
    assert!(shown.contains("- TLS_AES_256_GCM_SHA384"), "{shown}");
}

#[test]
fn suites_that_nobody_has_are_ignored_with_a_warning() {
    let keys = "suites: [TLS_AES_128_GCM_SHA256, TLS_RSA_WITH_RC4_128_SHA, TLS_AES_128_GCM_SHA265]
      reset-server-on-block: true";
    let configuration = load(&WHOLE.replace("reset-server-on-block: true", keys)).unwrap();
    let proxy = &configuration.compile(1, None).server_proxies[0];
    assert_eq!(proxy.allowed.suites, [0x1301]);
    let told = messages(configuration.warnings().to_vec());
    assert_eq!(
        told,
        [
            "user-data:28: server-proxies[0].suites[1]: \"TLS_RSA_WITH_RC4_128_SHA\" is not \
             supported by this device; ignored",
            "user-data:28: server-proxies[0].suites[2]: \"TLS_AES_128_GCM_SHA265\" is not \
             supported by this device; ignored; did you mean TLS_AES_128_GCM_SHA256?",
        ]
    );
}

#[test]
fn a_mode_that_does_nothing_without_inspection_is_warned_of() {
    for mode in ["asymmetric-mode", "web-mode", "vlan-translation"] {
        let off = "client-inspection: false, server-inspection: false";
        let configuration = load(&format!("weir: {{ device: {{ {off}, {mode}: true }} }}\n"));
        let told = messages(configuration.unwrap().warnings().to_vec());
        let expected = format!("device.{mode}: is true, which changes nothing: ");
        assert!(told.len() == 1 && told[0].contains(&expected), "{told:?}");
    }
}

#[test]
fn suites_are_named_once_and_a_wrong_list_of_them_has_one_error() {
    let of = |keys: &str| {
        let keys = format!("{keys}\n      reset-server-on-block: true");
        load(&WHOLE.replace("reset-server-on-block: true", &keys))
    };
    for (keys, part) in [
        ("suites: []", "suites: is empty; name at least one suite, like TLS_"),
        ("suites: [ECDHE-RSA-AES128-GCM-SHA256]", "a suite by its IANA name is expected"),
    ] {
        let told = messages(of(keys).unwrap_err());
        assert!(told.len() == 1 && told[0].contains(part), "{told:?}");
    }
    for (keys, part) in [
        ("protocols: [TLS 1.2, TLSv1.2]", "protocols[1]: names TLS 1.2 again; ignored"),
        (
            "suites: [TLS_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]",
            "suites[1]: names TLS_AES_128_GCM_SHA256 again; ignored",
        ),
    ] {
        let configuration = of(keys).unwrap();
        let told = messages(configuration.warnings().to_vec());
        assert!(told.len() == 1 && told[0].contains(part), "{told:?}");
    }
}

#[test]
fn shown_document_has_no_secret_and_is_a_document() {
    let configuration = load(WHOLE).unwrap();
    let shown = configuration.to_document();
    assert!(!shown.contains("SECRET"), "{shown}");
    assert!(shown.contains("certificate: \"subject of web"), "{shown}");
    assert!(shown.contains("key: \"(not shown)\""), "{shown}");
    let tree = weir_policy::located::yaml("shown", &shown).unwrap();
    let weir = tree.get("weir").unwrap();
    let ports = weir.get("server-proxies").unwrap().sequence().unwrap()[0].get("detection-ports");
    assert_eq!(ports.unwrap().sequence().unwrap().len(), 2);
}

#[test]
fn all_errors_of_one_document_are_told() {
    let text = "weir:
  segments:
    - { id: one }
    - { id: 2, naem: dmz }
    - { name: x }
  server-proxies:
    - name: 'bad/name'
      destinations: [192.0.2.1/24, 192.0.2.0/24, nonsense]
      detection-ports: [0, 443, 9-8]
      certificates: []
";
    let found = messages(errors(text));
    let expected = [
        "user-data:3: segments[0].id: is a text; a whole number from 0 to 65535 is expected",
        "user-data:4: segments[1].naem: is not a known key; valid here: id, name, \
         layer-2-fallback, link-down-synchronisation, wait-time, mtu; did you mean \"name\"?",
        "user-data:5: segments[2]: lacks the key \"id\", which is required",
        "user-data:7: server-proxies[0].name: contains '/'; letters, digits, `_`, `-` and space \
         are allowed in a name",
        "user-data:8: server-proxies[0].destinations[0]: is 192.0.2.1/24, which has bits set \
         after its prefix; write 192.0.2.0/24 or 192.0.2.1/32",
        "user-data:8: server-proxies[0].destinations[2]: is \"nonsense\"; an address or a CIDR is \
         expected, like 192.0.2.0/24 or 2001:db8::/32",
        "user-data:9: server-proxies[0].detection-ports[0]: is \"0\"; a port from 1 to 65535 or \
         a range is expected, like 443 or 8440-8449",
        "user-data:9: server-proxies[0].detection-ports[2]: is 9-8, which runs backwards; write \
         8-9",
    ];
    for message in expected {
        assert!(found.contains(&message.to_owned()), "{message}\nnot in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}
