//! What an engine has at the moment, for the console: sessions that live, and what it has learnt not to decrypt.
//!
//! For: asking it. Not for: what has ended, which it has told ([`crate::state`]). Only the engine that judges
//! new flows is asked: those that drain have sessions of their own. Fails in words.

use std::cell::RefCell;

use tracing::info;
use weir_api::console::Response;
use weir_api::rules::{Answer, Question};

use crate::rules::{ask, refused};
use crate::state::State;

pub async fn show_sessions(state: &RefCell<State>, limit: usize) -> Response {
    match ask(state, Question::LiveSessions(limit)).await {
        Ok(Answer::LiveSessions(sessions)) => Response::LiveSessions(sessions),
        other => refused(other),
    }
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
