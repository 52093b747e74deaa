//! Reading a line by the tree.

use std::net::IpAddr;

use super::tree::{Command, Node, ROOT, Word};
use crate::text::WIDTH;

/// A line understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub command: Command,
    /// Where the line gave one; the last.
    pub count: Option<usize>,
    /// The keywords in full.
    keywords: Vec<&'static str>,
    /// What stood for counts and texts, behind the keyword before it: (keyword, text).
    arguments: Vec<(&'static str, String)>,
}

impl Line {
    pub fn has(&self, keyword: &str) -> bool {
        self.keywords.contains(&keyword)
    }

    /// What the line gave behind `keyword`.
    pub fn argument(&self, keyword: &str) -> Option<&str> {
        self.arguments.iter().find(|(after, _)| *after == keyword).map(|(_, text)| text.as_str())
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Characters before the place.
    pub column: usize,
    pub message: String,
    /// What is valid there: (`keyword`, `description`).
    pub valid: Vec<(&'static str, &'static str)>,
}

/// What Tab does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// These characters complete the word.
    Append(String),
    /// Several words fit: they are shown.
    Several(Vec<(&'static str, &'static str)>),
    Nothing,
}

/// `None` for an empty line.
pub fn parse(line: &str) -> Result<Option<Line>, Mistake> {
    let mut at = Position::start();
    for word in words(line) {
        at = at.step(&word)?;
    }
    if at.steps == 0 {
        return Ok(None);
    }
    match at.command {
        Some(command) => Ok(Some(Line {
            command,
            count: at.count,
            keywords: at.keywords,
            arguments: at.arguments,
        })),
        None => Err(Mistake {
            column: line.trim_end().chars().count() + 1,
            message: "the command is incomplete".into(),
            valid: at.entries(),
        }),
    }
}

/// What is valid at the end of `line`: after its last word, or in place of the word it ends in.
pub fn help(line: &str) -> Result<Vec<(&'static str, &'static str)>, Mistake> {
    let (at, unfinished) = walk(line)?;
    let mut valid = match &unfinished {
        Some(word) => {
            let fitting = at.fitting(word);
            if fitting.is_empty() {
                return Err(at.unknown(word));
            }
            fitting.iter().map(|node| entry(node)).collect()
        }
        None => at.entries(),
    };
    if unfinished.is_none() && at.command.is_some() {
        valid.push(("<Enter>", "Run the command"));
    }
    Ok(valid)
}

pub fn complete(line: &str) -> Completion {
    let Ok((at, unfinished)) = walk(line) else { return Completion::Nothing };
    let nothing = WrittenWord { text: "", column: 0, quoted: false };
    let word = unfinished.as_ref().unwrap_or(&nothing);
    let (written, fitting) = (word.text, at.fitting(word));
    let keywords: Vec<&str> = fitting.iter().filter_map(|node| keyword(node)).collect();
    match (keywords.as_slice(), fitting.len()) {
        ([only], 1) => Completion::Append(format!("{} ", only.get(written.len()..).unwrap_or(""))),
        ([], 0) => Completion::Nothing,
        (keywords, _) => {
            let common = common_prefix(keywords);
            match common.get(written.len()..) {
                Some(more) if !more.is_empty() && keywords.len() == fitting.len() => {
                    Completion::Append(more.to_owned())
                }
                _ => Completion::Several(fitting.iter().map(|node| entry(node)).collect()),
            }
        }
    }
}

/// `keyword  description` lines, at most 80 columns.
pub fn list(valid: &[(&'static str, &'static str)]) -> String {
    let mut text = String::from("Valid entries at this position are:\n");
    for (keyword, description) in valid {
        let line = format!("  {keyword:<23}{description}");
        text.push_str(line.get(..WIDTH).unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

impl Mistake {
    /// The message under the line, a caret below the place. `prompt`: characters before the line.
    pub fn show(&self, prompt: usize) -> String {
        let column = (prompt + self.column).min(WIDTH - 1);
        format!("{}^\n{}\n{}", " ".repeat(column), self.message, list(&self.valid))
    }
}

/// How far the tree was followed.
struct Position {
    next: &'static [Node],
    command: Option<Command>,
    count: Option<usize>,
    keywords: Vec<&'static str>,
    arguments: Vec<(&'static str, String)>,
    steps: usize,
}

struct WrittenWord<'a> {
    /// Without its quotes.
    text: &'a str,
    /// Characters before it, its quote included.
    column: usize,
    quoted: bool,
}

impl Position {
    fn start() -> Self {
        Self {
            next: ROOT,
            command: None,
            count: None,
            keywords: Vec::new(),
            arguments: Vec::new(),
            steps: 0,
        }
    }

    fn step(mut self, word: &WrittenWord<'_>) -> Result<Self, Mistake> {
        let fitting = self.fitting(word);
        let exact = fitting
            .iter()
            .find(|node| keyword(node).is_some_and(|one| one.eq_ignore_ascii_case(word.text)))
            .copied();
        let node = match (exact, fitting.as_slice()) {
            (Some(node), _) => node,
            (None, [node]) => *node,
            (None, []) => return Err(self.unknown(word)),
            (None, several) => {
                return Err(Mistake {
                    column: word.column,
                    message: format!("\"{}\" is ambiguous here", clipped(word.text)),
                    valid: several.iter().map(|node| entry(node)).collect(),
                });
            }
        };
        if let Word::Address(_) = node.word
            && word.text.parse::<IpAddr>().is_err()
        {
            return Err(Mistake {
                column: word.column,
                message: format!(
                    "\"{}\" is no IP address; one is like 192.0.2.1 or 2001:db8::1",
                    clipped(word.text)
                ),
                valid: vec![entry(node)],
            });
        }
        match node.word {
            Word::Keyword(keyword) => self.keywords.push(keyword),
            Word::Count(..) | Word::Segment(..) | Word::Address(_) | Word::Text(_) => {
                let after = self.keywords.last().copied().unwrap_or_default();
                self.arguments.push((after, word.text.to_owned()));
            }
        }
        if let Word::Count(..) = node.word {
            self.count = word.text.parse().ok();
        }
        Ok(Self { next: node.next, command: node.command, steps: self.steps + 1, ..self })
    }

    /// What may stand next. Options may come in any order, but each once.
    fn open(&self) -> impl Iterator<Item = &'static Node> + '_ {
        self.next
            .iter()
            .filter(|node| keyword(node).is_none_or(|keyword| !self.keywords.contains(&keyword)))
    }

    fn entries(&self) -> Vec<(&'static str, &'static str)> {
        self.open().map(entry).collect()
    }

    /// Nodes that the word may mean, or may become. A text only where no keyword is meant.
    fn fitting(&self, word: &WrittenWord<'_>) -> Vec<&'static Node> {
        let fits = |node: &&'static Node| match node.word {
            Word::Keyword(keyword) => {
                let start = keyword.get(..word.text.len());
                !word.quoted && start.is_some_and(|one| one.eq_ignore_ascii_case(word.text))
            }
            Word::Count(_, most) => {
                word.text.is_empty()
                    || word.text.parse().is_ok_and(|count: usize| (1..=most).contains(&count))
            }
            Word::Segment(_, most) => {
                let number = word.text.strip_suffix(['A', 'B', 'a', 'b']).unwrap_or(word.text);
                word.text.is_empty()
                    || number.parse().is_ok_and(|number: usize| (1..=most).contains(&number))
            }
            // As far as it is written; whether it is one is asked when it is whole.
            Word::Address(_) => {
                word.text.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':'))
            }
            Word::Text(_) => word.text.is_empty(),
        };
        let fitting: Vec<_> = self.open().filter(fits).collect();
        if fitting.is_empty() || word.quoted {
            return self.open().filter(|node| matches!(node.word, Word::Text(_))).collect();
        }
        fitting
    }

    fn unknown(&self, word: &WrittenWord<'_>) -> Mistake {
        let message = if self.next.is_empty() {
            format!("\"{}\" is too much: the command ends before it", clipped(word.text))
        } else {
            let given = clipped(word.text);
            let most = self.open().find_map(|node| match node.word {
                Word::Count(_, most) => Some(most),
                _ => None,
            });
            match most {
                // Signs and numbers too long for any type are numbers to who typed them.
                Some(most) if is_number(word.text) => {
                    format!("{given} is out of bounds here: 1 to {most}")
                }
                Some(most) if self.next.len() == 1 => {
                    format!("\"{given}\" is not valid here: a number from 1 to {most} is")
                }
                _ => format!("\"{given}\" is not valid here"),
            }
        };
        let mut valid = self.entries();
        if self.command.is_some() {
            valid.push(("<Enter>", "Run the command"));
        }
        Mistake { column: word.column, message, valid }
    }
}

/// Follows all words that are finished; the last is not, unless a space follows it.
fn walk(line: &str) -> Result<(Position, Option<WrittenWord<'_>>), Mistake> {
    let mut words: Vec<WrittenWord<'_>> = words(line).collect();
    let unfinished = if line.ends_with(char::is_whitespace) { None } else { words.pop() };
    let mut at = Position::start();
    for word in &words {
        at = at.step(word)?;
    }
    Ok((at, unfinished))
}

/// Words between blanks; one that begins with a quotation mark goes up to the next.
fn words(line: &str) -> impl Iterator<Item = WrittenWord<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        // `rest` is the end of `line`, so the difference of their lengths is its offset.
        let offset = line.len().saturating_sub(rest.len());
        let column = line.get(..offset).map_or(0, |before| before.chars().count());
        let (text, quoted) = match rest.strip_prefix('"') {
            Some(inner) => {
                let (text, after) = inner.split_once('"').unwrap_or((inner, ""));
                rest = after;
                (text, true)
            }
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                rest = after;
                (text, false)
            }
        };
        (quoted || !text.is_empty()).then_some(WrittenWord { text, column, quoted })
    })
}

fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn keyword(node: &Node) -> Option<&'static str> {
    match node.word {
        Word::Keyword(keyword) => Some(keyword),
        Word::Count(..) | Word::Segment(..) | Word::Address(_) | Word::Text(_) => None,
    }
}

fn entry(node: &Node) -> (&'static str, &'static str) {
    let (Word::Keyword(word)
    | Word::Count(word, _)
    | Word::Segment(word, _)
    | Word::Address(word)
    | Word::Text(word)) = node.word;
    (word, node.description)
}

fn common_prefix(words: &[&str]) -> String {
    let Some((first, others)) = words.split_first() else { return String::new() };
    let length = first
        .char_indices()
        .find(|(at, character)| {
            others
                .iter()
                .any(|other| other.get(*at..).and_then(|o| o.chars().next()) != Some(*character))
        })
        .map_or(first.len(), |(at, _)| at);
    first.get(..length).unwrap_or_default().to_owned()
}

/// A wrong word, short enough for one line.
fn clipped(word: &str) -> String {
    const LONGEST: usize = 30;
    let safe = crate::text::printable(word);
    match safe.get(..LONGEST) {
        Some(start) if safe.len() > LONGEST => format!("{start}..."),
        _ => safe,
    }
}

#[cfg(test)]
mod tests;
