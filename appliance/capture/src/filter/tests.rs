use super::*;
use crate::packet::tests::{ethernet, ip4, tcp};

/// 10.0.0.1:5000 > 10.0.0.2:443, SYN, in VLAN 100.
fn packet() -> Packet {
    let frame = ethernet(&[0x8100, 100, 0x0800], &ip4(packet::TCP, &tcp(2, 0)));
    Packet::parse(&frame, frame.len(), Way::In)
}

fn matches(text: &str) -> bool {
    Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}")).matches(&packet())
}

#[test]
fn every_test_says_what_is_and_what_is_not() {
    for (text, expected) in [
        ("tcp", true),
        ("udp", false),
        ("icmp", false),
        ("icmp6", false),
        ("ip", true),
        ("ip6", false),
        ("arp", false),
        ("vlan", true),
        ("vlan 100", true),
        ("vlan 101", false),
        ("inbound", true),
        ("outbound", false),
        ("host 10.0.0.1", true),
        ("src host 10.0.0.1", true),
        ("dst host 10.0.0.1", false),
        ("host 2001:db8::1", false),
        ("net 10.0.0.0/8", true),
        ("net 10.1.2.3/8", true),
        ("src net 10.0.0.2/32", false),
        ("dst net 10.0.0.2/32", true),
        ("port 443", true),
        ("src port 443", false),
        ("tcp dst port 443", true),
        ("udp port 443", false),
        ("tcp portrange 440-443", true),
        ("portrange 1-442", false),
        ("less 58", true),
        ("less 57", false),
        ("greater 58", true),
        ("greater 59", false),
    ] {
        assert_eq!(matches(text), expected, "{text}");
    }
}

#[test]
fn operators_bind_as_pcap_filter_says() {
    // From left to right, alike: (tcp or udp) and udp.
    assert!(!matches("tcp or udp and udp"));
    assert!(matches("tcp or (udp and udp)"));
    assert!(matches("udp and udp or tcp"));
    assert!(!matches("not tcp or udp"));
    assert!(!matches("not (tcp or udp)"));
    assert!(matches("!udp&&tcp||arp"));
    assert!(matches("not not tcp"));
    assert!(matches("(((tcp)))and(not(udp))"));
}

#[test]
fn a_test_looks_into_a_tunnel() {
    let mut inner = ip4(packet::TCP, &tcp(2, 0));
    inner[12] = 172;
    let frame = ethernet(&[0x0800], &ip4(4, &inner));
    let packet = Packet::parse(&frame, frame.len(), Way::Out);
    for text in ["src host 172.0.0.1", "src host 10.0.0.1", "tcp dst port 443", "outbound"] {
        assert!(Filter::compile(text).unwrap().matches(&packet), "{text}");
    }
}

#[test]
fn errors_name_the_place_and_what_would_be_right() {
    for (text, column, parts) in [
        ("", 1, &["empty", "tcp, udp"][..]),
        ("tcp prt 443", 5, &["\"prt\" cannot follow here", "and, or"]),
        ("tpc port 443", 1, &["\"tpc\" is not valid here", "tcp, udp"]),
        ("port 443 or 8443", 13, &["\"8443\" is not valid here"]),
        ("port 443 8443", 10, &["another port is \"or port 8443\""]),
        ("port https", 6, &["a port number from 0 to 65535"]),
        ("port 65536", 6, &["\"65536\""]),
        ("port +5", 6, &["\"+5\""]),
        ("port", 5, &["ends too early", "a port number"]),
        ("tcp and", 8, &["ends too early"]),
        ("(tcp", 5, &["ends too early", "closing )"]),
        ("tcp)", 4, &["closes no parenthesis"]),
        ("host example.org", 6, &["an address", "names are not looked up"]),
        ("net 10.0.0.0", 5, &["a network, as 10.0.0.0/8"]),
        ("portrange 9-5", 11, &["the lower first"]),
        ("tcp src host 10.0.0.1", 9, &["\"host\" is not valid here", "port or portrange"]),
        ("src 10.0.0.1", 5, &["host, net, port or portrange"]),
        ("vlan 4096", 6, &["a VLAN id from 0 to 4095"]),
        ("tcp & udp", 5, &["\"&\" cannot follow here"]),
        ("b\u{fc}ro", 1, &["\"b\u{fc}ro\" is not valid here"]),
    ] {
        let error = Filter::compile(text).unwrap_err();
        assert_eq!(error.column, column, "{text}: {error}");
        for part in parts {
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = format!("{}tcp{}", "(".repeat(33), ")".repeat(33));
    assert!(Filter::compile(&deep).unwrap_err().message.contains("nested too deeply"));
    let nots = "! ".repeat(40) + "tcp";
    assert!(Filter::compile(&nots).unwrap_err().message.contains("nested too deeply"));
    let long = "tcp ".repeat(300);
    assert_eq!(Filter::compile(&long).unwrap_err().column, LONGEST + 1);
    let wide = "tcp or ".repeat(145) + "udp";
    assert!(matches(&wide));
}
