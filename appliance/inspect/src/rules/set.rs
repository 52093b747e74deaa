//! A rule set compiled for matching.

use std::{collections::HashMap, sync::Arc};

use super::{
    RuleText,
    error::{RuleError, RuleProblem},
    lines::logical_lines,
    parse::{Buffer, ParsedRule, parse_rule},
};
use crate::{
    alert::Alert,
    patterns::{AutomatonError, PatternSet, Use},
    session::Direction,
};

/// Most contents of all rules of a set together; past it the set is refused. A session keeps a bit
/// for each in four places: 32 KiB.
pub const MAX_CONTENTS: usize = 65_536;

/// Rules, ready to match. Immutable; shared by all sessions of a policy's generation.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// Contents of all rules.
    conditions: usize,
    /// `http` rules all of whose contents are negated: every request's head completes them, unless.
    pub(crate) without_positive_contents: Vec<u32>,
    /// By direction, as the next: a byte costs nothing for rules of the other one.
    pub(crate) stream: [PatternSet; 2],
    pub(crate) message: [PatternSet; 2],
    pub(crate) uri: PatternSet,
    pub(crate) method: PatternSet,
    pub(crate) host: PatternSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Alert,
    Drop,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    sid: u32,
    rev: u32,
    message: Arc<str>,
    to_server: bool,
    to_client: bool,
    /// Number of the first of its contents in the set.
    first_condition: u32,
    /// For each content, whether it is negated.
    negated: Vec<bool>,
}

impl Rule {
    pub(crate) fn applies(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    /// Its contents: number in the set, and whether negated.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = (u32, bool)> {
        (self.first_condition..).zip(self.negated.iter().copied())
    }

    pub(crate) fn alert(&self) -> Alert {
        Alert { sid: self.sid, rev: self.rev, message: Arc::clone(&self.message) }
    }
}

impl RuleSet {
    /// Parses all texts into one set.
    ///
    /// # Errors
    /// Everything that is wrong in any of the texts, in order. See the [module](super).
    pub fn parse(texts: &[RuleText]) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut parsed: Vec<ParsedRule> = Vec::new();
        let mut sids: HashMap<u32, String> = HashMap::new();
        let mut contents = 0;
        for text in texts {
            for line in logical_lines(&text.text) {
                let error = |(offset, problem)| RuleError {
                    origin: text.origin.clone(),
                    line: line.line_at(offset),
                    problem,
                };
                let rule = match parse_rule(&line.text) {
                    Ok(rule) => rule,
                    Err(problems) => {
                        errors.extend(problems.into_iter().map(error));
                        continue;
                    }
                };
                let place = format!("{}:{}", text.origin, line.line_at(rule.sid_offset));
                if let Some(first) = sids.insert(rule.sid, place) {
                    let problem = RuleProblem::DuplicateSid { sid: rule.sid, first: first.clone() };
                    errors.push(error((rule.sid_offset, problem)));
                    sids.insert(rule.sid, first);
                    continue;
                }
                contents += rule.contents.len();
                if contents > MAX_CONTENTS {
                    errors.push(error((0, RuleProblem::TooManyContents(MAX_CONTENTS))));
                    return Err(errors);
                }
                parsed.push(rule);
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Self::compile(parsed).map_err(|error| {
            let origin = texts.first().map(|text| text.origin.clone()).unwrap_or_default();
            vec![RuleError { origin, line: 1, problem: RuleProblem::Automaton(error.to_string()) }]
        })
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule at all: sessions then forward everything unlooked at.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    /// Number of contents of all rules.
    pub(crate) fn conditions(&self) -> usize {
        self.conditions
    }

    fn compile(parsed: Vec<ParsedRule>) -> Result<Self, AutomatonError> {
        let mut rules = Vec::with_capacity(parsed.len());
        let mut without_positive_contents = Vec::new();
        let mut patterns: Vec<(Buffer, &[u8], bool, Use)> = Vec::new();
        let mut condition: u32 = 0;
        for (index, rule) in (0u32..).zip(&parsed) {
            rules.push(Rule {
                action: rule.action,
                sid: rule.sid,
                rev: rule.rev,
                message: Arc::from(rule.message.as_str()),
                to_server: rule.to_server,
                to_client: rule.to_client,
                first_condition: condition,
                negated: rule.contents.iter().map(|content| content.negated).collect(),
            });
            if rule.contents.iter().all(|content| content.negated) {
                without_positive_contents.push(index);
            }
            for content in &rule.contents {
                let found = Use { rule: index, condition };
                patterns.push((content.buffer, &content.pattern, content.nocase, found));
                condition += 1;
            }
        }
        let build = |buffer: Buffer, direction: Direction| {
            let of_rule = |found: &Use| rules.get(found.rule as usize);
            let of_buffer: Vec<_> = patterns
                .iter()
                .filter(|(of, _, _, found)| {
                    *of == buffer
                        && of_rule(found).is_some_and(|rule: &Rule| rule.applies(direction))
                })
                .map(|(_, pattern, nocase, found)| (*pattern, *nocase, *found))
                .collect();
            PatternSet::build(&of_buffer)
        };
        let both = |buffer: Buffer| -> Result<[PatternSet; 2], AutomatonError> {
            Ok([build(buffer, Direction::ToServer)?, build(buffer, Direction::ToClient)?])
        };
        Ok(Self {
            conditions: patterns.len(),
            without_positive_contents,
            stream: both(Buffer::Stream)?,
            message: both(Buffer::Message)?,
            uri: build(Buffer::Uri, Direction::ToServer)?,
            method: build(Buffer::Method, Direction::ToServer)?,
            host: build(Buffer::Host, Direction::ToServer)?,
            rules,
        })
    }
}
