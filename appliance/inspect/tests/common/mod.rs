//! A session under test, and what it let through.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::sync::Arc;

use weir_inspect::{Alert, Direction, Dropped, RuleSet, RuleText, Service, Session};

pub use weir_inspect::Direction::{ToClient, ToServer};

pub fn rules(text: &str) -> Arc<RuleSet> {
    let text = RuleText { origin: "test.rules".to_owned(), text: text.to_owned() };
    Arc::new(RuleSet::parse(&[text]).unwrap())
}

/// A session and all it forwarded and said.
pub struct Run {
    pub session: Session,
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
    pub alerts: Vec<Alert>,
}

impl Run {
    pub fn new(rules: &Arc<RuleSet>, service: Service) -> Self {
        Self {
            session: Session::new(Arc::clone(rules), service),
            to_server: Vec::new(),
            to_client: Vec::new(),
            alerts: Vec::new(),
        }
    }

    pub fn http(text: &str) -> Self {
        Self::new(&rules(text), Service::Http)
    }

    pub fn send(&mut self, direction: Direction, bytes: impl AsRef<[u8]>) -> Result<(), Dropped> {
        let forward = match direction {
            ToServer => &mut self.to_server,
            ToClient => &mut self.to_client,
        };
        self.session.inspect(direction, bytes.as_ref(), forward, &mut self.alerts)
    }

    /// A byte a read.
    pub fn drip(&mut self, direction: Direction, bytes: impl AsRef<[u8]>) -> Result<(), Dropped> {
        bytes.as_ref().iter().try_for_each(|byte| self.send(direction, [*byte]))
    }

    pub fn end(&mut self, direction: Direction) -> Result<(), Dropped> {
        let forward = match direction {
            ToServer => &mut self.to_server,
            ToClient => &mut self.to_client,
        };
        self.session.finish(direction, forward, &mut self.alerts)
    }

    pub fn sids(&self) -> Vec<u32> {
        self.alerts.iter().map(|alert| alert.sid).collect()
    }
}

/// The sid of the filter that dropped.
pub fn filter(verdict: Result<(), Dropped>) -> u32 {
    match verdict {
        Err(Dropped::Filter(alert)) => alert.sid,
        other => panic!("no filter dropped: {other:?}"),
    }
}
