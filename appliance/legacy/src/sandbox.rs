//! The worker's cell: no privileges, no files, no sockets, no processes of its own.
//!
//! For: entering it, once all that is opened is open, and proving it from inside. What a captured
//! worker can do is read and write the sockets it was given, and end. Fails by the step that the
//! kernel refused, or the deed that it did not refuse.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use caps::CapSet;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Address space: sessions of the most legs, and no more. Past it the worker ends and is restarted.
const MEMORY: u64 = 2 << 30;
/// Open files that are no leg's: the standard streams, the poll, and sockets of legs that have ended and
/// whose end the worker has yet to hear of, while the engine opens others in their place.
const OTHER_FILES: u64 = 512;
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
    Errno::result(closed).map(drop).context("inherited descriptors")
}

/// Bounds open files to what so many legs need; to how many there is room for, where the process was
/// given less.
pub fn limit_files(legs: usize) -> anyhow::Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("open files")?;
    let files = u64::try_from(legs)?.saturating_add(OTHER_FILES).min(most);
    setrlimit(Resource::RLIMIT_NOFILE, files, files).context("open files")?;
    Ok(usize::try_from(files.saturating_sub(OTHER_FILES))?)
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

/// Tries what must be refused, and tells what was. Only the filter answers such calls with EPERM: each is
/// one that the kernel alone would grant, or refuse for another reason, so that nothing else (nobody's
/// rights, a limit, a wrong argument) can be taken for it. Where it were not refused, it would do nothing.
pub fn prove() -> anyhow::Result<Vec<&'static str>> {
    let mut refused = Vec::new();
    for (what, attempt) in ATTEMPTS {
        match attempt() {
            Err(Errno::EPERM) => refused.push(*what),
            Err(other) => bail!("{what} was not refused by the filter, but ended with {other}"),
            Ok(()) => bail!("{what} was not refused"),
        }
    }
    Ok(refused)
}

type Attempt = fn() -> Result<(), Errno>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("opening a file", || {
        let opened = nix::fcntl::open("/", nix::fcntl::OFlag::O_RDONLY, Mode::empty());
        opened.map(drop)
    }),
    ("an Internet socket", || {
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).map(drop)
    }),
    ("a Unix socket", || {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).map(drop)
    }),
    // Flags that contradict each other: no child comes of it.
    ("a process", || call(libc::SYS_clone, [i64::from(libc::CLONE_SIGHAND), 0])),
    ("a process by clone3", || call(libc::SYS_clone3, [0, 0])),
    ("another program", || call(libc::SYS_execve, [0, 0])),
    // No signal at all, and to itself: always allowed.
    ("a signal", || nix::sys::signal::kill(nix::unistd::Pid::this(), None)),
    ("tracing a process", || call(libc::SYS_ptrace, [i64::from(libc::PTRACE_PEEKUSER), 0])),
    ("executable memory", || {
        let prot = i64::from(libc::PROT_READ | libc::PROT_EXEC);
        let flags = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: asks for a page of its own; where it were given, nobody uses it.
        let page =
            unsafe { libc::syscall(libc::SYS_mmap, 0i64, 4096i64, prot, flags, -1i64, 0i64) };
        Errno::result(page).map(drop)
    }),
];

/// A call by its number: for those whose wrappers do more, or do not exist.
fn call(number: libc::c_long, [first, second]: [i64; 2]) -> Result<(), Errno> {
    // SAFETY: of the calls above none does anything with these arguments: the kernel finds them wrong
    // before it reads or changes memory of ours.
    let result = unsafe { libc::syscall(number, first, second, 0i64, 0i64, 0i64) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proof is one of the filter: without it no attempt ends as if there were one.
    #[test]
    fn nothing_but_the_filter_refuses_what_the_proof_tries() {
        for (what, attempt) in ATTEMPTS {
            assert_ne!(attempt(), Err(Errno::EPERM), "{what}");
        }
        assert!(prove().is_err());
    }

    #[test]
    fn rights_of_nobody_prove_nothing_and_the_filter_proves_all() {
        // To the kernel, user, capabilities and filter are a thread's own.
        std::thread::spawn(|| {
            if Uid::effective().is_root() {
                let nobody = i64::from(NOBODY);
                // SAFETY: only this thread's credentials change; libc's own would change all threads'.
                let set = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
                Errno::result(set).unwrap();
            }
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
            {
                caps::clear(None, set).unwrap();
            }
            for (what, attempt) in ATTEMPTS {
                assert_ne!(attempt(), Err(Errno::EPERM), "{what}");
            }
            seccompiler::apply_filter(&filter().unwrap()).unwrap();
            let proven = prove();
            assert!(proven.is_ok_and(|refused| refused.len() == ATTEMPTS.len()));
        })
        .join()
        .unwrap();
    }
}
