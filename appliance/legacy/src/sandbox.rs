//! The worker's cell: no privileges, no files, no sockets, no processes of its own.
//!
//! For: entering it, once all that is opened is open, and proving it from inside. What a captured
//! worker can do is read and write the sockets it was given, and end. Fails by the step that the
//! kernel refused, or the deed that it did not refuse.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use caps::CapSet;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Address space: sessions of the most legs, and no more. Past it the worker ends and is restarted.
const MEMORY: u64 = 2 << 30;
/// Of ioctl(2); its type differs between C libraries.
const FIONBIO: u64 = 0x5421;
/// Who nobody is, where the worker was started by root (the lab).
const NOBODY: u32 = 65_534;

/// All system calls that it may make. Everything else is answered with EPERM.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_close,
    libc::SYS_ioctl, // narrowed to FIONBIO below
    libc::SYS_fcntl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_brk,
    libc::SYS_mmap, // narrowed below: never executable
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_getpid, // OpenSSL's random generator looks for forks
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Closes all but the standard streams: what an engine of another day forgot to close at exec.
pub fn close_inherited() -> anyhow::Result<()> {
    // SAFETY: called before this program has opened anything, so no object owns what is closed.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    nix::errno::Errno::result(closed).map(drop).context("inherited descriptors")
}

pub fn enter() -> anyhow::Result<()> {
    prctl::set_dumpable(false).context("dumpable")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("core files")?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).context("file size")?;
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).context("memory")?;
    if Uid::effective().is_root() {
        setgroups(&[]).context("groups")?;
        let (group, user) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        setresgid(group, group, group).context("group")?;
        setresuid(user, user, user).context("user")?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).context("capabilities")?;
    }
    prctl::set_no_new_privs().context("no new privileges")?;
    seccompiler::apply_filter(&filter()?).context("seccomp")
}

fn filter() -> anyhow::Result<BpfProgram> {
    use seccompiler::{
        SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompRule,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let only = |argument, length, is, value| -> anyhow::Result<Vec<SeccompRule>> {
        let condition = SeccompCondition::new(argument, length, is, value)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    let executable = u64::try_from(libc::PROT_EXEC)?;
    rules.insert(libc::SYS_ioctl, only(1, Length::Dword, Is::Eq, FIONBIO)?);
    rules.insert(libc::SYS_mmap, only(2, Length::Dword, Is::MaskedEq(executable), 0)?);
    rules.insert(libc::SYS_mprotect, only(2, Length::Dword, Is::MaskedEq(executable), 0)?);
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let filter = SeccompFilter::new(
        rules,
        refused,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

/// Tries what must be refused.
pub fn prove() -> anyhow::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let refused = |what: &str, is: bool| {
        if is { Ok(()) } else { bail!("{what} was not refused") }
    };
    refused("opening a file", std::fs::File::open("/").is_err())?;
    let inet = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None);
    refused("a socket", inet.is_err())?;
    let unix = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None);
    refused("a Unix socket", unix.is_err())?;
    refused("a process", std::process::Command::new("/proc/self/exe").spawn().is_err())?;
    refused(
        "a signal to init",
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None).is_err(),
    )?;
    // SAFETY: asks for a page that is executable; where it were given, nobody uses it.
    let page = unsafe {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0)
    };
    refused("executable memory", page == libc::MAP_FAILED)
}
