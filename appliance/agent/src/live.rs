//! What an engine has at the moment, for the console: sessions that live, and what it has learnt not to decrypt.
//!
//! For: asking it. Not for: what has ended, which it has told ([`crate::state`]). The engine that judges new flows
//! is asked, and those that drain for their sessions. Fails in words.

use std::cell::RefCell;

use tracing::info;
use weir_api::console::Response;
use weir_api::engine::{LiveSession, LiveSessions};
use weir_api::rules::{Answer, Question};

use crate::rules::{ask, refused};
use crate::state::State;

/// The newest `limit`: those of the engine that judges new flows, then those of engines that drain, which began
/// before.
pub async fn show_sessions(state: &RefCell<State>, limit: usize) -> Response {
    let question = Question::LiveSessions(limit);
    // All at one time.
    let (judge, judging, draining) = {
        let engines = &state.borrow().engine.asked;
        (engines.judge(), engines.ask(question.clone()), engines.ask_draining(&question))
    };
    let judging = match judging {
        Ok(waiting) => waiting.answer().await,
        Err(reason) => Err(reason),
    };
    let mut all = match judging {
        Ok(Answer::LiveSessions(sessions)) => sessions,
        // Its successor is not there yet. One that is, and does not answer, has most of them.
        Err(_) if !judge && !draining.is_empty() => LiveSessions::default(),
        other => return refused(other),
    };
    for one in draining {
        let answer = match one {
            Ok(waiting) => waiting.answer().await,
            Err(reason) => Err(reason),
        };
        match answer {
            Ok(Answer::LiveSessions(LiveSessions { sessions, count })) => {
                let drain = |session| LiveSession { draining: true, ..session };
                all.sessions.extend(sessions.into_iter().map(drain));
                all.count = all.count.saturating_add(count);
            }
            // It may have ended with the last of them.
            other => {
                let reason = other.err().unwrap_or_default();
                info!(reason, "live sessions are shown without those of an engine that drains");
            }
        }
    }
    all.sessions.truncate(limit);
    Response::LiveSessions(all)
}

pub async fn show_learnt(state: &RefCell<State>) -> Response {
    match ask(state, Question::Learnt).await {
        Ok(Answer::Learnt(learnt)) => Response::Learnt(learnt),
        other => refused(other),
    }
}

pub async fn forget_learnt(state: &RefCell<State>, user: &str, what: String) -> Response {
    match ask(state, Question::ForgetLearnt(what.clone())).await {
        Ok(Answer::Forgotten(0)) => Response::Refused(format!(
            "nothing was learnt of {what}; show learnt-bypasses lists what was"
        )),
        Ok(Answer::Forgotten(count)) => {
            info!(user, what, count, "learnt bypasses forgotten by command");
            let entries =
                if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
            Response::Done(format!("{entries} of {what} forgotten"))
        }
        other => refused(other),
    }
}
