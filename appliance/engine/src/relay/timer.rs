//! The one timer of a relayed session, made where it has something to wait for: without an idle timeout most
//! have none.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// What is due then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The tickets of a client that has said nothing.
    Tickets,
    /// The end of a session both of whose ends have ended: unless these acknowledged more than so many bytes
    /// (without their higher half: an idle session has little room).
    Drain { acknowledged: u32 },
    /// The end of a session over which nothing goes.
    Idle,
    /// The end of a session whose client left, and whose server says nothing.
    Left,
}

pub(super) struct Timer {
    pub(super) purpose: Purpose,
    ends: Pin<Box<Sleep>>,
}

impl Timer {
    pub(super) fn new(purpose: Purpose, lasts: Duration) -> Self {
        Self { purpose, ends: Box::pin(sleep(lasts)) }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.ends.as_mut().poll(context)
    }
}
