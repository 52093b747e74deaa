//! What the agent asks of the rules in force: quarantine, counts, and what becomes of a packet.
//!
//! For: answers from the tables that packets meet, in the words of the policy in force. And live sessions, the
//! newest that it was not told of, and what was learnt. What cannot be answered is refused in words.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use weir_api::rules::{
    Answer, ExplainedPacket, Explanation, MOST_HOSTS, MOST_LISTED, QuarantinedHost,
    QuarantinedHosts, Question, RuleCount, RuleKind,
};
use weir_dataplane::{Dataplane, RuleReport};
use weir_policy::judge::PolicyKind;
use weir_policy::outcome::{NotDecrypted, Outcome};
use weir_policy::precedence::{
    BlockedBy, Classified, PacketFacts, Passage, TCP, TrafficAction, evaluate, quic_policy, words,
};
use weir_policy::snapshot::{ClientPolicy, QuicAction, Side};
use weir_policy::{
    Candidate, Decision, FirstBytes, Inspection, Place, Snapshot, Support, judge, quic_exceptions,
};

use weir_tls::hello::is_host_name;

use super::{Link, falls_back};
use crate::compiled::{CompiledPolicy, Excepted};

pub fn answer(question: Question, link: &Link, policy: &CompiledPolicy) -> Answer {
    let (dataplane, totals) = (&*link.dataplane, &*link.totals);
    match question {
        Question::Sessions(limit) => Answer::Sessions(link.totals.recent.newest(limit)),
        Question::Quarantine { host, minutes } => {
            let duration =
                minutes.map(|minutes| Duration::from_secs(u64::from(minutes).saturating_mul(60)));
            match dataplane.quarantine(host, duration) {
                Ok(left) => Answer::Quarantined(seconds(left)),
                Err(error) => Answer::Refused(error.to_string()),
            }
        }
        Question::Release(host) => match dataplane.release_host(host) {
            Ok(released) => Answer::Released(released),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Question::Quarantined => Answer::Hosts(hosts(dataplane)),
        Question::RuleCounts => {
            Answer::RuleCounts(dataplane.rule_report().into_iter().map(rule_count).collect())
        }
        Question::Explain(packet) => match explain(&packet, dataplane, policy, falls_back(link)) {
            Ok(explanation) => Answer::Explanation(Box::new(explanation)),
            Err(error) => Answer::Refused(format!("the tables do not answer: {error}")),
        },
        Question::LiveSessions(most) => {
            Answer::LiveSessions(totals.live.newest(most.min(MOST_LISTED), Instant::now()))
        }
        Question::Learnt => {
            Answer::Learnt(Box::new(policy.learnt_so_far(MOST_LISTED, Instant::now())))
        }
        Question::ForgetLearnt(what) => {
            Answer::Forgotten(policy.forget_learnt_of(&what, Instant::now()))
        }
    }
}

fn hosts(dataplane: &Dataplane) -> QuarantinedHosts {
    let mut hosts = dataplane.quarantined();
    hosts.sort();
    let count = hosts.len();
    let host = |(host, left)| QuarantinedHost { host, seconds: seconds(left) };
    QuarantinedHosts { hosts: hosts.into_iter().take(MOST_HOSTS).map(host).collect(), count }
}

/// Begun ones count.
fn seconds(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

fn rule_count(report: RuleReport) -> RuleCount {
    RuleCount {
        kind: match report.kind {
            weir_dataplane::RuleKind::VirtualSegment => RuleKind::VirtualSegment,
            weir_dataplane::RuleKind::InspectionBypass => RuleKind::InspectionBypass,
            weir_dataplane::RuleKind::TrafficFilter => RuleKind::TrafficFilter,
        },
        name: report.name,
        packets: report.packets,
        bytes: report.bytes,
    }
}

fn explain(
    packet: &ExplainedPacket,
    dataplane: &Dataplane,
    policy: &CompiledPolicy,
    falls_back: bool,
) -> std::io::Result<Explanation> {
    let snapshot = &policy.snapshot;
    let facts = facts(packet);
    let quarantined = dataplane.quarantined();
    let is_quarantined = |host| quarantined.iter().any(|(one, _)| *one == host);
    let said = dataplane.explain_packet(&facts)?;
    let mut notes = Vec::new();
    if evaluate(snapshot, &facts, is_quarantined) != said {
        // The property test says that it cannot be; who asks is to know.
        notes.push("the tables and the policy they were compiled from disagree".to_owned());
    }
    if falls_back {
        notes.push("Layer-2 fallback is in force: no rule drops a packet".to_owned());
    }
    Ok(Explanation {
        generation: snapshot.generation,
        packet: shown(packet),
        virtual_segment: said
            .virtual_segment
            .and_then(|index| snapshot.virtual_segments.get(index))
            .map(|one| one.name.clone()),
        steps: steps(snapshot, &facts, &said, is_quarantined),
        decision: decision(&said),
        tls: tls(packet, policy, &said),
        notes,
    })
}

fn facts(packet: &ExplainedPacket) -> PacketFacts {
    PacketFacts {
        segment: packet.segment,
        from: packet.side,
        ether_type: if packet.source.to_canonical().is_ipv4() { 0x0800 } else { 0x86dd },
        vlan: packet.vlan,
        protocol: packet.protocol,
        addresses: Some((packet.source.to_canonical(), packet.destination.to_canonical())),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        icmp_type: packet.icmp_type,
    }
}

fn shown(packet: &ExplainedPacket) -> String {
    let end = |address: IpAddr, port| match port {
        0 => address.to_string(),
        port => SocketAddr::new(address, port).to_string(),
    };
    let mut text = format!(
        "{} from {} to {}",
        words::protocol(packet.protocol),
        end(packet.source, packet.source_port),
        end(packet.destination, packet.destination_port),
    );
    if let Some(icmp_type) = packet.icmp_type {
        text += &format!(", type {icmp_type}");
    }
    if let Some(vlan) = packet.vlan {
        text += &format!(", VLAN {vlan}");
    }
    let side = if packet.side == Side::A { "A" } else { "B" };
    text + &format!(", in by port {}{side}", packet.segment.0)
}

/// Up to the one that decides: later ones are not asked.
fn steps(
    snapshot: &Snapshot,
    facts: &PacketFacts,
    said: &Classified,
    is_quarantined: impl Fn(IpAddr) -> bool,
) -> Vec<(String, String)> {
    let rules = &snapshot.precedence;
    let mut steps = Vec::new();
    let mut step = |what: &str, said: String| steps.push((what.to_owned(), said));
    if let Passage::Bypassed(index) = said.passage {
        let rule = rules.inspection_bypass.get(index);
        step("Inspection bypass", found(index, rule.map(|rule| &*rule.name), "pass"));
        return steps;
    }
    step("Inspection bypass", "no rule matches".into());
    let filter = said
        .traffic_filter
        .and_then(|index| rules.traffic_filters.get(index).map(|filter| (index, filter)));
    step(
        "Traffic filters",
        match filter {
            Some((index, filter)) => found(index, Some(&filter.name), &filter.action.to_string()),
            None => "none matches".into(),
        },
    );
    if let Some((_, filter)) = filter
        && matches!(filter.action, TrafficAction::Block | TrafficAction::Trust)
    {
        return steps;
    }
    let Some((source, destination)) = facts.addresses else { return steps };
    let ends = [source, destination];
    let entries = ends.map(|end| {
        rules
            .reputation
            .entry_of(end)
            .map(|(entry, standing)| format!("{end}: {standing} ({entry})"))
    });
    let entries: Vec<String> = entries.into_iter().flatten().collect();
    step("Reputation", if entries.is_empty() { "no entry".into() } else { entries.join("; ") });
    if said.passage == Passage::Blocked(BlockedBy::Reputation) {
        return steps;
    }
    let hosts: Vec<String> =
        ends.into_iter().filter(|end| is_quarantined(*end)).map(|end| end.to_string()).collect();
    step(
        "Quarantine",
        if hosts.is_empty() {
            "neither host".into()
        } else {
            format!("{} is quarantined", hosts.join(", "))
        },
    );
    if matches!(said.passage, Passage::Blocked(BlockedBy::Quic) | Passage::Inspected)
        && let Some(policy) = quic_policy(snapshot, said.virtual_segment, facts)
    {
        step("QUIC", quic(snapshot, policy, said));
    }
    steps
}

fn quic(snapshot: &Snapshot, policy: &ClientPolicy, said: &Classified) -> String {
    let name = &policy.name;
    match (said.passage, policy.quic) {
        (Passage::Blocked(_), _) => {
            let blocks =
                format!("client policy {name} blocks it, so that its client falls back to TCP");
            match quic_exceptions(snapshot, policy) {
                Some(by) => {
                    format!("{blocks}, unless it asks for a domain that {} excepts", by.name)
                }
                None => blocks,
            }
        }
        (_, QuicAction::Bypass) => format!("client policy {name} lets it pass"),
        (_, QuicAction::Block) => format!("client policy {name} excepts the source: it passes"),
    }
}

/// Counted from 1, as everywhere on the console.
fn found(index: usize, name: Option<&str>, action: &str) -> String {
    format!("{}. {}: {action}", index + 1, name.unwrap_or("(a rule of another policy)"))
}

fn decision(said: &Classified) -> String {
    match said.passage {
        Passage::Bypassed(_) => "inspection bypass rule: passes, nothing else is asked",
        Passage::Blocked(BlockedBy::TrafficFilter) => "traffic filter: blocked",
        Passage::Blocked(BlockedBy::Reputation) => "reputation: blocked",
        Passage::Blocked(BlockedBy::Quarantine) => "quarantine: blocked",
        Passage::Blocked(BlockedBy::Quic) => "QUIC: blocked",
        Passage::Trusted if said.candidate => {
            "traffic filter: trusted; a TLS session is decrypted, but not inspected"
        }
        Passage::Trusted => "traffic filter: trusted, passes",
        Passage::Inspected if said.candidate => "TLS policy decides",
        Passage::Inspected => "no rule: passes",
    }
    .to_owned()
}

/// As the engine would judge a session with a hello that every proxy supports.
fn tls(packet: &ExplainedPacket, policy: &CompiledPolicy, said: &Classified) -> Option<String> {
    let stopped = matches!(said.passage, Passage::Blocked(_) | Passage::Bypassed(_));
    if packet.protocol != TCP || stopped {
        return None;
    }
    if !said.candidate {
        return Some("no policy covers the destination and port: not decrypted".into());
    }
    let candidate = Candidate {
        segment: packet.segment,
        from: packet.side,
        vlan: packet.vlan,
        client: SocketAddr::new(packet.source, packet.source_port),
        server: SocketAddr::new(packet.destination, packet.destination_port),
    };
    let name = packet.server_name.as_deref();
    let first = match name {
        Some(name) if !is_host_name(name) => FirstBytes::InvalidServerName,
        server_name => {
            FirstBytes::ClientHello { server_name, support: Support::Full, encrypted: false }
        }
    };
    Some(match judge(&policy.snapshot, &candidate, &first) {
        Decision::Release(outcome) | Decision::Block { outcome, .. } => match outcome.reason() {
            Some(reason) => format!("{outcome} ({reason})"),
            None => outcome.to_string(),
        },
        Decision::TakeOver(inspection) => decrypted(policy, inspection, &candidate, name),
    })
}

fn decrypted(
    policy: &CompiledPolicy,
    inspection: Inspection,
    candidate: &Candidate,
    name: Option<&str>,
) -> String {
    let Some(flow) = policy.of(inspection) else { return "no policy".into() };
    // In no tunnel, as far as is said.
    let server = Place::new(candidate.segment, candidate.vlan).server(candidate.server);
    // In the engine's own order.
    let decided = match flow.excepted_under(name, server) {
        Excepted::Yes => {
            let outcome = Outcome::NotDecrypted(NotDecrypted::LearntException);
            return format!("{outcome} ({})", NotDecrypted::LearntException);
        }
        Excepted::AskServer(_) => "decided by the server's certificate: not decrypted, or ",
        Excepted::No => "",
    };
    let client = candidate.client.ip();
    if let Some(learnt) =
        policy.learnt.bypass(flow.proxy.refusals(), client, server, name, Instant::now())
    {
        return format!("bypassed ({learnt})");
    }
    let kind = match inspection.policy {
        PolicyKind::Server(_) => "server",
        PolicyKind::Client(_) => "client",
    };
    let outcome = match (inspection.trusted, flow.has_no_filters()) {
        (true, _) => "decrypted but not inspected (trust filter)",
        (false, true) => "decrypted but not inspected (no filters apply)",
        (false, false) => "decrypted and inspected",
    };
    let profile = &flow.profile.name;
    let answers = match inspection.answers {
        _ if inspection.trusted => String::new(),
        answers if answers.trusted => "; the server's packets are not inspected".into(),
        answers if answers.profile == inspection.profile => String::new(),
        answers => match policy.snapshot.profiles.get(answers.profile) {
            Some(profile) => format!("; the server's packets by profile {}", profile.name),
            None => String::new(),
        },
    };
    format!(
        "{decided}{outcome}, by {kind} policy {} of profile {profile}{answers}",
        flow.proxy.policy()
    )
}
