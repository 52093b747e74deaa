//! Layers of configuration, merged: built-in, the image's, the provisioned (later ones win; lists
//! replace), with every key's place kept, so that errors of any kind name file and line.
//!
//! For: merging by figment and reading the result into serde types with all errors at once. Not
//! for: what the keys mean. Fails by a list of [`LocatedError`]s, at most [`MAX_ERRORS`] long.

use std::collections::BTreeMap;

use figment::error::{Actual, Kind};
use figment::value::{Dict, Empty, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

use crate::error::{LocatedError, shown, suggestion};
use crate::located::{self, Content, Node, Resolved};

/// Reporting stops past this number of errors.
pub const MAX_ERRORS: usize = 50;

/// One text of configuration.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// As messages name it: `user-data`, `/etc/weir/weir.toml`.
    pub name: &'a str,
    pub syntax: Syntax,
    pub text: &'a str,
    /// The top-level key that holds the document (`weir` in user-data); `None`: the whole text.
    /// Without that key the layer says nothing.
    pub section: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Toml,
    Yaml,
}

/// A key path from the document's root; list items by their number from 0.
pub(crate) type Path = Vec<String>;

/// The merged layers.
pub(crate) struct Merged {
    /// Holds private keys where they are inline: wiped by `drop`. The copies that figment makes while
    /// it merges are freed without that.
    value: Value,
    pub(crate) places: Places,
}

impl Merged {
    pub(crate) fn of(layers: &[Layer<'_>]) -> Result<Self, Vec<LocatedError>> {
        let mut errors = Vec::new();
        let mut figment = Figment::new();
        let mut places = Places::default();
        for layer in layers {
            let parsed = match layer.syntax {
                Syntax::Toml => located::toml(layer.name, layer.text),
                Syntax::Yaml => located::yaml(layer.name, layer.text),
            };
            let root = match parsed {
                Ok(root) => root,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            let node = match layer.section {
                None => Some(&root),
                Some(section) => root.get(section),
            };
            let Some(node) = node else { continue };
            if node.mapping().is_none() {
                errors.push(LocatedError {
                    file: layer.name.to_owned(),
                    line: Some(node.line),
                    key: layer.section.unwrap_or_default().to_owned(),
                    message: format!("is {}; a mapping of keys to values is expected", node.kind()),
                });
                continue;
            }
            places.cover(layer.name, node.line, node);
            if let Value::Dict(_, dict) = value(node) {
                figment = figment.merge(Tree { name: layer.name.to_owned(), dict });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let dict: Dict =
            figment.extract().map_err(|error| vec![places.error(&[], error.to_string())])?;
        Ok(Self { value: Value::from(dict), places })
    }

    /// Reads the merged document as `T`. After an error the offending key is taken out and reading
    /// goes on, so that all errors are found at once.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<LocatedError>> {
        let mut errors = Vec::new();
        let mut pruned = Pruned { value: self.value.clone(), removed: Vec::new() };
        loop {
            let error = match T::deserialize(&pruned.value) {
                Ok(document) if errors.is_empty() => return Ok(document),
                Ok(_) => return Err(errors),
                Err(error) => error,
            };
            let path = pruned.original(&error.path);
            let missing = match &error.kind {
                Kind::MissingField(field) => Some(child(&path, field)),
                _ => None,
            };
            // A field that was taken out for being wrong is not reported as missing as well.
            if !missing.is_some_and(|field| pruned.removed.contains(&field)) {
                errors.push(self.places.error(&path, say(&error.kind)));
            }
            if path.is_empty() || errors.len() >= MAX_ERRORS || !pruned.remove(&error.path, path) {
                return Err(errors);
            }
        }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        wipe(&mut self.value);
    }
}

/// The document with wrong keys taken out, and which ones those were.
struct Pruned {
    value: Value,
    /// Paths in the original document.
    removed: Vec<Path>,
}

impl Pruned {
    /// A path in the pruned document as it was in the original: list items that were taken out
    /// moved the later ones.
    fn original(&self, pruned: &[String]) -> Path {
        let mut path = Path::new();
        let mut value = Some(&self.value);
        for step in pruned {
            let inside_list = matches!(value, Some(Value::Array(..)));
            value = value.and_then(|value| inside(value, step));
            match (inside_list, step.parse::<usize>()) {
                (true, Ok(mut index)) => {
                    let mut gone = self
                        .removed
                        .iter()
                        .filter(|gone| gone.len() == path.len() + 1 && gone.starts_with(&path))
                        .filter_map(|gone| gone.last()?.parse::<usize>().ok())
                        .collect::<Vec<_>>();
                    gone.sort_unstable();
                    for gone in gone {
                        index += usize::from(gone <= index);
                    }
                    path.push(index.to_string());
                }
                _ => path.push(step.clone()),
            }
        }
        path
    }

    fn remove(&mut self, pruned: &[String], original: Path) -> bool {
        self.removed.push(original);
        let Some((last, parents)) = pruned.split_last() else { return false };
        let mut value = &mut self.value;
        for step in parents {
            let next = match value {
                Value::Dict(_, dict) => dict.get_mut(step),
                Value::Array(_, items) => {
                    step.parse::<usize>().ok().and_then(|index| items.get_mut(index))
                }
                _ => None,
            };
            let Some(next) = next else { return false };
            value = next;
        }
        match value {
            Value::Dict(_, dict) => dict.remove(last).is_some(),
            Value::Array(_, items) => match last.parse::<usize>() {
                Ok(index) if index < items.len() => {
                    items.remove(index);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

impl Drop for Pruned {
    fn drop(&mut self) {
        wipe(&mut self.value);
    }
}

/// Where each key of the merged document stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    file: String,
    line: Option<u32>,
    /// Where the text of a scalar begins, for messages about lines inside it.
    first_line: Option<u32>,
    below: BTreeMap<String, Places>,
}

impl Places {
    /// Lays a layer's places over those below it, as figment merges the values.
    fn cover(&mut self, file: &str, line: u32, node: &Node) {
        self.file = file.to_owned();
        self.line = Some(line);
        self.first_line = node.scalar().map(|scalar| scalar.first_line);
        match &node.content {
            Content::Mapping(entries) => {
                for entry in entries.iter().filter(|entry| !is_null(&entry.value)) {
                    let below = self.below.entry(entry.key.clone()).or_default();
                    below.cover(file, entry.line, &entry.value);
                }
            }
            Content::Sequence(items) => {
                self.below.clear();
                for (index, item) in items.iter().enumerate() {
                    let below = self.below.entry(index.to_string()).or_default();
                    below.cover(file, item.line, item);
                }
            }
            Content::Scalar(_) => self.below.clear(),
        }
    }

    /// An error at a path, or at the nearest place above it that is written down.
    pub(crate) fn error(&self, path: &[String], message: String) -> LocatedError {
        let place = self.nearest(path);
        let (file, line) = (place.file.clone(), place.line);
        LocatedError { file, line, key: dotted(path), message }
    }

    /// The file and first line of the text at a path.
    pub(crate) fn text(&self, path: &[String]) -> (&str, u32) {
        let place = self.nearest(path);
        (&place.file, place.first_line.or(place.line).unwrap_or(1))
    }

    fn nearest(&self, path: &[String]) -> &Self {
        let mut place = self;
        for step in path {
            let Some(below) = place.below.get(step) else { break };
            place = below;
        }
        place
    }
}

/// A path with one more step.
pub(crate) fn child(path: &[String], step: impl ToString) -> Path {
    path.iter().cloned().chain([step.to_string()]).collect()
}

/// `server-proxies[0].name`.
pub(crate) fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if step.bytes().all(|byte| byte.is_ascii_digit()) {
            text.push_str(&format!("[{step}]"));
        } else {
            text.push_str(if text.is_empty() { "" } else { "." });
            text.push_str(step);
        }
    }
    text
}

/// A layer as figment takes it.
struct Tree {
    name: String,
    dict: Dict,
}

impl Provider for Tree {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.dict.values_mut().for_each(wipe);
    }
}

/// Keys without a value are as if not written.
fn value(node: &Node) -> Value {
    match &node.content {
        Content::Scalar(scalar) => match scalar.resolve() {
            Resolved::Null => Value::Empty(Tag::Default, Empty::Unit),
            Resolved::Boolean(value) => Value::from(value),
            Resolved::Integer(value) => Value::from(value),
            Resolved::Text(value) => Value::from(value),
        },
        Content::Sequence(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Content::Mapping(entries) => Value::from(
            entries
                .iter()
                .filter(|entry| !is_null(&entry.value))
                .map(|entry| (entry.key.clone(), value(&entry.value)))
                .collect::<Dict>(),
        ),
    }
}

fn is_null(node: &Node) -> bool {
    node.scalar().is_some_and(|scalar| scalar.resolve() == Resolved::Null)
}

fn inside<'a>(value: &'a Value, step: &str) -> Option<&'a Value> {
    match value {
        Value::Dict(_, dict) => dict.get(step),
        Value::Array(_, items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(_, text) => text.zeroize(),
        Value::Dict(_, dict) => dict.values_mut().for_each(wipe),
        Value::Array(_, items) => items.iter_mut().for_each(wipe),
        _ => {}
    }
}

/// serde's error in the operator's words. Long texts are never repeated: one may be a private key
/// that stands in the wrong place.
fn say(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.clone(),
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let expected = match expected.as_str() {
                "u16" => "a whole number from 0 to 65535",
                "u32" => "a whole number from 0 to 4294967295",
                "a boolean" => "true or false",
                "a sequence" => "a list",
                other if other.starts_with("struct ") => "a mapping of keys to values",
                other => other,
            };
            format!("is {}; {expected} is expected", actual(found))
        }
        Kind::InvalidLength(length, expected) => {
            format!("has {length} items; {expected} is expected")
        }
        Kind::UnknownVariant(found, known) => format!(
            "is {}; one of {} is expected{}",
            shown(found),
            known.join(", "),
            suggestion(found, known.iter().copied())
        ),
        Kind::UnknownField(_, []) => "is not a known key; no keys are valid here".to_owned(),
        Kind::UnknownField(found, known) => format!(
            "is not a known key; valid here: {}{}",
            known.join(", "),
            suggestion(found, known.iter().copied())
        ),
        Kind::MissingField(field) => format!("lacks the key {field:?}, which is required"),
        Kind::DuplicateField(field) => format!("has the key {field:?} twice; keep one"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(found) | Kind::UnsupportedKey(found, _) => {
            format!("is {}, which has no meaning here", actual(found))
        }
    }
}

fn actual(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => format!("the value {value}"),
        Actual::Unsigned(value) => format!("the number {value}"),
        Actual::Signed(value) => format!("the number {value}"),
        Actual::Float(value) => format!("the number {value}"),
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "a text".to_owned(),
        Actual::Unit | Actual::Option => "empty".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a mapping".to_owned(),
        other => other.to_string(),
    }
}
