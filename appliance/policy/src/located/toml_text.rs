//! TOML's spanned tables to the tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::{Content, Entry, MAX_DEPTH, Node, Scalar, error};
use crate::error::LocatedError;

pub(super) fn read(file: &str, text: &str) -> Result<Node, LocatedError> {
    let lines = Lines::of(text);
    let root = DeTable::parse(text).map_err(|wrong| {
        let line = wrong.span().map(|span| lines.line(span.start));
        error(file, line, format!("is not valid TOML: {}", wrong.message().replace('\n', ", ")))
    })?;
    let reader = Reader { file, lines };
    Ok(Node { line: 1, content: reader.table(root.get_ref(), 0)? })
}

struct Reader<'a> {
    file: &'a str,
    lines: Lines,
}

impl Reader<'_> {
    fn table(&self, table: &DeTable<'_>, depth: usize) -> Result<Content, LocatedError> {
        let mut spans = table.iter().collect::<Vec<_>>();
        spans.sort_by_key(|(key, _)| key.span().start);
        let entries = spans.into_iter().map(|(key, value)| {
            let line = self.lines.line(key.span().start);
            let value = self.node(value, depth + 1)?;
            Ok(Entry { key: key.get_ref().to_string(), line, value })
        });
        Ok(Content::Mapping(entries.collect::<Result<_, _>>()?))
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, LocatedError> {
        let line = self.lines.line(value.span().start);
        if depth > MAX_DEPTH {
            let message = "is nested deeper than 32 levels, which no valid document is".to_owned();
            return Err(error(self.file, Some(line), message));
        }
        let scalar = |text: &str, plain: bool| {
            let text = Zeroizing::new(text.to_owned());
            Content::Scalar(Scalar { text, plain, first_line: line })
        };
        let content = match value.get_ref() {
            DeValue::String(text) => scalar(text, false),
            DeValue::Boolean(true) => scalar("true", true),
            DeValue::Boolean(false) => scalar("false", true),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => scalar(&number.to_string(), true),
                    Err(_) => scalar(number.as_str(), false),
                }
            }
            DeValue::Float(number) => scalar(number.as_str(), false),
            DeValue::Datetime(time) => scalar(&time.to_string(), false),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| self.node(item, depth + 1));
                Content::Sequence(items.collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.table(table, depth)?,
        };
        Ok(Node { line, content })
    }
}

/// Byte offsets to line numbers.
struct Lines {
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { starts: std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect() }
    }

    /// From 1.
    fn line(&self, offset: usize) -> u32 {
        let before = self.starts.partition_point(|start| *start <= offset);
        u32::try_from(before).unwrap_or(u32::MAX)
    }
}
