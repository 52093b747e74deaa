//! What the readers of all three texts share: errors and warnings as they are found, and keys that
//! nobody asked for.

use weir_policy::LocatedError;
use weir_policy::error::suggestion;
use weir_policy::located::{self, Entry, Node, Resolved};
use zeroize::Zeroizing;

use crate::Provisioned;
use crate::nocloud::{Seed, USER_DATA};

/// Reporting stops past this number of errors, and of warnings.
const MAX_FINDINGS: usize = 50;

#[derive(Default)]
pub(crate) struct Findings {
    errors: Vec<LocatedError>,
    warnings: Vec<LocatedError>,
}

/// A text that is being read.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) name: &'static str,
    pub(crate) text: &'a str,
}

/// A key or item in a text: where messages about it point.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    /// `users[0].passwd`.
    pub(crate) key: String,
}

impl Findings {
    pub(crate) fn finish(
        self,
        mut provisioned: Provisioned,
    ) -> Result<Provisioned, Vec<LocatedError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        provisioned.warnings = self.warnings;
        Ok(provisioned)
    }

    pub(crate) fn unsupported_files(&mut self, seed: &Seed) {
        for name in &seed.unsupported {
            self.warnings.push(LocatedError {
                file: name.clone(),
                line: None,
                key: String::new(),
                message: "is not supported; it is ignored".to_owned(),
            });
        }
        if seed.user_data.is_none() {
            self.warnings.push(LocatedError {
                file: USER_DATA.to_owned(),
                line: None,
                key: String::new(),
                message: "is missing: nobody can log in, and nothing is inspected".to_owned(),
            });
        }
    }

    /// The text of a file; `None` where it is missing or not text.
    pub(crate) fn text<'a>(
        &mut self,
        name: &'static str,
        bytes: Option<&'a Vec<u8>>,
    ) -> Option<File<'a>> {
        let bytes = bytes?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Some(File { name, text: text.strip_prefix('\u{feff}').unwrap_or(text) }),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let breaks = before.iter().filter(|byte| **byte == b'\n').count();
                let line = u32::try_from(breaks + 1).unwrap_or(u32::MAX);
                let place = Place { file: name, line, key: String::new() };
                self.error(&place, "is not UTF-8 text; write it as plain, uncompressed UTF-8");
                None
            }
        }
    }

    /// The tree of a text; `None` after an error.
    pub(crate) fn tree(&mut self, file: File<'_>) -> Option<Node> {
        match located::yaml(file.name, file.text) {
            Ok(node) => Some(node),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    pub(crate) fn error(&mut self, place: &Place, message: impl Into<String>) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(place.located(message));
        }
    }

    pub(crate) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        if self.warnings.len() < MAX_FINDINGS {
            self.warnings.push(place.located(message));
        }
    }

    pub(crate) fn unsupported(&mut self, place: &Place, known: &[&str]) {
        let last = place.key.rsplit('.').next().unwrap_or_default();
        let suggestion = suggestion(last, known.iter().copied());
        self.warn(place, format!("is not supported; it is ignored{suggestion}"));
    }

    /// The entries of a mapping, each with its place.
    pub(crate) fn entries<'n>(&mut self, at: &Place, node: &'n Node) -> Vec<(Place, &'n Entry)> {
        let Some(entries) = node.mapping() else {
            self.error(at, format!("is {}; a mapping of keys to values is expected", node.kind()));
            return Vec::new();
        };
        entries.iter().map(|entry| (at.key(&entry.key, entry.line), entry)).collect()
    }

    pub(crate) fn items<'n>(&mut self, at: &Place, node: &'n Node) -> Vec<(Place, &'n Node)> {
        let Some(items) = node.sequence() else {
            self.error(at, format!("is {}; a list is expected", node.kind()));
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, item)| (at.item(index, item.line), item)).collect()
    }

    /// The text of a scalar, which may look like a number; `None` after an error.
    pub(crate) fn scalar(&mut self, at: &Place, node: &Node) -> Option<Zeroizing<String>> {
        match node.scalar() {
            Some(scalar) if scalar.resolve() != Resolved::Null => Some(scalar.text.clone()),
            _ => {
                self.error(at, format!("is {}; a text is expected", node.kind()));
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, at: &Place, node: &Node) -> Option<bool> {
        match node.scalar().map(|scalar| scalar.resolve()) {
            Some(Resolved::Boolean(value)) => Some(value),
            _ => {
                self.error(at, format!("is {}; true or false is expected", node.kind()));
                None
            }
        }
    }
}

impl Place {
    pub(crate) fn root(file: &'static str, node: &Node) -> Self {
        Self { file, line: node.line, key: String::new() }
    }

    pub(crate) fn key(&self, key: &str, line: u32) -> Self {
        // A key is the document's: it may be anything.
        let key = key.chars().filter(|c| !c.is_control()).take(80).collect::<String>();
        let dot = if self.key.is_empty() { "" } else { "." };
        Self { file: self.file, line, key: format!("{}{dot}{key}", self.key) }
    }

    fn item(&self, index: usize, line: u32) -> Self {
        Self { file: self.file, line, key: format!("{}[{index}]", self.key) }
    }

    fn located(&self, message: impl Into<String>) -> LocatedError {
        LocatedError {
            file: self.file.to_owned(),
            line: Some(self.line),
            key: self.key.clone(),
            message: message.into(),
        }
    }
}
