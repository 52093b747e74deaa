//! The agent's answers as text of at most 80 columns.
//!
//! Not for: asking. Everything that came from outside goes through [`crate::text::fold`], which
//! makes it printable. Cannot fail.

mod ciphers;
mod live;
mod machine;
mod records;
mod rules;
pub mod sight;

use weir_api::capture::{CaptureFile, FromCapture};
use weir_api::console::{Greeting, Response, Role, TlsInspectionView};
use weir_policy::snapshot::{OverThreshold, QuicAction};

use crate::grammar;
use crate::text::{bytes, field, fold, moment};

pub use records::sessions_detail;

pub fn response(response: &Response) -> String {
    match response {
        Response::Greeting(greeting) => banner(greeting),
        Response::LoggedIn { user, role } => {
            fold("", &format!("Logged in as {user}, role {}", format!("{role:?}").to_lowercase()))
        }
        Response::Refused(text) | Response::Done(text) => fold("", text),
        Response::Version { version, kernel, slot } => {
            let slot = slot.as_deref().unwrap_or("none (not booted from the image)");
            field("Weir", version) + &field("Kernel", kernel) + &field("Slot", slot)
        }
        Response::Health(health) => machine::health(health),
        Response::Segments(segments) => sight::segments(segments, false),
        Response::Capture(answer) => capture(answer),
        Response::VirtualSegments(views) => sight::virtual_segments(views, false),
        Response::HighAvailability(state) => machine::high_availability(state),
        Response::TlsInspection(view) => tls_inspection(view),
        Response::Ciphers(table) => ciphers::ciphers(table),
        Response::Sessions(sessions) => records::sessions(sessions),
        Response::LiveSessions(live) => live::sessions(live),
        Response::Learnt(view) => live::learnt(view),
        Response::Events(events) => records::events(events),
        Response::Log(lines) => lines.iter().map(|line| fold("", line)).collect(),
        Response::Configuration(document) => configuration(document),
        Response::Quarantine(view) => rules::quarantine(view),
        Response::TrafficFilters(views) => rules::rules(views, "No traffic filters."),
        Response::InspectionBypass(views) => rules::rules(views, "No inspection bypass rules."),
        Response::Reputation(view) => rules::reputation(view),
        Response::Explanation(explanation) => rules::explanation(explanation),
    }
}

fn capture(answer: &FromCapture) -> String {
    match answer {
        FromCapture::Captures(files) if files.is_empty() => "No captures.\n".into(),
        FromCapture::Captures(files) => files.iter().map(capture_file).collect(),
        FromCapture::Done(text) | FromCapture::Refused(text) => fold("", text),
        FromCapture::Started(name) => fold("", &format!("Capture {name} runs.")),
        FromCapture::Progress(progress) => fold("", &format!("{} packets", progress.packets)),
    }
}

fn capture_file(file: &CaptureFile) -> String {
    let mut what = format!("{}  {}", file.name, bytes(file.bytes));
    if !file.running.is_empty() {
        what += &format!(", runs on {}", file.running.join(" and "));
    }
    fold(&format!("{}  ", moment(file.modified)), &what)
}

/// What the console says before a login.
pub fn banner(greeting: &Greeting) -> String {
    let mut text = fold("", &format!("Weir {} on {}", greeting.version, greeting.hostname));
    for error in &greeting.provisioning_errors {
        text += &fold("Provisioning: ", error);
    }
    if greeting.role == Some(Role::Viewer) {
        text += "No user was provisioned: the console is read-only.\n";
    }
    text
}

/// `help`.
pub fn help() -> String {
    let mut text = String::from(
        "Type ? at any position for what is valid there, Tab to complete a word, the\n\
         arrow keys for earlier commands. Words may be abbreviated: sho ver.\n\n",
    );
    text += &grammar::list(&grammar::help("").unwrap_or_default());
    text
}

fn tls_inspection(view: &TlsInspectionView) -> String {
    let on = |on| if on { "on" } else { "off" };
    let mut text = field("Client inspection", on(view.client_inspection));
    text += &field("Server inspection", on(view.server_inspection));
    text += &field("Client proxies", &names(&view.client_proxies));
    text += &field("Server proxies", &names(&view.server_proxies));
    let past = match view.over_threshold {
        OverThreshold::Bypass => "bypassed",
        OverThreshold::Block => "blocked",
    };
    let most = view.max_concurrent_sessions;
    text += &field("Concurrent at most", &format!("{most}; new sessions past them are {past}"));
    text += &field("QUIC blocked by", &names(&policies(view, QuicAction::Block)));
    text += &field("QUIC passed by", &names(&policies(view, QuicAction::Bypass)));
    text += &field("Congestion control", view.congestion_control.word());
    let idle = match view.idle_timeout {
        0 => "never".to_owned(),
        seconds => format!("after {seconds} s"),
    };
    text += &field("Idle sessions end", &idle);
    text += &field("Encrypt-then-MAC", on(view.encrypt_then_mac));
    text += &field("Intermediates fetched", on(view.fetch_intermediates));
    text += &field("Revocation asked by", &names(&view.revocation_fetched_by));
    let Some(counted) = &view.counters else {
        return text + &field("Counters", "none: no engine is connected");
    };
    let now = counted.sessions_decrypted_now;
    let over = if counted.over_threshold {
        format!(", over the threshold: new sessions are {past}")
    } else {
        String::new()
    };
    text += &field("Decrypted now", &format!("{now}{over}"));
    let segments = counted.segments.iter().flat_map(|segment| &segment.counters);
    let quic: u64 = segments.filter(|(name, _)| *name == QUIC_DROPPED).map(|(_, n)| n).sum();
    text += &field("QUIC packets blocked", &quic.to_string());
    text += "Sessions by outcome\n";
    for (outcome, reason, count) in &counted.outcomes {
        let what = match reason {
            Some(reason) => format!("{outcome} ({reason})"),
            None => outcome.clone(),
        };
        text += &counter(&what, *count);
    }
    if !counted.tls.is_empty() {
        text += "TLS\n";
        text += &counters(&counted.tls);
    }
    text + &live::learnt_lines(&counted.learnt, &counted.excepted)
}

/// The data plane's counter.
const QUIC_DROPPED: &str = "quic_dropped";

fn policies(view: &TlsInspectionView, action: QuicAction) -> Vec<String> {
    let of_it = view.quic.iter().filter(|(_, one)| *one == action);
    of_it.map(|(name, _)| name.clone()).collect()
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

pub fn counters(counters: &[(String, u64)]) -> String {
    counters.iter().map(|(name, count)| counter(name, *count)).collect()
}

fn counter(name: &str, count: u64) -> String {
    fold(&format!("  {count:>20}  "), name)
}

/// Keeps the document's indentation where lines are folded.
fn configuration(document: &str) -> String {
    let mut text = String::new();
    for line in document.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        text += &fold(&" ".repeat(indent.min(40)), content);
    }
    text
}

#[cfg(test)]
mod tests {
    use weir_api::engine::{Counters, ExceptedServer, LearntBypass, SegmentCounters};
    use weir_policy::Place;
    use weir_policy::outcome::Bypassed;
    use weir_policy::snapshot::SegmentId;

    use super::*;
    use crate::text::WIDTH;

    fn fits(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "too long: {line}");
            assert!(!line.contains(|c: char| c.is_control()), "not printable: {line:?}");
        }
    }

    #[test]
    fn every_view_fits_with_the_longest_values() {
        let long = "\x1b[31m".repeat(40);
        fits(&tls_inspection(&TlsInspectionView {
            client_inspection: true,
            max_concurrent_sessions: u32::MAX,
            counters: Some(Counters {
                sessions_decrypted_now: u64::MAX,
                over_threshold: true,
                outcomes: vec![(long.clone(), Some(long.clone()), u64::MAX)],
                tls: vec![(long.clone(), u64::MAX)],
                ..Counters::default()
            }),
            server_proxies: vec![long.clone(); 3],
            client_proxies: vec![long.clone(); 3],
            quic: vec![(long.clone(), QuicAction::Block); 3],
            ..TlsInspectionView::default()
        }));
        fits(&banner(&Greeting {
            hostname: long.clone(),
            version: long.clone(),
            provisioning_errors: vec![long.clone()],
            ..Greeting::default()
        }));
        fits(&response(&Response::Log(vec![long.clone()])));
        fits(&response(&Response::Refused(long.clone())));
        fits(&response(&Response::Configuration(format!("{}x: {long}", " ".repeat(100)))));
        fits(&response(&Response::Version {
            version: long.clone(),
            kernel: long.clone(),
            slot: Some(long),
        }));
        fits(&help());
    }

    #[test]
    fn tls_inspection_counts_by_outcome_and_reason() {
        let view = TlsInspectionView {
            client_inspection: true,
            client_proxies: vec!["staff".into(), "guests".into()],
            max_concurrent_sessions: 10_000,
            counters: Some(Counters {
                outcomes: vec![
                    ("decrypted and inspected".into(), None, 3),
                    ("blocked".into(), Some("filter 7".into()), 1),
                ],
                tls: vec![("forged certificates".into(), 2)],
                learnt: vec![
                    LearntBypass {
                        proxy: "staff".into(),
                        reason: Bypassed::PinnedClient,
                        place: Place::new(SegmentId(1), None),
                        client: Some([10, 0, 0, 1].into()),
                        server: None,
                        server_name: Some("a.example".into()),
                        seconds: 7,
                        left: 93,
                    },
                    LearntBypass {
                        proxy: "guests".into(),
                        reason: Bypassed::ClientCertificateRequested,
                        place: Place::new(SegmentId(1), Some(7)),
                        client: None,
                        server: Some(([192, 0, 2, 1], 443).into()),
                        server_name: Some("b.example".into()),
                        seconds: 70,
                        left: 530,
                    },
                    LearntBypass {
                        proxy: "guests".into(),
                        reason: Bypassed::NothingShared,
                        place: Place::new(SegmentId(1), None),
                        client: None,
                        server: Some(([192, 0, 2, 2], 443).into()),
                        server_name: None,
                        seconds: 80,
                        left: 520,
                    },
                ],
                excepted: vec![ExceptedServer {
                    decryption_policy: "banks".into(),
                    server: Place::new(SegmentId(1), None).server(([192, 0, 2, 1], 443).into()),
                    server_name: Some("bank.example".into()),
                    seconds: 60,
                    left: 3540,
                }],
                sessions_decrypted_now: 9_900,
                over_threshold: true,
                segments: vec![SegmentCounters {
                    counters: vec![("quic_dropped".to_owned(), 5)],
                    ..SegmentCounters::default()
                }],
                ..Counters::default()
            }),
            quic: vec![
                ("staff".into(), QuicAction::Block),
                ("guests".into(), QuicAction::Bypass),
                ("lab".into(), QuicAction::Block),
            ],
            fetch_intermediates: true,
            revocation_fetched_by: vec!["guests".into()],
            ..TlsInspectionView::default()
        };
        let expected = "\
Client inspection       on
Server inspection       off
Client proxies          staff, guests
Server proxies          none
Concurrent at most      10000; new sessions past them are bypassed
QUIC blocked by         staff, lab
QUIC passed by          guests
Congestion control      cubic
Idle sessions end       never
Encrypt-then-MAC        off
Intermediates fetched   on
Revocation asked by     guests
Decrypted now           9900, over the threshold: new sessions are bypassed
QUIC packets blocked    5
Sessions by outcome
                     3  decrypted and inspected
                     1  blocked (filter 7)
TLS
                     2  forged certificates
Learnt to be bypassed, the newest first
  a.example for 10.0.0.1, which rejects forged certificates; segment 1, by
  staff, since 7 s, for another 93 s
  b.example at 192.0.2.1:443, which asks for client certificates; segment 1,
  VLAN 7, by guests, since 70 s, for another 530 s
  192.0.2.2:443, which shares with clients what Weir does not have; segment 1,
  by guests, since 80 s, for another 520 s
Excepted by their certificates, the newest first
  bank.example at 192.0.2.1:443; segment 1, by banks, since 60 s, for another
  3540 s
";
        assert_eq!(tls_inspection(&view), expected);
    }

    #[test]
    fn banner_tells_what_went_wrong_at_provisioning() {
        let greeting = Greeting {
            hostname: "edge".into(),
            version: "0.1.0".into(),
            provisioning_errors: vec!["user-data:17: weir: wrong".into()],
            role: Some(Role::Viewer),
            ..Greeting::default()
        };
        let expected = "\
Weir 0.1.0 on edge
Provisioning: user-data:17: weir: wrong
No user was provisioned: the console is read-only.
";
        assert_eq!(banner(&greeting), expected);
    }
}
