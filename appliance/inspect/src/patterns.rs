//! Many patterns searched at once in a stream that comes in pieces.
//!
//! Two automata a buffer, one for contents with `nocase` and one for the rest, are stepped together,
//! byte by byte: the position of a match is exact, and the whole state between two reads is two
//! numbers ([`Cursor`]), whatever the patterns' lengths. Not for: what a match means, which is
//! `judging`'s. Fails only when it is built, by patterns that are too many for the automaton.

use std::{collections::HashMap, iter::Enumerate, slice::Iter};

use aho_corasick::{
    Anchored, BuildError, MatchError, MatchKind, StartKind,
    automaton::{Automaton, StateID},
    dfa::DFA,
    nfa::contiguous::NFA,
};

/// Total length of an automaton's patterns, in bytes, up to which it is a DFA (at most 1 KiB a byte,
/// so 4 MiB); past it, a contiguous NFA (about 2.5 times slower, some bytes a byte).
const MAX_DFA_PATTERN_BYTES: usize = 4096;

/// A content of a rule: indices into the rule set's rules and conditions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use {
    pub(crate) rule: u32,
    pub(crate) condition: u32,
}

/// Why an automaton could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AutomatonError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Start(#[from] MatchError),
}

/// Told of every pattern that ends at a byte, then asked whether to go on.
pub(crate) trait Visitor {
    fn found(&mut self, found: Use);
    /// Asked after all patterns that end at one byte were told.
    fn stop(&self) -> bool;
}

/// The contents of all rules for one buffer.
#[derive(Debug)]
pub(crate) struct PatternSet {
    exact: Option<Machine>,
    nocase: Option<Machine>,
    /// Bytes that leave the start of one of the automata.
    begins: [bool; 256],
}

/// Where a search in one stream stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    exact: StateID,
    nocase: StateID,
}

impl PatternSet {
    pub(crate) fn build(contents: &[(&[u8], bool, Use)]) -> Result<Self, AutomatonError> {
        let exact = Machine::build(contents, false)?;
        let nocase = Machine::build(contents, true)?;
        let mut begins = [false; 256];
        for (byte, begins) in (0..=u8::MAX).zip(&mut begins) {
            *begins = [&exact, &nocase].into_iter().flatten().any(|machine| machine.begins(byte));
        }
        Ok(Self { exact, nocase, begins })
    }

    /// A cursor before the first byte of a stream.
    pub(crate) fn start(&self) -> Cursor {
        let start = |machine: &Option<Machine>| machine.as_ref().map_or(StateID::ZERO, |m| m.start);
        Cursor { exact: start(&self.exact), nocase: start(&self.nocase) }
    }

    /// Searches on; the index in `bytes` at which the visitor stopped.
    pub(crate) fn scan(
        &self,
        cursor: &mut Cursor,
        bytes: &[u8],
        visitor: &mut impl Visitor,
    ) -> Option<usize> {
        let begins = &self.begins;
        match (&self.exact, &self.nocase) {
            (None, None) => None,
            (Some(one), None) => scan_one(one, &mut cursor.exact, begins, bytes, visitor),
            (None, Some(one)) => scan_one(one, &mut cursor.nocase, begins, bytes, visitor),
            (Some(exact), Some(nocase)) => scan_both(exact, nocase, cursor, begins, bytes, visitor),
        }
    }
}

#[derive(Debug)]
struct Machine {
    automaton: Kind,
    start: StateID,
    /// By pattern: the same bytes may serve many rules.
    uses: Vec<Vec<Use>>,
}

#[derive(Debug)]
enum Kind {
    Dfa(DFA),
    Nfa(NFA),
}

impl Machine {
    fn build(
        contents: &[(&[u8], bool, Use)],
        nocase: bool,
    ) -> Result<Option<Self>, AutomatonError> {
        let mut patterns: Vec<Vec<u8>> = Vec::new();
        let mut uses: Vec<Vec<Use>> = Vec::new();
        let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
        for (pattern, _, one_use) in
            contents.iter().filter(|(_, is_nocase, _)| *is_nocase == nocase)
        {
            let pattern = if nocase { pattern.to_ascii_lowercase() } else { pattern.to_vec() };
            let index = *known.entry(pattern.clone()).or_insert_with(|| {
                patterns.push(pattern);
                uses.push(Vec::new());
                uses.len() - 1
            });
            uses[index].push(*one_use);
        }
        if patterns.is_empty() {
            return Ok(None);
        }
        // `Standard`: every pattern that ends at a byte is in that byte's state.
        let total: usize = patterns.iter().map(Vec::len).sum();
        let (automaton, start) = if total <= MAX_DFA_PATTERN_BYTES {
            let dfa = DFA::builder()
                .match_kind(MatchKind::Standard)
                .start_kind(StartKind::Unanchored)
                .ascii_case_insensitive(nocase)
                .prefilter(false)
                .build(&patterns)?;
            let start = dfa.start_state(Anchored::No)?;
            (Kind::Dfa(dfa), start)
        } else {
            let nfa = NFA::builder()
                .match_kind(MatchKind::Standard)
                .ascii_case_insensitive(nocase)
                .prefilter(false)
                .build(&patterns)?;
            let start = nfa.start_state(Anchored::No)?;
            (Kind::Nfa(nfa), start)
        };
        Ok(Some(Self { automaton, start, uses }))
    }

    fn begins(&self, byte: u8) -> bool {
        let next = match &self.automaton {
            Kind::Dfa(dfa) => dfa.next_state(Anchored::No, self.start, byte),
            Kind::Nfa(nfa) => nfa.next_state(Anchored::No, self.start, byte),
        };
        next != self.start
    }
}

fn scan_one(
    machine: &Machine,
    state: &mut StateID,
    begins: &[bool; 256],
    bytes: &[u8],
    visitor: &mut impl Visitor,
) -> Option<usize> {
    let (uses, start) = (machine.uses.as_slice(), machine.start);
    match &machine.automaton {
        Kind::Dfa(a) => step_one((a, uses, start), state, begins, bytes, visitor),
        Kind::Nfa(a) => step_one((a, uses, start), state, begins, bytes, visitor),
    }
}

fn scan_both(
    exact: &Machine,
    nocase: &Machine,
    cursor: &mut Cursor,
    begins: &[bool; 256],
    bytes: &[u8],
    visitor: &mut impl Visitor,
) -> Option<usize> {
    let (e, es) = (exact.uses.as_slice(), exact.start);
    let (n, ns) = (nocase.uses.as_slice(), nocase.start);
    match (&exact.automaton, &nocase.automaton) {
        (Kind::Dfa(a), Kind::Dfa(b)) => {
            step_both((a, e, es), (b, n, ns), cursor, begins, bytes, visitor)
        }
        (Kind::Dfa(a), Kind::Nfa(b)) => {
            step_both((a, e, es), (b, n, ns), cursor, begins, bytes, visitor)
        }
        (Kind::Nfa(a), Kind::Dfa(b)) => {
            step_both((a, e, es), (b, n, ns), cursor, begins, bytes, visitor)
        }
        (Kind::Nfa(a), Kind::Nfa(b)) => {
            step_both((a, e, es), (b, n, ns), cursor, begins, bytes, visitor)
        }
    }
}

/// An automaton with the uses of its patterns and its start.
type Stepped<'a, A> = (&'a A, &'a [Vec<Use>], StateID);

fn step_one<A: Automaton>(
    machine: Stepped<'_, A>,
    state: &mut StateID,
    begins: &[bool; 256],
    bytes: &[u8],
    visitor: &mut impl Visitor,
) -> Option<usize> {
    let start = machine.2;
    let mut current = *state;
    let mut stopped = None;
    let mut rest = bytes.iter().enumerate();
    while let Some((index, byte)) = next(&mut rest, current == start, begins) {
        current = machine.0.next_state(Anchored::No, current, *byte);
        if machine.0.is_special(current) && machine.0.is_match(current) {
            report(machine, current, visitor);
            if visitor.stop() {
                stopped = Some(index);
                break;
            }
        }
    }
    *state = current;
    stopped
}

fn step_both<A: Automaton, B: Automaton>(
    exact: Stepped<'_, A>,
    nocase: Stepped<'_, B>,
    cursor: &mut Cursor,
    begins: &[bool; 256],
    bytes: &[u8],
    visitor: &mut impl Visitor,
) -> Option<usize> {
    let start = (exact.2, nocase.2);
    let mut current = *cursor;
    let mut stopped = None;
    let mut rest = bytes.iter().enumerate();
    while let Some((index, byte)) =
        next(&mut rest, (current.exact, current.nocase) == start, begins)
    {
        current.exact = exact.0.next_state(Anchored::No, current.exact, *byte);
        current.nocase = nocase.0.next_state(Anchored::No, current.nocase, *byte);
        if exact.0.is_special(current.exact) || nocase.0.is_special(current.nocase) {
            if exact.0.is_match(current.exact) {
                report(exact, current.exact, visitor);
            }
            if nocase.0.is_match(current.nocase) {
                report(nocase, current.nocase, visitor);
            }
            if visitor.stop() {
                stopped = Some(index);
                break;
            }
        }
    }
    *cursor = current;
    stopped
}

/// The next byte to step on. At the start, bytes that lead nowhere are passed over: many times
/// faster on what matches nothing.
fn next<'b>(
    rest: &mut Enumerate<Iter<'b, u8>>,
    at_start: bool,
    begins: &[bool; 256],
) -> Option<(usize, &'b u8)> {
    if at_start { rest.find(|(_, byte)| begins[usize::from(**byte)]) } else { rest.next() }
}

/// Tells the visitor of every pattern that ends in a state.
fn report<A: Automaton>(
    (automaton, uses, _): Stepped<'_, A>,
    state: StateID,
    to: &mut impl Visitor,
) {
    for index in 0..automaton.match_len(state) {
        let pattern = automaton.match_pattern(state, index);
        for found in uses.get(pattern.as_usize()).into_iter().flatten() {
            to.found(*found);
        }
    }
}
