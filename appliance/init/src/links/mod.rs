//! Link-down synchronisation (SPEC D7): `weir-init links`, a service of its own, so that it works
//! whatever becomes of engine and agent.
//!
//! For: watching the links of all segments' ports in the wire namespace and taking ports down and up
//! as each segment's setting says. Not for: deciding (see [`synchronisation`]) and not for making
//! segments. Fails at start, where the namespace cannot be entered or the socket not be bound; later
//! faults are logged and tried again with the next look.

mod ports;
mod synchronisation;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caps::{CapSet, Capability};
use nix::unistd::{Uid, User};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use weir_api::frame;
use weir_api::init::BootPlan;
use weir_api::links::{FromLinks, LinkSettings, LinkStatus, ToLinks};
use weir_api::paths;
use weir_dataplane::segment::Names;
use weir_policy::snapshot::{SegmentId, Side};

use ports::Ports;
use synchronisation::{Change, Synchronisation};

const USAGE: &str = "usage: weir-init links [--netns-prefix PREFIX] [--socket PATH] [--plan FILE]";

/// Waits pass and changes are seen to be done by then, without a link's event as well.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Largest question: all segments' settings.
const LARGEST_QUESTION: usize = 64 << 10;
/// Questions under way; past it a client waits.
const QUESTIONS: usize = 8;

struct Arguments {
    names: Names,
    socket: PathBuf,
    plan: PathBuf,
}

pub fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let arguments = parse(arguments)?;
    start_logging();
    // The process has one thread: all of it is in the wire namespace from here on.
    let wire = arguments.names.wire();
    let namespace =
        std::fs::File::open(&wire).with_context(|| format!("namespace {}", wire.display()))?;
    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("namespace {}", wire.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen(&arguments.socket)?;
        let ports = Ports::open()?;
        // Nothing else is needed of root's from here on.
        keep_only(Capability::CAP_NET_ADMIN).context("capabilities")?;
        let (questions, asked) = mpsc::channel(QUESTIONS);
        tokio::spawn(accept(listener, questions));
        let mut service = Service {
            segments: planned(&arguments.plan),
            names: arguments.names,
            ports,
            started: Instant::now(),
            links: BTreeMap::new(),
        };
        notify("READY=1");
        service.serve(asked).await
    })
}

/// This program's own lines: netlink's crates remark on each answer of a kernel newer than they are.
fn start_logging() {
    use tracing_subscriber::prelude::*;
    let own =
        tracing_subscriber::filter::Targets::new().with_target("weir_init", tracing::Level::INFO);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(lines).with(own).init();
}

fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut parsed = Arguments {
        names: Names::default(),
        socket: PathBuf::from(paths::LINKS_SOCKET),
        plan: PathBuf::from(paths::BOOT_PLAN),
    };
    while let Some(option) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{option} needs a value; {USAGE}"))?;
        match option.as_str() {
            "--netns-prefix" => parsed.names.prefix = value,
            "--socket" => parsed.socket = PathBuf::from(value),
            "--plan" => parsed.plan = PathBuf::from(value),
            _ => bail!("{option} is not an option; {USAGE}"),
        }
    }
    Ok(parsed)
}

/// The settings until the agent tells others: those of the boot plan.
fn planned(plan: &Path) -> BTreeMap<SegmentId, Synchronisation> {
    let plan: BootPlan = std::fs::read(plan)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let segments = plan.segments.iter().map(|segment| LinkSettings {
        segment: segment.id,
        mode: segment.link_down_synchronisation,
        wait: segment.wait_time,
    });
    segments.map(|settings| (settings.segment, Synchronisation::new(settings))).collect()
}

/// Who may connect is judged by credentials.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

fn keep_only(capability: Capability) -> Result<(), caps::errors::CapsError> {
    let kept = [capability].into_iter().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept)?;
    }
    caps::clear(None, CapSet::Inheritable)
}

struct Service {
    segments: BTreeMap<SegmentId, Synchronisation>,
    names: Names,
    ports: Ports,
    started: Instant,
    /// As seen at the last look.
    links: BTreeMap<SegmentId, [bool; 2]>,
}

/// A question and the client that waits for its answer.
type Question = (ToLinks, tokio::sync::oneshot::Sender<FromLinks>);

impl Service {
    async fn serve(&mut self, mut asked: mpsc::Receiver<Question>) -> anyhow::Result<()> {
        let mut due = tokio::time::interval(LOOK_EVERY);
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = due.tick() => notify("WATCHDOG=1"),
                event = self.ports.changed() => event.context("link events")?,
                Some((question, answer)) = asked.recv() => {
                    let told = self.answer(question).await;
                    // A client that went away needs none.
                    let _ = answer.send(told);
                }
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let found = match self.ports.all().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "ports not read");
                return;
            }
        };
        let now = self.started.elapsed();
        let mut changes = Vec::new();
        for (id, synchronisation) in &mut self.segments {
            let port = |side| found.get(&self.names.port(*id, side)).copied().unwrap_or_default();
            let (a, b) = (port(Side::A), port(Side::B));
            if a.index == 0 || b.index == 0 {
                continue; // configured, but this machine has not got it
            }
            self.links.insert(*id, [a.port.link, b.port.link]);
            let before = synchronisation.taken_down();
            if let Some(change) = synchronisation.look(now, [a.port, b.port]) {
                let index = if change.side == Side::A { a.index } else { b.index };
                changes.push((*id, index, change, synchronisation.taken_down() != before));
            }
        }
        for (id, index, change, told) in changes {
            self.change(id, index, change, told).await;
        }
    }

    async fn change(&self, id: SegmentId, index: u32, change: Change, tell: bool) {
        let port = self.names.port(id, change.side);
        let mode = self.segments.get(&id).map_or("hub", |one| one.settings.mode.word());
        let done = self.ports.set(index, change.up).await;
        match (done, change.up) {
            (Err(error), _) => tracing::warn!(port, %error, "link-down synchronisation"),
            (Ok(()), false) if tell => tracing::warn!(
                "link-down synchronisation ({mode}): port {port} taken down, its partner lost its link"
            ),
            (Ok(()), true) => {
                tracing::warn!("link-down synchronisation ({mode}): port {port} brought up");
            }
            (Ok(()), false) => {}
        }
    }

    async fn answer(&mut self, question: ToLinks) -> FromLinks {
        match question {
            ToLinks::Status => {}
            ToLinks::Configure(settings) => self.configure(&settings),
            ToLinks::Restart(id) => {
                let now = self.started.elapsed();
                let Some(synchronisation) = self.segments.get_mut(&id) else {
                    return FromLinks::Refused(format!("there is no segment {}", id.0));
                };
                if synchronisation.restart(now).is_none() {
                    return FromLinks::Refused(format!(
                        "no port of segment {} was taken down",
                        id.0
                    ));
                }
                // The look that follows brings it up.
                self.look().await;
            }
        }
        FromLinks::Status(self.statuses())
    }

    fn configure(&mut self, settings: &[LinkSettings]) {
        for (id, synchronisation) in &mut self.segments {
            if !settings.iter().any(|one| one.segment == *id) {
                synchronisation.settings = Synchronisation::hub(*id).settings;
            }
        }
        for one in settings {
            self.segments
                .entry(one.segment)
                .and_modify(|synchronisation| synchronisation.settings = *one)
                .or_insert_with(|| Synchronisation::new(*one));
        }
    }

    fn statuses(&self) -> Vec<LinkStatus> {
        let status = |(id, synchronisation): (&SegmentId, &Synchronisation)| {
            let links = *self.links.get(id)?;
            let taken_down = synchronisation.taken_down();
            Some(LinkStatus { segment: *id, links, taken_down })
        };
        self.segments.iter().filter_map(status).collect()
    }
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>) {
    let mut allowed = vec![Uid::from_raw(0), Uid::current()];
    allowed.extend(User::from_name(crate::stage2::AGENT_USER).ok().flatten().map(|user| user.uid));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        match stream.peer_cred() {
            Ok(peer) if allowed.contains(&Uid::from_raw(peer.uid())) => {
                // One after another: the agent is the only client.
                let served =
                    tokio::time::timeout(Duration::from_secs(5), client(stream, &questions));
                if let Ok(Err(error)) = served.await {
                    tracing::warn!(%error, "client cut off");
                }
            }
            Ok(peer) => tracing::warn!(uid = peer.uid(), "may not ask"),
            Err(error) => tracing::warn!(%error, "credentials of a client"),
        }
    }
}

async fn client(
    mut stream: UnixStream,
    questions: &mpsc::Sender<Question>,
) -> Result<(), frame::FrameError> {
    while let Some(question) = frame::read_at_most(&mut stream, LARGEST_QUESTION).await? {
        let (answer, told) = tokio::sync::oneshot::channel();
        if questions.send((question, answer)).await.is_err() {
            return Ok(());
        }
        let Ok(told) = told.await else { return Ok(()) };
        frame::write(&mut stream, &told).await?;
    }
    Ok(())
}

/// sd_notify, where the supervisor gave a socket. A lost datagram is made up by the next.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}
