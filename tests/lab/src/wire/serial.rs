//! A serial line as a Unix socket: everything that comes is logged and can be waited for.
//!
//! For: driving the console as a person does, from the first byte on. Fails by a deadline, with
//! what was waited for and the end of what came.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What is kept of the line's text; older text is forgotten (the log has it all).
const KEPT: usize = 1 << 20;
/// A poll of the line.
const POLL: Duration = Duration::from_millis(100);

/// The listening end, made before QEMU starts so that no byte is lost.
pub struct Listener {
    listener: UnixListener,
    log: PathBuf,
}

impl Listener {
    pub fn bind(path: &Path, log: PathBuf) -> Result<Self> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("binding {}", path.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, log })
    }

    /// Waits for QEMU.
    pub fn accept(self, limit: Duration) -> Result<Serial> {
        let deadline = Instant::now() + limit;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("waiting for the serial line"),
            }
            if Instant::now() > deadline {
                bail!("QEMU did not open its serial line");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(POLL))?;
        let log = std::fs::File::create(&self.log)?;
        Ok(Serial { stream, log, log_path: self.log, text: Plain::default(), from: 0 })
    }
}

pub struct Serial {
    stream: UnixStream,
    log: std::fs::File,
    log_path: PathBuf,
    text: Plain,
    /// Where the next [`Serial::expect`] looks from.
    from: usize,
}

impl Serial {
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).context("writing to the serial line")
    }

    /// Waits until one of `wanted` comes; which one. What is up to its end is then read.
    pub fn expect(&mut self, wanted: &[&str], limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        loop {
            let text = self.unread();
            let found = wanted
                .iter()
                .enumerate()
                .filter_map(|(which, what)| text.find(what).map(|at| (at + what.len(), which)))
                .min();
            if let Some((end, which)) = found {
                self.from += end;
                return Ok(which);
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {} s for {wanted:?} on the serial console; its end:\n{}\nall of it: {}",
                    limit.as_secs(),
                    last_lines(&self.text.text, 15),
                    self.log_path.display()
                );
            }
            self.pump()?;
        }
    }

    /// The rest of the line that [`Serial::expect`] stopped in.
    pub fn line(&mut self, limit: Duration) -> Result<String> {
        let from = self.from;
        self.expect(&["\n"], limit)?;
        let line = self.text.text.get(from..self.from).unwrap_or_default();
        Ok(line.trim_end().to_owned())
    }

    /// Waits until the line is quiet and `whole` says that its unread text is; that text, which is
    /// then read.
    pub fn settle(&mut self, whole: impl Fn(&str) -> bool, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let came = self.pump()?;
            if !came && whole(self.unread()) {
                let text = self.unread().to_owned();
                self.from = self.text.text.len();
                return Ok(text);
            }
            if Instant::now() > deadline {
                bail!(
                    "waited {} s for a prompt; the serial console's end:\n{}\nall of it: {}",
                    limit.as_secs(),
                    last_lines(&self.text.text, 15),
                    self.log_path.display()
                );
            }
        }
    }

    /// All text so far.
    pub fn seen(&self) -> &str {
        &self.text.text
    }

    /// Another handle on the line, to attach a terminal to.
    pub fn stream(&self) -> Result<UnixStream> {
        let stream = self.stream.try_clone()?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    }

    fn unread(&self) -> &str {
        self.text.text.get(self.from..).unwrap_or_default()
    }

    /// Reads what is there, at most one poll long; whether something came.
    fn pump(&mut self) -> Result<bool> {
        let mut bytes = [0; 4096];
        let count = match self.stream.read(&mut bytes) {
            Ok(0) => {
                bail!("QEMU closed the serial line; its end:\n{}", last_lines(&self.text.text, 15))
            }
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error).context("reading the serial line"),
        };
        let bytes = bytes.get(..count).unwrap_or_default();
        self.log.write_all(bytes)?;
        self.text.push(bytes);
        if self.text.text.len() > KEPT {
            let mut cut = self.text.text.len() - KEPT / 2;
            while !self.text.text.is_char_boundary(cut) {
                cut += 1;
            }
            self.text.text.drain(..cut);
            self.from = self.from.saturating_sub(cut);
        }
        Ok(true)
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

/// The line's text without terminal control sequences (ECMA-48) and carriage returns.
#[derive(Default)]
struct Plain {
    text: String,
    state: Escape,
}

#[derive(Default)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Started,
    /// CSI: up to a byte of 0x40..=0x7e.
    Control,
    /// OSC: up to BEL or ESC.
    Command,
    /// ESC and an intermediate byte: one more follows.
    Intermediate,
}

impl Plain {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = match (&self.state, byte) {
                (Escape::Command, 0x07) => Escape::None,
                (_, 0x1b) => Escape::Started,
                (Escape::Command, _) => Escape::Command,
                (Escape::Started, b'[') => Escape::Control,
                (Escape::Started, b']') => Escape::Command,
                (Escape::Started, 0x20..=0x2f) => Escape::Intermediate,
                (Escape::Control, 0x20..=0x3f) => Escape::Control,
                (Escape::Started | Escape::Control | Escape::Intermediate, _) => Escape::None,
                (Escape::None, b'\n' | b'\t' | 0x20..=0x7e) => {
                    self.text.push(char::from(byte));
                    Escape::None
                }
                (Escape::None, _) => Escape::None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(parts: &[&[u8]]) -> String {
        let mut plain = Plain::default();
        parts.iter().for_each(|part| plain.push(part));
        plain.text
    }

    #[test]
    fn control_sequences_are_left_out_wherever_reads_split_them() {
        assert_eq!(plain(&[b"a\x1b", b"[1;3", b"2mb\x1b[0m\r\nc"]), "ab\nc");
        assert_eq!(plain(&[b"\x1b]0;title\x07login: "]), "login: ");
        assert_eq!(plain(&[b"\x1b(Bx\x1b=y"]), "xy");
    }

    #[test]
    fn expect_takes_what_comes_first_and_settle_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial");
        let listener = Listener::bind(&path, directory.path().join("log")).unwrap();
        let mut machine = UnixStream::connect(&path).unwrap();
        let mut serial = listener.accept(Duration::from_secs(5)).unwrap();
        machine.write_all(b"boot\r\nhost login: ").unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(serial.expect(&["panic", "login:"], limit).unwrap(), 1);
        machine.write_all(b"\r\nwelcome\r\nhost{} ").unwrap();
        assert_eq!(
            serial.settle(|text| text.contains("{}"), limit).unwrap().trim(),
            "welcome\nhost{}"
        );
        assert!(serial.expect(&["more"], Duration::from_millis(300)).is_err());
    }
}
