//! `show segments`, `show virtual-segments`: state, traffic, flows, times, and in detail every
//! counter that counted, with its meaning.
//!
//! Not for: asking. Names that are not there are errors that list those that are.

use serde::Serialize;
use weir_api::console::{SegmentView, VirtualSegmentView};
use weir_api::sight::{Histogram, OutcomeCount, PortTraffic};

use super::machine::inspection_off;
use crate::text::{bytes, field, fold, printable};

/// The segments that `wanted` names by name, number or port; all of them without it.
pub fn chosen_segments(
    segments: Vec<SegmentView>,
    wanted: Option<&str>,
) -> Result<Vec<SegmentView>, String> {
    let Some(wanted) = wanted else { return Ok(segments) };
    let known: Vec<String> = segments.iter().map(|one| one.name.clone()).collect();
    let is_it = |one: &SegmentView| {
        let number = one.ports[0].strip_suffix('A');
        one.name == wanted || number == Some(wanted) || one.ports.iter().any(|port| port == wanted)
    };
    one_of(segments.into_iter().filter(is_it).collect(), "segment", wanted, &known)
}

pub fn chosen_virtual_segments(
    views: Vec<VirtualSegmentView>,
    wanted: Option<&str>,
) -> Result<Vec<VirtualSegmentView>, String> {
    let Some(wanted) = wanted else { return Ok(views) };
    let known: Vec<String> = views.iter().map(|one| one.counted.name.clone()).collect();
    let chosen = views.into_iter().filter(|one| one.counted.name == wanted).collect();
    one_of(chosen, "virtual segment", wanted, &known)
}

fn one_of<T>(chosen: Vec<T>, what: &str, wanted: &str, known: &[String]) -> Result<Vec<T>, String> {
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let known = if known.is_empty() { "there are none".into() } else { known.join(", ") };
    Err(format!("no {what} is called \"{wanted}\"; known: {known}"))
}

/// For programs: one line of JSON in ASCII, which no terminal obeys.
pub fn json(views: &impl Serialize) -> String {
    // Views have string keys only, so that they always serialise.
    let text = serde_json::to_string(views).unwrap_or_default();
    let mut safe = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        match character {
            ' '..='~' => safe.push(character),
            // Inside a string: nothing else of JSON is outside ASCII.
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    safe.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    safe + "\n"
}

pub fn segments(segments: &[SegmentView], detail: bool) -> String {
    if segments.is_empty() {
        return "No segments.\n".into();
    }
    segments.iter().map(|one| segment(one, detail)).collect::<Vec<_>>().join("")
}

fn segment(segment: &SegmentView, detail: bool) -> String {
    let [a, b] = &segment.ports;
    let mut text = fold("", &format!("Segment {} (ports {a} and {b})", segment.name));
    text += &field("  State", &segment.state);
    if let Some(off) = &segment.inspection_off {
        text += &field("  Inspection off", &inspection_off(off));
    }
    text += &field("  Layer-2 fallback", &segment.layer2_fallback);
    text += &traffic(segment);
    text += &field("  Flows held now", &segment.held_now.to_string());
    text += &field("  Flows", &flows(segment));
    text += &outcomes(&segment.outcomes);
    if !detail {
        let dropped: u64 = drops(segment).map(|(_, count)| count).sum();
        return text + &field("  Packets dropped", &dropped.to_string());
    }
    text += &times("  Hold time", &segment.hold_time);
    text += &times("  Takeover time", &segment.take_over_time);
    let (dropped, others): (Vec<_>, Vec<_>) =
        segment.counters.iter().filter(|(_, n)| *n > 0).partition(|(name, _)| is_drop(name));
    text += &counters("  Drops by reason", segment, &dropped);
    text += &counters("  Counters", segment, &others);
    text
}

fn is_drop(name: &str) -> bool {
    name.ends_with("_dropped")
}

fn drops(segment: &SegmentView) -> impl Iterator<Item = (&str, u64)> {
    segment.counters.iter().filter(|(name, _)| is_drop(name)).map(|(name, n)| (name.as_str(), *n))
}

/// A line a port.
fn traffic(segment: &SegmentView) -> String {
    if segment.traffic.iter().all(Option::is_none) {
        return String::new();
    }
    let mut text =
        "  Port      packets in    bytes in   packets out   bytes out     dropped\n".into();
    for (port, traffic) in segment.ports.iter().zip(&segment.traffic) {
        let name: String = printable(port).chars().take(6).collect();
        let Some(PortTraffic { received, sent }) = traffic else { continue };
        let dropped = received.dropped.saturating_add(sent.dropped);
        let errors = received.errors.saturating_add(sent.errors);
        text = format!(
            "{text}  {name:<6}{:>14}{:>12}{:>14}{:>12}{:>12}\n",
            short(received.packets),
            bytes(received.bytes),
            short(sent.packets),
            bytes(sent.bytes),
            short(dropped.saturating_add(errors)),
        );
    }
    text
}

/// A count that fits its column: up to ten digits as it is.
fn short(count: u64) -> String {
    if count < 10_000_000_000 { count.to_string() } else { format!("{} G", count / 1_000_000_000) }
}

/// What became of held flows, by the data plane's own count.
fn flows(segment: &SegmentView) -> String {
    let count = |name: &str| {
        segment.counters.iter().find(|(one, _)| one == name).map_or(0, |(_, count)| *count)
    };
    format!(
        "{} held since the boot; by this engine {} released, {} taken over, {} blocked",
        count("flow_held"),
        count("flow_released"),
        count("flow_taken_over"),
        count("flow_blocked"),
    )
}

fn outcomes(outcomes: &[OutcomeCount]) -> String {
    if outcomes.is_empty() {
        return String::new();
    }
    let mut text = String::from("  Flows by outcome\n");
    for one in outcomes {
        let what = match &one.reason {
            Some(reason) => format!("{} ({reason})", one.outcome),
            None => one.outcome.clone(),
        };
        text += &counter(&what, one.flows);
    }
    text
}

fn counter(what: &str, count: u64) -> String {
    fold(&format!("  {count:>20}  "), what)
}

/// Name, then what one count means.
fn counters(heading: &str, segment: &SegmentView, counted: &[&(String, u64)]) -> String {
    if counted.is_empty() {
        return field(heading, "none");
    }
    let mut text = format!("{heading}\n");
    for (name, count) in counted {
        let words = name.replace('_', " ");
        let what = match segment.meanings.get(name) {
            Some(meaning) => format!("{words}: {meaning}"),
            None => words,
        };
        text += &counter(&what, *count);
    }
    text
}

/// Percentiles, then the buckets that have values.
fn times(heading: &str, histogram: &Histogram) -> String {
    let percentile = |percent| histogram.percentile(percent).map(microseconds);
    let (Some(p50), Some(p90), Some(p99)) = (percentile(50), percentile(90), percentile(99)) else {
        return field(heading, "none yet");
    };
    let most = microseconds(histogram.maximum);
    let summary = format!("p50 {p50}, p90 {p90}, p99 {p99}, max {most}; {}", histogram.count());
    let mut text = field(heading, &format!("{summary} flows"));
    for (from, to, count) in histogram.filled() {
        let range = match to {
            Some(to) => format!("{} to {}", microseconds(from), microseconds(to)),
            None => format!("{} and more", microseconds(from)),
        };
        text += &counter(&range, count);
    }
    text
}

fn microseconds(time: u64) -> String {
    match time {
        0..10_000 => format!("{time} us"),
        10_000..10_000_000 => format!("{} ms", time / 1000),
        _ => format!("{} s", time / 1_000_000),
    }
}

pub fn virtual_segments(views: &[VirtualSegmentView]) -> String {
    if views.is_empty() {
        return "No virtual segments.\n".into();
    }
    views.iter().map(virtual_segment).collect()
}

fn virtual_segment(view: &VirtualSegmentView) -> String {
    let listed = |items: &[String], none: &str| {
        if items.is_empty() { none.to_owned() } else { items.join(", ") }
    };
    let vlans: Vec<String> = view.vlans.iter().map(ToString::to_string).collect();
    let mut text = fold("", &format!("{}. Virtual segment {}", view.order, view.counted.name));
    text += &field("  Segments", &listed(&view.segments, "all"));
    if let Some(from) = &view.from {
        text += &field("  Clients on side", from);
    }
    text += &field("  VLANs", &listed(&vlans, "any"));
    text += &field("  Sources", &listed(&view.sources, "any"));
    text += &field("  Destinations", &listed(&view.destinations, "any"));
    text += &field("  Profile", &view.profile);
    if let (Some(packets), Some(count)) = (view.counted.packets, view.counted.bytes) {
        text += &field("  Traffic", &format!("{packets} packets, {}", bytes(count)));
    }
    if view.counted.outcomes.is_empty() {
        text += &field("  Flows by outcome", "none yet");
    }
    text + &outcomes(&view.counted.outcomes)
}

#[cfg(test)]
mod tests;
