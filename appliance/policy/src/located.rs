//! A YAML or TOML text as a tree in which every node knows its line.
//!
//! For: readers of documents that report the line of whatever is wrong, by its meaning as well as
//! by its syntax. Not for: meaning; scalars stay text until somebody asks. Anchors may be set, but
//! aliases, tags and several documents in one text are refused: a seed needs none of them, and
//! without them a text cannot expand. Fails by [`LocatedError`], never by a panic.

mod toml_text;
mod yaml_text;

use zeroize::Zeroizing;

use crate::error::LocatedError;

/// Longest text that is read; a longer one is refused whole.
pub const MAX_TEXT: usize = 4 << 20;
/// Deepest nesting; a deeper text is refused.
pub const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where the node begins, from 1.
    pub line: u32,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// Keys are unique; in the order of the text.
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    /// The key's line.
    pub line: u32,
    pub value: Node,
}

/// A scalar as written; wiped when dropped, since it may be a key or a password's hash.
#[derive(Clone, PartialEq)]
pub struct Scalar {
    pub text: Zeroizing<String>,
    /// Neither quoted nor a block: may stand for null, a boolean or a number.
    pub plain: bool,
    /// The line on which the text itself begins (one below the `|` of a block).
    pub first_line: u32,
}

/// What a scalar stands for (YAML 1.2 core schema, without floats).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Text(&'a str),
}

/// Reads a YAML text. An empty one is a null scalar.
pub fn yaml(file: &str, text: &str) -> Result<Node, LocatedError> {
    bounded(file, text)?;
    yaml_text::read(file, text)
}

/// Reads a TOML text; its root is a mapping.
pub fn toml(file: &str, text: &str) -> Result<Node, LocatedError> {
    bounded(file, text)?;
    toml_text::read(file, text)
}

fn bounded(file: &str, text: &str) -> Result<(), LocatedError> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "has {} bytes; at most {MAX_TEXT} (4 MiB) are read, make it shorter",
            text.len()
        );
        return Err(error(file, None, message));
    }
    Ok(())
}

fn error(file: &str, line: Option<u32>, message: String) -> LocatedError {
    LocatedError { file: file.to_owned(), line, key: String::new(), message }
}

impl Node {
    /// The entries of a mapping; `None` for anything else. A null counts as an empty mapping.
    pub fn mapping(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Mapping(entries) => Some(entries),
            Content::Scalar(scalar) if scalar.resolve() == Resolved::Null => Some(&[]),
            _ => None,
        }
    }

    /// The items of a sequence; `None` for anything else. A null counts as an empty sequence.
    pub fn sequence(&self) -> Option<&[Node]> {
        match &self.content {
            Content::Sequence(items) => Some(items),
            Content::Scalar(scalar) if scalar.resolve() == Resolved::Null => Some(&[]),
            _ => None,
        }
    }

    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.mapping()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// What the node is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Mapping(_) => "a mapping",
            Content::Sequence(_) => "a list",
            Content::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => "nothing",
                Resolved::Boolean(_) => "true or false",
                Resolved::Integer(_) => "a number",
                Resolved::Text(_) => "a text",
            },
        }
    }
}

impl Scalar {
    pub fn resolve(&self) -> Resolved<'_> {
        let text = self.text.as_str();
        if !self.plain {
            return Resolved::Text(text);
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
            "true" | "True" | "TRUE" => Resolved::Boolean(true),
            "false" | "False" | "FALSE" => Resolved::Boolean(false),
            _ => integer(text).map_or(Resolved::Text(text), Resolved::Integer),
        }
    }
}

impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scalar(line {}, not shown)", self.first_line)
    }
}

fn integer(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with(['+', '-']));
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().filter(|_| !octal.starts_with(['+', '-']));
    }
    text.parse().ok()
}
