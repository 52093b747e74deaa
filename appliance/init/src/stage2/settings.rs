//! Kernel settings (sysctl) of the management namespace and the whole machine.
//!
//! For: what the appliance wants other than Debian's kernel has it. Not for: the segments' and
//! engines' namespaces, which the data plane sets. A setting that this kernel does not have is
//! logged and passed over.

const SETTINGS: [(&str, &str); 22] = [
    // A panic leads to a reboot, and an oops to a panic: half a kernel inspects nothing.
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // init logs here at boot more than the default allows (10 lines in 5 s).
    ("kernel/printk_devkmsg", "on"),
    ("kernel/printk", "3 4 1 3"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/yama/ptrace_scope", "2"),
    ("kernel/sysrq", "0"),
    // No core files: they would hold keys.
    ("kernel/core_pattern", "|/bin/false"),
    ("fs/suid_dumpable", "0"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("kernel/unprivileged_bpf_disabled", "2"),
    ("net/core/bpf_jit_enable", "1"),
    ("net/core/netdev_max_backlog", "8192"),
    ("net/unix/max_dgram_qlen", "512"),
    // Both sockets of twice the most sessions may close at one time; past it the kernel resets
    // them. One number for all namespaces.
    ("net/ipv4/tcp_max_orphans", "400000"),
    // Bursts of a port that is captured.
    ("net/core/rmem_max", "33554432"),
    // The management port is a host, not a router.
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
];

pub fn apply() {
    for (name, value) in SETTINGS {
        // printk_devkmsg takes nothing without the end of line.
        if let Err(error) = std::fs::write(format!("/proc/sys/{name}"), format!("{value}\n")) {
            tracing::warn!(name, value, %error, "setting not made");
        }
    }
    if let Err(error) = budget_tcp_memory() {
        tracing::warn!(%error, "memory of TCP stays as the kernel has it");
    }
    // Ctrl-Alt-Del comes to init as SIGINT, for an orderly reboot.
    if let Err(error) = nix::sys::reboot::set_cad_enabled(false) {
        tracing::info!(%error, "Ctrl-Alt-Del");
    }
}

/// The machine is there for the engine's sockets, so TCP may have more than Debian's kernel gives
/// it (a tenth): half of the memory, and from three eighths on it saves. A socket gets 8 KiB even
/// then; `max-concurrent-sessions` says how many there are.
fn budget_tcp_memory() -> std::io::Result<()> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let Some(pages) = pages_in_all(&memory) else {
        return Err(std::io::Error::other("no MemTotal in /proc/meminfo"));
    };
    std::fs::write("/proc/sys/net/ipv4/tcp_mem", tcp_memory(pages))
}

/// Of 4 KiB.
fn pages_in_all(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 4)
}

/// Unconcerned below, saving above, and never over.
fn tcp_memory(pages: u64) -> String {
    format!("{} {} {}\n", pages / 4, pages / 8 * 3, pages / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_policy::snapshot::{Device, MOST_SESSIONS};

    #[test]
    fn orphans_are_budgeted_for_twice_the_most_sessions() {
        let orphans = SETTINGS.iter().find(|(name, _)| *name == "net/ipv4/tcp_max_orphans");
        assert!(orphans.unwrap().1.parse::<u32>().unwrap() >= 2 * 2 * MOST_SESSIONS);
    }

    #[test]
    fn twice_the_default_sessions_have_tcp_memory_even_in_a_small_machine() {
        // A quarter of what the README asks for.
        let pages = pages_in_all("MemTotal:         985000 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(pages, 246_250);
        assert_eq!(tcp_memory(pages), "61562 92343 123125\n");
        let least = 2 * u64::from(Device::default().max_concurrent_sessions) * 2 * 8192;
        assert!(pages / 2 * 4096 > least);
    }
}
