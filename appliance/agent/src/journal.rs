//! The newest lines of the system log, for `show log`: from `journalctl` where there is one, else
//! from the agent's own ring.
//!
//! Not for: writing the log. Fails softly to the ring.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::logging::LogLines;

/// Most lines one answer carries.
pub const MOST_LINES: usize = 1000;

/// Most bytes read from journalctl; what is longer is cut at its end.
const MOST_BYTES: u64 = 1 << 20;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The newest `limit` lines, oldest first. Blocks for up to [`ANSWER_WITHIN`].
pub fn newest(limit: usize, own: &LogLines) -> Vec<String> {
    let limit = limit.min(MOST_LINES);
    journalctl(limit).unwrap_or_else(|| own.newest(limit))
}

fn journalctl(limit: usize) -> Option<Vec<String>> {
    let mut child = Command::new("journalctl")
        .args(["--no-pager", "--quiet", "-o", "short-iso", "-n"])
        .arg(limit.to_string())
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        output.take(MOST_BYTES).read_to_end(&mut text).map(|_| text)
    });
    let succeeded = wait(&mut child);
    let text = reader.join().ok()?.ok()?;
    let lines: Vec<String> =
        String::from_utf8_lossy(&text).lines().map(ToOwned::to_owned).collect();
    // An empty journal is one that we may not read, or that is not running.
    (succeeded && !lines.is_empty()).then_some(lines)
}

/// Waits for the end, and makes it come where it does not: a full pipe ends with the reader.
fn wait(child: &mut Child) -> bool {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}
