//! `weir-agent run`: joins configuration, engine socket, console socket and supervision in one
//! loop, and ends at SIGTERM.
//!
//! Not for: what any of them does. Fails at start, where a socket cannot be bound, and where a
//! listener ends: supervision then starts an agent that hears again. A bad configuration is refused
//! and the running one stays.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tracing::{error, info, warn};
use weir_api::init::Mode;
use weir_api::paths;
use weir_policy::snapshot::{CertifiedKey, Snapshot};

use crate::accounts::Throttle;
use crate::configuration::{Loaded, Sources};
use crate::console::{self, Consoles};
use crate::logging::{self, LogLines};
use crate::machine::{self, MachineError};
use crate::notify::Supervisor;
use crate::state::State;
use crate::{authority, engine, links, peers};

/// How often init is asked how the machine is.
const MACHINE_ROUND: Duration = Duration::from_secs(10);

/// How often it is looked whether Layer-2 fallback came or went.
const AVAILABILITY_ROUND: Duration = Duration::from_millis(250);

#[derive(Args)]
pub struct Options {
    /// Configuration documents, TOML or YAML by their names' ends; a later one wins. The image's
    /// own is read where none is given.
    #[arg(long, value_name = "FILE")]
    configuration: Vec<PathBuf>,
    /// What `weir-agent provision` left; may be missing.
    #[arg(long, value_name = "FILE", default_value = paths::PROVISIONED)]
    provisioned: PathBuf,
    /// Errors that `weir-agent provision` left; may be missing.
    #[arg(long, value_name = "FILE", default_value = paths::PROVISIONING_ERRORS)]
    provisioning_errors: PathBuf,
    /// Where the untrusted CA is kept.
    #[arg(long, value_name = "DIR", default_value = "/data/agent")]
    state: PathBuf,
    #[arg(long, value_name = "PATH", default_value = paths::ENGINE_SOCKET)]
    engine_socket: PathBuf,
    #[arg(long, value_name = "PATH", default_value = paths::CONSOLE_SOCKET)]
    console_socket: PathBuf,
    /// May be missing: the lab has no init.
    #[arg(long, value_name = "PATH", default_value = paths::INIT_SOCKET)]
    init_socket: PathBuf,
    /// May be missing: the lab has none of its own.
    #[arg(long, value_name = "PATH", default_value = paths::LINKS_SOCKET)]
    links_socket: PathBuf,
    #[arg(long, value_name = "PATH", default_value = paths::CAPTURE_SOCKET)]
    capture_socket: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let log = logging::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    LocalSet::new().block_on(&runtime, serve(options, log))
}

async fn serve(options: &Options, log: LogLines) -> anyhow::Result<()> {
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let engines = peers::listen(&options.engine_socket)?;
    let listener = peers::listen(&options.console_socket)?;

    let state = Rc::new(RefCell::new(State::default()));
    let mut policy = Policy::new(options, state.clone());
    state.borrow_mut().keep_orders_in(&options.state);
    look_at_machine(&state, &options.init_socket).await;
    policy.load();

    let mut engines = spawn_local(engine::serve(state.clone(), engines));
    let consoles = Rc::new(Consoles {
        state: state.clone(),
        init_socket: options.init_socket.clone(),
        links_socket: options.links_socket.clone(),
        capture_socket: options.capture_socket.clone(),
        log,
        throttle: Mutex::new(Throttle::default()),
    });
    let mut consoles = spawn_local(console::serve(consoles, listener));
    let supervisor = Supervisor::from_environment();
    supervisor.ready();
    info!(version = env!("CARGO_PKG_VERSION"), "agent ready");

    let mut alive = tokio::time::interval(Supervisor::interval());
    let mut availability_round = tokio::time::interval(AVAILABILITY_ROUND);
    let mut availability = String::new();
    let mut machine_round = tokio::time::interval(MACHINE_ROUND);
    let end = loop {
        tokio::select! {
            _ = alive.tick() => supervisor.alive(),
            _ = availability_round.tick() => tell_availability(&mut state.borrow_mut(), &mut availability),
            _ = machine_round.tick() => {
                look_at_machine(&state, &options.init_socket).await;
                policy.follow_mode();
                // Again each round: the service may have been started anew.
                configure_links(&state, &options.links_socket).await;
            }
            Some(()) = hang_up.recv() => {
                policy.load();
                configure_links(&state, &options.links_socket).await;
            }
            () = either(&mut terminate, &mut interrupt) => break Ok(()),
            deaf = first_end(&mut engines, &mut consoles) => break Err(deaf),
        }
    };
    info!("agent stops");
    for socket in [&options.engine_socket, &options.console_socket] {
        let _ = fs::remove_file(socket);
    }
    end
}

/// Waits for the end of a listener. They accept for ever, so it is a failure, whichever it is.
async fn first_end(engines: &mut JoinHandle<()>, consoles: &mut JoinHandle<()>) -> anyhow::Error {
    let (socket, end) = tokio::select! {
        end = engines => ("engine", end),
        end = consoles => ("console", end),
    };
    match end {
        Ok(()) => anyhow!("{socket} socket: the listener ended"),
        Err(error) => anyhow!("{socket} socket: the listener failed: {error}"),
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

async fn configure_links(state: &RefCell<State>, socket: &Path) {
    let settings = links::settings(&state.borrow().snapshot());
    match links::ask(socket, &settings).await {
        Ok(_) => {}
        Err(error) if socket.exists() => warn!(error, "link-down synchronisation not configured"),
        Err(_) => {}
    }
}

/// A line in the system log with each change.
fn tell_availability(state: &mut State, last: &mut String) {
    let now = state.availability();
    let lasted = state.note_fallback();
    if now != *last {
        match (state.inspection_off_everywhere(), lasted) {
            (Some(off), _) => warn!("{now}; inspection is off: {}", off.crosses),
            (None, Some(lasted)) => info!("{now}; inspection was off for {} s", lasted.as_secs()),
            (None, None) => info!("{now}"),
        }
        *last = now;
    }
}

async fn look_at_machine(state: &RefCell<State>, init_socket: &Path) {
    match machine::status(init_socket).await {
        Ok(status) => state.borrow_mut().machine = Some(status),
        Err(MachineError::NoInit(_)) => {}
        // The last status stands.
        Err(error) => warn!(%error, "machine status"),
    }
}

/// Compiles the policy and puts it in force.
struct Policy {
    state: Rc<RefCell<State>>,
    sources: Sources,
    provisioning_errors: PathBuf,
    authority: Option<CertifiedKey>,
    /// `None`: nothing valid was ever loaded; the appliance bridges.
    loaded: Option<Loaded>,
    generation: Generation,
    /// The mode that the policy in force was compiled for.
    mode: Option<Mode>,
}

impl Policy {
    fn new(options: &Options, state: Rc<RefCell<State>>) -> Self {
        let authority = match authority::load_or_make(&options.state) {
            Ok((authority, None)) => Some(authority),
            Ok((authority, Some(warning))) => {
                warn!("{warning}");
                state.borrow_mut().warnings.push(warning);
                Some(authority)
            }
            Err(error) => {
                error!("untrusted CA: {error:#}");
                state.borrow_mut().warnings.push(format!("no untrusted CA: {error:#}"));
                None
            }
        };
        Self {
            state,
            sources: Sources::new(&options.configuration, &options.provisioned),
            provisioning_errors: options.provisioning_errors.clone(),
            authority,
            loaded: None,
            generation: Generation::kept_in(&options.state),
            mode: None,
        }
    }

    /// Reads all layers and puts them in force; a bad one is refused whole.
    fn load(&mut self) {
        let mut errors = provisioning_errors(&self.provisioning_errors);
        match self.sources.load() {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    warn!("{warning}");
                }
                let mut state = self.state.borrow_mut();
                state.document.clone_from(&loaded.document);
                state.hostname.clone_from(&loaded.hostname);
                state.configuration_warnings.clone_from(&loaded.warnings);
                state.accounts = loaded.accounts.clone();
                drop(state);
                self.loaded = Some(loaded);
                self.put_in_force();
            }
            Err(refused) => {
                for line in &refused {
                    error!("configuration refused: {line}");
                }
                errors.extend(refused);
                if self.loaded.is_none() {
                    warn!("no valid configuration: TLS inspection is off, segments bridge");
                    self.put_in_force();
                }
            }
        }
        self.state.borrow_mut().configuration_errors = errors;
    }

    /// SPEC L3: TLS inspection needs performance mode.
    fn follow_mode(&mut self) {
        if self.mode.is_some_and(|mode| mode != self.state.borrow().mode()) {
            self.put_in_force();
        }
    }

    fn put_in_force(&mut self) {
        let generation = self.generation.next();
        let mode = self.state.borrow().mode();
        let mut snapshot = match &self.loaded {
            Some(loaded) => loaded.compile(generation, self.authority.clone()),
            None => Snapshot { generation, ..Snapshot::default() },
        };
        if mode == Mode::Normal || self.loaded.is_none() {
            snapshot.device.client_inspection = false;
            snapshot.device.server_inspection = false;
        }
        if mode == Mode::Normal {
            warn!("normal mode: TLS inspection is off");
        }
        info!(generation, "policy compiled");
        self.mode = Some(mode);
        let state = self.state.borrow();
        state.orders.send_modify(|orders| orders.snapshot = Arc::new(snapshot));
    }
}

fn provisioning_errors(path: &Path) -> Vec<String> {
    match fs::read_to_string(path) {
        Ok(text) => text.lines().map(ToOwned::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// Numbers generations; goes on over restarts of the agent where the state can be written, so that
/// a session's generation names one policy.
struct Generation {
    last: u64,
    file: PathBuf,
}

impl Generation {
    fn kept_in(state: &Path) -> Self {
        let file = state.join("generation");
        let last = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Self { last: last.unwrap_or(0), file }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        // Memory only where it fails; the untrusted CA's warning tells of the same directory.
        let _ = fs::write(&self.file, format!("{}\n", self.last));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_listener_that_ends_or_panics_is_a_failure_of_the_agent() {
        LocalSet::new()
            .run_until(async {
                let mut lives = spawn_local(pending());
                let mut ends = spawn_local(async {});
                let error = first_end(&mut ends, &mut lives).await;
                assert_eq!(error.to_string(), "engine socket: the listener ended");
                let mut panics = spawn_local(async { panic!("expected by the test") });
                let error = first_end(&mut lives, &mut panics).await;
                assert!(error.to_string().starts_with("console socket: the listener failed"));
                assert!(error.to_string().contains("panicked"), "{error}");
            })
            .await;
    }
}
