//! The engine's socket: each engine that connects gets the whole policy and every later one, and
//! tells sessions, events and counters. What it wants fetched is fetched ([`crate::fetch`]).
//!
//! Not for: what policy says. Fails by closing the one connection; the engine keeps its policy and
//! connects again.

mod log;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::BufReader;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, spawn_local};
use tracing::{info, warn};
use weir_api::engine::{FromEngine, ToEngine};
use weir_api::frame::{self, FrameError};
use weir_api::rules::Answer;

use crate::fetch::{MOST_TOLD, Told};
use crate::peers::AllowedPeers;
use crate::questions::{Asked, MOST_WAITING};
use crate::state::{Orders, State};

/// Connections at one time: an engine, its successor, those that drain, and one to spare. Past it they are refused.
const MOST_CONNECTIONS: usize = 5;

/// Bytes asked of the kernel at one time.
const READ: usize = 64 << 10;
/// Largest message of an engine: an answer with the most sessions, whose servers' names are all as long as they
/// may be.
const LARGEST_MESSAGE: usize = 32 << 20;

/// Accepts engines for ever.
pub async fn serve(state: Rc<RefCell<State>>, listener: UnixListener) {
    let allowed = AllowedPeers::named(&["weir-engine"]);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "engine socket: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = allowed.admit(&stream) {
            warn!(%error, "engine socket: connection refused");
        } else if state.borrow().engine.connections_of_all_kinds() >= MOST_CONNECTIONS {
            warn!("engine socket: more than {MOST_CONNECTIONS} connections; one refused");
        } else {
            // Counted here and not in the task, so that the next one already sees it.
            let connection = Connection::begin(state.clone());
            spawn_local(serve_one(connection, stream));
        }
    }
}

async fn serve_one(mut connection: Connection, stream: UnixStream) {
    let orders = connection.state.borrow().orders.subscribe();
    let (from_engine, to_engine) = stream.into_split();
    let (questions, asked) = mpsc::channel(MOST_WAITING);
    connection.state.borrow_mut().engine.asked.add(connection.number, questions);
    let (answers, fetched) = mpsc::channel(MOST_TOLD);
    connection.answers = Some(answers);
    let telling = tell(orders, asked, fetched, connection.waiting.clone(), to_engine);
    connection.writer = Some(spawn_local(telling).abort_handle());
    let end = listen(&mut connection, from_engine).await;
    drop(connection);
    match end {
        Ok(()) => warn!("engine disconnected"),
        Err(error) => warn!(%error, "engine connection closed"),
    }
}

/// A counted connection. Its end, be it by a panic, ends the writing half and the counting.
struct Connection {
    state: Rc<RefCell<State>>,
    writer: Option<AbortHandle>,
    /// Of all that ever were.
    number: u64,
    waiting: Waiting,
    /// Where what it asked to be fetched goes.
    answers: Option<mpsc::Sender<Told>>,
    /// The engine has a successor: of what it tells, only sessions and events count.
    draining: bool,
}

/// Who waits for which answer. At most [`MOST_WAITING`] at a time: a question past it is not asked.
type Waiting = Rc<RefCell<BTreeMap<u64, oneshot::Sender<Answer>>>>;

impl Connection {
    fn begin(state: Rc<RefCell<State>>) -> Self {
        let engine = &mut state.borrow_mut().engine;
        engine.connections += 1;
        engine.starts += 1;
        engine.counters = None;
        engine.applied = None;
        engine.fallback = None;
        let number = engine.starts;
        Self {
            state: state.clone(),
            writer: None,
            number,
            waiting: Waiting::default(),
            answers: None,
            draining: false,
        }
    }

    fn hear(&mut self, message: FromEngine) {
        let mut state = self.state.borrow_mut();
        if let FromEngine::Health { draining: true, .. } = message
            && !std::mem::replace(&mut self.draining, true)
        {
            info!("an engine with a successor drains");
            state.engine.connections = state.engine.connections.saturating_sub(1);
            state.engine.draining += 1;
            state.engine.asked.drains(self.number);
        }
        match message {
            FromEngine::Answer { number, answer } => {
                // Who asked may have gone.
                if let Some(waiting) = self.waiting.borrow_mut().remove(&number) {
                    let _ = waiting.send(answer);
                }
            }
            // One that drains has handshakes to finish, too.
            FromEngine::Fetch { number, fetch } => {
                let networks = state.snapshot().device.fetch_private_networks.clone();
                if let Some(answers) = &self.answers {
                    state.fetcher.start(number, fetch, networks, answers);
                }
            }
            FromEngine::Session(_) | FromEngine::Filter(_) => hear(&mut state, message),
            _ if self.draining => {}
            message => {
                state.engine.heard = Some(Instant::now());
                hear(&mut state, message);
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
        // Borrows end before this, also where a panic unwinds; a second one would abort the agent.
        if let Ok(mut state) = self.state.try_borrow_mut() {
            let engine = &mut state.engine;
            let count = if self.draining { &mut engine.draining } else { &mut engine.connections };
            *count = count.saturating_sub(1);
            engine.asked.remove(self.number);
        }
    }
}

/// Sends the policy and forced fallback, and each of them again when it changes; questions; and what
/// was fetched.
async fn tell(
    mut orders: watch::Receiver<Orders>,
    mut questions: mpsc::Receiver<Asked>,
    mut fetched: mpsc::Receiver<Told>,
    waiting: Waiting,
    mut to: OwnedWriteHalf,
) {
    let mut told: Option<Orders> = None;
    let mut number = 0;
    loop {
        let now = orders.borrow_and_update().clone();
        if let Err(error) = tell_changes(told.as_ref(), &now, &mut to).await {
            match error {
                // The reading half sees the same end and reports it.
                FrameError::Io(error) => tracing::debug!(%error, "engine: write"),
                // Both halves end: the engine connects again and is told anew.
                error => tracing::error!(%error, "an order to the engine cannot be sent"),
            }
            return;
        }
        told = Some(now);
        // Questions only after the orders that were given before them.
        loop {
            let asked = tokio::select! {
                biased;
                changed = orders.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(asked) = questions.recv() => asked,
                Some(told) = fetched.recv() => {
                    if let Err(error) = frame::write(&mut to, &told.message).await {
                        tracing::debug!(%error, "engine: write");
                        return;
                    }
                    continue;
                }
            };
            number += 1;
            let Asked { question, answer } = asked;
            {
                let mut waiting = waiting.borrow_mut();
                waiting.retain(|_, one| !one.is_closed());
                if waiting.len() >= MOST_WAITING {
                    continue; // who asked is told that the answer will not come
                }
                waiting.insert(number, answer);
            }
            if let Err(error) = frame::write(&mut to, &ToEngine::Ask { number, question }).await {
                tracing::debug!(%error, "engine: write");
                return;
            }
        }
    }
}

async fn tell_changes(
    told: Option<&Orders>,
    now: &Orders,
    to: &mut OwnedWriteHalf,
) -> Result<(), FrameError> {
    // Before the policy, with which an engine begins to judge.
    if told.is_none_or(|told| told.fallback_forced != now.fallback_forced) {
        frame::write(to, &ToEngine::ForceFallback(now.fallback_forced)).await?;
    }
    if told.is_none_or(|told| told.snapshot.generation != now.snapshot.generation) {
        frame::write(to, &ToEngine::Snapshot(Box::new((*now.snapshot).clone()))).await?;
    }
    if told.is_some_and(|told| told.sessions_cleared != now.sessions_cleared) {
        frame::write(to, &ToEngine::ClearSessions).await?;
    }
    // An engine that was not told of earlier orders has nothing of that time.
    if told.is_some_and(|told| told.forget_learnt != now.forget_learnt) {
        frame::write(to, &ToEngine::ForgetLearnt).await?;
    }
    Ok(())
}

async fn listen(connection: &mut Connection, from: OwnedReadHalf) -> Result<(), FrameError> {
    // Events come many at once; none of them holds a secret.
    let mut from = BufReader::with_capacity(READ, from);
    while let Some(message) = frame::read_at_most(&mut from, LARGEST_MESSAGE).await? {
        connection.hear(message);
    }
    Ok(())
}

fn hear(state: &mut State, message: FromEngine) {
    match message {
        FromEngine::Started { version, segments, runtimes, counter_meanings } => {
            info!(version, runtimes, segments = segments.len(), "engine connected");
            state.engine.segments = segments;
            state.engine.counter_meanings = counter_meanings.into_iter().collect();
        }
        FromEngine::Applied { generation } => {
            info!(generation, "policy in force");
            state.engine.applied = Some(generation);
            state.engine.refused = None;
        }
        FromEngine::Refused { generation, error } => {
            warn!(generation, error, "engine refused the policy; the running one stays");
            state.engine.refused = Some(error);
        }
        FromEngine::Session(session) => {
            if session.is_logged() {
                log::session(&session);
                state.tls_inspection_log.push((*session).clone());
            }
            state.sessions.push(*session);
        }
        FromEngine::Filter(event) => {
            log::event(&event);
            state.events.push(*event);
        }
        FromEngine::Health { fallback, .. } => state.engine.fallback = fallback,
        FromEngine::Counters(counters) => state.note_counters(*counters, Instant::now()),
        // The connection's own.
        FromEngine::Answer { .. } | FromEngine::Fetch { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;
    use weir_api::console::MOST_RECORDS;
    use weir_api::engine::{CertificateRecord, PolicyNames, SessionRecord};
    use weir_policy::Outcome;
    use weir_policy::outcome::Bypassed;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    /// One that is not ends the connection: whoever fills records with such text could do so whenever
    /// somebody looks at them.
    #[test]
    fn an_answer_full_of_the_longest_records_is_read() {
        // Six bytes each in JSON.
        let text = || "\u{1}".repeat(CertificateRecord::NAME_LENGTH);
        let end = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let mut session = SessionRecord::new(u64::MAX, u64::MAX, SegmentId(u16::MAX), end, end);
        session.outcome = Outcome::Bypassed(Bypassed::NothingShared);
        session.server_name = Some(text());
        session.virtual_segment = Some(text().into());
        session.names = Some(Arc::new(PolicyNames {
            profile: text(),
            policy: text(),
            proxy: text(),
            decryption_policy: Some(text()),
        }));
        session.verdict = Some(text());
        session.certificate = Some(CertificateRecord {
            subject: Some(text()),
            issuer: Some(text()),
            names: vec![text(); CertificateRecord::NAMES],
            more_names: usize::MAX,
        });
        let answer = Answer::Sessions(vec![session; MOST_RECORDS]);
        let message = FromEngine::Answer { number: u64::MAX, answer };
        let length = frame::length(&message).unwrap();
        assert!(length <= LARGEST_MESSAGE, "{length}");
    }

    #[tokio::test]
    async fn a_connection_that_panics_is_counted_no_more_and_writes_no_more() {
        let state = Rc::new(RefCell::new(State::default()));
        let counted = state.clone();
        LocalSet::new()
            .run_until(async move {
                let mut connection = Connection::begin(counted.clone());
                assert_eq!(counted.borrow().engine.connections, 1);
                let writer = spawn_local(std::future::pending::<()>());
                connection.writer = Some(writer.abort_handle());
                let serving = spawn_local(async move {
                    let _held = connection.state.borrow_mut();
                    panic!("expected by the test");
                });
                assert!(serving.await.unwrap_err().is_panic());
                assert!(writer.await.unwrap_err().is_cancelled());
            })
            .await;
        assert_eq!(state.borrow().engine.connections, 0);
    }
}
