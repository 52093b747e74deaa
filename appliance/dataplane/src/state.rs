//! Changing a flow's state from user space, by compare-and-swap.
//!
//! A plain map update would overwrite what a packet changed meanwhile; so the program
//! `state_command` does the swap, run through BPF_PROG_TEST_RUN with the command as its arguments.
//! Fails with the system call's error only: an entry that is gone or another's is an answer.

use std::io;
use std::os::fd::OwnedFd;

use crate::layout::{
    COMMAND_SPOKEN_TO, COMMAND_SWAPPED, COMMAND_TUPLE_OWNED, Command, FlowKey, State,
};
use crate::test_run::{test_run, test_run_with_arguments};

/// What became of a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    Done,
    /// The flow is in another state. Towards [`State::Watched`], `Released` says that the server had
    /// acknowledged everything already: the entry is gone.
    Found(State),
    /// No entry of that identity: the flow ended, or was given back.
    Absent,
    /// Another flow's sockets own the tuple (only towards [`State::Taken`]).
    TupleOwned,
}

/// Handle on the program.
#[derive(Debug)]
pub struct StateCommand(OwnedFd);

/// Handle on the program `engine_query`.
#[derive(Debug)]
pub struct EngineQuery(OwnedFd);

impl EngineQuery {
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }

    /// Whether the process of the engine of that number lives, be it stuck.
    pub fn lives(&self, number: u32) -> io::Result<bool> {
        let mut packet = [0; 14 + size_of::<u32>()];
        packet[14..].copy_from_slice(&number.to_ne_bytes());
        Ok(test_run(&self.0, &packet, None)? != 0)
    }
}

impl StateCommand {
    pub fn new(program: OwnedFd) -> Self {
        Self(program)
    }

    pub fn swap(&self, key: &FlowKey, id: u64, from: State, to: State) -> io::Result<Swap> {
        self.run(Command { id, key: *key, from: from as u32, to: to as u32, ..Command::default() })
    }

    /// From held to releasing, `judged` bytes of the client having been judged.
    pub fn releasing(&self, key: &FlowKey, id: u64, judged: u32) -> io::Result<Swap> {
        let (from, to) = (State::Held as u32, State::Releasing as u32);
        self.run(Command { id, key: *key, from, to, judged, ..Command::default() })
    }

    /// From held to watched, as above, of what goes out at once.
    pub fn watching(&self, key: &FlowKey, id: u64, judged: u32) -> io::Result<Swap> {
        let (from, to) = (State::Held as u32, State::Watched as u32);
        self.run(Command { id, key: *key, from, to, judged, ..Command::default() })
    }

    /// From held to taken, `received` bytes of the client having come, the last with `client_time` as
    /// its timestamp, if it has any.
    pub fn taking(
        &self,
        key: &FlowKey,
        id: u64,
        received: u32,
        client_time: u32,
    ) -> io::Result<Swap> {
        let (from, to) = (State::Held as u32, State::Taken as u32);
        let (key, judged) = (*key, received);
        self.run(Command { id, key, from, to, judged, client_time, ..Command::default() })
    }

    /// Whether a socket of ours has said something to the client of a taken flow.
    pub fn spoken_to_client(&self, key: &FlowKey, id: u64) -> io::Result<bool> {
        let command = Command { id, key: *key, ..Command::default() };
        let answer = test_run_with_arguments(&self.0, command.bytes())?;
        Ok(answer & COMMAND_SPOKEN_TO != 0)
    }

    /// A taken flow's handshake is over: it counts for its client no more.
    pub fn settle(&self, key: &FlowKey, id: u64) -> io::Result<Swap> {
        self.swap(key, id, State::Taken, State::Taken)
    }

    /// Swaps, then deletes the entry.
    pub fn remove(&self, key: &FlowKey, id: u64, from: State) -> io::Result<Swap> {
        let (from, to) = (from as u32, State::Released as u32);
        self.run(Command { id, key: *key, from, to, delete: 1, ..Command::default() })
    }

    fn run(&self, command: Command) -> io::Result<Swap> {
        let answer = test_run_with_arguments(&self.0, command.bytes())?;
        Ok(if answer == COMMAND_SWAPPED | State::Released as u32 {
            Swap::Found(State::Released)
        } else if answer & COMMAND_TUPLE_OWNED != 0 {
            Swap::TupleOwned
        } else if answer & COMMAND_SWAPPED != 0 {
            Swap::Done
        } else {
            State::of(u64::from(answer)).map_or(Swap::Absent, Swap::Found)
        })
    }
}
