//! YAML events to the tree, without recursion.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use zeroize::Zeroizing;

use super::{Content, Entry, MAX_DEPTH, Node, Scalar, error};
use crate::error::LocatedError;

pub(super) fn read(file: &str, text: &str) -> Result<Node, LocatedError> {
    let mut open: Vec<Open> = Vec::new();
    let mut root: Option<Node> = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|scan| {
            let line = line(scan.marker().line());
            error(file, Some(line), format!("is not valid YAML: {}", scan.info()))
        })?;
        let line = line(span.start.line());
        let refuse = |what: &str| Err(error(file, Some(line), what.to_owned()));
        let (tag, node) = match event {
            Event::Alias(_) => {
                return refuse("an alias (`*name`) is not supported; write the value out");
            }
            Event::DocumentStart(_) if root.is_some() => {
                return refuse("a second document (`---`) is not supported; write one document");
            }
            Event::SequenceStart(_, tag) => {
                open.push(Open { line, inside: Inside::Sequence(Vec::new()) });
                (tag, None)
            }
            Event::MappingStart(_, tag) => {
                open.push(Open { line, inside: Inside::Mapping(Pairs::default()) });
                (tag, None)
            }
            Event::SequenceEnd | Event::MappingEnd => (None, open.pop().map(Open::close)),
            Event::Scalar(value, style, _, tag) => {
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // The parser gives a block the line of its first text: empty lines come before.
                let empty = value.bytes().take_while(|byte| block && *byte == b'\n').count();
                let scalar = Scalar {
                    text: Zeroizing::new(value.into_owned()),
                    plain: style == ScalarStyle::Plain,
                    first_line: line.saturating_sub(u32::try_from(empty).unwrap_or(u32::MAX)),
                };
                (tag, Some(Node { line, content: Content::Scalar(scalar) }))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => (None, None),
        };
        if tag.is_some_and(|tag| !is_text(&tag)) {
            return refuse("a tag (`!name`) is not supported; leave it out");
        }
        if open.len() > MAX_DEPTH {
            return refuse("is nested deeper than 32 levels, which no valid document is");
        }
        let Some(node) = node else { continue };
        match open.last_mut() {
            None => root = Some(node),
            Some(parent) => parent.add(file, node)?,
        }
    }
    let empty = Scalar { text: Zeroizing::default(), plain: true, first_line: 1 };
    Ok(root.unwrap_or(Node { line: 1, content: Content::Scalar(empty) }))
}

/// A collection whose end has not been seen.
struct Open {
    line: u32,
    inside: Inside,
}

enum Inside {
    Sequence(Vec<Node>),
    Mapping(Pairs),
}

#[derive(Default)]
struct Pairs {
    entries: Vec<Entry>,
    /// Each key's line.
    seen: HashMap<String, u32>,
    /// A key that waits for its value.
    key: Option<(String, u32)>,
}

impl Open {
    fn add(&mut self, file: &str, node: Node) -> Result<(), LocatedError> {
        match &mut self.inside {
            Inside::Sequence(items) => items.push(node),
            Inside::Mapping(pairs) => pairs.add(file, node)?,
        }
        Ok(())
    }

    fn close(self) -> Node {
        let content = match self.inside {
            Inside::Sequence(items) => Content::Sequence(items),
            Inside::Mapping(pairs) => Content::Mapping(pairs.entries),
        };
        Node { line: self.line, content }
    }
}

impl Pairs {
    fn add(&mut self, file: &str, node: Node) -> Result<(), LocatedError> {
        if let Some((key, line)) = self.key.take() {
            self.entries.push(Entry { key, line, value: node });
            return Ok(());
        }
        let Some(scalar) = node.scalar() else {
            let message = "a key must be a text, not a list or a mapping".to_owned();
            return Err(error(file, Some(node.line), message));
        };
        let name = scalar.text.to_string();
        if let Some(first) = self.seen.insert(name.clone(), node.line) {
            let message =
                format!("the key {name:?} is given twice (first on line {first}); keep one");
            return Err(error(file, Some(node.line), message));
        }
        self.key = Some((name, node.line));
        Ok(())
    }
}

fn is_text(tag: &Tag) -> bool {
    tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "str" | "seq" | "map")
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_line(text: &str) -> u32 {
        let root = read("test", text).unwrap();
        root.get("key").and_then(Node::scalar).unwrap().first_line
    }

    #[test]
    fn block_text_begins_below_its_header() {
        assert_eq!(first_line("key: |\n  one\n"), 2);
        assert_eq!(first_line("\nkey: |- # note\n  one\n"), 3);
        assert_eq!(first_line("key: |\n\n\n  one\n"), 2);
        assert_eq!(first_line("key: >\n\n  one\n"), 2);
        assert_eq!(first_line("key: 'one'\n"), 1);
    }
}
