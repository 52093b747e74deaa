//! The part of the tree about what precedes TLS inspection: quarantine, rules, explanations.

use super::tree::{Command, Node, Word, both, branch, leaf};

const fn address(
    name: &'static str,
    description: &'static str,
    command: Option<Command>,
    next: &'static [Node],
) -> Node {
    Node { word: Word::Address(name), description, command, next }
}

/// After `quarantine`.
pub static QUARANTINE: &[Node] = &[
    address(
        "<address>",
        "The host to quarantine",
        Some(Command::Quarantine),
        &[branch(
            "minutes",
            "For how long; without it, as configured",
            &[Node {
                word: Word::Count("<minutes>", weir_api::rules::MOST_MINUTES as usize),
                description: "Minutes, a year at most",
                command: Some(Command::Quarantine),
                next: &[],
            }],
        )],
    ),
    branch(
        "release",
        "Release a host before its time",
        &[address("<address>", "The host to release", Some(Command::ReleaseHost), &[])],
    ),
];

const JSON: Node = leaf("json", "All of it as JSON, for programs", Command::ShowRules);

/// Of `show`.
pub const SHOW_BYPASS: Node = both(
    "inspection-bypass",
    "Inspection bypass rules, in order, with counts",
    Command::ShowRules,
    &[JSON],
);
pub const SHOW_QUARANTINE: Node =
    leaf("quarantine", "Quarantined hosts and their time left", Command::ShowQuarantine);
pub const SHOW_REPUTATION: Node = both(
    "reputation",
    "Addresses that are blocked or permitted",
    Command::ShowReputation,
    &[address("<address>", "What is known of one", Some(Command::ShowReputation), &[])],
);
pub const SHOW_FILTERS: Node = both(
    "traffic-filters",
    "Traffic management filters, in order, with counts",
    Command::ShowRules,
    &[JSON],
);

/// After `debug explain`.
pub static EXPLAIN: &[Node] = &[branch(
    "segment",
    "The segment a packet comes in by",
    &[Node {
        word: Word::Segment("<segment>", 63),
        description: "Its number, or the port it comes in by: 1, 1A, 1B",
        command: None,
        next: &[branch(
            "from",
            "The packet's source",
            &[address(
                "<address>",
                "Its address",
                None,
                &[branch(
                    "to",
                    "The packet's destination",
                    &[address("<address>", "Its address", Some(Command::Explain), &OPTIONS)],
                )],
            )],
        )],
    }],
)];

const fn number(name: &'static str, description: &'static str, most: usize) -> Node {
    Node {
        word: Word::Count(name, most),
        description,
        command: Some(Command::Explain),
        next: &OPTIONS,
    }
}

const fn word(word: &'static str, description: &'static str) -> Node {
    Node { word: Word::Keyword(word), description, command: Some(Command::Explain), next: &OPTIONS }
}

/// What else a packet may be; in any order, each once.
static OPTIONS: [Node; 7] = [
    branch(
        "direction",
        "The port it comes in by; default a-to-b",
        &[word("a-to-b", "In by port A"), word("b-to-a", "In by port B")],
    ),
    branch("icmp-type", "The ICMP type", &[number("<type>", "Its number", 255)]),
    branch(
        "port",
        "The destination's port; default 443 of TCP",
        &[number("<port>", "Its number", 65535)],
    ),
    branch(
        "protocol",
        "The IP protocol; default tcp",
        &[
            word("icmp", "ICMP of IPv4"),
            word("icmpv6", "ICMP of IPv6"),
            word("tcp", "TCP"),
            word("udp", "UDP"),
            number("<number>", "By its number", 255),
        ],
    ),
    branch(
        "server-name",
        "The name in the ClientHello",
        &[Node {
            word: Word::Text("<name>"),
            description: "A domain name",
            command: Some(Command::Explain),
            next: &OPTIONS,
        }],
    ),
    branch(
        "source-port",
        "The source's port; default 49152 of TCP and UDP",
        &[number("<port>", "Its number", 65535)],
    ),
    branch("vlan", "The VLAN id; default untagged", &[number("<vlan>", "Its number", 4094)]),
];
