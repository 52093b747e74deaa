//! What precedes TLS inspection (SPEC D5, D6, I4), for the console: quarantine, the rules with their
//! counts, and what becomes of a packet.
//!
//! For: joining the policy in force with what the engine counts. Not for: what a role may do (see
//! [`crate::console`]). Without an engine rules are shown without counts; what only an engine can do
//! is refused in words.

use std::cell::RefCell;
use std::net::IpAddr;

use tracing::{info, warn};
use weir_api::console::Response;
use weir_api::rules::{
    Answer, ExplainedPacket, PacketCount, QuarantineView, Question, ReputationView, RuleCount,
    RuleKind, RuleView,
};
use weir_policy::precedence::{ICMP, ICMPV6, Match, Standing, TCP, UDP, words};

use crate::state::State;

/// Entries of reputation shown.
const MOST_ENTRIES: usize = 100;

/// Protocols behind which the data plane looks for another packet: tunnels and IPv6's extension
/// headers.
const OUTER: [u8; 8] = [0, 4, 41, 43, 44, 47, 51, 60];

/// The engine's answer, or why there is none.
pub async fn ask(state: &RefCell<State>, question: Question) -> Result<Answer, String> {
    let waiting = state.borrow().engine.asked.ask(question);
    waiting?.answer().await
}

pub async fn quarantine(
    state: &RefCell<State>,
    user: &str,
    host: IpAddr,
    minutes: Option<u32>,
) -> Response {
    match ask(state, Question::Quarantine { host, minutes }).await {
        Ok(Answer::Quarantined(seconds)) => {
            warn!(user, %host, seconds, "host quarantined by command");
            Response::Done(format!("{host} is quarantined for {}", in_minutes(seconds)))
        }
        other => refused(other),
    }
}

fn in_minutes(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        1 => "1 minute".into(),
        minutes => format!("{minutes} minutes"),
    }
}

pub async fn release(state: &RefCell<State>, user: &str, host: IpAddr) -> Response {
    match ask(state, Question::Release(host)).await {
        Ok(Answer::Released(true)) => {
            info!(user, %host, "host released from quarantine by command");
            Response::Done(format!("{host} is released from quarantine"))
        }
        Ok(Answer::Released(false)) => Response::Refused(format!(
            "{host} is not quarantined; show quarantine lists the hosts that are"
        )),
        other => refused(other),
    }
}

pub async fn show_quarantine(state: &RefCell<State>) -> Response {
    let hosts = match ask(state, Question::Quarantined).await {
        Ok(Answer::Hosts(hosts)) => hosts,
        other => return refused(other),
    };
    let state = state.borrow();
    let settings = &state.snapshot().precedence.quarantine;
    Response::Quarantine(QuarantineView {
        timeout: settings.timeout / 60,
        exempt: settings.exempt.iter().map(ToString::to_string).collect(),
        hosts,
        dropped: state.counted("quarantine_dropped"),
    })
}

pub async fn show_traffic_filters(state: &RefCell<State>) -> Response {
    let counts = counts(state).await;
    let snapshot = state.borrow().snapshot();
    let filters = snapshot.precedence.traffic_filters.iter();
    let views = (1..).zip(filters).map(|(order, filter)| RuleView {
        action: Some(filter.action.to_string()),
        ..view(order, &filter.name, &filter.matching, &counts, RuleKind::TrafficFilter)
    });
    Response::TrafficFilters(views.collect())
}

pub async fn show_inspection_bypass(state: &RefCell<State>) -> Response {
    let counts = counts(state).await;
    let snapshot = state.borrow().snapshot();
    let rules = snapshot.precedence.inspection_bypass.iter();
    let views = (1..).zip(rules).map(|(order, rule)| {
        view(order, &rule.name, &rule.matching, &counts, RuleKind::InspectionBypass)
    });
    Response::InspectionBypass(views.collect())
}

pub async fn show_virtual_segments(state: &RefCell<State>) -> Response {
    let counts = counts(state).await;
    let mut views = state.borrow().virtual_segment_views();
    for view in &mut views {
        let counted = &mut view.counted;
        if let Some(count) = of(&counts, RuleKind::VirtualSegment, &counted.name) {
            (counted.packets, counted.bytes) = (Some(count.packets), Some(count.bytes));
        }
    }
    Response::VirtualSegments(views)
}

fn view(
    order: usize,
    name: &str,
    matching: &Match,
    counts: &[RuleCount],
    kind: RuleKind,
) -> RuleView {
    RuleView {
        order,
        name: name.to_owned(),
        action: None,
        matching: matching.words(),
        counted: of(counts, kind, name),
    }
}

fn of(counts: &[RuleCount], kind: RuleKind, name: &str) -> Option<PacketCount> {
    let count = counts.iter().find(|one| one.kind == kind && one.name == name)?;
    Some(PacketCount { packets: count.packets, bytes: count.bytes })
}

/// None where no engine tells.
async fn counts(state: &RefCell<State>) -> Vec<RuleCount> {
    match ask(state, Question::RuleCounts).await {
        Ok(Answer::RuleCounts(counts)) => counts,
        Ok(_) => Vec::new(),
        Err(reason) => {
            tracing::debug!(reason, "rules shown without counts");
            Vec::new()
        }
    }
}

pub fn show_reputation(state: &State, address: Option<IpAddr>) -> ReputationView {
    let snapshot = state.snapshot();
    let reputation = &snapshot.precedence.reputation;
    let entries = match address {
        Some(address) => reputation.entry_of(address.to_canonical()).into_iter().collect(),
        None => reputation.entries().iter().take(MOST_ENTRIES).copied().collect::<Vec<_>>(),
    };
    let standings = reputation.entries().iter();
    let blocked = standings.filter(|(_, standing)| *standing == Standing::Block).count();
    ReputationView {
        blocked,
        permitted: reputation.entries().len() - blocked,
        entries: entries
            .into_iter()
            .map(|(network, standing)| (network.to_string(), standing.to_string()))
            .collect(),
        address,
        dropped: state.counted("reputation_dropped"),
    }
}

pub async fn explain(state: &RefCell<State>, packet: ExplainedPacket) -> Response {
    if let Err(wrong) = check(&state.borrow(), &packet) {
        return Response::Refused(wrong);
    }
    match ask(state, Question::Explain(packet)).await {
        Ok(Answer::Explanation(explanation)) => Response::Explanation(explanation),
        other => refused(other),
    }
}

/// That there can be such a packet.
fn check(state: &State, packet: &ExplainedPacket) -> Result<(), String> {
    let known = &state.engine.segments;
    if !known.contains(&packet.segment) {
        let known: Vec<String> = known.iter().map(|id| id.0.to_string()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return Err(format!("segment: there is no segment {}; known: {known}", packet.segment.0));
    }
    let four = packet.source.to_canonical().is_ipv4();
    if four != packet.destination.to_canonical().is_ipv4() {
        return Err(format!(
            "to: {} is of another family than {}; give two IPv4 or two IPv6 addresses",
            packet.destination, packet.source
        ));
    }
    let protocol = words::protocol(packet.protocol);
    if (packet.source_port, packet.destination_port) != (0, 0)
        && !matches!(packet.protocol, TCP | UDP)
    {
        return Err(format!("port: {protocol} has no ports; give protocol tcp or udp"));
    }
    if packet.icmp_type.is_some() && !matches!(packet.protocol, ICMP | ICMPV6) {
        return Err(format!(
            "icmp-type: {protocol} has no ICMP type; give protocol icmp or icmpv6"
        ));
    }
    if packet.protocol == if four { ICMPV6 } else { ICMP } {
        let right = if four { "icmp" } else { "icmpv6" };
        return Err(format!(
            "protocol: {protocol} is not for these addresses; give protocol {right}"
        ));
    }
    if OUTER.contains(&packet.protocol) {
        return Err(format!(
            "protocol: {protocol} has another packet inside, by which rules go; ask about that one"
        ));
    }
    Ok(())
}

pub fn refused(answer: Result<Answer, String>) -> Response {
    Response::Refused(match answer {
        Err(reason) => reason,
        Ok(_) => "the engine answered something else than was asked".into(),
    })
}
