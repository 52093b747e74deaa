//! The newest sessions, for the console: those that the engine told of, and those that it tells of only when
//! asked.
//!
//! Not for: the log. Without an engine, or one that does not answer, which the system log says, there are
//! those that were told.

use std::cell::RefCell;
use std::cmp::Reverse;

use tracing::warn;
use weir_api::console::MOST_RECORDS;
use weir_api::engine::SessionRecord;
use weir_api::rules::{Answer, Question};

use crate::rules::ask;
use crate::state::State;

/// The newest first, by their end, whatever the clock was set to meanwhile.
pub async fn newest(state: &RefCell<State>, limit: usize) -> Vec<SessionRecord> {
    let mut sessions = match ask(state, Question::Sessions(limit)).await {
        Ok(Answer::Sessions(sessions)) => sessions,
        other => {
            if state.borrow().engine.connections > 0 {
                let reason = other.err().unwrap_or_default();
                warn!(reason, "sessions are shown without those that the engine keeps");
            }
            Vec::new()
        }
    };
    // So many may have been told at once, and late: an engine that gets a successor tells what it kept back.
    let told = limit.saturating_add(MOST_RECORDS);
    sessions.extend(state.borrow().sessions.newest(told));
    sessions.sort_by_key(|session| Reverse((session.ended_monotonic, session.id)));
    // What an engine told between its answer and now.
    sessions.dedup();
    sessions.truncate(limit);
    sessions
}

#[cfg(test)]
mod tests {
    use weir_policy::snapshot::SegmentId;

    use super::*;

    /// An engine with a successor tells at its end what it had kept back.
    #[tokio::test]
    async fn what_was_told_late_does_not_hide_what_ended_later() {
        let state = RefCell::new(State::default());
        for ended in [3, 1, 2_u64] {
            let end = "192.0.2.1:443".parse().unwrap();
            let mut session = SessionRecord::new(ended, 0, SegmentId(1), end, end);
            // The clock was set back.
            (session.ended, session.ended_monotonic) = (9 - ended, ended);
            state.borrow_mut().sessions.push(session);
        }
        let newest = newest(&state, 2).await;
        assert_eq!(newest.iter().map(|session| session.id).collect::<Vec<_>>(), [3, 2]);
    }
}
