//! CPU time: of the whole machine, of this process with the kernel's packet threads, and of some of
//! its threads.
//!
//! For: differences between two [`Reading`]s. All load, both ends and the engine are threads of this
//! process, and on veth the kernel's packet work is done in the sender's system calls, so
//! [`Reading::own`] is what a measurement cost even where others use the machine; what the kernel's
//! ksoftirqd threads did is added to it. Fails where /proc has not what it always has.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// CPU time used so far.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    /// This process and ksoftirqd.
    own: Duration,
    /// Of all processors: user, nice, system, irq, softirq (not idle, iowait, steal).
    machine: Duration,
}

/// Between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub elapsed: Duration,
    pub own: Duration,
    pub machine: Duration,
}

impl Reading {
    pub fn now() -> Result<Self> {
        let process = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
        Ok(Self { at: Instant::now(), own: process + ksoftirqd()?, machine: machine()? })
    }

    pub fn used(&self) -> Result<Used> {
        let now = Self::now()?;
        Ok(Used {
            elapsed: now.at - self.at,
            own: now.own.saturating_sub(self.own),
            machine: now.machine.saturating_sub(self.machine),
        })
    }
}

impl Used {
    /// Without what the machine does when the bench does nothing: `idle` is its busy share, in
    /// processors.
    pub fn machine_above(&self, idle: f64) -> Duration {
        self.machine.saturating_sub(self.elapsed.mul_f64(idle))
    }
}

/// How many processors' worth the machine is busy while this process does nothing.
pub fn idle_load(during: Duration) -> Result<f64> {
    let before = Reading::now()?;
    std::thread::sleep(during);
    let used = before.used()?;
    Ok(used.machine.saturating_sub(used.own).as_secs_f64() / used.elapsed.as_secs_f64())
}

/// Time that this process's threads of these names ran.
pub fn of_threads(names: &[&str]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread may end meanwhile.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if names.contains(&name.trim_end()) {
            sum += ran(&fs::read_to_string(task.join("schedstat")).unwrap_or_default());
        }
    }
    Ok(sum)
}

fn machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    // cpu user nice system idle iowait irq softirq ...
    let ticks: u64 = line
        .split_whitespace()
        .skip(1)
        .enumerate()
        .filter(|(field, _)| matches!(field, 0 | 1 | 2 | 5 | 6))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 on every architecture of ours.
    Ok(Duration::from_millis(ticks * 10))
}

fn ksoftirqd() -> Result<Duration> {
    use std::sync::OnceLock;
    static THREADS: OnceLock<Vec<std::path::PathBuf>> = OnceLock::new();
    let threads = THREADS.get_or_init(|| {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                fs::read_to_string(path.join("comm"))
                    .is_ok_and(|name| name.starts_with("ksoftirqd/"))
            })
            .collect()
    });
    let mut sum = Duration::ZERO;
    for thread in threads {
        sum += ran(&fs::read_to_string(thread.join("schedstat")).context("ksoftirqd's schedstat")?);
    }
    Ok(sum)
}

/// The first field of a schedstat: nanoseconds on a processor.
fn ran(schedstat: &str) -> Duration {
    let first = schedstat.split_whitespace().next();
    Duration::from_nanos(first.and_then(|value| value.parse().ok()).unwrap_or(0))
}
