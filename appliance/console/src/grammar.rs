//! The one grammar of the console: a tree of words. Parsing, completion, help and error messages
//! are all read off this tree, so that they cannot disagree.
//!
//! Not for: what commands do (see [`crate::command`]). Fails by [`read::Mistake`], which knows the place
//! in the line and what is valid there. A word may be abbreviated to any prefix that is unique at
//! its position.

mod read;
mod rules;
mod tree;

pub use read::{Completion, Line, complete, help, list, parse};
pub use tree::Command;
