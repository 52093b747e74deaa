//! Link-down synchronisation and the agent (SPEC D7): the service listens on
//! [`crate::paths::LINKS_SOCKET`], the agent connects and asks; each question has one answer.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weir_policy::snapshot::{LinkDownSynchronisation, SegmentId, Side};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToLinks {
    /// All segments' settings; those that are not named become hubs.
    Configure(Vec<LinkSettings>),
    /// Ports that were taken down come up again.
    Restart(SegmentId),
    Status,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromLinks {
    Status(Vec<LinkStatus>),
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    pub segment: SegmentId,
    pub mode: LinkDownSynchronisation,
    pub wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    pub segment: SegmentId,
    /// Of the ports A and B.
    pub links: [bool; 2],
    /// The port that was taken down because the other one lost its link.
    pub taken_down: Option<Side>,
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.segment.0;
        match (self.taken_down, self.links) {
            (Some(Side::A), _) => write!(f, "{id}A taken down: {id}B lost its link"),
            (Some(Side::B), _) => write!(f, "{id}B taken down: {id}A lost its link"),
            (None, [true, true]) => write!(f, "{id}A and {id}B up"),
            (None, [true, false]) => write!(f, "{id}B without a link"),
            (None, [false, true]) => write!(f, "{id}A without a link"),
            (None, [false, false]) => write!(f, "{id}A and {id}B without a link"),
        }
    }
}
