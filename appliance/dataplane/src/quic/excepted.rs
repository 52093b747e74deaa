//! The table of connections that pass though policy blocks QUIC, which the programs look at.
//!
//! For: entering one with the name that it was excepted for, and asking for that name again where the rules
//! have changed since. Of one client [`MOST_OF_CLIENT`] are in it: the next one takes the place of an old one that
//! nothing comes of.
//! Fails with the table's error.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;

use aya::Ebpf;
use aya::maps::{HashMap as Table, MapData, MapError};
use weir_policy::Candidate;

use super::datagram::Way;
use super::recent::Client;
use crate::layout::FlowKey;
use crate::layout::quic::{EXCEPTED_NAME, EXCEPTED_QUIC, Excepted};
use crate::ring::monotonic_nanoseconds;
use crate::tables::{self, ApplyError};

const TABLE: &str = "excepted_quic";
/// A sixteenth of the table.
const MOST_OF_CLIENT: usize = 1024;
/// Of so many of its oldest the one that was used least recently makes room: one that goes on for long is not
/// cut off by short ones that ended.
const LOOKED_AT: usize = 8;
/// Connections whose client is known here, as many as the table has room for: past it all are forgotten, which
/// only means that some clients have more than their part for a while.
const MOST_KNOWN: usize = 16_384;

pub struct ExceptedQuic {
    table: Table<MapData, FlowKey, Excepted>,
    of_clients: OfClients,
}

impl ExceptedQuic {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        Ok(Self { table: tables::map(ebpf, TABLE)?, of_clients: OfClients::default() })
    }

    /// The entry of a connection that is not forgotten yet.
    pub fn get(&self, key: &FlowKey) -> Option<Excepted> {
        let entry = self.table.get(key, 0).ok()?;
        let now = monotonic_nanoseconds().ok()?;
        (now.saturating_sub(entry.last) <= EXCEPTED_QUIC).then_some(entry)
    }

    /// Whether this policy excepts it, too, as `excepts` says; else it is removed.
    pub fn judge_again(
        &mut self,
        key: &FlowKey,
        entry: &Excepted,
        policy: u64,
        excepts: impl FnOnce(&Candidate, &str) -> bool,
    ) -> bool {
        if entry.policy == policy {
            return true;
        }
        if !excepts(&Way::of(*key, entry).candidate(), name_of(entry)) {
            self.remove(key);
            return false;
        }
        // As old as it was: nothing came of it. Where this fails it is judged again.
        if let Err(error) = self.table.insert(key, Excepted { policy, ..*entry }, 0) {
            tracing::debug!(%error, "QUIC connection not excepted anew");
        }
        true
    }

    /// All that are in the table at some moment.
    pub fn keys(&self) -> Vec<FlowKey> {
        self.table.keys().filter_map(Result::ok).take(MOST_KNOWN).collect()
    }

    /// Whether it is new. Of a name that is too long nothing is known when the rules have changed.
    pub fn insert(&mut self, way: &Way, name: &str, policy: u64) -> Result<bool, ApplyError> {
        let mut room = [0; EXCEPTED_NAME];
        if let Some(room) = room.get_mut(..name.len()) {
            room.copy_from_slice(name.as_bytes());
        }
        let length = name.len().min(EXCEPTED_NAME) as u16;
        let new = self.get(&way.key).is_none();
        let table = &self.table;
        let last = |key: &FlowKey| table.get(key, 0).ok().map(|entry| entry.last);
        if new && let Some(unused) = self.of_clients.add(Client::of(way), way.key, last) {
            self.remove(&unused);
        }
        let failed = |error| ApplyError::Table { table: TABLE, error };
        let last = monotonic_nanoseconds().map_err(|error| failed(error.into()))?;
        let entry = Excepted { last, ..way.entry(policy, length, room) };
        self.table.insert(way.key, entry, 0).map_err(failed)?;
        Ok(new)
    }

    pub fn remove(&mut self, key: &FlowKey) {
        match self.table.remove(key) {
            // The least recently used goes by itself.
            Ok(()) => {}
            Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "QUIC connection still excepted"),
        }
    }
}

/// Which connections each client has in the table.
#[derive(Default)]
struct OfClients {
    /// Oldest first; some may be gone from the table.
    keys: HashMap<Client, VecDeque<FlowKey>>,
    known: usize,
}

impl OfClients {
    /// Adds a new one; which of its client's has to go, by when each was used last, if it is in the table.
    fn add(
        &mut self,
        client: Client,
        key: FlowKey,
        last: impl Fn(&FlowKey) -> Option<u64>,
    ) -> Option<FlowKey> {
        if self.known >= MOST_KNOWN {
            self.keys.clear();
            self.known = 0;
        }
        let own = self.keys.entry(client).or_default();
        // It was there before, and went by itself.
        let before = own.len();
        own.retain(|other| *other != key);
        self.known -= before - own.len();
        own.push_back(key);
        self.known += 1;
        let unused = if own.len() > MOST_OF_CLIENT { least_used(own, last) } else { None };
        self.known -= usize::from(unused.is_some());
        unused
    }
}

/// Takes it out of some at the front; the others go to the back.
fn least_used(
    keys: &mut VecDeque<FlowKey>,
    last: impl Fn(&FlowKey) -> Option<u64>,
) -> Option<FlowKey> {
    let looked_at: Vec<_> = keys.drain(..LOOKED_AT.min(keys.len())).collect();
    let least = looked_at.iter().copied().min_by_key(|key| last(key))?;
    keys.extend(looked_at.into_iter().filter(|key| *key != least));
    Some(least)
}

/// The name that an entry was made for.
fn name_of(entry: &Excepted) -> &str {
    let bytes = entry.name.get(..usize::from(entry.length)).unwrap_or_default();
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> FlowKey {
        FlowKey { segment: number, ..FlowKey::default() }
    }

    #[test]
    fn a_client_over_its_part_pushes_out_its_own_unused_ones() {
        // Used in this order, and the first of all once more; one that is gone.
        let last = |key: &FlowKey| match key.segment {
            0 => Some(u64::MAX),
            5 => None,
            number => Some(number.into()),
        };
        let mut known = OfClients::default();
        let [one, other] = [1, 2].map(Client::numbered);
        assert_eq!(known.add(other, key(u32::MAX), last), None);
        for number in 0..MOST_OF_CLIENT as u32 {
            assert_eq!(known.add(one, key(number), last), None);
        }
        assert_eq!(known.add(one, key(5000), last), Some(key(5)));
        // Again, as the table had lost it.
        assert_eq!(known.add(one, key(2), last), None);
        assert_eq!(known.add(one, key(5001), last), Some(key(8)));
        assert_eq!(known.add(other, key(5000), last), None);
        assert_eq!(known.known, MOST_OF_CLIENT + 2);
        for client in 3..3 + MOST_KNOWN as u64 {
            assert_eq!(known.add(Client::numbered(client), key(1), last), None);
        }
        assert!(known.known <= MOST_KNOWN);
    }
}
