//! Conversations of two TLS ends whose bytes change on the way: for both stacks.

use proptest::prelude::*;

/// One end, without I/O.
pub trait End {
    /// Takes the peer's bytes; what is to be sent to it. An end that failed takes all and says nothing
    /// more than its alert.
    fn feed(&mut self, wire: &[u8]) -> Vec<u8>;
    /// Has plaintext sent.
    fn write(&mut self, plain: &[u8]) -> Vec<u8>;
    fn established(&self) -> bool;
    /// All plaintext so far.
    fn plain(&mut self) -> Vec<u8>;
}

/// What happens to one flight. Places are taken modulo its length.
#[derive(Clone, Debug)]
pub enum Change {
    Flip {
        at: usize,
        bit: u8,
    },
    Truncate {
        at: usize,
    },
    Repeat {
        at: usize,
        length: usize,
    },
    Insert {
        at: usize,
        byte: u8,
        count: usize,
    },
    Remove {
        at: usize,
        length: usize,
    },
    /// The records in the order of this permutation's first.
    Rotate {
        by: usize,
    },
    /// A record's length in its header.
    Length {
        record: usize,
        by: u16,
    },
}

pub fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>();
    prop_oneof![
        4 => (at, 0u8..8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        1 => at.prop_map(|at| Change::Truncate { at }),
        1 => (at, 1usize..400).prop_map(|(at, length)| Change::Repeat { at, length }),
        1 => (at, any::<u8>(), 1usize..600)
            .prop_map(|(at, byte, count)| Change::Insert { at, byte, count }),
        1 => (at, 1usize..400).prop_map(|(at, length)| Change::Remove { at, length }),
        1 => (1usize..6).prop_map(|by| Change::Rotate { by }),
        1 => (at, any::<u16>()).prop_map(|(record, by)| Change::Length { record, by }),
    ]
}

impl Change {
    pub fn apply(&self, wire: &mut Vec<u8>) {
        if wire.is_empty() {
            return;
        }
        let length = wire.len();
        match *self {
            Self::Flip { at, bit } => wire[at % length] ^= 1 << bit,
            Self::Truncate { at } => wire.truncate(at % length),
            Self::Repeat { at, length: many } => {
                let at = at % length;
                let part = wire[at..length.min(at + many)].to_vec();
                wire.splice(at..at, part);
            }
            Self::Insert { at, byte, count } => {
                let at = at % length;
                wire.splice(at..at, std::iter::repeat_n(byte, count));
            }
            Self::Remove { at, length: many } => {
                let at = at % length;
                wire.drain(at..length.min(at + many));
            }
            Self::Rotate { by } => {
                let mut parts = records(wire);
                let count = parts.len();
                parts.rotate_left(by % count);
                *wire = parts.concat();
            }
            Self::Length { record, by } => {
                let mut parts = records(wire);
                let count = parts.len();
                if let Some(header) = parts[record % count].get_mut(3..5) {
                    let old = u16::from_be_bytes([header[0], header[1]]);
                    header.copy_from_slice(&old.wrapping_add(by).to_be_bytes());
                }
                *wire = parts.concat();
            }
        }
    }
}

/// The records of a flight; what is no whole record is the last part.
pub fn records(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while !wire.is_empty() {
        let length = match wire.get(3..5) {
            Some(bytes) => 5 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])),
            None => wire.len(),
        };
        let (one, rest) = wire.split_at(length.min(wire.len()));
        parts.push(one.to_vec());
        wire = rest;
    }
    parts
}

/// The first record of a hello in so many records.
pub fn in_records(hello: &[u8], count: usize) -> Vec<u8> {
    let (header, message) = hello.split_at(5);
    let each = message.len().div_ceil(count).max(1);
    let parts = message.chunks(each).map(|part| {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&header[..3], &length, part].concat()
    });
    parts.collect::<Vec<_>>().concat()
}

const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n";

/// A handshake and a question and its answer, with a change to the flight of this number. Nobody is
/// ever told what the other did not say.
pub fn converse(
    client: &mut dyn End,
    server: &mut dyn End,
    hello: Vec<u8>,
    flight: usize,
    change: &Change,
) -> Result<(), TestCaseError> {
    let answer = vec![b'a'; 20_000];
    let mut number = 0;
    let mut carry = |mut wire: Vec<u8>, to: &mut dyn End| {
        if number == flight {
            change.apply(&mut wire);
        }
        number += 1;
        to.feed(&wire)
    };
    let mut to_server = hello;
    // No handshake has so many flights; what goes on and on is a defect.
    for round in 0..20 {
        prop_assert!(round < 19, "they never stop talking");
        let to_client = carry(std::mem::take(&mut to_server), server);
        if to_client.is_empty() {
            break;
        }
        to_server = carry(to_client, client);
        if to_server.is_empty() {
            break;
        }
    }
    if client.established() && server.established() {
        let wire = client.write(QUESTION);
        let back = carry(wire, server);
        carry(back, client);
        let wire = server.write(&answer);
        let back = carry(wire, client);
        carry(back, server);
    }
    prop_assert!(QUESTION.starts_with(&server.plain()), "the server heard something else");
    prop_assert!(answer.starts_with(&client.plain()), "the client heard something else");
    Ok(())
}
