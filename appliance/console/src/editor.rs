//! A line editor for serial lines: bytes in, bytes to echo and finished lines out.
//!
//! It never asks the terminal anything (a serial line may have none at its end that answers) and
//! uses only carriage return, backspace, bell and "erase to end of line" (ECMA-48 EL), which every
//! terminal has. Long lines scroll sideways. No I/O here: [`crate::terminal`] reads and writes.
//! Cannot fail: bytes that mean nothing are dropped.

mod keys;

use keys::{Key, Keys};

/// Longest line; what is typed past it rings the bell.
const LONGEST_LINE: usize = 1024;

/// Lines remembered; the oldest goes.
const LINES_REMEMBERED: usize = 200;

/// What the shell is to do about the bytes fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Line(String),
    /// `?` was typed: help for the line up to the cursor.
    Help(String),
    /// Tab: complete the line up to the cursor.
    Complete(String),
    /// Ctrl-D on an empty line.
    EndOfInput,
}

/// What is being typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// With help, completion and history.
    #[default]
    Command,
    /// Shown and edited, and forgotten: a name, a yes or no.
    Answer,
    /// Nothing typed is shown: a password.
    Secret,
}

#[derive(Default)]
pub struct Editor {
    keys: Keys,
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    entry: Entry,
    width: usize,
    history: Vec<String>,
    /// Index into `history` while an earlier line is shown; the line typed before is kept.
    recalled: Option<usize>,
    typed: Vec<char>,
    kill: Vec<char>,
}

impl Editor {
    /// Begins a line and returns what to print.
    pub fn begin(&mut self, prompt: &str, entry: Entry, width: usize) -> String {
        prompt.clone_into(&mut self.prompt);
        self.clear_line();
        self.entry = entry;
        self.width = width.max(20);
        self.recalled = None;
        // Printed at the start of a line: nothing to erase, and serial logs stay plain.
        self.prompt.clone()
    }

    /// One byte from the terminal; what it echoes is appended to `output`.
    pub fn feed(&mut self, byte: u8, output: &mut String) -> Option<Event> {
        let key = self.keys.feed(byte)?;
        if self.entry == Entry::Secret {
            return self.press_unseen(key, output);
        }
        let command = self.entry == Entry::Command;
        match key {
            Key::Character('?') if command => return Some(Event::Help(self.before_cursor())),
            Key::Tab if command => return Some(Event::Complete(self.before_cursor())),
            Key::Enter => {
                output.push('\n');
                let line: String = self.line.iter().collect();
                if command {
                    self.remember(&line);
                }
                return Some(Event::Line(line));
            }
            Key::EndOfInput if self.line.is_empty() => return Some(Event::EndOfInput),
            Key::Interrupt => {
                output.push_str("^C\n");
                self.clear_line();
                self.recalled = None;
                output.push_str(&self.redraw());
            }
            Key::Character(character) => self.insert(character, output),
            Key::Up | Key::Down if !command => {}
            key => {
                self.edit(key);
                output.push_str(&self.redraw());
            }
        }
        None
    }

    /// Inserts text at the cursor as if it had been typed (completion).
    pub fn append(&mut self, text: &str, output: &mut String) {
        for character in text.chars() {
            self.insert(character, output);
        }
    }

    /// The prompt and the line again, below something that was printed.
    pub fn redraw(&self) -> String {
        if self.entry == Entry::Secret {
            return self.prompt.clone();
        }
        let room = self.room();
        // The window of the line that is shown, so that the cursor is inside.
        let start = (self.cursor + 1).saturating_sub(room);
        let end = self.line.len().min(start + room);
        let shown: String = self.line.get(start..end).unwrap_or_default().iter().collect();
        let back = "\u{8}".repeat(end.saturating_sub(self.cursor));
        format!("\r{}{shown}\x1b[K{back}", self.prompt)
    }

    fn press_unseen(&mut self, key: Key, output: &mut String) -> Option<Event> {
        match key {
            Key::Enter => {
                output.push('\n');
                let line = self.line.iter().collect();
                self.clear_line();
                return Some(Event::Line(line));
            }
            Key::EndOfInput if self.line.is_empty() => return Some(Event::EndOfInput),
            Key::Interrupt => {
                output.push('\n');
                self.clear_line();
                return Some(Event::Line(String::new()));
            }
            Key::KillToStart => self.clear_line(),
            Key::Backspace => {
                self.line.pop();
            }
            Key::Character(character) if self.line.len() < LONGEST_LINE => {
                self.line.push(character)
            }
            _ => {}
        }
        None
    }

    fn insert(&mut self, character: char, output: &mut String) {
        if self.line.len() >= LONGEST_LINE {
            output.push('\u{7}');
            return;
        }
        self.line.insert(self.cursor, character);
        self.cursor += 1;
        if self.cursor == self.line.len() && self.line.len() < self.room() {
            // The common case is quiet on the line: the character alone.
            output.push(character);
        } else {
            output.push_str(&self.redraw());
        }
    }

    fn edit(&mut self, key: Key) {
        match key {
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.line.len()),
            Key::Home => self.cursor = 0,
            Key::End => self.cursor = self.line.len(),
            Key::Backspace if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            Key::Delete | Key::EndOfInput if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            Key::KillToEnd => self.kill = self.line.split_off(self.cursor),
            Key::KillToStart => {
                self.kill = self.line.drain(..self.cursor).collect();
                self.cursor = 0;
            }
            Key::KillWord => {
                let start = self.start_of_word();
                self.kill = self.line.drain(start..self.cursor).collect();
                self.cursor = start;
            }
            Key::Yank => {
                let room = LONGEST_LINE.saturating_sub(self.line.len());
                let kill: Vec<char> = self.kill.iter().take(room).copied().collect();
                let length = kill.len();
                self.line.splice(self.cursor..self.cursor, kill);
                self.cursor += length;
            }
            Key::Up => self.recall(self.recalled.unwrap_or(self.history.len()).checked_sub(1)),
            Key::Down => {
                if let Some(shown) = self.recalled {
                    self.recall(Some(shown + 1));
                }
            }
            _ => {}
        }
    }

    /// Shows an earlier line; past the newest, what was typed before.
    fn recall(&mut self, index: Option<usize>) {
        let Some(index) = index else { return };
        if self.recalled.is_none() {
            self.typed.clone_from(&self.line);
        }
        match self.history.get(index) {
            Some(line) => {
                self.line = line.chars().collect();
                self.recalled = Some(index);
            }
            None => {
                self.line = std::mem::take(&mut self.typed);
                self.recalled = None;
            }
        }
        self.cursor = self.line.len();
    }

    fn remember(&mut self, line: &str) {
        let line = line.trim();
        if line.is_empty() || self.history.last().is_some_and(|last| last == line) {
            return;
        }
        if self.history.len() == LINES_REMEMBERED {
            self.history.remove(0);
        }
        self.history.push(line.to_owned());
    }

    /// Forgets the lines of a user that left.
    pub fn forget(&mut self) {
        self.history.clear();
        self.kill.clear();
        self.typed.clear();
    }

    fn start_of_word(&self) -> usize {
        let before = self.line.get(..self.cursor).unwrap_or_default();
        let word_end = before.iter().rposition(|c| *c != ' ').map_or(0, |at| at + 1);
        let word = before.get(..word_end).unwrap_or_default();
        word.iter().rposition(|c| *c == ' ').map_or(0, |at| at + 1)
    }

    /// Characters of the line that fit beside the prompt, the cursor's own place included.
    fn room(&self) -> usize {
        self.width.saturating_sub(self.prompt.chars().count()).max(10)
    }

    fn before_cursor(&self) -> String {
        self.line.get(..self.cursor).unwrap_or_default().iter().collect()
    }

    /// The line may have been a password.
    fn clear_line(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.line);
        self.cursor = 0;
    }
}

#[cfg(test)]
mod tests;
