//! What a rule that matched says, and the bound on how often it is said.

use std::sync::Arc;

/// Most alerts one call of [`Session::inspect`](crate::Session::inspect) or
/// [`Session::finish`](crate::Session::finish) appends. Past it they are counted
/// ([`Session::suppressed_alerts`](crate::Session::suppressed_alerts)) and not kept: a peer that
/// pipelines hundreds of tiny requests in one record must not fill the event queue.
pub const MAX_ALERTS: usize = 256;

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub sid: u32,
    /// 0 where the rule has none.
    pub rev: u32,
    /// The rule's `msg`; empty where it has none.
    pub message: Arc<str>,
}

/// Where alerts of one call go.
pub(crate) struct AlertSink<'a> {
    alerts: &'a mut Vec<Alert>,
    /// Length of `alerts` past which nothing is appended.
    limit: usize,
    suppressed: &'a mut u64,
}

impl<'a> AlertSink<'a> {
    pub(crate) fn new(alerts: &'a mut Vec<Alert>, suppressed: &'a mut u64) -> Self {
        let limit = alerts.len().saturating_add(MAX_ALERTS);
        Self { alerts, limit, suppressed }
    }

    pub(crate) fn push(&mut self, alert: Alert) {
        if self.alerts.len() < self.limit {
            self.alerts.push(alert);
        } else {
            *self.suppressed = self.suppressed.saturating_add(1);
        }
    }
}
