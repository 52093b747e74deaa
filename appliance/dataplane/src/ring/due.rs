//! What falls due at a ring's reader: entries of finished flows, watches, held flows of which nothing
//! could be judged.
//!
//! For: taking entries out of the table in their time. Fails by trying again later. Not for: reading rings.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Identity, Reading, monotonic_nanoseconds};
use crate::core::{Count, Disposition, Finished, Shared};
use crate::layout::{EVASION_DECOY, FlowKey, State, id_of};
use crate::state::Swap;

/// When an entry whose state could not be changed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Most of each kind that are looked after before the runtime's other tasks have a turn: what falls due may
/// do so all at once.
const DUE_A_TURN: usize = 512;
/// As above, of flows that their judges ended: more than held ones come in the same time.
const FINISHED_A_TURN: usize = 8 * DUE_A_TURN;

/// What a flow's entry may be in until it is taken or blocked, in the order that it goes through.
const UNDECIDED: [State; 3] = [State::Held, State::Releasing, State::Watched];

impl Reading {
    /// Whether more may be due.
    pub(super) fn look_after_due(&mut self) -> bool {
        let mut more = self.read_finished();
        more |= self.remove_tombstones();
        more |= self.change_unchanged();
        more |= self.block_unread();
        more | self.end_watches()
    }

    /// As the others of its kind: whether more may be due.
    fn block_unread(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..DUE_A_TURN {
            let Some((_, key, id)) = pop_due(&mut self.unread_until, |(until, ..)| *until <= now)
            else {
                return false;
            };
            if self.unread.remove(&Identity(key, id)) {
                self.block(key, id);
            }
        }
        true
    }

    /// A flow that sent nothing the server would take, and did not send again what was lost: on the
    /// bridge its next packet would pass unjudged.
    pub(super) fn block(&mut self, key: FlowKey, id: u64) {
        match self.core.state.swap(&key, id, State::Held, State::Blocked) {
            Ok(Swap::Done) => {
                if let Some(links) = self.core.segments.get(&key.segment) {
                    links.counts.add(Count::UnreadBlocked);
                }
                self.bury_blocked(key, id);
            }
            Ok(_) => {} // given back because the engine seemed dead
            Err(error) => {
                tracing::warn!(%error, "held flow not blocked yet");
                self.block_later(key, id);
            }
        }
    }

    fn block_later(&mut self, key: FlowKey, id: u64) {
        self.known.insert(Identity(key, id), Arc::new(Shared::blocked()));
        self.try_again(key, id, Disposition::Blocked);
    }

    /// What the ring still has of it is not sent on.
    fn bury_blocked(&mut self, key: FlowKey, id: u64) {
        self.known.insert(Identity(key, id), Arc::new(Shared::blocked()));
        self.graves.push_back((
            Instant::now() + self.limits.times.tombstone,
            key,
            id,
            State::Blocked,
        ));
    }

    pub(super) fn block_watched(&mut self, key: FlowKey, id: u64, shared: &Shared) {
        match self.core.state.swap(&key, id, State::Watched, State::Blocked) {
            Ok(Swap::Done) => {
                if let Some(links) = self.core.segments.get(&key.segment) {
                    shared.count(links, Count::WatchBlocked);
                }
                self.bury_blocked(key, id);
            }
            Ok(_) => {} // final, or a new connection took its place
            Err(error) => {
                tracing::warn!(%error, "released flow not blocked yet");
                self.block_later(key, id);
            }
        }
    }

    fn read_finished(&mut self) -> bool {
        for _ in 0..FINISHED_A_TURN {
            let Ok(finished) = self.finished.try_recv() else { return false };
            let Finished { key, id, disposition, changed } = finished;
            if !changed {
                self.try_again(key, id, disposition);
                continue;
            }
            let state = match disposition {
                Disposition::Watched => {
                    self.watch(key, id);
                    continue;
                }
                Disposition::Held | Disposition::Taken => continue,
                Disposition::Released => {
                    self.known.remove(&Identity(key, id));
                    continue;
                }
                Disposition::Tombstone => State::Tombstone,
                Disposition::Blocked => State::Blocked,
            };
            self.graves.push_back((Instant::now() + self.limits.times.tombstone, key, id, state));
        }
        true
    }

    fn watch(&mut self, key: FlowKey, id: u64) {
        if self.watched.len() >= self.limits.watched
            && let Some((_, key, id)) = self.watched.pop_front()
        {
            self.end_watch(key, id);
        }
        self.watched.push_back((Instant::now() + self.limits.times.watched, key, id));
    }

    fn end_watches(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..DUE_A_TURN {
            let Some((_, key, id)) = pop_due(&mut self.watched, |(until, ..)| *until <= now) else {
                return false;
            };
            self.end_watch(key, id);
        }
        true
    }

    /// No room or no patience any more; nothing to do where the release is final, as it mostly is.
    fn end_watch(&mut self, key: FlowKey, id: u64) {
        let Some(shared) = self.known.get(&Identity(key, id)).cloned() else { return };
        let state = shared.lock();
        if state.disposition != Disposition::Watched {
            return;
        }
        // A client whose end its server does not take may go on, as after a RST that is none; one that
        // acknowledged what its server did not say has yet to say what is taken.
        let unproven = state.judged.as_ref().is_some_and(|judged| judged.fin || judged.heard);
        drop(state);
        self.known.remove(&Identity(key, id));
        if unproven || self.core.blocks(EVASION_DECOY) {
            return self.block_watched(key, id, &shared);
        }
        match self.core.state.remove(&key, id, State::Watched) {
            Ok(Swap::Done) => {
                if let Some(links) = self.core.segments.get(&key.segment) {
                    shared.count(links, Count::WatchGivenUp);
                }
            }
            Ok(_) => {} // final, or a new connection took its place
            Err(error) => {
                tracing::warn!(%error, "released flow stays watched for now");
                self.try_again(key, id, Disposition::Released);
            }
        }
    }

    fn remove_tombstones(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..DUE_A_TURN {
            let Some((_, key, id, state)) = pop_due(&mut self.graves, |(due, ..)| *due <= now)
            else {
                return false;
            };
            if let Some(rest) = self.rest_of(&key, id) {
                self.graves.push_back((now + rest, key, id, state));
                continue;
            }
            self.known.remove(&Identity(key, id));
            // From here on the bridge carries what the client sends: its server must have ended.
            if state == State::Blocked
                && let Ok(flow) = self.flows.get(&key, 0)
                && id_of(flow.word) == id
                && let Some(links) = self.core.segments.get(&key.segment)
            {
                links.reset_blocked_server(&key, &flow);
            }
            match self.core.state.remove(&key, id, state) {
                Ok(Swap::Done) => {
                    if let Some(links) = self.core.segments.get(&key.segment) {
                        links.counts.add(Count::TombstoneRemoved);
                    }
                }
                Ok(_) => {} // a new SYN replaced it
                Err(error) => {
                    tracing::warn!(%error, "tombstone not removed yet");
                    self.graves.push_back((now + AGAIN, key, id, state));
                    return false;
                }
            }
        }
        true
    }

    /// How long a finished flow's entry must still stay, because packets of its flow still come.
    fn rest_of(&self, key: &FlowKey, id: u64) -> Option<Duration> {
        let flow = self.flows.get(key, 0).ok()?;
        if id_of(flow.word) != id || flow.touched == 0 {
            return None;
        }
        let now = monotonic_nanoseconds().ok()?;
        let age = Duration::from_nanos(now.saturating_sub(flow.touched));
        self.limits.times.tombstone.checked_sub(age).filter(|rest| !rest.is_zero())
    }

    fn try_again(&mut self, key: FlowKey, id: u64, disposition: Disposition) {
        self.unchanged.push_back((Instant::now() + AGAIN, key, id, disposition));
    }

    /// What the kernel would not do for want of memory: else a flow that is long over would keep its
    /// entry, and with it the next one of its addresses and ports.
    fn change_unchanged(&mut self) -> bool {
        let now = Instant::now();
        for _ in 0..DUE_A_TURN {
            let Some((_, key, id, disposition)) =
                pop_due(&mut self.unchanged, |(due, ..)| *due <= now)
            else {
                return false;
            };
            if self.change(key, id, disposition).is_err() {
                self.try_again(key, id, disposition);
                return false;
            }
        }
        true
    }

    /// From the state that the entry was left in to what became of its flow.
    fn change(&mut self, key: FlowKey, id: u64, disposition: Disposition) -> io::Result<()> {
        let state = &self.core.state;
        match disposition {
            Disposition::Tombstone => {
                state.swap(&key, id, State::Taken, State::Tombstone)?;
                self.graves.push_back((
                    Instant::now() + self.limits.times.tombstone,
                    key,
                    id,
                    State::Tombstone,
                ));
            }
            Disposition::Blocked => {
                for from in UNDECIDED {
                    state.swap(&key, id, from, State::Blocked)?;
                }
                self.graves.push_back((
                    Instant::now() + self.limits.times.tombstone,
                    key,
                    id,
                    State::Blocked,
                ));
            }
            _ => {
                for from in UNDECIDED {
                    state.remove(&key, id, from)?;
                }
                // What still comes by the ring is sent on, as before.
                self.known.remove(&Identity(key, id));
            }
        }
        Ok(())
    }
}

/// The first, where it is due.
fn pop_due<T>(queue: &mut VecDeque<T>, due: impl Fn(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(due) { queue.pop_front() } else { None }
}
