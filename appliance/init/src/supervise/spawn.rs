//! From a description to a process: identity, capabilities, limits, standard streams.
//!
//! For: the step between fork and exec. Not for: deciding when. Fails by [`SpawnError`], which
//! names the service's field that could not be had; the supervisor treats that as an end.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio as ProcessStdio};

use caps::{CapSet, CapsHashSet};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::{Gid, Pid, setgroups, setresgid, setresuid, setsid};

use super::account::{Account, Accounts};
use super::service::{Service, Stdio};
use super::terminal;

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("notification socket: {0}")]
    Notify(#[source] io::Error),
    #[error("command is empty; it must name a program")]
    NoCommand,
    #[error("{0}: {1}")]
    Program(String, #[source] io::Error),
    #[error("user {0} is not in /etc/passwd")]
    NoUser(String),
    #[error("group {0} is not in /etc/group")]
    NoGroup(String),
    #[error("terminal {0}: {1}")]
    Terminal(String, #[source] io::Error),
    #[error("standard streams: {0}")]
    Streams(#[source] io::Error),
    #[error("process number {0} is out of range")]
    ProcessNumber(u32),
}

/// Starts `service` as leader of a new session; returns once the program itself runs.
pub fn spawn(service: &Service, accounts: &Accounts, notify: &Path) -> Result<Pid, SpawnError> {
    let (program, arguments) = service.command.split_first().ok_or(SpawnError::NoCommand)?;
    let preparation = Preparation::of(service, accounts)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
        .env("NOTIFY_SOCKET", notify)
        .current_dir("/");
    if let Some(user) = &service.user {
        command.env("USER", user).env("HOME", accounts.home(user).unwrap_or("/"));
    }
    if let Some(period) = service.watchdog() {
        command.env("WATCHDOG_USEC", period.as_micros().to_string());
    }
    command.envs(&service.environment);
    streams(service, &preparation, &mut command)?;
    // SAFETY: the closure runs in the child between fork and exec. The parent has one thread (see
    // supervise/mod.rs), so no lock can be held by a thread that is gone, and allocation is fine.
    // No safe interface sets ambient capabilities or a session at this point.
    unsafe {
        command.pre_exec(move || preparation.apply());
    }
    let child = command.spawn().map_err(|error| SpawnError::Program(program.clone(), error))?;
    // The child is reaped by number with all others; dropping the handle leaves it alone.
    i32::try_from(child.id()).map(Pid::from_raw).map_err(|_| SpawnError::ProcessNumber(child.id()))
}

/// The account of the service's user; `None` where it names none.
pub fn account(service: &Service, accounts: &Accounts) -> Result<Option<Account>, SpawnError> {
    // Never the supervisor's own where it is missing: that is root with all capabilities. The lab,
    // which has none of these users, names none.
    let named = |user: &String| accounts.user(user).ok_or_else(|| SpawnError::NoUser(user.clone()));
    service.user.as_ref().map(named).transpose()
}

fn streams(
    service: &Service,
    preparation: &Preparation,
    command: &mut Command,
) -> Result<(), SpawnError> {
    match &service.stdio {
        Stdio::Inherit => {}
        Stdio::Journal => {
            let output = journal_stream(&service.name)
                .or_else(|_| kernel_log())
                .map_err(SpawnError::Streams)?;
            let error = output.try_clone().map_err(SpawnError::Streams)?;
            command.stdin(ProcessStdio::null()).stdout(output).stderr(error);
        }
        Stdio::Terminal(path) => {
            let uid = preparation.account.map(|account| account.uid);
            let terminal = terminal::open(path, uid)
                .map_err(|error| SpawnError::Terminal(path.display().to_string(), error))?;
            let output = terminal.try_clone().map_err(SpawnError::Streams)?;
            let error = terminal.try_clone().map_err(SpawnError::Streams)?;
            command.stdin(terminal).stdout(output).stderr(error);
        }
    }
    Ok(())
}

/// A stream of journald's own protocol: seven lines of heading, then the service's lines.
fn journal_stream(identifier: &str) -> io::Result<OwnedFd> {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let mut stream = UnixStream::connect("/run/systemd/journal/stdout")?;
    // Bounded: a journald that hangs must not hang the supervisor.
    stream.set_write_timeout(Some(std::time::Duration::from_millis(200)))?;
    // Identifier, unit, priority (6, informational), priorities inside lines, and no forwarding.
    write!(stream, "{identifier}\n\n6\n1\n0\n0\n0\n")?;
    stream.set_write_timeout(None)?;
    Ok(stream.into())
}

fn kernel_log() -> io::Result<OwnedFd> {
    OpenOptions::new().write(true).open("/dev/kmsg").map(OwnedFd::from)
}

/// All that is done in the child, looked up before it exists.
struct Preparation {
    account: Option<Account>,
    groups: Vec<Gid>,
    capabilities: CapsHashSet,
    no_new_privileges: bool,
    open_files: Option<u64>,
    terminal: bool,
}

impl Preparation {
    fn of(service: &Service, accounts: &Accounts) -> Result<Self, SpawnError> {
        let account = account(service, accounts)?;
        let groups = service
            .groups
            .iter()
            .map(|name| accounts.group(name).ok_or_else(|| SpawnError::NoGroup(name.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            account,
            groups,
            capabilities: service.capabilities.iter().copied().collect(),
            no_new_privileges: service.no_new_privileges,
            open_files: service.open_files,
            terminal: matches!(service.stdio, Stdio::Terminal(_)),
        })
    }

    fn apply(&self) -> io::Result<()> {
        setsid()?;
        // The supervisor's is not empty; a program expects it to be.
        SigSet::empty().thread_set_mask()?;
        if self.terminal {
            terminal::take_control()?;
        }
        self.limits()?;
        if let Some(account) = self.account {
            self.identity(account)?;
        }
        if self.no_new_privileges {
            prctl::set_no_new_privs()?;
        }
        Ok(())
    }

    /// The order matters: groups and bounding set while still privileged, then the user with
    /// permitted capabilities kept, then the sets cut down, then ambient ones raised from them.
    fn identity(&self, account: Account) -> io::Result<()> {
        setgroups(&self.groups)?;
        setresgid(account.gid, account.gid, account.gid)?;
        let bounding = caps::read(None, CapSet::Bounding).map_err(io::Error::other)?;
        for capability in bounding.difference(&self.capabilities) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
        }
        prctl::set_keepcaps(true)?;
        setresuid(account.uid, account.uid, account.uid)?;
        // The change of user emptied the effective set, so the permitted one may shrink first.
        caps::set(None, CapSet::Inheritable, &self.capabilities).map_err(io::Error::other)?;
        caps::set(None, CapSet::Permitted, &self.capabilities).map_err(io::Error::other)?;
        caps::set(None, CapSet::Effective, &self.capabilities).map_err(io::Error::other)?;
        caps::set(None, CapSet::Ambient, &self.capabilities).map_err(io::Error::other)
    }

    fn limits(&self) -> io::Result<()> {
        // A core file would hold keys.
        set_limit(Resource::CoreSize, 0)?;
        match self.open_files {
            Some(files) => set_limit(Resource::OpenFiles, files),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
enum Resource {
    CoreSize,
    OpenFiles,
}

/// By libc, because nix has setrlimit only behind a feature that nobody else of the workspace
/// needs; by an enumeration, because the type of the kernel's constants differs between C libraries.
fn set_limit(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    let resource = match resource {
        Resource::CoreSize => libc::RLIMIT_CORE,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
    };
    // SAFETY: the pointer is to a local that outlives the call.
    if unsafe { libc::setrlimit(resource, &limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use caps::Capability;

    use super::*;

    #[test]
    fn a_missing_user_is_named_and_nothing_runs_in_its_place() {
        let service: Service = serde_json::from_str(
            r#"{"name":"x","command":["/bin/true"],"user":"nobody-has-it","restart":"never"}"#,
        )
        .unwrap();
        let error = spawn(&service, &Accounts::default(), Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "user nobody-has-it is not in /etc/passwd");
    }

    #[test]
    fn a_missing_group_is_named() {
        let service: Service = serde_json::from_str(
            r#"{"name":"x","command":["/bin/true"],"groups":["nobody-has-it"],"restart":"never"}"#,
        )
        .unwrap();
        let error = spawn(&service, &Accounts::default(), Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "group nobody-has-it is not in /etc/group");
    }

    #[test]
    fn capabilities_are_named_as_the_kernel_names_them() {
        let service: Service = serde_json::from_str(
            r#"{"name":"x","command":["/bin/true"],"capabilities":["CAP_BPF"],"restart":"never"}"#,
        )
        .unwrap();
        assert_eq!(service.capabilities, [Capability::CAP_BPF]);
    }
}
