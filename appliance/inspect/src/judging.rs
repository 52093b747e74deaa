//! What a session has seen of the rules' contents, and which rules that completes.
//!
//! A rule matches when all its contents were found, in any order, and none of its negated ones:
//! - rules of protocol `tcp`: in one direction's whole stream, once a session;
//! - rules of protocol `http`: in one message (a request, or a response), once a message, as
//!   Suricata keeps its state per transaction and direction.
//!
//! Of several drop rules completed by one byte, the first in the rule set speaks.

use std::sync::Arc;

use crate::{
    alert::{Alert, AlertSink},
    bits::BitSet,
    http::RequestHead,
    patterns::{Cursor, PatternSet, Use, Visitor},
    rules::{Action, RuleSet},
    session::Direction,
};

/// Matching state of one session.
#[derive(Debug)]
pub(crate) struct Judging {
    streams: [Scope; 2],
    messages: [Scope; 2],
    /// `tcp` rules that fired: a bit a rule. By direction where each has rules of its own, else the
    /// first is for both.
    fired: [BitSet; 2],
    shared: bool,
}

/// What one stream or message has shown so far.
#[derive(Debug)]
struct Scope {
    cursor: Cursor,
    /// A bit a content of the rule set.
    seen: BitSet,
}

/// A drop rule matched.
#[derive(Debug)]
pub(crate) struct Hit {
    /// Index, in the bytes just scanned, of the byte that completed the match.
    pub(crate) position: usize,
    pub(crate) alert: Alert,
}

impl Judging {
    /// The rules are by direction.
    pub(crate) fn new(rules: &[Arc<RuleSet>; 2]) -> Self {
        let scope = |direction: Direction, patterns: fn(&RuleSet) -> &[PatternSet; 2]| {
            let rules = &rules[direction.index()];
            Scope {
                cursor: patterns(rules)[direction.index()].start(),
                seen: BitSet::new(rules.conditions()),
            }
        };
        let scopes =
            |patterns| [scope(Direction::ToServer, patterns), scope(Direction::ToClient, patterns)];
        Self {
            streams: scopes(|rules| &rules.stream),
            messages: scopes(|rules| &rules.message),
            fired: rules.each_ref().map(|rules| BitSet::new(rules.len())),
            shared: Arc::ptr_eq(&rules[0], &rules[1]),
        }
    }

    /// Judges a direction's next bytes by the `tcp` rules.
    pub(crate) fn stream(
        &mut self,
        rules: &RuleSet,
        direction: Direction,
        bytes: &[u8],
        alerts: &mut AlertSink<'_>,
    ) -> Result<(), Hit> {
        let scope = &mut self.streams[direction.index()];
        let mut judge = Judge::new(rules, &mut scope.seen, alerts);
        let fired = if self.shared { 0 } else { direction.index() };
        judge.fired = Some(&mut self.fired[fired]);
        let stopped = rules.stream[direction.index()].scan(&mut scope.cursor, bytes, &mut judge);
        judge.verdict(stopped)
    }

    /// A message begins: judges its head by the `http` rules. `request` for a request.
    ///
    /// The sticky buffers are searched first, whole, so that negated contents are settled when the
    /// message's own bytes are searched.
    pub(crate) fn head(
        &mut self,
        rules: &RuleSet,
        direction: Direction,
        head: &[u8],
        request: Option<&RequestHead>,
        alerts: &mut AlertSink<'_>,
    ) -> Result<(), Hit> {
        let scope = &mut self.messages[direction.index()];
        scope.seen.clear();
        scope.cursor = rules.message[direction.index()].start();
        if let Some(request) = request {
            let mut judge = Judge::new(rules, &mut scope.seen, alerts);
            judge.touched = Some(rules.without_positive_contents.clone());
            let buffers = [
                (&rules.uri, &request.uri),
                (&rules.method, &request.method),
                (&rules.host, &request.host),
            ];
            for (patterns, buffer) in buffers {
                patterns.scan(&mut patterns.start(), buffer, &mut judge);
            }
            let mut touched = judge.touched.take().unwrap_or_default();
            touched.sort_unstable();
            touched.dedup();
            for rule in touched {
                judge.fire_if_complete(rule);
            }
            let stopped = judge.stop().then_some(0);
            judge.verdict(stopped)?;
        }
        self.body(rules, direction, head, alerts)
    }

    /// Judges a message's next bytes, after its head, by the `http` rules.
    pub(crate) fn body(
        &mut self,
        rules: &RuleSet,
        direction: Direction,
        bytes: &[u8],
        alerts: &mut AlertSink<'_>,
    ) -> Result<(), Hit> {
        let scope = &mut self.messages[direction.index()];
        let mut judge = Judge::new(rules, &mut scope.seen, alerts);
        let stopped = rules.message[direction.index()].scan(&mut scope.cursor, bytes, &mut judge);
        judge.verdict(stopped)
    }
}

/// Visits the matches of one scan.
struct Judge<'a, 's> {
    rules: &'a RuleSet,
    seen: &'a mut BitSet,
    alerts: &'a mut AlertSink<'s>,
    /// Rules that fire once a session.
    fired: Option<&'a mut BitSet>,
    /// While a head's buffers are searched nothing is complete: rules to look at afterwards.
    touched: Option<Vec<u32>>,
    dropped: Option<u32>,
}

impl<'a, 's> Judge<'a, 's> {
    fn new(rules: &'a RuleSet, seen: &'a mut BitSet, alerts: &'a mut AlertSink<'s>) -> Self {
        Self { rules, seen, alerts, fired: None, touched: None, dropped: None }
    }

    fn fire_if_complete(&mut self, index: u32) {
        let Some(rule) = self.rules.rule(index) else { return };
        let complete =
            rule.conditions().all(|(condition, negated)| self.seen.contains(condition) != negated);
        if !complete || self.fired.as_mut().is_some_and(|fired| !fired.insert(index)) {
            return;
        }
        match rule.action {
            Action::Alert => self.alerts.push(rule.alert()),
            Action::Drop => {
                self.dropped = Some(self.dropped.map_or(index, |first| first.min(index)));
            }
        }
    }

    fn verdict(self, stopped: Option<usize>) -> Result<(), Hit> {
        let rule = self.dropped.and_then(|index| self.rules.rule(index));
        match (stopped, rule) {
            (Some(position), Some(rule)) => Err(Hit { position, alert: rule.alert() }),
            _ => Ok(()),
        }
    }
}

impl Visitor for Judge<'_, '_> {
    fn found(&mut self, found: Use) {
        // A content seen before completes nothing.
        if !self.seen.insert(found.condition) {
            return;
        }
        match &mut self.touched {
            Some(touched) => touched.push(found.rule),
            None => self.fire_if_complete(found.rule),
        }
    }

    fn stop(&self) -> bool {
        self.dropped.is_some()
    }
}
