//! `show sessions`, `show sessions detail`, `show events`.

use weir_api::engine::{Carried, FilterAction, FilterEvent, LegRecord, SessionRecord};

use crate::text::{bytes, field, fold, moment};

/// Two lines a session: who with whom, and what became of it.
pub fn sessions(sessions: &[SessionRecord]) -> String {
    if sessions.is_empty() {
        return "No sessions.\n".into();
    }
    let mut text = String::new();
    for session in sessions {
        let ends = format!("{} > {}", session.client, session.server);
        text += &fold(&format!("{}  ", moment(session.started)), &ends);
        text += &fold("  ", &outcome(session));
        let said = session.bytes.is_some_and(|bytes| bytes != Carried::default());
        if said || session.server_name.is_some() {
            text += &fold("  ", &traffic(session));
        }
    }
    text
}

pub fn sessions_detail(sessions: &[SessionRecord]) -> String {
    if sessions.is_empty() {
        return "No sessions.\n".into();
    }
    sessions.iter().map(detail).collect::<Vec<_>>().join("\n")
}

/// Two or three lines an event.
pub fn events(events: &[FilterEvent]) -> String {
    if events.is_empty() {
        return "No events.\n".into();
    }
    let mut text = String::new();
    for event in events {
        let action = match event.action {
            FilterAction::Permit => "permit",
            FilterAction::Block => "block",
        };
        let rule = format!("{action}  filter {} rev {}: {}", event.sid, event.rev, event.message);
        text += &fold(&format!("{}  ", moment(event.time)), &rule);
        let mut ends = format!("{} > {}", event.client, event.server);
        if let Some(name) = &event.server_name {
            ends += &format!(" ({name})");
        }
        text += &fold("  ", &ends);
        let inspected = if event.tls_inspected { "yes" } else { "no" };
        let profile = event.profile.as_deref().unwrap_or("none");
        let place = format!(
            "session {}, segment {}, profile {profile}, TLS inspected: {inspected}",
            event.session, event.segment.0
        );
        text += &fold("  ", &place);
    }
    text
}

fn outcome(session: &SessionRecord) -> String {
    match session.outcome.reason() {
        Some(reason) => format!("{} ({reason})", session.outcome),
        None => session.outcome.to_string(),
    }
}

fn traffic(session: &SessionRecord) -> String {
    let name = session.server_name.as_deref().unwrap_or("no server name");
    match session.bytes {
        Some(Carried { to_server, to_client }) => {
            format!("{name}; {} to server, {} to client", bytes(to_server), bytes(to_client))
        }
        None => name.to_owned(),
    }
}

fn detail(session: &SessionRecord) -> String {
    let optional = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    let mut text = field("Session", &session.id.to_string());
    text += &field("Started", &moment(session.started));
    // Its end is not seen, nor are its bytes.
    let ended = if session.bytes.is_some() { "Ended" } else { "Released" };
    text += &field(ended, &moment(session.ended));
    text += &field("Segment", &session.segment.0.to_string());
    text += &field("Client", &session.client.to_string());
    text += &field("Server", &session.server.to_string());
    text += &field("Server name", &optional(&session.server_name));
    if session.encrypted_client_hello {
        text += &field("Encrypted hello", "yes; the server name is the outer one");
    }
    if session.http2_downgraded {
        text += &field("HTTP/2", "offered by the client, downgraded to HTTP/1 by the proxy");
    }
    let names = session.names.as_deref();
    text += &field("Virtual segment", session.virtual_segment.as_deref().unwrap_or("-"));
    text += &field("Profile", names.map_or("-", |names| &names.profile));
    text += &field("Policy", names.map_or("-", |names| &names.policy));
    text += &field("Proxy", names.map_or("-", |names| &names.proxy));
    if let Some(policy) = names.and_then(|names| names.decryption_policy.as_ref()) {
        text += &field("Decryption policy", policy);
    }
    text += &field("Policy generation", &session.generation.to_string());
    text += &field("Outcome", &outcome(session));
    if let Some(failure) = &session.failure {
        text += &field("Failure", &failure.to_string());
    }
    if session.renegotiation_refused {
        text += &field("Renegotiation", "asked for by the server, and refused");
    }
    if let Some(broken) = &session.broken {
        text += &field("Broken off", &broken.to_string());
    }
    if let Some(seconds) = session.idle {
        text += &field("Ended by", &format!("the device's idle timeout of {seconds} s"));
    }
    if let Some(record) = &session.certificate {
        text += &field("Server certificate", &optional(&record.subject));
        text += &field("Certificate's names", &record.to_string());
        text += &field("Certificate's issuer", &optional(&record.issuer));
    }
    if let Some(verdict) = &session.verdict {
        text += &field("Verdict", verdict);
    }
    if let Some(record) = &session.revocation {
        text += &field("Revocation", &record.to_string());
    }
    if let Some(record) = &session.client_leg {
        text += &field("TLS with the client", &record.to_string());
    }
    if let Some(record) = &session.server_leg {
        text += &field("TLS with the server", &record.to_string());
    }
    let on = |leg: &Option<LegRecord>| leg.as_ref().is_some_and(|leg| leg.legacy);
    let stacks = match (on(&session.client_leg), on(&session.server_leg)) {
        (false, false) => None,
        (true, false) => Some("with the client"),
        (false, true) => Some("with the server"),
        (true, true) => Some("with both"),
    };
    if let Some(stacks) = stacks {
        text += &field("Legacy TLS stack", stacks);
    }
    match session.bytes {
        Some(Carried { to_server, to_client }) => {
            text += &field("To server", &bytes(to_server));
            text += &field("To client", &bytes(to_client));
        }
        None => text += &field("Bytes", "not counted: the flow crosses the bridge"),
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_policy::Outcome;
    use weir_policy::outcome::Blocked;
    use weir_policy::snapshot::SegmentId;
    use weir_policy::suites::Protocol;

    use weir_api::engine::{
        BreakRecord, CertificateRecord, End, FailureCause, FailureRecord, PolicyNames,
    };

    use super::*;
    use crate::text::WIDTH;

    fn session(text: &str, address: &str) -> SessionRecord {
        let leg = LegRecord {
            version: Protocol::Tls13,
            suite: 0x1301,
            signature: Some("ecdsa_secp256r1_sha256".into()),
            group: Some("X25519MLKEM768".into()),
            alpn: Some("http/1.1".into()),
            resumed: false,
            legacy: true,
        };
        let end = address.parse().unwrap();
        let words = text.to_owned();
        let text = Some(text.to_owned());
        SessionRecord {
            ended: 1_767_225_601_000,
            server_name: text.clone(),
            encrypted_client_hello: true,
            http2_downgraded: true,
            renegotiation_refused: true,
            virtual_segment: Some(words.as_str().into()),
            names: Some(Arc::new(PolicyNames {
                profile: words.clone(),
                policy: words.clone(),
                proxy: words.clone(),
                decryption_policy: text.clone(),
            })),
            generation: 3,
            outcome: Outcome::Blocked(Blocked::Filter(1000)),
            client_leg: Some(leg.clone()),
            server_leg: Some(leg),
            certificate: Some(CertificateRecord {
                subject: text.clone(),
                issuer: text.clone(),
                names: vec![text.clone().unwrap(); 3],
                more_names: 992,
            }),
            verdict: text,
            broken: Some(BreakRecord { by: End::Server, words: words.clone() }),
            failure: Some(FailureRecord { with: End::Client, cause: FailureCause::Alert, words }),
            bytes: Some(Carried { to_server: 1200, to_client: 20_000_000 }),
            ..SessionRecord::new(7, 1_767_225_600_000, SegmentId(1), end, end)
        }
    }

    fn event(text: &str, address: &str) -> FilterEvent {
        FilterEvent {
            session: 7,
            time: 1_767_225_600_000,
            segment: SegmentId(1),
            client: address.parse().unwrap(),
            server: address.parse().unwrap(),
            server_name: Some(text.into()),
            profile: Some(text.into()),
            sid: 1000,
            rev: 1,
            message: text.into(),
            action: FilterAction::Block,
            tls_inspected: true,
        }
    }

    #[test]
    fn session_tells_ends_outcome_and_traffic() {
        let expected = "\
2026-01-01 00:00:00  10.66.0.1:51234 > 10.66.0.1:51234
  blocked (filter 1000)
  shop.example; 1.2 KB to server, 20.0 MB to client
";
        assert_eq!(sessions(&[session("shop.example", "10.66.0.1:51234")]), expected);
    }

    #[test]
    fn session_detail_tells_both_legs() {
        let shown = sessions_detail(&[session("x", "10.66.0.1:1")]);
        let leg = "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519MLKEM768\n                        \
                   ecdsa_secp256r1_sha256, ALPN http/1.1\n";
        assert!(shown.contains(&format!("TLS with the client     {leg}")), "{shown}");
        assert!(shown.contains(&format!("TLS with the server     {leg}")), "{shown}");
        assert!(shown.contains("Certificate's names     x, x, x and 992 more\n"), "{shown}");
        assert!(
            shown.contains("Failure                 handshake with the client: x\n"),
            "{shown}"
        );
        assert!(shown.contains("Broken off              by the server: x\n"), "{shown}");
        assert!(shown.contains("Outcome                 blocked (filter 1000)\n"), "{shown}");
    }

    #[test]
    fn released_session_has_no_bytes_that_nobody_counted() {
        let mut released = session("x", "10.66.0.1:1");
        released.bytes = None;
        let shown = sessions(&[released.clone()]) + &sessions_detail(&[released]);
        assert!(shown.contains("\nReleased                2026-01-01 00:00:01\n"), "{shown}");
        assert!(shown.contains("Bytes                   not counted"), "{shown}");
        assert!(!shown.contains(" B "), "{shown}");
        assert!(!shown.contains("To server"), "{shown}");
    }

    #[test]
    fn event_tells_rule_ends_and_place() {
        let expected = "\
2026-01-01 00:00:00  block  filter 1000 rev 1: attack
  10.66.0.1:51234 > 10.66.0.1:51234 (attack)
  session 7, segment 1, profile attack, TLS inspected: yes
";
        assert_eq!(events(&[event("attack", "10.66.0.1:51234")]), expected);
    }

    #[test]
    fn records_fit_with_the_longest_values() {
        let long = "a\x1b]0;title\x07 ".repeat(30);
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let shown = sessions(&[session(&long, address)])
            + &sessions_detail(&[session(&long, address)])
            + &events(&[event(&long, address)]);
        for line in shown.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        }
    }

    #[test]
    fn nothing_to_show_is_said() {
        assert_eq!(sessions(&[]), "No sessions.\n");
        assert_eq!(sessions_detail(&[]), "No sessions.\n");
        assert_eq!(events(&[]), "No events.\n");
    }
}
