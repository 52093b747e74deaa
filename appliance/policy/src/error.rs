//! An error in a document, located: which file and line, which key, what was wrong and what would
//! be right. Everything that reads configuration or provisioning reports in this one shape.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing wrong with a document. `Display`: `user-data:12: segments[0].id: is 0; ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct LocatedError {
    /// The document's name, as its reader gave it: `user-data`, `/etc/weir/weir.toml`.
    pub file: String,
    /// From 1; `None` where the thing that is wrong is the absence of a whole document.
    pub line: Option<u32>,
    /// `server-proxies[0].name`; empty for the document as a whole.
    pub key: String,
    /// What was wrong and what would be right.
    pub message: String,
}

impl fmt::Display for LocatedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// `; did you mean "corporate"?` where one of the known names is close to what was written, else
/// empty.
pub fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name:?}?"))
        .unwrap_or_default()
}

/// What was written, shortened: a value that is far too long may be something else, a key even.
pub(crate) fn shown(text: &str) -> String {
    if text.chars().count() > 80 { "a long text".to_owned() } else { format!("{text:?}") }
}
