//! `show segments`, `show virtual-segments`: state, traffic, flows, and in detail times and every
//! counter that counted, with its meaning. Of a virtual segment what eBPF dropped of its packets is told, and
//! what user space counted of its flows; what is dropped without a look at the rules is its segment's alone.
//!
//! Not for: asking. Names that are not there are errors that list those that are.

use std::collections::BTreeMap;

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
    text += &field("  Flows", &flows(&segment.counters));
    text += &outcomes(&segment.outcomes);
    if !detail {
        return text + &field("  Packets dropped", &dropped(&segment.counters).to_string());
    }
    text += &times("  Hold time", &segment.hold_time);
    text += &times("  Takeover time", &segment.take_over_time);
    // But for those whose meaning says otherwise.
    text + &every_counter("since the boot", &segment.counters, &segment.meanings)
}

fn is_drop(name: &str) -> bool {
    name.ends_with("_dropped")
}

fn dropped(counters: &[(String, u64)]) -> u64 {
    let drops = counters.iter().filter(|(name, _)| is_drop(name));
    drops.fold(0, |sum, (_, count)| sum.saturating_add(*count))
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
fn flows(counters: &[(String, u64)]) -> String {
    let held = value(counters, "flow_held");
    format!("{held} held since the boot; by this engine {}", judged(counters))
}

fn judged(counters: &[(String, u64)]) -> String {
    format!(
        "{} released, {} taken over, {} blocked",
        value(counters, "flow_released"),
        value(counters, "flow_taken_over"),
        value(counters, "flow_blocked"),
    )
}

fn value(counters: &[(String, u64)], name: &str) -> u64 {
    counters.iter().find(|(one, _)| one == name).map_or(0, |(_, count)| *count)
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

/// Every counter that counted: those of dropped packets, then the others.
fn every_counter(
    span: &str,
    counted: &[(String, u64)],
    meanings: &BTreeMap<String, String>,
) -> String {
    let (dropped, others): (Vec<_>, Vec<_>) =
        counted.iter().filter(|(_, n)| *n > 0).partition(|(name, _)| is_drop(name));
    counters(&format!("  Drops by reason, {span}"), &dropped, meanings)
        + &counters(&format!("  Counters, {span}"), &others, meanings)
}

/// Name, then what one count means.
fn counters(
    heading: &str,
    counted: &[&(String, u64)],
    meanings: &BTreeMap<String, String>,
) -> String {
    if counted.is_empty() {
        return format!("{heading}: none\n");
    }
    let mut text = format!("{heading}\n");
    for (name, count) in counted {
        let words = name.replace('_', " ");
        let what = match meanings.get(name) {
            Some(meaning) => format!("{words}: {meaning}"),
            None => words,
        };
        text += &counter(&what, *count);
    }
    text
}

/// Percentiles, then the buckets that have values.
fn times(heading: &str, histogram: &Histogram) -> String {
    // A bucket's upper bound, or the largest value where that is less.
    let percentile = |percent| histogram.percentile(percent).map(microseconds);
    let (Some(p50), Some(p90), Some(p99)) = (percentile(50), percentile(90), percentile(99)) else {
        return field(heading, "none yet");
    };
    let most = microseconds(histogram.maximum);
    let summary =
        format!("p50 <= {p50}, p90 <= {p90}, p99 <= {p99}, max {most}; {}", histogram.count());
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

pub fn virtual_segments(views: &[VirtualSegmentView], detail: bool) -> String {
    if views.is_empty() {
        return "No virtual segments.\n".into();
    }
    views.iter().map(|view| virtual_segment(view, detail)).collect()
}

fn virtual_segment(view: &VirtualSegmentView, detail: bool) -> String {
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
        let traffic = format!("{packets} packets, {}, since the boot", bytes(count));
        text += &field("  Traffic", &traffic);
    }
    let counted = &view.counted;
    let held = counted.hold_time.count();
    let flows = format!("by this engine {held} held, {}", judged(&counted.counters));
    text += &field("  Flows", &flows);
    if counted.outcomes.is_empty() {
        text += &field("  Flows by outcome", "none yet");
    }
    text += &outcomes(&counted.outcomes);
    if !detail {
        let dropped = dropped(&counted.counters);
        return text + &field("  Packets dropped", &dropped.to_string());
    }
    text += &times("  Hold time", &counted.hold_time);
    text += &times("  Takeover time", &counted.take_over_time);
    text + &every_counter("by this engine", &counted.counters, &view.meanings)
}

#[cfg(test)]
mod tests;
