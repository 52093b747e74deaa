//! Processes of a run: long ones with a log file each, short ones with their output.
//!
//! For: never leaving a process behind, and showing a command so that it can be run again by
//! hand. Fails where a program cannot be started, with its name.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end after it was asked to; then it is killed.
const STOP: Duration = Duration::from_secs(5);

/// How long all of them together may take: weir-init stops its services one after another, each within
/// 7 s.
const STOP_ALL: Duration = Duration::from_secs(30);

/// Long processes alive now, for [`end_all`].
static ALIVE: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A long process; stopped when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. It is asked to end when the calling
    /// thread does.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = append(log)?;
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe. Without
        // it a killed test would leave its machine running; std has no way to ask for it.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name}: {}", shown(command)))?;
        alive().insert(child.id().cast_signed());
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        alive().remove(&self.pid().as_raw());
        Some(status)
    }

    /// An error with the end of the log, if the process is gone.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.ended();
        ensure!(
            ended.is_none(),
            "{} ended ({}); the end of {}:\n{}",
            self.name,
            ended.map(|status| status.to_string()).unwrap_or_default(),
            self.log.display(),
            tail(&self.log, 20)
        );
        Ok(())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end, and makes it.
    pub fn stop(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        let _ = self.signal(signal);
        if self.wait(STOP).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            alive().remove(&self.pid().as_raw());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Signal::SIGTERM);
    }
}

/// Ends every long process of this program: for its own end by a signal. They are asked first, as a
/// supervisor that is killed leaves its children behind.
pub fn end_all() {
    let mut left = std::mem::take(&mut *alive());
    for pid in &left {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + STOP_ALL;
    while !left.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        left.retain(|pid| runs(*pid));
    }
    for pid in left {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Not so where it has ended, though its parent, another thread of this program, may not have waited
/// for it yet: then it has no command line any more.
fn runs(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn alive() -> std::sync::MutexGuard<'static, BTreeSet<i32>> {
    ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A short command's end and output.
#[derive(Debug)]
pub struct Finished {
    /// As it can be typed into a shell.
    pub command: String,
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub output: Vec<u8>,
    pub errors: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Runs a short command to its end. The caller gives it a limit of time of its own.
pub fn finish(command: &mut Command) -> Result<Finished> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", shown(command)))?;
    Ok(Finished {
        command: shown(command),
        code: output.status.code(),
        output: output.stdout,
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a short command that must succeed; its output.
pub fn succeed(command: &mut Command) -> Result<String> {
    let finished = finish(command)?;
    ensure!(
        finished.code == Some(0),
        "{} ended with {:?}: {}",
        finished.command,
        finished.code,
        finished.errors.trim_end()
    );
    Ok(finished.text())
}

/// The command as it can be typed into a shell.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// The last lines of a log.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_by_a_signal_takes_the_children_of_a_supervisor_along() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        // Ends its child when it is asked to, as weir-init does; killed it cannot.
        let script = "trap 'kill $child; exit' TERM; sleep 600 & child=$!; echo $child; wait";
        let mut supervisor =
            Process::start("sh", Command::new("sh").args(["-c", script]), &log).unwrap();
        let child = loop {
            if let Ok(pid) = std::fs::read_to_string(&log).unwrap().trim().parse::<u32>() {
                break PathBuf::from(format!("/proc/{pid}/cmdline"));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        end_all();
        assert!(supervisor.ended().is_some());
        // Empty of one that has ended and that nobody has waited for yet.
        let left = std::fs::read(&child).unwrap_or_default();
        if !left.is_empty() {
            let pid = child.iter().nth(2).unwrap().to_str().unwrap().parse().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        assert!(left.is_empty(), "the supervisor's child lives");
    }
}
