//! What an engine tells, as lines of the system log: the console's memory is short, this is what stays.
//!
//! For: logged sessions, and what filters found. Not for: keeping either for the console
//! ([`crate::state`]). Cannot fail.

use tracing::{info, warn};
use weir_api::engine::{FilterAction, FilterEvent, LegRecord, SessionRecord};

/// One line, a field for each thing that is known.
pub fn session(session: &SessionRecord) {
    info!(
        session = session.id,
        milliseconds = session.milliseconds,
        segment = session.segment.0,
        client = %session.client,
        server = %session.server,
        server_name = session.server_name.as_deref(),
        encrypted_hello = session.encrypted_client_hello.then_some(true),
        http2_downgraded = session.http2_downgraded.then_some(true),
        virtual_segment = session.virtual_segment.as_deref(),
        profile = session.names.as_ref().map(|names| names.profile.as_str()),
        policy = session.names.as_ref().map(|names| names.policy.as_str()),
        proxy = session.names.as_ref().map(|names| names.proxy.as_str()),
        decryption_policy =
            session.names.as_ref().and_then(|names| names.decryption_policy.as_deref()),
        generation = session.generation,
        client_tls = session.client_leg.as_ref().map(ToString::to_string).as_deref(),
        server_tls = session.server_leg.as_ref().map(ToString::to_string).as_deref(),
        client_stack = session.client_leg.as_ref().map(LegRecord::stack),
        server_stack = session.server_leg.as_ref().map(LegRecord::stack),
        certificate = session.certificate.as_ref().and_then(|names| names.subject.as_deref()),
        certificate_names = session.certificate.as_ref().map(ToString::to_string).as_deref(),
        certificate_issuer = session.certificate.as_ref().and_then(|names| names.issuer.as_deref()),
        failure = session.failure.as_ref().map(ToString::to_string).as_deref(),
        renegotiation_refused = session.renegotiation_refused.then_some(true),
        broken = session.broken.as_ref().map(ToString::to_string).as_deref(),
        idle_timeout = session.idle,
        outcome = %session.outcome,
        reason = session.outcome.reason().as_deref(),
        verdict = session.verdict.as_deref(),
        revocation = session.revocation.as_ref().map(ToString::to_string).as_deref(),
        bytes_to_server = session.bytes.map(|bytes| bytes.to_server),
        bytes_to_client = session.bytes.map(|bytes| bytes.to_client),
        "session {}: {} > {}, {}",
        session.id,
        session.client,
        session.server,
        session.outcome,
    );
}

pub fn event(event: &FilterEvent) {
    let action = match event.action {
        FilterAction::Permit => "permit",
        FilterAction::Block => "block",
    };
    warn!(
        session = event.session,
        segment = event.segment.0,
        client = %event.client,
        server = %event.server,
        server_name = event.server_name.as_deref(),
        profile = event.profile.as_deref(),
        sid = event.sid,
        rev = event.rev,
        filter = event.message,
        action,
        tls_inspected = event.tls_inspected,
        "filter {} ({action}): {} > {}, session {}",
        event.sid,
        event.client,
        event.server,
        event.session,
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use weir_api::engine::{BreakRecord, CertificateRecord, End, PolicyNames};
    use weir_policy::snapshot::SegmentId;
    use weir_policy::suites::Protocol;

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// SPEC T4: the console's memory is short, the system log is what stays.
    #[test]
    fn logged_session_tells_all_that_both_sides_agreed_on_and_who_broke_it() {
        let (client, server) = ("10.0.0.1:50000", "192.0.2.1:443");
        let mut session = SessionRecord::new(
            7,
            0,
            SegmentId(1),
            client.parse().unwrap(),
            server.parse().unwrap(),
        );
        let leg = |version, signature: Option<&str>, resumed| LegRecord {
            version,
            suite: 0x1301,
            group: Some("X25519".into()),
            signature: signature.map(str::to_owned),
            alpn: Some("h2".into()),
            resumed,
            legacy: resumed,
        };
        session.client_leg = Some(leg(Protocol::Tls13, Some("rsa_pss_rsae_sha256"), false));
        session.server_leg = Some(leg(Protocol::Tls12, None, true));
        session.certificate = Some(CertificateRecord {
            names: vec!["a.example".into(), "b.example".into()],
            more_names: 3,
            issuer: Some("An Authority".into()),
            ..CertificateRecord::default()
        });
        (session.milliseconds, session.generation) = (2500, 12);
        session.encrypted_client_hello = true;
        session.virtual_segment = Some("staff".into());
        session.names = Some(Arc::new(PolicyNames {
            profile: "strict".into(),
            policy: "staff out".into(),
            proxy: "outbound".into(),
            decryption_policy: Some("banks".into()),
        }));
        session.broken =
            Some(BreakRecord { by: End::Server, words: "alert access_denied".to_owned() });
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || super::session(&session));
        let logged = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let suite = "TLS_AES_128_GCM_SHA256 X25519";
        for part in [
            format!("client_tls=\"TLS 1.3 {suite} rsa_pss_rsae_sha256, ALPN h2\""),
            format!("server_tls=\"TLS 1.2 {suite}, ALPN h2, resumed\""),
            "certificate_names=\"a.example, b.example and 3 more\"".to_owned(),
            "broken=\"by the server: alert access_denied\"".to_owned(),
            "milliseconds=2500 ".to_owned(),
            "encrypted_hello=true ".to_owned(),
            "virtual_segment=\"staff\"".to_owned(),
            "decryption_policy=\"banks\"".to_owned(),
            "generation=12 ".to_owned(),
            "client_stack=\"modern\"".to_owned(),
            "server_stack=\"legacy\"".to_owned(),
            "certificate_issuer=\"An Authority\"".to_owned(),
        ] {
            assert!(logged.contains(&part), "{part:?} is not in {logged}");
        }
        // Of a session that was released nobody counts the bytes.
        for left_out in ["http2_downgraded", "bytes_to_server", "bytes_to_client"] {
            assert!(!logged.contains(left_out), "{left_out} is in {logged}");
        }
    }

    /// What ends chose goes into values of fields, in quotes, whatever it is.
    #[test]
    fn words_of_ends_are_one_line_and_one_field_each() {
        const SHREWD: &str = "x\u{1b}[2J\r\n2026-01-01 INFO a\" outcome=\"y\u{202e}\u{9b}";
        let (client, server) = ("10.0.0.1:50000", "192.0.2.1:443");
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        let words = || SHREWD.to_owned();
        let leg = LegRecord {
            version: Protocol::Tls13,
            suite: 0x1301,
            group: None,
            signature: None,
            alpn: Some(words()),
            resumed: false,
            legacy: false,
        };
        let session = SessionRecord {
            server_name: Some(words()),
            client_leg: Some(leg.clone()),
            server_leg: Some(leg),
            certificate: Some(CertificateRecord {
                subject: Some(words()),
                issuer: Some(words()),
                names: vec![words(); 2],
                more_names: 0,
            }),
            broken: Some(BreakRecord { by: End::Server, words: words() }),
            ..SessionRecord::new(7, 0, SegmentId(1), client, server)
        };
        let event = FilterEvent {
            session: 7,
            time: 0,
            segment: SegmentId(1),
            client,
            server,
            server_name: Some(words()),
            profile: None,
            sid: 1,
            rev: 1,
            message: "a rule".to_owned(),
            action: FilterAction::Block,
            tls_inspected: true,
        };
        let kept = Kept::default();
        let lines = crate::logging::LogLines::default();
        use tracing_subscriber::layer::SubscriberExt as _;
        let layer = tracing_subscriber::fmt::layer().with_ansi(false);
        let ring = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone());
        let writer = kept.clone();
        let all = tracing_subscriber::registry()
            .with(layer.with_writer(move || writer.clone()))
            .with(ring);
        tracing::subscriber::with_default(all, || {
            super::session(&session);
            super::event(&event);
        });
        let logged = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(logged.lines().count(), 2, "{logged}");
        assert!(!logged.contains(|one: char| one.is_control() && one != '\n'), "{logged:?}");
        assert!(!logged.contains('\u{202e}'), "{logged:?}");
        // A quote that is not escaped ends a value.
        assert!(!logged.contains(" a\" outcome="), "{logged}");
        assert_eq!(lines.newest(10).len(), 2);
    }
}
