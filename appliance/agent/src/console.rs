//! The console's socket: logins, roles, and an answer for each request.
//!
//! This is the place where it is decided what a role may do (SPEC L5); the console only shows.
//! Not for: how answers look. Fails by refusing in words, or by closing a connection that does not
//! speak the protocol.

mod authorisation;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{spawn_blocking, spawn_local};
use tracing::{info, warn};
use weir_api::capture::{FromCapture, ToCapture};
use weir_api::console::{CipherView, Greeting, Health, MOST_RECORDS, Request, Response, Role};
use weir_api::frame::{self, FrameError};
use weir_api::init::{ENGINE_SERVICE, ToInit};
use weir_api::links::ToLinks;
use weir_api::rules::MOST_LISTED;
use weir_policy::SecretBytes;
use weir_policy::snapshot::SegmentId;

use self::authorisation::authorise;
use crate::accounts::Throttle;
use crate::capture;
use crate::journal;
use crate::links;
use crate::live;
use crate::logging::LogLines;
use crate::machine;
use crate::peers::{self, AllowedPeers};
use crate::rules;
use crate::sessions;
use crate::state::State;

/// Consoles at one time; past it connections are closed at once.
const MOST_CONNECTIONS: usize = 16;

/// Largest request: a login. A longer one closes the connection.
const LARGEST_REQUEST: usize = 64 << 10;

/// Captures that end with one console; of more the oldest go on to their bounds. There is one a port.
const MOST_CAPTURES: usize = 128;

/// What all consoles share.
pub struct Consoles {
    pub state: Rc<RefCell<State>>,
    pub init_socket: PathBuf,
    pub links_socket: PathBuf,
    pub capture_socket: PathBuf,
    pub log: LogLines,
    /// Held through a whole attempt, so that attempts are judged one after another.
    pub throttle: Mutex<Throttle>,
}

/// Accepts consoles for ever.
pub async fn serve(consoles: Rc<Consoles>, listener: UnixListener) {
    let allowed = AllowedPeers::named(&["weir-console"]);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "console socket: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match allowed.admit(&stream) {
            Err(error) => warn!(%error, "console socket: connection refused"),
            // One of the references is this listener's own.
            Ok(_) if Rc::strong_count(&consoles) > MOST_CONNECTIONS => {
                warn!("console socket: more than {MOST_CONNECTIONS} connections; one refused");
            }
            Ok(uid) => {
                spawn_local(serve_one(consoles.clone(), stream, uid));
            }
        }
    }
}

async fn serve_one(consoles: Rc<Consoles>, mut stream: UnixStream, uid: Uid) {
    let login_free = peers::needs_no_login(uid);
    let mut console = Console { consoles, login_free, login: None, captures: Vec::new() };
    if let Err(error) = console.talk(&mut stream).await {
        warn!(%error, "console connection closed");
    }
    console.end_captures().await;
}

/// One connection.
struct Console {
    consoles: Rc<Consoles>,
    /// The peer's credentials make it superuser.
    login_free: bool,
    login: Option<(String, Role)>,
    /// Names of captures that it started and has not seen end; at most [`MOST_CAPTURES`].
    captures: Vec<String>,
}

impl Console {
    async fn talk(&mut self, stream: &mut UnixStream) -> Result<(), FrameError> {
        while let Some(request) = frame::read_at_most(stream, LARGEST_REQUEST).await? {
            let response = self.answer(request).await;
            frame::write(stream, &response).await?;
        }
        Ok(())
    }

    fn role(&self) -> Option<Role> {
        if let Some((_, role)) = &self.login {
            return Some(*role);
        }
        if self.login_free {
            return Some(Role::Superuser);
        }
        (!self.consoles.state.borrow().accounts.can_log_in()).then_some(Role::Viewer)
    }

    fn user(&self) -> &str {
        match &self.login {
            Some((user, _)) => user,
            None if self.login_free => "(by the peer's credentials)",
            None => "(no login)",
        }
    }

    async fn answer(&mut self, request: Request) -> Response {
        if let Err(refused) = authorise(self.role(), &request) {
            return Response::Refused(refused);
        }
        let state = &self.consoles.state;
        match request {
            Request::Greeting => Response::Greeting(self.greeting()),
            Request::Login { user, password } => self.log_in(user, password).await,
            Request::Version => self.version().await,
            Request::Health => self.health().await,
            Request::Segments => Response::Segments(state.borrow().segment_views()),
            Request::VirtualSegments => rules::show_virtual_segments(state).await,
            Request::Capture(request) => self.capture(&request).await,
            Request::TlsInspection => {
                Response::TlsInspection(Box::new(state.borrow().tls_inspection_view()))
            }
            Request::Ciphers => Response::Ciphers(CipherView::table()),
            Request::Sessions { limit } => {
                Response::Sessions(sessions::newest(state, limit.min(MOST_RECORDS)).await)
            }
            Request::LiveSessions { limit } => {
                live::show_sessions(state, limit.min(MOST_LISTED)).await
            }
            Request::ShowLearnt => live::show_learnt(state).await,
            Request::ForgetLearntOf(what) => live::forget_learnt(state, self.user(), what).await,
            Request::TlsInspectionLog { limit } => {
                let limit = limit.min(MOST_RECORDS);
                Response::Sessions(state.borrow().tls_inspection_log.newest(limit))
            }
            Request::Events { limit } => {
                Response::Events(state.borrow().events.newest(limit.min(MOST_RECORDS)))
            }
            Request::Log { limit } => self.log(limit).await,
            Request::Configuration => Response::Configuration(state.borrow().document.clone()),
            Request::ForceFallback(on) => self.force_fallback(on),
            Request::ForgetLearnt => self.forget_learnt(),
            Request::Reboot => self.order(ToInit::Reboot, "the appliance reboots").await,
            Request::PowerOff => self.order(ToInit::PowerOff, "the appliance shuts down").await,
            Request::KillEngine => {
                let kill = ToInit::KillService { name: ENGINE_SERVICE.into() };
                self.order(kill, "the engine was killed; supervision restarts it").await
            }
            Request::RestartEngine => {
                let replace = ToInit::ReplaceService { name: ENGINE_SERVICE.into() };
                let done = "a new engine starts; the old one keeps the sessions it has";
                self.order(replace, done).await
            }
            Request::ClearSessions => self.clear_sessions(),
            Request::HighAvailability => {
                let links = links::ask(&self.consoles.links_socket, &ToLinks::Status).await;
                Response::HighAvailability(Box::new(state.borrow().high_availability(&links)))
            }
            Request::RestartPorts(segment) => self.restart_ports(segment).await,
            Request::Quarantine { host, minutes } => {
                rules::quarantine(state, self.user(), host, minutes).await
            }
            Request::ReleaseHost(host) => rules::release(state, self.user(), host).await,
            Request::ShowQuarantine => rules::show_quarantine(state).await,
            Request::TrafficFilters => rules::show_traffic_filters(state).await,
            Request::InspectionBypass => rules::show_inspection_bypass(state).await,
            Request::Reputation { address } => {
                Response::Reputation(rules::show_reputation(&state.borrow(), address))
            }
            Request::Explain(packet) => rules::explain(state, *packet).await,
        }
    }

    fn greeting(&self) -> Greeting {
        let state = self.consoles.state.borrow();
        Greeting {
            hostname: hostname(&state),
            version: env!("CARGO_PKG_VERSION").into(),
            login_possible: state.accounts.can_log_in(),
            provisioning_errors: state.configuration_errors.clone(),
            role: self.role(),
        }
    }

    async fn log_in(&mut self, user: String, password: SecretBytes) -> Response {
        let mut throttle = self.consoles.throttle.lock().await;
        tokio::time::sleep(throttle.delay()).await;
        let accounts = self.consoles.state.borrow().accounts.clone();
        let name = user.clone();
        let role = spawn_blocking(move || accounts.verify(&name, &password)).await.ok().flatten();
        match role {
            Some(role) => {
                throttle.succeeded();
                drop(throttle);
                info!(user, ?role, "login");
                self.login = Some((user.clone(), role));
                Response::LoggedIn { user, role }
            }
            None => {
                throttle.failed();
                // The name may be a password typed one prompt too early: its length is enough.
                warn!(name_length = user.len(), "login refused");
                Response::Refused("Login incorrect".into())
            }
        }
    }

    async fn version(&self) -> Response {
        let machine = machine::status(&self.consoles.init_socket).await.ok();
        let kernel = machine.as_ref().map(|machine| machine.kernel.clone());
        Response::Version {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: kernel.filter(|kernel| !kernel.is_empty()).unwrap_or_else(running_kernel),
            slot: machine.and_then(|machine| machine.slot),
        }
    }

    async fn health(&self) -> Response {
        // Newer than what the agent's own round has.
        let machine = machine::status(&self.consoles.init_socket).await.ok();
        let state = self.consoles.state.borrow();
        Response::Health(Box::new(Health {
            machine,
            engine_connected: state.engine.connections > 0,
            engine_starts: state.engine.starts,
            generation: state.snapshot().generation,
            fallback_forced: state.fallback_forced(),
            availability: state.availability(),
            inspection_off: state.inspection_off_everywhere(),
            warnings: state.all_warnings(),
        }))
    }

    async fn log(&self, limit: usize) -> Response {
        let own = self.consoles.log.clone();
        match spawn_blocking(move || journal::newest(limit, &own)).await {
            Ok(lines) => Response::Log(lines),
            Err(error) => Response::Refused(format!("the log cannot be read: {error}")),
        }
    }

    fn forget_learnt(&self) -> Response {
        let state = self.consoles.state.borrow();
        if state.engine.connections == 0 {
            return Response::Refused("no engine is connected, so none has learnt anything".into());
        }
        info!(user = self.user(), "learnt bypasses forgotten by command");
        state.orders.send_modify(|orders| {
            orders.forget_learnt = orders.forget_learnt.wrapping_add(1);
        });
        Response::Done("learnt bypasses and exceptions are forgotten".into())
    }

    async fn capture(&mut self, request: &ToCapture) -> Response {
        if !matches!(request, ToCapture::List | ToCapture::Progress { .. }) {
            warn!(user = self.user(), ?request, "order to the capture helper");
        }
        match capture::ask(&self.consoles.capture_socket, request).await {
            FromCapture::Refused(reason) => Response::Refused(reason),
            answer => {
                self.note_capture(&answer);
                Response::Capture(answer)
            }
        }
    }

    fn note_capture(&mut self, answer: &FromCapture) {
        match answer {
            FromCapture::Started(name) => {
                if self.captures.len() == MOST_CAPTURES {
                    self.captures.remove(0);
                }
                self.captures.push(name.clone());
            }
            // Its name may be another's from now on.
            FromCapture::Progress(progress) if progress.ended.is_some() => {
                self.captures.retain(|name| *name != progress.name);
            }
            _ => {}
        }
    }

    /// Nobody follows them any more, and each keeps its port from others.
    async fn end_captures(&mut self) {
        for name in std::mem::take(&mut self.captures) {
            info!(name, "capture ends with its console");
            let stop = ToCapture::Stop(name);
            if let FromCapture::Refused(reason) =
                capture::ask(&self.consoles.capture_socket, &stop).await
            {
                info!(reason, "capture not stopped"); // it ended by itself
            }
        }
    }

    fn force_fallback(&self, on: bool) -> Response {
        warn!(user = self.user(), on, "Layer-2 fallback by command");
        let state = self.consoles.state.borrow();
        if let Err(error) = state.force_fallback(on) {
            warn!(%error, "the order is in force, but not kept over a restart of the agent");
        }
        Response::Done(
            match (on, state.engine.connections) {
                (true, _) => "Layer-2 fallback is forced on all segments",
                (false, 0) => "normal operation is asked for; no engine is connected yet",
                (false, _) => "normal operation",
            }
            .into(),
        )
    }

    async fn restart_ports(&self, segment: SegmentId) -> Response {
        warn!(user = self.user(), segment = segment.0, "ports restarted by command");
        match links::ask(&self.consoles.links_socket, &ToLinks::Restart(segment)).await {
            Ok(_) => Response::Done(format!("the ports of segment {} come up", segment.0)),
            Err(reason) => Response::Refused(reason),
        }
    }

    fn clear_sessions(&self) -> Response {
        warn!(user = self.user(), "proxied sessions cleared by command");
        let state = self.consoles.state.borrow();
        if state.engine.connections_of_all_kinds() == 0 {
            return Response::Refused(
                "no engine is connected: there are no proxied sessions".into(),
            );
        }
        state.orders.send_modify(|orders| orders.sessions_cleared += 1);
        let counted = state.counters().map(|counters| counters.sessions_decrypted_now);
        let decrypted = counted.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        Response::Done(format!(
            "proxied sessions are reset at both ends; decrypted at the last count: {decrypted}"
        ))
    }

    async fn order(&self, order: ToInit, done: &str) -> Response {
        warn!(user = self.user(), ?order, "order to init");
        match machine::order(&self.consoles.init_socket, &order).await {
            Ok(()) => Response::Done(done.into()),
            Err(error) => Response::Refused(error.to_string()),
        }
    }
}

fn hostname(state: &State) -> String {
    state.hostname.clone().or_else(running_hostname).unwrap_or_else(|| "weir".into())
}

fn running_hostname() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

fn running_kernel() -> String {
    nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}
