//! One decrypted session: both directions' plaintext in, what may be forwarded out.
//!
//! The order, for each read: the `tcp` rules look at the raw bytes; what lies before the byte that
//! completed a drop is framed as HTTP where the service is HTTP, heads are withheld until they are
//! whole and judged, bodies are judged and forwarded as they come. The earliest reason to drop wins.

use std::sync::Arc;

use weir_policy::{outcome::Blocked, snapshot::Service};

use crate::{
    alert::{Alert, AlertSink},
    http::{Connection, Ending, HttpViolation, Step},
    judging::{Hit, Judging},
    rules::RuleSet,
};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::ToServer => 0,
            Self::ToClient => 1,
        }
    }
}

/// Why a session's traffic stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    #[error("filter {}: {}", .0.sid, .0.message)]
    Filter(Alert),
    #[error("message head over 64 KiB")]
    HeadTooLarge,
    #[error("protocol violation: {0}")]
    ProtocolViolation(#[from] HttpViolation),
}

impl From<&Dropped> for Blocked {
    fn from(dropped: &Dropped) -> Self {
        match dropped {
            Dropped::Filter(alert) => Self::Filter(alert.sid),
            Dropped::HeadTooLarge => Self::HeadTooLarge,
            Dropped::ProtocolViolation(_) => Self::ProtocolViolation,
        }
    }
}

/// Inspection of one decrypted session. Memory: see the [crate].
#[derive(Debug)]
pub struct Session {
    /// By direction.
    rules: [Arc<RuleSet>; 2],
    judging: Judging,
    /// `None` where the session is no HTTP and nothing is withheld any more.
    connection: Option<Box<Connection>>,
    /// The session turned out to carry, or was switched to, something else than HTTP.
    raw: bool,
    dropped: Option<Dropped>,
    suppressed_alerts: u64,
}

impl Session {
    /// A session before its first byte. With an empty rule set everything is forwarded unlooked at.
    pub fn new(rules: Arc<RuleSet>, service: Service) -> Self {
        Self::with_rules_by_direction([Arc::clone(&rules), rules], service)
    }

    /// The same with rules of their own for what the client sends and for what the server answers. A
    /// direction without rules is framed all the same where the other has some.
    pub fn with_rules_by_direction(rules: [Arc<RuleSet>; 2], service: Service) -> Self {
        let http = match service {
            Service::Http => !rules.iter().all(|rules| rules.is_empty()),
            Service::Other => false,
        };
        Self {
            judging: Judging::new(&rules),
            connection: http.then(Box::default),
            raw: !http,
            rules,
            dropped: None,
            suppressed_alerts: 0,
        }
    }

    /// Nothing looks at what passes, in either direction: it may be forwarded as it is, without
    /// [`Self::inspect`].
    pub fn forwards_unread(&self) -> bool {
        self.dropped.is_none() && self.rules.iter().all(|rules| rules.is_empty())
    }

    /// Judges a direction's next bytes. Appends to `forward` what may be sent on in that direction
    /// now, in order, and to `alerts` the alerts that fired (at most
    /// [`MAX_ALERTS`](crate::MAX_ALERTS) a call).
    ///
    /// After a call for one direction, the other may hold bytes that may now go: where
    /// [`Self::is_released`] says so, call this for it with no bytes.
    ///
    /// # Errors
    /// The session is dropped: nothing more may be forwarded in either direction. What this call
    /// and earlier ones appended to `forward` passed and may still be sent; none of it completes
    /// the match. Every later call gives the same error and appends nothing.
    pub fn inspect(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        forward: &mut Vec<u8>,
        alerts: &mut Vec<Alert>,
    ) -> Result<(), Dropped> {
        if let Some(dropped) = &self.dropped {
            return Err(dropped.clone());
        }
        if self.rules.iter().all(|rules| rules.is_empty()) {
            forward.extend_from_slice(bytes);
            return Ok(());
        }
        let mut suppressed = self.suppressed_alerts;
        let verdict =
            self.judge(direction, bytes, forward, &mut AlertSink::new(alerts, &mut suppressed));
        self.suppressed_alerts = suppressed;
        self.dropped = verdict.clone().err();
        verdict
    }

    /// A direction ended: the end of its stream comes after what was appended to `forward`.
    /// Withheld bytes that are not HTTP are released; part of a head is discarded, because a head
    /// that is not whole was not judged.
    ///
    /// # Errors
    /// As [`Self::inspect`].
    pub fn finish(
        &mut self,
        direction: Direction,
        forward: &mut Vec<u8>,
        alerts: &mut Vec<Alert>,
    ) -> Result<(), Dropped> {
        if let Some(connection) = &mut self.connection
            && !self.raw
            && self.dropped.is_none()
        {
            match connection.finish(direction) {
                Ending::Discard => {}
                Ending::Release => connection.release(direction, forward),
                Ending::NotHttp => self.raw = true,
            }
        }
        self.inspect(direction, &[], forward, alerts)
    }

    /// Whether a direction holds bytes that may go: call [`Self::inspect`] for it with no bytes.
    /// Happens only where a server begins as a response does, before the client turns out to speak
    /// something else than HTTP.
    pub fn is_released(&self, direction: Direction) -> bool {
        self.raw
            && self.dropped.is_none()
            && self.connection.as_ref().is_some_and(|held| !held.withheld(direction).is_empty())
    }

    /// Alerts past the bound of one call, counted and not kept.
    pub fn suppressed_alerts(&self) -> u64 {
        self.suppressed_alerts
    }

    fn judge(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        forward: &mut Vec<u8>,
        alerts: &mut AlertSink<'_>,
    ) -> Result<(), Dropped> {
        let rules = Arc::clone(&self.rules[direction.index()]);
        let raw = self.judging.stream(&rules, direction, bytes, alerts);
        let clean = match &raw {
            Ok(()) => bytes,
            Err(hit) => bytes.get(..hit.position).unwrap_or_default(),
        };
        self.frame(direction, clean, forward, alerts)?;
        raw.map_err(|hit| Dropped::Filter(hit.alert))
    }

    fn frame(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        forward: &mut Vec<u8>,
        alerts: &mut AlertSink<'_>,
    ) -> Result<(), Dropped> {
        let mut rest = bytes;
        let rules = &self.rules[direction.index()];
        if let Some(connection) = &mut self.connection {
            while !self.raw && !rest.is_empty() {
                let (withheld, step) = connection.step(direction, rest)?;
                let head = connection.withheld(direction);
                let mut taken = withheld;
                let judged = match step {
                    Step::Waiting => return Ok(()),
                    Step::NotHttp => {
                        self.raw = true;
                        Ok(())
                    }
                    Step::Request(request) => {
                        self.judging.head(rules, direction, head, Some(&request), alerts)
                    }
                    Step::Response { switched } => {
                        self.raw = switched;
                        self.judging.head(rules, direction, head, None, alerts)
                    }
                    Step::Trailers => self.judging.body(rules, direction, head, alerts),
                    Step::Body(length) => {
                        taken = length;
                        let body = rest.get(..length).unwrap_or_default();
                        let judged = self.judging.body(rules, direction, body, alerts);
                        let passed = judged.as_ref().map_or_else(|hit| hit.position, |()| length);
                        forward.extend_from_slice(body.get(..passed).unwrap_or_default());
                        judged
                    }
                    Step::Unjudged(length) => {
                        taken = withheld.saturating_add(length);
                        connection.release(direction, forward);
                        forward.extend_from_slice(rest.get(withheld..taken).unwrap_or_default());
                        Ok(())
                    }
                };
                judged.map_err(|hit: Hit| Dropped::Filter(hit.alert))?;
                connection.release(direction, forward);
                rest = rest.get(taken..).unwrap_or_default();
            }
            if self.raw {
                connection.release(direction, forward);
                if connection.withheld(direction.reverse()).is_empty() {
                    self.connection = None;
                }
            }
        }
        forward.extend_from_slice(rest);
        Ok(())
    }
}
