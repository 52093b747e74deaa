//! Whether the machine has what the most sessions need: descriptors, orphans and memory of TCP, each
//! for twice as many as policy lets live at one time.
//!
//! For: a word in the log where something is short, before it is felt. Not for: setting it; init
//! does. Where a limit cannot be read it is taken for enough.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};
use weir_api::legacy::MAX_LEGS;

/// Sockets of a session.
const SOCKETS: u64 = 2;
/// Legs of a session, each with a socket to the worker where it is on the legacy stack; at most
/// [`MAX_LEGS`] are.
const LEGS: u64 = 2;
/// Descriptors that are no session's: maps, links, pools.
const OTHER_FILES: u64 = 4096;
/// The least memory a socket lives on when TCP saves.
const SOCKET_MEMORY: u64 = 8192;
const PAGE: u64 = 4096;

/// What the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    files: Option<u64>,
    orphans: Option<u64>,
    /// Bytes.
    tcp_memory: Option<u64>,
}

/// What is short, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    Files { limit: u64, needed: u64 },
    Orphans { limit: u64, needed: u64 },
    TcpMemory { limit: u64, needed: u64 },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, limit, needed) = match self {
            Self::Files { limit, needed } => ("open files (RLIMIT_NOFILE)", limit, needed),
            Self::Orphans { limit, needed } => {
                ("orphans (net.ipv4.tcp_max_orphans)", limit, needed)
            }
            Self::TcpMemory { limit, needed } => {
                ("bytes of TCP's memory (net.ipv4.tcp_mem)", limit, needed)
            }
        };
        write!(f, "{limit} {what}, where twice the most sessions need {needed}")
    }
}

impl Budget {
    /// Of this process and this machine: the settings of TCP are one for all namespaces.
    pub fn read() -> Self {
        let number = |path: &str, at: usize| {
            let text = fs::read_to_string(path).ok()?;
            text.split_whitespace().nth(at)?.parse::<u64>().ok()
        };
        Self {
            files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            orphans: number("/proc/sys/net/ipv4/tcp_max_orphans", 0),
            tcp_memory: number("/proc/sys/net/ipv4/tcp_mem", 2).map(|pages| pages * PAGE),
        }
    }

    /// For as many sessions at one time.
    pub fn shortages(&self, sessions: u32) -> Vec<Shortage> {
        let sockets = 2 * u64::from(sessions) * SOCKETS;
        let short = |limit: Option<u64>, needed: u64| limit.filter(|limit| *limit < needed);
        let legs = (2 * u64::from(sessions) * LEGS).min(MAX_LEGS as u64);
        let files = sockets + legs + OTHER_FILES;
        let memory = sockets * SOCKET_MEMORY;
        [
            short(self.files, files).map(|limit| Shortage::Files { limit, needed: files }),
            short(self.orphans, sockets).map(|limit| Shortage::Orphans { limit, needed: sockets }),
            short(self.tcp_memory, memory)
                .map(|limit| Shortage::TcpMemory { limit, needed: memory }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: Budget =
        Budget { files: Some(60_480), orphans: Some(40_000), tcp_memory: Some(327_680_000) };

    #[test]
    fn what_twice_the_sessions_need_is_enough() {
        assert_eq!(ENOUGH.shortages(10_000), []);
        assert_eq!(ENOUGH.shortages(10_001).len(), 3);
        let unknown = Budget { files: None, orphans: None, tcp_memory: None };
        assert_eq!(unknown.shortages(100_000), []);
    }

    #[test]
    fn what_is_short_is_named_with_its_setting() {
        let files = Budget { files: Some(1024), ..ENOUGH };
        let short = files.shortages(10_000);
        assert_eq!(short, [Shortage::Files { limit: 1024, needed: 60_480 }]);
        assert_eq!(
            short[0].to_string(),
            "1024 open files (RLIMIT_NOFILE), where twice the most sessions need 60480"
        );
        let orphans = Budget { orphans: Some(8), ..ENOUGH }.shortages(100);
        assert!(orphans[0].to_string().contains("net.ipv4.tcp_max_orphans"));
        let memory = Budget { tcp_memory: Some(8), ..ENOUGH }.shortages(100);
        assert!(memory[0].to_string().contains("net.ipv4.tcp_mem"));
    }

    #[test]
    fn this_machines_limits_can_be_read() {
        let Budget { files, orphans, tcp_memory } = Budget::read();
        assert!(files.is_some() && orphans.is_some() && tcp_memory.is_some());
    }
}
