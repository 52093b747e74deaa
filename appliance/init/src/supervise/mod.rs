//! Supervision: starts services in order, restarts those that end, kills those that hang, reaps
//! every child, stops them in reverse order.
//!
//! For: PID 1 of the appliance and, by `weir-init supervise`, the lab; both run this very code.
//! Not for: deciding which services there are, or what a reboot is. How it fails: it does not. A
//! service that cannot be started is a service that ended: it is reported once and tried again
//! with a growing delay, and the others go on. Only [`Supervisor::new`] returns an error.
//!
//! One thread, one `poll` loop. Each [`Supervisor::turn`] waits at most [`POLL`] and never blocks
//! on a peer: a service that does not read, or floods, harms itself only.

pub mod account;
pub mod clock;
mod control;
pub mod lab;
mod lifecycle;
mod notice;
mod notify;
mod predecessor;
mod requests;
mod service;
mod spawn;
mod terminal;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use weir_api::init::ServiceStatus;

use account::Accounts;
use clock::{Lived, LivedClock};
pub use control::Control;
use lifecycle::{Action, Lifecycle};
use notice::{Exit, Notice};
use notify::{Message, Notify};
use predecessor::Predecessor;
pub use service::{Restart, Service, Stdio};

/// Longest wait of a turn, milliseconds. Well under [`clock::LONGEST_TURN`], so that a loop that
/// runs as it should counts all of its time.
const POLL: u16 = 200;

/// Most children reaped in one turn; more wait for the next, which follows at once.
const REAPED_A_TURN: usize = 256;

/// How long the kernel is given to end a process after SIGKILL before the stop goes on without it.
const STOP_AFTER_KILL: std::time::Duration = std::time::Duration::from_secs(2);

/// Where lines for the operator go: few, and each means something (the log has the rest).
pub type Announce = Box<dyn FnMut(&str)>;

/// What the outside asked of the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Reboot,
    PowerOff,
    /// SIGTERM: PID 1 powers off, the lab's supervisor ends.
    Stop,
}

pub struct Supervisor {
    clock: LivedClock,
    signals: SignalFd,
    /// Notification sockets are made here, a file a service.
    runtime_directory: PathBuf,
    accounts: Accounts,
    announce: Announce,
    /// In the order of starting.
    services: Vec<Supervised>,
    control: Option<Control>,
}

struct Supervised {
    service: Service,
    lifecycle: Lifecycle,
    /// Leader of a session and process group of its own.
    pid: Option<Pid>,
    notify: Option<Notify>,
    /// At most [`predecessor::MOST`].
    predecessors: Vec<Predecessor>,
    /// How often it was replaced: notification sockets of its processes have different names.
    replaced: u64,
}

impl Supervisor {
    /// Blocks SIGCHLD, SIGTERM and SIGINT for the thread (children get an empty mask again) and
    /// takes them by signalfd.
    pub fn new(
        runtime_directory: PathBuf,
        accounts: Accounts,
        announce: Announce,
    ) -> Result<Self, std::io::Error> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        std::fs::create_dir_all(&runtime_directory)?;
        Ok(Self {
            clock: LivedClock::default(),
            signals,
            runtime_directory,
            accounts,
            announce,
            services: Vec::new(),
            control: None,
        })
    }

    pub fn serve(&mut self, control: Control) {
        self.control = Some(control);
    }

    /// Adds a service; the next turn starts it.
    pub fn add(&mut self, service: Service) {
        let lifecycle = Lifecycle::new(service.policy(), self.clock.now());
        self.services.push(Supervised {
            service,
            lifecycle,
            pid: None,
            notify: None,
            predecessors: Vec::new(),
            replaced: 0,
        });
    }

    /// Starts what is due, kills what hangs, then waits for news, at most [`POLL`], and deals with
    /// it.
    pub fn turn(&mut self) -> Option<Wish> {
        let now = self.clock.turn();
        for index in 0..self.services.len() {
            self.act(index, now);
        }
        self.wait();
        let now = self.clock.turn();
        let wish = self.signals();
        self.notifications(now);
        self.reap(now);
        wish.or(self.control())
    }

    /// Turns until `condition` holds (`true`) or `limit` has passed (`false`). A wish that comes
    /// in the meantime is the error.
    pub fn turn_until(
        &mut self,
        limit: std::time::Duration,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<bool, Wish> {
        let until = self.clock.now() + limit;
        loop {
            if condition(self) {
                return Ok(true);
            }
            if self.clock.now() >= until {
                return Ok(false);
            }
            if let Some(wish) = self.turn() {
                return Err(wish);
            }
        }
    }

    /// Stops all, the last started first, each with SIGTERM, its own time, then SIGKILL.
    pub fn stop(&mut self) {
        for index in (0..self.services.len()).rev() {
            let now = self.clock.now();
            let Some(supervised) = self.services.get_mut(index) else { continue };
            supervised.lifecycle.stop(now);
            for predecessor in &supervised.predecessors {
                predecessor.kill();
            }
            tracing::info!(service = supervised.service.name, "stopping");
            let limit = supervised.service.stop_time() + STOP_AFTER_KILL;
            let stopped = |supervisor: &Self| {
                supervisor.services.get(index).is_none_or(|s| s.lifecycle.is_done())
            };
            let until = now + limit;
            while !stopped(self) && self.clock.now() < until {
                // Wishes change nothing any more: the end is under way.
                let _ = self.turn();
            }
            if !stopped(self)
                && let Some(supervised) = self.services.get(index)
            {
                (self.announce)(&format!("{} cannot be stopped", supervised.service.name));
            }
        }
    }

    pub fn statuses(&self) -> Vec<ServiceStatus> {
        self.services.iter().map(|s| s.lifecycle.status(&s.service.name)).collect()
    }

    /// Whether the one-shot `name` has ended; `None` while it has not or is not known.
    pub fn ended(&self, name: &str) -> Option<&Exit> {
        self.services
            .iter()
            .find(|s| s.service.name == name && s.lifecycle.is_done())
            .and_then(|s| s.lifecycle.last_exit())
    }

    pub fn is_ready(&self, name: &str) -> bool {
        self.services.iter().any(|s| s.service.name == name && s.lifecycle.is_ready())
    }

    fn act(&mut self, index: usize, now: Lived) {
        let Some(supervised) = self.services.get_mut(index) else { return };
        match supervised.lifecycle.due(now) {
            None => {}
            Some(Action::Start) => self.start(index, now),
            Some(Action::Terminate) => supervised.signal(Signal::SIGTERM),
            Some(Action::Kill(why)) => {
                if let Some(why) = why {
                    tracing::warn!(service = supervised.service.name, why, "killed");
                }
                supervised.signal(Signal::SIGKILL);
            }
        }
    }

    fn start(&mut self, index: usize, now: Lived) {
        let Some(supervised) = self.services.get_mut(index) else { return };
        let name = &supervised.service.name;
        let started = spawn::account(&supervised.service, &self.accounts).and_then(|account| {
            let socket = match supervised.replaced {
                0 => name.clone(),
                replaced => format!("{name}-{replaced}"),
            };
            let notify = Notify::bind(&self.runtime_directory, &socket, account)
                .map_err(spawn::SpawnError::Notify)?;
            let pid = spawn::spawn(&supervised.service, &self.accounts, notify.path())?;
            Ok((notify, pid))
        });
        let notice = match started {
            Ok((notify, pid)) => {
                tracing::info!(service = name, pid = pid.as_raw(), "started");
                supervised.pid = Some(pid);
                supervised.notify = Some(notify);
                supervised.lifecycle.started(now)
            }
            Err(error) => {
                tracing::error!(service = name, %error, "not started");
                supervised.lifecycle.ended(now, Exit::NotStarted(error.to_string()))
            }
        };
        self.tell(index, notice);
    }

    fn wait(&self) {
        let mut sources: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
        sources.extend(self.services.iter().filter_map(|s| s.notify.as_ref()).map(AsFd::as_fd));
        let predecessors = self.services.iter().flat_map(|s| &s.predecessors);
        sources.extend(predecessors.map(|predecessor| predecessor.notify.as_fd()));
        if let Some(control) = &self.control {
            sources.extend(control.sources());
        }
        let mut sources: Vec<PollFd<'_>> =
            sources.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut sources, PollTimeout::from(POLL)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "poll");
                std::thread::sleep(std::time::Duration::from_millis(POLL.into()));
            }
        }
    }

    fn signals(&mut self) -> Option<Wish> {
        let mut wish = None;
        // SIGCHLD needs no more than the waking: reap() asks for whoever ended.
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match i32::try_from(signal.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                Some(Signal::SIGTERM) => wish = Some(Wish::Stop),
                // The kernel's answer to Ctrl-Alt-Del.
                Some(Signal::SIGINT) => wish = Some(Wish::Reboot),
                _ => {}
            }
        }
        wish
    }

    fn notifications(&mut self, now: Lived) {
        for index in 0..self.services.len() {
            let Some(supervised) = self.services.get_mut(index) else { continue };
            for predecessor in &mut supervised.predecessors {
                predecessor.look(&supervised.service.name, now);
            }
            let (Some(pid), Some(notify)) = (supervised.pid, supervised.notify.as_ref()) else {
                continue;
            };
            let mut notice = None;
            for message in notify.receive(pid) {
                match message {
                    Message::Ready => notice = supervised.lifecycle.ready(now).or(notice),
                    Message::Alive => supervised.lifecycle.alive(now),
                    Message::Status(text) => {
                        tracing::info!(service = supervised.service.name, status = text);
                    }
                }
            }
            self.tell(index, notice);
            let settled = self.services.get_mut(index).and_then(|s| s.lifecycle.settle(now));
            self.tell(index, settled);
        }
    }

    /// All children, also those adopted from services that left them behind.
    fn reap(&mut self, now: Lived) {
        for _ in 0..REAPED_A_TURN {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "waitpid");
                    return;
                }
                Ok(status) => status,
            };
            let Some((pid, exit)) = Exit::of(status) else { continue };
            let predecessor = self.services.iter_mut().find_map(|supervised| {
                let at = supervised.predecessors.iter().position(|one| one.pid == pid)?;
                supervised.predecessors.remove(at);
                Some(&supervised.service.name)
            });
            if let Some(service) = predecessor {
                let _ = killpg(pid, Signal::SIGKILL);
                tracing::info!(service, pid = pid.as_raw(), %exit, "predecessor ended");
                continue;
            }
            let Some(index) = self.services.iter().position(|s| s.pid == Some(pid)) else {
                tracing::debug!(pid = pid.as_raw(), %exit, "adopted child reaped");
                continue;
            };
            let Some(supervised) = self.services.get_mut(index) else { continue };
            // What it said last counts: a one-shot may say READY and end in one breath.
            supervised.pid = None;
            supervised.notify = None;
            // Nothing of it may live on beside its successor.
            let _ = killpg(pid, Signal::SIGKILL);
            tracing::info!(service = supervised.service.name, pid = pid.as_raw(), %exit, "ended");
            let notice = supervised.lifecycle.ended(now, exit);
            self.tell(index, notice);
        }
    }

    fn tell(&mut self, index: usize, notice: Option<Notice>) {
        let (Some(supervised), Some(notice)) = (self.services.get(index), notice) else { return };
        // That a service without READY=1 runs is known to nobody, only that it ended.
        if supervised.service.notifies || notice != Notice::Running {
            (self.announce)(&format!("{} {notice}", supervised.service.name));
        }
    }
}

impl Supervised {
    fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        // Not yet reaped, so the number is still this service's.
        if let Err(error) = killpg(pid, signal) {
            tracing::warn!(service = self.service.name, %signal, %error, "signal not sent");
        }
    }
}
