//! The tree itself. Contexts (`edit`) and the two-step commit come to stand beside `show` here.

use super::rules::{
    EXPLAIN, QUARANTINE, SHOW_BYPASS, SHOW_FILTERS, SHOW_QUARANTINE, SHOW_REPUTATION,
};

/// What a whole line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    ShowVersion,
    ShowHealth,
    ShowSegments,
    ShowVirtualSegments,
    ShowCaptures,
    Capture,
    CaptureStop,
    CaptureDelete,
    ShowTlsInspection,
    ShowCiphers,
    ShowTlsInspectionLog,
    DebugInspectionStats,
    DebugProtocolStats,
    DebugTcpProxyStats,
    ForgetLearnt,
    ShowLearnt,
    ShowSessionsLive,
    ShowSessions,
    ShowSessionsDetail,
    ShowEvents,
    ShowLog,
    ShowConfiguration,
    ForceFallback,
    ForceNormal,
    DebugEngineKill,
    DebugEngineRestart,
    DebugClearSessions,
    ShowHighAvailability,
    RestartPorts,
    Quarantine,
    ReleaseHost,
    ShowQuarantine,
    /// Bypass rules or traffic filters, by the keyword.
    ShowRules,
    ShowReputation,
    Explain,
    Reboot,
    RebootUnasked,
    Shutdown,
    ShutdownUnasked,
    Help,
    Exit,
}

/// A word that may stand at a position, and what may follow it.
#[derive(Debug)]
pub struct Node {
    pub word: Word,
    pub description: &'static str,
    /// The line may end here, and then means this.
    pub command: Option<Command>,
    pub next: &'static [Node],
}

#[derive(Clone, Copy, Debug)]
pub enum Word {
    Keyword(&'static str),
    /// A number from 1 to the bound; shown by its name.
    Count(&'static str, usize),
    /// A segment's number up to the bound, or one of its ports, such as 1A; shown by its name.
    Segment(&'static str, usize),
    /// An IP address of either family; shown by its name.
    Address(&'static str),
    /// Any word that is no keyword here, or any text in quotes; shown by its name.
    Text(&'static str),
}

pub(super) const fn leaf(word: &'static str, description: &'static str, command: Command) -> Node {
    Node { word: Word::Keyword(word), description, command: Some(command), next: &[] }
}

pub(super) const fn branch(
    word: &'static str,
    description: &'static str,
    next: &'static [Node],
) -> Node {
    Node { word: Word::Keyword(word), description, command: None, next }
}

pub(super) const fn both(
    word: &'static str,
    description: &'static str,
    command: Command,
    next: &'static [Node],
) -> Node {
    Node { word: Word::Keyword(word), description, command: Some(command), next }
}

const fn count(description: &'static str, command: Command) -> Node {
    Node { word: Word::Count("<count>", 1000), description, command: Some(command), next: &[] }
}

const fn number(
    name: &'static str,
    most: usize,
    description: &'static str,
    command: Command,
    next: &'static [Node],
) -> Node {
    Node { word: Word::Count(name, most), description, command: Some(command), next }
}

const fn text(
    name: &'static str,
    description: &'static str,
    command: Command,
    next: &'static [Node],
) -> Node {
    Node { word: Word::Text(name), description, command: Some(command), next }
}

/// The root: what may stand at the start of a line.
pub static ROOT: &[Node] = &[
    branch("capture", "Capture packets on a port, into a pcapng file", CAPTURE),
    branch(
        "clear",
        "Forget something",
        &[both(
            "learnt-bypasses",
            "Forget what was learnt to be bypassed or excepted",
            Command::ForgetLearnt,
            &[text("<name>", "Only of this server name, or address", Command::ForgetLearnt, &[])],
        )],
    ),
    branch(
        "debug",
        "Commands for troubleshooting",
        &[
            branch(
                "engine",
                "The inspection engine",
                &[
                    leaf("kill", "Kill the engine; traffic fails open", Command::DebugEngineKill),
                    leaf(
                        "restart",
                        "Start a new engine; the old one keeps its sessions",
                        Command::DebugEngineRestart,
                    ),
                ],
            ),
            branch("explain", "What becomes of a packet, and which rule decides", EXPLAIN),
            branch("np", "Counters of the network processing", &[NP_STATS]),
            branch(
                "tls-inspection",
                "TLS inspection",
                &[leaf(
                    "clear-sessions",
                    "Reset all proxied sessions at both ends",
                    Command::DebugClearSessions,
                )],
            ),
        ],
    ),
    leaf("exit", "Leave the console", Command::Exit),
    leaf("help", "What can be typed and how", Command::Help),
    branch(
        "high-availability",
        "Layer-2 fallback",
        &[branch(
            "force",
            "Force a state on all segments",
            &[
                leaf("fallback", "Layer-2 fallback: no new inspection", Command::ForceFallback),
                leaf("normal", "Back to normal operation", Command::ForceNormal),
            ],
        )],
    ),
    leaf("logout", "Leave the console", Command::Exit),
    branch("quarantine", "Drop all packets from and to a host", QUARANTINE),
    both(
        "reboot",
        "Restart the appliance",
        Command::Reboot,
        &[leaf("-y", "Without asking", Command::RebootUnasked)],
    ),
    branch(
        "segment",
        "A segment's ports",
        &[Node {
            word: Word::Count("<segment>", 63),
            description: "The segment's number",
            command: None,
            next: &[leaf(
                "restart",
                "Bring up ports that link-down synchronisation took down",
                Command::RestartPorts,
            )],
        }],
    ),
    branch("show", "Show the state of the appliance", SHOW),
    both(
        "shutdown",
        "Shut the appliance down",
        Command::Shutdown,
        &[leaf("-y", "Without asking", Command::ShutdownUnasked)],
    ),
];

const NP_STATS: Node = branch(
    "stats",
    "Counters of the network processing",
    &[branch(
        "show",
        "Show the counters",
        &[
            leaf(
                "npSslInspProtocolStats",
                "Versions, suites and failures",
                Command::DebugProtocolStats,
            ),
            leaf(
                "npSslInspStats",
                "Connections that a policy covers",
                Command::DebugInspectionStats,
            ),
            leaf(
                "npTcpProxyStats",
                "TCP connections that match a profile",
                Command::DebugTcpProxyStats,
            ),
        ],
    )],
);

static SHOW: &[Node] = &[
    leaf("captures", "Captures: those that run and their files", Command::ShowCaptures),
    leaf(
        "configuration",
        "The running configuration, secrets left out",
        Command::ShowConfiguration,
    ),
    both(
        "events",
        "Filter events, the newest first",
        Command::ShowEvents,
        &[count("How many", Command::ShowEvents)],
    ),
    leaf(
        "high-availability",
        "Layer-2 fallback and link-down synchronisation",
        Command::ShowHighAvailability,
    ),
    leaf("health", "Machine, services, engine and warnings", Command::ShowHealth),
    SHOW_BYPASS,
    leaf(
        "learnt-bypasses",
        "What was learnt to be bypassed, and for how long",
        Command::ShowLearnt,
    ),
    both(
        "log",
        "The system log, the newest last",
        Command::ShowLog,
        &[count("How many lines", Command::ShowLog)],
    ),
    SHOW_QUARANTINE,
    SHOW_REPUTATION,
    both("segments", "Segments, their state and counters", Command::ShowSegments, SEGMENTS),
    both(
        "sessions",
        "TLS sessions, the last ended first",
        Command::ShowSessions,
        &[
            both(
                "detail",
                "All that is known of each session",
                Command::ShowSessionsDetail,
                &[count("How many", Command::ShowSessionsDetail)],
            ),
            both(
                "live",
                "Those that live, the newest first",
                Command::ShowSessionsLive,
                &[count("How many", Command::ShowSessionsLive)],
            ),
            count("How many", Command::ShowSessions),
        ],
    ),
    both(
        "tls-inspection",
        "TLS inspection: settings and counters",
        Command::ShowTlsInspection,
        &[
            leaf("ciphers", "Cipher suites and what this device supports", Command::ShowCiphers),
            both(
                "log",
                "Sessions of proxies with logging on, last ended first",
                Command::ShowTlsInspectionLog,
                &[count("How many", Command::ShowTlsInspectionLog)],
            ),
        ],
    ),
    SHOW_FILTERS,
    leaf("version", "Versions of appliance and kernel", Command::ShowVersion),
    both(
        "virtual-segments",
        "Virtual segments, in the order of matching",
        Command::ShowVirtualSegments,
        VIRTUAL_SEGMENTS,
    ),
];

static CAPTURE: &[Node] = &[
    branch(
        "delete",
        "Remove the file of a capture",
        &[text("<name>", "As show captures has it", Command::CaptureDelete, &[])],
    ),
    branch(
        "stop",
        "End a capture that runs",
        &[text("<name>", "Its name, or a port it runs on", Command::CaptureStop, &[])],
    ),
    text("<port>", "A port: 1A, 1B, 2A, ...", Command::Capture, &CAPTURE_OPTIONS),
];

/// In any order, each once: what stands behind one leads back here.
static CAPTURE_OPTIONS: [Node; 7] = [
    both("both", "The segment's other port as well", Command::Capture, &CAPTURE_OPTIONS),
    branch("count", "End after so many packets", &CAPTURE_COUNT),
    branch("duration", "End after so many seconds", &CAPTURE_DURATION),
    branch("file", "Name of the capture", &CAPTURE_FILE),
    branch("filter", "Only packets that an expression names", &CAPTURE_FILTER),
    both("print", "Show a line for each packet", Command::Capture, &CAPTURE_OPTIONS),
    branch("snaplen", "Keep so many bytes of each packet", &CAPTURE_SNAPLEN),
];
static CAPTURE_COUNT: [Node; 1] =
    [number("<count>", 1_000_000, "1 to 1000000", Command::Capture, &CAPTURE_OPTIONS)];
static CAPTURE_DURATION: [Node; 1] =
    [number("<seconds>", 600, "1 to 600", Command::Capture, &CAPTURE_OPTIONS)];
static CAPTURE_SNAPLEN: [Node; 1] =
    [number("<bytes>", 262_144, "1 to 262144", Command::Capture, &CAPTURE_OPTIONS)];
static CAPTURE_FILE: [Node; 1] =
    [text("<name>", "Letters, digits, . _ -", Command::Capture, &CAPTURE_OPTIONS)];
static CAPTURE_FILTER: [Node; 1] = [text(
    "<expression>",
    "In quotes: \"tcp port 443 and host 10.0.0.1\"",
    Command::Capture,
    &CAPTURE_OPTIONS,
)];

static SEGMENTS: &[Node] = &[
    text(
        "<name>",
        "One segment: by its name, number or port",
        Command::ShowSegments,
        &[SEGMENTS_DETAIL, SEGMENTS_JSON],
    ),
    SEGMENTS_DETAIL,
    SEGMENTS_JSON,
];
const SEGMENTS_DETAIL: Node = both(
    "detail",
    "Every counter with its meaning, and times",
    Command::ShowSegments,
    &[SEGMENTS_JSON],
);
const SEGMENTS_JSON: Node = leaf("json", "All of it as JSON, for programs", Command::ShowSegments);

static VIRTUAL_SEGMENTS: &[Node] = &[
    text(
        "<name>",
        "One virtual segment",
        Command::ShowVirtualSegments,
        &[VIRTUAL_SEGMENTS_DETAIL, VIRTUAL_SEGMENTS_JSON],
    ),
    VIRTUAL_SEGMENTS_DETAIL,
    VIRTUAL_SEGMENTS_JSON,
];
const VIRTUAL_SEGMENTS_DETAIL: Node = both(
    "detail",
    "Every counter with its meaning, and times",
    Command::ShowVirtualSegments,
    &[VIRTUAL_SEGMENTS_JSON],
);
const VIRTUAL_SEGMENTS_JSON: Node =
    leaf("json", "All of it as JSON, for programs", Command::ShowVirtualSegments);
