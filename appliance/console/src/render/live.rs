//! `show sessions live`, `show learnt-bypasses`.

use weir_api::engine::{
    ExceptedServer, LearntBypass, LearntView, LegRecord, LiveSession, LiveSessions,
};
use weir_policy::outcome::Bypassed;

use crate::text::{fold, moment};

/// How many there are, and some lines of each.
pub fn sessions(live: &LiveSessions) -> String {
    if live.sessions.is_empty() {
        return match live.count {
            0 => "No live sessions.\n".into(),
            count => fold("", &format!("Live sessions: {count}")),
        };
    }
    let shown = live.sessions.len();
    let mut text = fold("", &format!("Live sessions: {}; the newest {shown}:", live.count));
    text += &live.sessions.iter().map(session).collect::<String>();
    text
}

fn session(session: &LiveSession) -> String {
    let ends = format!("{} > {}", session.client, session.server);
    let mut text = fold(&format!("{}  ", moment(session.started)), &ends);
    let so_far = match session.outcome {
        None => "handshakes not done".to_owned(),
        Some(outcome) => match outcome.reason() {
            Some(reason) => format!("{outcome} ({reason}) so far"),
            None => format!("{outcome} so far"),
        },
    };
    let drains = if session.draining { ", of an engine that drains" } else { "" };
    let LiveSession { id, seconds, .. } = session;
    text += &fold("  ", &format!("session {id}, {seconds} s old{drains}: {so_far}"));
    text += &fold("  ", session.server_name.as_deref().unwrap_or("no server name"));
    let leg = |leg: &Option<LegRecord>| leg.as_ref().map(ToString::to_string);
    for (end, leg) in [("client", leg(&session.client_leg)), ("server", leg(&session.server_leg))] {
        if let Some(leg) = leg {
            text += &fold("  ", &format!("TLS with the {end}: {leg}"));
        }
    }
    text
}

pub fn learnt(view: &LearntView) -> String {
    let text = learnt_lines(&view.bypassed, &view.excepted);
    if text.is_empty() { "Nothing was learnt to be bypassed or excepted.\n".into() } else { text }
}

/// Nothing where there is none.
pub fn learnt_lines(bypassed: &[LearntBypass], excepted: &[ExceptedServer]) -> String {
    let mut text = String::new();
    if !bypassed.is_empty() {
        text += "Learnt to be bypassed, the newest first\n";
        text += &bypassed.iter().map(bypass_line).collect::<String>();
    }
    if !excepted.is_empty() {
        text += "Excepted by their certificates, the newest first\n";
        text += &excepted.iter().map(excepted_line).collect::<String>();
    }
    text
}

fn bypass_line(bypass: &LearntBypass) -> String {
    let server = match (&bypass.server_name, bypass.server) {
        (Some(name), Some(server)) => format!("{name} at {server}"),
        (Some(name), None) => name.clone(),
        (None, server) => server.map_or_else(String::new, |server| server.to_string()),
    };
    let what = match (bypass.client, bypass.reason) {
        (Some(client), _) => format!("{server} for {client}, which rejects forged certificates"),
        (None, Bypassed::NothingShared) => {
            format!("{server}, which shares with clients what Weir does not have")
        }
        (None, _) => format!("{server}, which asks for client certificates"),
    };
    let LearntBypass { proxy, place, seconds, left, .. } = bypass;
    fold("  ", &format!("{what}; {place}, by {proxy}, since {seconds} s, for another {left} s"))
}

fn excepted_line(server: &ExceptedServer) -> String {
    let ExceptedServer { decryption_policy, server, server_name, seconds, left } = server;
    let at = match server_name {
        Some(name) => format!("{name} at {}", server.address),
        None => server.address.to_string(),
    };
    let place = &server.place;
    let text =
        format!("{at}; {place}, by {decryption_policy}, since {seconds} s, for another {left} s");
    fold("  ", &text)
}

#[cfg(test)]
mod tests {
    use weir_policy::Outcome;
    use weir_policy::snapshot::SegmentId;
    use weir_policy::suites::Protocol;

    use super::*;

    #[test]
    fn live_session_tells_its_ends_age_outcome_name_and_both_legs() {
        let leg = |suite, legacy| LegRecord {
            version: Protocol::Tls13,
            suite,
            group: Some("x25519".into()),
            signature: None,
            alpn: None,
            resumed: false,
            legacy,
        };
        let live = LiveSession {
            id: 7,
            started: 1_767_225_600_000,
            seconds: 61,
            segment: SegmentId(1),
            client: "10.66.0.1:51234".parse().unwrap(),
            server: "10.66.0.2:443".parse().unwrap(),
            server_name: Some("a\u{1b}.example".into()),
            policy: None,
            outcome: Some(Outcome::DecryptedAndInspected),
            client_leg: Some(leg(0x1301, false)),
            server_leg: Some(leg(0x1302, false)),
            draining: false,
        };
        let begun =
            LiveSession { outcome: None, client_leg: None, server_leg: None, ..live.clone() };
        let old = sessions(&LiveSessions {
            sessions: vec![LiveSession { draining: true, ..begun.clone() }],
            count: 1,
        });
        assert!(old.contains("61 s old, of an engine that drains: handshakes not done\n"), "{old}");
        let shown = sessions(&LiveSessions { sessions: vec![live, begun], count: 9 });
        let expected = "\
Live sessions: 9; the newest 2:
2026-01-01 00:00:00  10.66.0.1:51234 > 10.66.0.2:443
  session 7, 61 s old: decrypted and inspected so far
";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.contains("  TLS with the client: TLS 1.3 TLS_AES_128_GCM_SHA256 x25519\n"));
        assert!(shown.contains("  TLS with the server: TLS 1.3 TLS_AES_256_GCM_SHA384 x25519\n"));
        assert!(shown.contains("61 s old: handshakes not done\n"), "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        assert_eq!(sessions(&LiveSessions::default()), "No live sessions.\n");
        assert!(learnt(&LearntView::default()).starts_with("Nothing"));
    }
}
