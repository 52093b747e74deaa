//! Kernel settings (sysctl) of the management namespace and the whole machine.
//!
//! For: what the appliance wants other than Debian's kernel has it. Not for: the segments' and
//! engines' namespaces, which the data plane sets. A setting that this kernel does not have is
//! logged and passed over.

const SETTINGS: [(&str, &str); 20] = [
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
            tracing::info!(name, value, %error, "setting not made");
        }
    }
    // Ctrl-Alt-Del comes to init as SIGINT, for an orderly reboot.
    if let Err(error) = nix::sys::reboot::set_cad_enabled(false) {
        tracing::info!(%error, "Ctrl-Alt-Del");
    }
}
