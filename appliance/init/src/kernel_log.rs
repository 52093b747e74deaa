//! init's own log: `tracing` events into the kernel's log, where journald reads them.
//!
//! For: PID 1 and its short-lived children. Not for: services, which speak to journald. PID 1
//! supervises journald, so it must not wait for it: a datagram to a journald that hangs blocks the
//! sender once its queue is full. The kernel's log never blocks, is there from the first
//! instruction on, and journald copies it with identifier and priority. Fails silently: a line
//! that cannot be written is lost.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Longest record, bytes; the kernel refuses those over about 1 KiB.
const LONGEST: usize = 900;
/// syslog(3)'s facility of system daemons.
const DAEMON: u8 = 3 << 3;

/// Called once, when /dev is there. Without /dev/kmsg nothing is logged.
pub fn begin() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let layer = KernelLog { file }.with_filter(LevelFilter::INFO);
        // An error means that it has begun already.
        let _ = tracing_subscriber::registry().with(layer).try_init();
    }
}

struct KernelLog {
    file: File,
}

impl<S: Subscriber> Layer<S> for KernelLog {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let priority = DAEMON | priority(*event.metadata().level());
        let mut record = Record(format!("<{priority}>weir-init[{}]: ", std::process::id()));
        event.record(&mut record);
        let mut text = record.0;
        text.truncate(text.floor_char_boundary_at(LONGEST));
        let _ = (&self.file).write_all(text.as_bytes());
    }
}

/// syslog(3)'s priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The message first, then `field=value`.
struct Record(String);

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, "{value:?} ")
        } else {
            write!(self.0, "{}={value:?} ", field.name())
        };
        // Writing into a string does not fail.
        let _ = written;
    }
}

trait CharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl CharBoundary for str {
    /// The last boundary at or before `index`.
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        (0..=index.min(self.len())).rev().find(|&i| self.is_char_boundary(i)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_records_are_cut_between_characters() {
        assert_eq!("aé".floor_char_boundary_at(2), 1);
        assert_eq!("aé".floor_char_boundary_at(3), 3);
        assert_eq!("aé".floor_char_boundary_at(90), 3);
    }
}
