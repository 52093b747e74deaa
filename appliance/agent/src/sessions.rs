//! The newest sessions, for the console: those that the engine told of, and those that it tells of only when
//! asked.
//!
//! Not for: the log. Without an engine, or one that does not answer, there are those that were told.

use std::cell::RefCell;
use std::cmp::Reverse;

use tracing::debug;
use weir_api::engine::SessionRecord;
use weir_api::rules::{Answer, Question};

use crate::rules::ask;
use crate::state::State;

/// The newest first, by their end.
pub async fn newest(state: &RefCell<State>, limit: usize) -> Vec<SessionRecord> {
    let mut sessions = match ask(state, Question::Sessions(limit)).await {
        Ok(Answer::Sessions(sessions)) => sessions,
        other => {
            debug!(?other, "no engine tells of sessions");
            Vec::new()
        }
    };
    sessions.extend(state.borrow().sessions.newest(limit));
    sessions.sort_by_key(|session| Reverse((session.ended, session.id)));
    sessions.truncate(limit);
    sessions
}
