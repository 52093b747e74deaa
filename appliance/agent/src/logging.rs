//! Where the agent's log goes: journald in the appliance, standard error elsewhere, and always a
//! small ring of its own, so that `show log` has an answer where there is no journal.
//!
//! Not for: events and sessions as data (see [`crate::state`]). Fails softly: a journal that does
//! not answer is replaced by standard error.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Lines kept; the oldest goes when a new one comes.
const LINES_KEPT: usize = 512;

/// The agent's own newest log lines.
#[derive(Clone, Default)]
pub struct LogLines(Arc<Mutex<VecDeque<String>>>);

impl LogLines {
    /// The newest `limit` lines, oldest first.
    pub fn newest(&self, limit: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().skip(lines.len().saturating_sub(limit)).cloned().collect()
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Sets up logging for the whole process. `WEIR_LOG` sets the level (default `info`).
pub fn start() -> LogLines {
    let lines = LogLines::default();
    let filter = EnvFilter::try_from_env("WEIR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ring = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone());
    let journal = (!io::stderr().is_terminal() && Path::new(JOURNAL_SOCKET).exists())
        .then(|| tracing_journald::layer().ok())
        .flatten();
    let output = match journal {
        Some(journal) => journal.with_syslog_identifier("weir-agent".to_owned()).boxed(),
        None => tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .boxed(),
    };
    // Fails only where a subscriber is set already; main calls this once.
    let _ = tracing_subscriber::registry().with(filter).with(ring).with(output).try_init();
    lines
}

/// One log line under way to the ring.
pub struct LineWriter {
    line: Vec<u8>,
    lines: LogLines,
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { line: Vec::new(), lines: self.clone() }
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        for line in String::from_utf8_lossy(&self.line).lines() {
            self.lines.push(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_newest_lines_only() {
        let lines = LogLines::default();
        for number in 0..LINES_KEPT + 10 {
            writeln!(lines.make_writer(), "line {number}").unwrap();
        }
        let newest = lines.newest(2);
        assert_eq!(
            newest,
            [format!("line {}", LINES_KEPT + 8), format!("line {}", LINES_KEPT + 9)]
        );
        assert_eq!(lines.newest(usize::MAX).len(), LINES_KEPT);
    }
}
