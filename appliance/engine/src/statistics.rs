//! `npSslInspStats`, `npSslInspProtocolStats` and `npTcpProxyStats` (SPEC L7), counted from the
//! records of sessions as they end; versions and suites as each handshake does.
//!
//! Not for: outcomes by segment ([`crate::tally`]) and events that are no session's. Cannot fail;
//! every array is as long as the list that it counts by.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_api::engine::{End, FailureCause, LegRecord, SessionRecord};
use weir_policy::Outcome;
use weir_policy::outcome::{Blocked, Bypassed};
use weir_policy::suites::{Protocol, Suite, TABLE};

use crate::counters::increment;

/// Totals since the engine started. Shared by all runtimes: a few additions a session.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Sessions that a policy covers.
    connections: AtomicU64,
    /// Both handshakes were done.
    proxied: AtomicU64,
    refused: AtomicU64,
    outcomes: [AtomicU64; 5],
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
    takeover_failed: AtomicU64,
    http2_downgraded: AtomicU64,
    broken: AtomicU64,
    idle: AtomicU64,
    client: Side,
    server: Side,
}

/// One side of all sessions.
#[derive(Debug, Default)]
struct Side {
    versions: [AtomicU64; Protocol::ALL.len()],
    suites: [AtomicU64; TABLE.len()],
    /// The other end has no suite that the session could have had.
    suite_other: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    causes: [AtomicU64; FailureCause::ALL.len()],
}

const OUTCOMES: [&str; 5] = [
    "connectionsDecryptedAndInspected",
    "connectionsDecryptedButNotInspected",
    "connectionsNotDecrypted",
    "connectionsBypassed",
    "connectionsBlocked",
];

impl Statistics {
    pub fn count(&self, record: &SessionRecord) {
        if record.names.is_none() {
            return;
        }
        increment(&self.connections);
        let outcome = match record.outcome {
            Outcome::DecryptedAndInspected => 0,
            Outcome::DecryptedNotInspected(_) => 1,
            Outcome::NotDecrypted(_) => 2,
            Outcome::Bypassed(_) => 3,
            Outcome::Blocked(_) => 4,
        };
        self.outcomes.get(outcome).map(increment);
        let bytes = record.bytes.unwrap_or_default();
        self.bytes_to_server.fetch_add(bytes.to_server, Relaxed);
        self.bytes_to_client.fetch_add(bytes.to_client, Relaxed);
        if record.http2_downgraded {
            increment(&self.http2_downgraded);
        }
        if record.broken.is_some() {
            increment(&self.broken);
        }
        if record.idle.is_some() {
            increment(&self.idle);
        }
        let unsupported = [
            Outcome::Bypassed(Bypassed::UnsupportedTls),
            Outcome::Blocked(Blocked::UnsupportedTls),
        ];
        let unsupported = unsupported.contains(&record.outcome);
        if unsupported {
            increment(&self.client.suite_other);
        }
        let mut refused = unsupported;
        if record.outcome == Outcome::Bypassed(Bypassed::NothingShared) {
            increment(&self.server.suite_other);
            refused = true;
        }
        if let Some(failure) = &record.failure {
            let side = match failure.with {
                End::Client => &self.client,
                End::Server => &self.server,
            };
            increment(&side.failed);
            side.causes.get(failure.cause as usize).map(increment);
            if failure.cause == FailureCause::Incompatible {
                increment(&side.suite_other);
                refused = true;
            }
        }
        if refused {
            increment(&self.refused);
        }
        let failed = [
            Outcome::Bypassed(Bypassed::TakeoverFailed),
            Outcome::Blocked(Blocked::TakeoverFailed),
            Outcome::Blocked(Blocked::LostInTakeover),
        ];
        if failed.contains(&record.outcome) {
            increment(&self.takeover_failed);
        }
    }

    /// The handshake with this end is done: that of the server is first.
    pub fn shaken(&self, with: End, record: &SessionRecord) {
        match with {
            End::Server => self.server.leg(record.server_leg.as_ref()),
            End::Client => {
                self.client.leg(record.client_leg.as_ref());
                increment(&self.proxied);
            }
        }
    }

    /// `npSslInspStats`. `live`: sessions proxied at this moment.
    pub fn inspection(&self, live: u64) -> Vec<(String, u64)> {
        let mut lines = vec![
            ("connections".to_owned(), read(&self.connections)),
            ("connectionsActive".to_owned(), live),
            ("connectionsProxied".to_owned(), read(&self.proxied)),
            ("refusedConnections".to_owned(), read(&self.refused)),
        ];
        let outcomes = OUTCOMES.iter().zip(&self.outcomes);
        lines.extend(outcomes.map(|(name, count)| ((*name).to_owned(), read(count))));
        lines.extend([
            ("clientConnectionFailures".to_owned(), read(&self.client.failed)),
            ("serverConnectionFailures".to_owned(), read(&self.server.failed)),
            ("connectionsBrokenOff".to_owned(), read(&self.broken)),
            ("connectionsEndedIdle".to_owned(), read(&self.idle)),
            ("connectionsHttp2Downgraded".to_owned(), read(&self.http2_downgraded)),
            ("clientSessionsResumed".to_owned(), read(&self.client.resumed)),
            ("serverSessionsResumed".to_owned(), read(&self.server.resumed)),
            ("bytesToServer".to_owned(), read(&self.bytes_to_server)),
            ("bytesToClient".to_owned(), read(&self.bytes_to_client)),
        ]);
        lines
    }

    /// `npSslInspProtocolStats`: both sides' versions, suites and failures, those at 0 as well: that
    /// a counter is 0 is what an operator looks for.
    pub fn protocols(&self) -> Vec<(String, u64)> {
        let mut lines = self.client.lines("client");
        lines.extend(self.server.lines("server"));
        lines
    }

    /// `npTcpProxyStats`.
    pub fn tcp_proxy(&self, live: u64) -> Vec<(String, u64)> {
        vec![
            ("connectionsMatched".to_owned(), read(&self.connections)),
            ("connectionsActive".to_owned(), live),
            ("connectionsTakeoverFailed".to_owned(), read(&self.takeover_failed)),
            ("bytesToServer".to_owned(), read(&self.bytes_to_server)),
            ("bytesToClient".to_owned(), read(&self.bytes_to_client)),
        ]
    }
}

impl Side {
    fn leg(&self, leg: Option<&LegRecord>) {
        let Some(leg) = leg else { return };
        let version = Protocol::ALL.iter().position(|version| *version == leg.version);
        version.and_then(|index| self.versions.get(index)).map(increment);
        let suite = TABLE.iter().position(|suite| suite.id == leg.suite);
        increment(suite.and_then(|index| self.suites.get(index)).unwrap_or(&self.suite_other));
        if leg.resumed {
            increment(&self.resumed);
        }
    }

    /// `end`: `client` or `server`.
    fn lines(&self, end: &str) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        for (version, count) in Protocol::ALL.iter().zip(&self.versions).rev() {
            let version = version.to_string().replace(['.', ' '], "");
            lines.push((format!("{end}Version{version}"), read(count)));
        }
        let suites = TABLE.iter().zip(&self.suites);
        lines.extend(
            suites.map(|(Suite { name, .. }, count)| (format!("{end}Cipher {name}"), read(count))),
        );
        lines.push((format!("{end}CipherOther"), read(&self.suite_other)));
        for (cause, count) in FailureCause::ALL.iter().zip(&self.causes) {
            lines.push((format!("{end}Failure{cause:?}"), read(count)));
        }
        lines
    }
}

fn read(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use weir_api::engine::{Carried, FailureRecord};
    use weir_policy::snapshot::SegmentId;

    use super::*;

    fn record(outcome: Outcome) -> SessionRecord {
        let end = "192.0.2.1:443".parse().unwrap();
        let mut record = SessionRecord::new(1, 0, SegmentId(1), end, end);
        record.names = Some(std::sync::Arc::default());
        record.outcome = outcome;
        record
    }

    fn value(lines: &[(String, u64)], name: &str) -> u64 {
        lines.iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("{name}")).1
    }

    #[test]
    fn each_session_is_counted_by_outcome_versions_and_suites() {
        let statistics = Statistics::default();
        let leg = |version, suite, resumed| LegRecord {
            version,
            suite,
            group: None,
            signature: None,
            alpn: None,
            resumed,
            legacy: false,
        };
        let mut session = record(Outcome::DecryptedAndInspected);
        session.client_leg = Some(leg(Protocol::Tls13, 0x1301, true));
        session.server_leg = Some(leg(Protocol::Tls12, 0xffff, false));
        session.bytes = Some(Carried { to_server: 0, to_client: 7 });
        statistics.shaken(End::Server, &session);
        statistics.shaken(End::Client, &session);
        let lines = statistics.protocols();
        assert_eq!(value(&lines, "clientVersionTLS13"), 1, "it lives still");
        assert_eq!(value(&lines, "clientCipher TLS_RSA_WITH_AES_128_CBC_SHA"), 0);
        let lines = statistics.inspection(1);
        assert_eq!((value(&lines, "connectionsProxied"), value(&lines, "connections")), (1, 0));
        statistics.count(&session);
        // Of no policy: not TLS inspection's.
        session.names = None;
        statistics.count(&session);

        let lines = statistics.inspection(3);
        assert_eq!(value(&lines, "connections"), 1);
        assert_eq!(value(&lines, "connectionsActive"), 3);
        assert_eq!(value(&lines, "connectionsProxied"), 1);
        assert_eq!(value(&lines, "connectionsDecryptedAndInspected"), 1);
        assert_eq!(value(&lines, "clientSessionsResumed"), 1);
        assert_eq!(value(&lines, "bytesToClient"), 7);
        assert_eq!(value(&lines, "refusedConnections"), 0);
        let lines = statistics.protocols();
        assert_eq!(value(&lines, "clientVersionTLS13"), 1);
        assert_eq!(value(&lines, "serverVersionTLS12"), 1);
        assert_eq!(value(&lines, "clientCipher TLS_AES_128_GCM_SHA256"), 1);
        assert_eq!(value(&lines, "clientCipherOther"), 0);
        assert_eq!(value(&lines, "serverCipherOther"), 1);
    }

    #[test]
    fn what_has_no_suite_in_common_is_refused_and_counted_as_other() {
        let statistics = Statistics::default();
        statistics.count(&record(Outcome::Bypassed(Bypassed::UnsupportedTls)));
        statistics.count(&record(Outcome::Blocked(Blocked::UnsupportedTls)));
        statistics.count(&record(Outcome::Bypassed(Bypassed::NothingShared)));
        // It is another reason where only groups or signatures are missing.
        statistics.count(&record(Outcome::Bypassed(Bypassed::UnsupportedGroupOrSignature)));
        statistics.count(&record(Outcome::Blocked(Blocked::UnsupportedGroupOrSignature)));
        let failed = |cause| {
            let mut session = record(Outcome::Blocked(Blocked::ServerHandshakeFailed));
            session.failure =
                Some(FailureRecord { with: End::Server, cause, words: String::new() });
            statistics.count(&session);
        };
        failed(FailureCause::Incompatible);
        FailureCause::ALL.into_iter().for_each(failed);
        let lines = statistics.inspection(0);
        assert_eq!(value(&lines, "refusedConnections"), 5);
        assert_eq!(value(&lines, "serverConnectionFailures"), 12);
        assert_eq!(value(&lines, "clientConnectionFailures"), 0);
        let lines = statistics.protocols();
        assert_eq!(value(&lines, "clientCipherOther"), 2);
        assert_eq!(value(&lines, "serverCipherOther"), 3);
        assert_eq!(value(&lines, "serverFailureIncompatible"), 2);
        assert_eq!(value(&lines, "serverFailureGroupOrSignature"), 1);
        assert_eq!(value(&lines, "serverFailureApplicationProtocol"), 1);
        assert_eq!(value(&lines, "serverFailureTimedOut"), 1);
        assert_eq!(value(&lines, "serverFailureInternal"), 1);
    }
}
