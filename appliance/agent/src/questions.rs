//! Questions to the engine and their answers, over the connection that it holds.
//!
//! For: what only the engine knows at the moment (quarantine, counts, explanations). Not for: orders
//! that every later engine is to have, too ([`crate::state::Orders`]). Fails in words for the
//! operator: no engine, an engine that went away, or one that says nothing.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
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

/// The engines that can be asked: those connected. One that drains is asked for what it has left alone.
#[derive(Debug, Default)]
pub struct Engines {
    judging: Vec<Engine>,
    draining: Vec<Engine>,
}

/// The number of its connection, and where its questions go.
type Engine = (u64, mpsc::Sender<Asked>);

impl Engines {
    pub fn add(&mut self, connection: u64, questions: mpsc::Sender<Asked>) {
        self.judging.push((connection, questions));
    }

    pub fn drains(&mut self, connection: u64) {
        self.draining.extend(self.judging.extract_if(.., |(one, _)| *one == connection));
    }

    pub fn remove(&mut self, connection: u64) {
        for engines in [&mut self.judging, &mut self.draining] {
            engines.retain(|(one, _)| *one != connection);
        }
    }

    /// Whether there is one that judges new flows.
    pub fn judge(&self) -> bool {
        !self.judging.is_empty()
    }

    /// Asks the one that connected last, of those that do not drain.
    pub fn ask(&self, question: Question) -> Result<Waiting, String> {
        let Some(engine) = self.judging.last() else {
            return Err("no engine is connected; try again when one is (show health)".into());
        };
        ask(engine, question)
    }

    /// Asks those that drain, the one that connected last first.
    pub fn ask_draining(&self, question: &Question) -> Vec<Result<Waiting, String>> {
        self.draining.iter().rev().map(|engine| ask(engine, question.clone())).collect()
    }
}

fn ask((_, engine): &Engine, question: Question) -> Result<Waiting, String> {
    let (answer, waiting) = oneshot::channel();
    let asked = Asked { question, answer };
    engine.try_send(asked).map_err(|_| "the engine is too busy to be asked".to_owned())?;
    Ok(Waiting(waiting, Instant::now() + PATIENCE))
}

/// An answer to come, until then.
pub struct Waiting(oneshot::Receiver<Answer>, Instant);

impl Waiting {
    /// A refusal is an error, too.
    pub async fn answer(self) -> Result<Answer, String> {
        match tokio::time::timeout_at(self.1, self.0).await {
            Ok(Ok(Answer::Refused(reason))) => Err(reason),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("the engine went away before it answered".into()),
            Err(_) => Err(format!("the engine did not answer in {} s", PATIENCE.as_secs())),
        }
    }
}
