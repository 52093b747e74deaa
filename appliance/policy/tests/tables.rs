//! What a configuration asks of the data plane's tables: it fits, or is refused with what does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fmt::Write as _;

use support::{errors, load, messages};
use weir_policy::precedence::tables::{Compiled, PolicyKind};

/// As many servers as there may be certificates, and some client proxies.
fn policies(servers: usize, clients: usize, alike: bool) -> String {
    let mut text = String::from("weir:\n  server-proxies:\n");
    for number in 0..servers {
        let (one, two) = (number / 250, number % 250);
        let port = if alike { 443 } else { number + 1 };
        writeln!(
            text,
            "    - {{ name: s{number}, destinations: [10.0.{one}.{two}], detection-ports: [{port}], \
             service: other, certificates: [ {{ certificate: /pki/s{number}.pem, key: \
             /pki/s{number}.key }} ] }}"
        )
        .unwrap();
    }
    text += "  client-proxies:\n";
    for number in 0..clients {
        let port = number + 2000;
        writeln!(
            text,
            "    - {{ name: c{number}, detection-ports: [{port}], service: other, \
             signing-certificate: {{ certificate: /pki/ca.pem, key: /pki/ca.key }} }}"
        )
        .unwrap();
    }
    text += "  profiles:\n    - name: p\n      server-policies:\n";
    for number in 0..servers {
        let (one, two) = (number / 250, number % 250);
        let excepted =
            if alike { String::new() } else { format!(", source-exceptions: [10.1.{one}.{two}]") };
        writeln!(text, "        - {{ name: s{number}, server-proxy: s{number}{excepted} }}")
            .unwrap();
    }
    text += "      client-policies:\n";
    for number in 0..clients {
        writeln!(text, "        - {{ name: c{number}, client-proxy: c{number} }}").unwrap();
    }
    text
}

#[test]
fn a_thousand_servers_that_differ_in_everything_fit() {
    let snapshot = load(&policies(1000, 1, false)).unwrap().compile(1, None);
    let compiled = Compiled::of(&snapshot).unwrap();
    assert_eq!(compiled.policy_kinds.len(), 2001);
}

#[test]
fn servers_that_differ_in_nothing_but_their_addresses_take_the_room_of_one() {
    let snapshot = load(&policies(1000, 1, true)).unwrap().compile(1, None);
    let compiled = Compiled::of(&snapshot).unwrap();
    assert_eq!(compiled.policy_kinds, [PolicyKind::Server, PolicyKind::Client]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_bound() {
    let found = messages(errors(&policies(1000, 60, false)));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("profiles: more than 2048 policies that differ in what they cover"),
        "{}",
        found[0]
    );

    // Networks, and sets of virtual segments that no other network has.
    let networks = |list: &mut dyn Iterator<Item = usize>| {
        let one =
            |number: usize| format!("11.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
        list.map(one).collect::<Vec<_>>().join(", ")
    };
    let segment = |number: usize, list: String| {
        format!("    - {{ name: v{number}, order: {number}, profile: p, sources: [{list}] }}\n")
    };
    let head = "weir:\n  profiles: [ { name: p } ]\n  virtual-segments:\n".to_owned();
    let many = head.clone() + &segment(1, networks(&mut (0..32_765)));
    let found = messages(errors(&many));
    assert!(found[0].contains("virtual-segments: more than 32764 different networks"), "{found:?}");

    // Network number n is in those virtual segments that its bits say.
    let bits =
        |bit: usize| segment(bit + 1, networks(&mut (0..16_500).filter(|n| n >> bit & 1 == 1)));
    let many = head + &(0..15).map(bits).collect::<String>();
    let found = messages(errors(&many));
    assert!(found[0].contains("virtual-segments: more than 16384 different sets"), "{found:?}");
}
