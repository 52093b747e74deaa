//! CPU time: of the whole machine, of this process and those that it measures with the kernel's packet
//! threads, of some of its threads, and of other processes.
//!
//! For: differences between two [`Reading`]s. Where all load and both ends are threads of this process,
//! and what is measured is a tree of processes, [`Used::own`] is what a measurement cost even where
//! others use the machine, as on veth the kernel's packet work is done in the sender's system calls; what
//! the kernel's ksoftirqd threads did is added to it. Fails where /proc has not what it always has.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// CPU time used so far.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    /// Whose processes count as this one's own.
    measured: Option<Pid>,
    /// This process, those that are measured, and ksoftirqd.
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
    /// With a process that is measured, and all that descend from it.
    pub fn now(measured: Option<Pid>) -> Result<Self> {
        let process = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
        let others = measured.map_or(Ok(Duration::ZERO), of_tree)?;
        let own = process + others + ksoftirqd()?;
        Ok(Self { at: Instant::now(), measured, own, machine: machine()? })
    }

    pub fn used(&self) -> Result<Used> {
        let now = Self::now(self.measured)?;
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
    let before = Reading::now(None)?;
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

/// Time that a process and all that descend from it ran, in all their threads that are alive.
pub fn of_tree(root: Pid) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for process in tree(root)? {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for task in tasks {
            let schedstat = task?.path().join("schedstat");
            sum += ran(&fs::read_to_string(schedstat).unwrap_or_default());
        }
    }
    Ok(sum)
}

/// A process and all that descend from it.
pub fn tree(root: Pid) -> Result<Vec<Pid>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // proc(5): pid (comm) state ppid ...
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let pid = stat.split(' ').next().and_then(|pid| pid.parse().ok());
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
        let parent = rest.and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root.as_raw()];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(found.into_iter().map(Pid::from_raw).collect())
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
