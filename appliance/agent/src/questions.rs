//! Questions to the engine and their answers, over the connection that it holds.
//!
//! For: what only the engine knows at the moment (quarantine, counts, explanations). Not for: orders
//! that every later engine is to have, too ([`crate::state::Orders`]). Fails in words for the
//! operator: no engine, an engine that went away, or one that says nothing.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weir_api::rules::{Answer, Question};

/// Questions that may wait for one engine; past it they are refused.
pub const MOST_WAITING: usize = 16;

/// An engine answers between two packets' worth of work; after this it is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question on its way to an engine.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

/// The engines that can be asked: those connected that do not drain.
#[derive(Debug, Default)]
pub struct Engines(Vec<(u64, mpsc::Sender<Asked>)>);

impl Engines {
    pub fn add(&mut self, connection: u64, questions: mpsc::Sender<Asked>) {
        self.0.push((connection, questions));
    }

    pub fn remove(&mut self, connection: u64) {
        self.0.retain(|(one, _)| *one != connection);
    }

    /// Asks the one that connected last.
    pub fn ask(&self, question: Question) -> Result<Waiting, String> {
        let Some((_, engine)) = self.0.last() else {
            return Err("no engine is connected; try again when one is (show health)".into());
        };
        let (answer, waiting) = oneshot::channel();
        let asked = Asked { question, answer };
        engine.try_send(asked).map_err(|_| "the engine is too busy to be asked".to_owned())?;
        Ok(Waiting(waiting))
    }
}

/// An answer to come.
pub struct Waiting(oneshot::Receiver<Answer>);

impl Waiting {
    /// A refusal is an error, too.
    pub async fn answer(self) -> Result<Answer, String> {
        match tokio::time::timeout(PATIENCE, self.0).await {
            Ok(Ok(Answer::Refused(reason))) => Err(reason),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("the engine went away before it answered".into()),
            Err(_) => Err(format!("the engine did not answer in {} s", PATIENCE.as_secs())),
        }
    }
}
