//! Plaintext between the two legs of a session, inspected before it is forwarded; and bytes as they
//! are between the two streams of a flow that was taken and then excepted.
//!
//! Back-pressure: a side is read only while the other side's out buffer is under its high water.
//! Ends: a closed direction is closed on the other side the same way (with a close_notify where
//! there was one), the other direction lives on; a broken side resets the other; a dropped session
//! resets as the proxy's options say.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::libc::{TIOCOUTQ, c_int};
use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::{FilterAction, FilterEvent, FromEngine, SessionRecord};
use weir_dataplane::{Relayed, TakenFlow};
use weir_inspect::{Alert, Direction, Dropped, Session as InspectedSession};
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::Service;

use crate::compiled::{FlowPolicy, Proxy};
use crate::flow::milliseconds_now;
use crate::leg::{HIGH_WATER, Leg, LegFault, progress, reset_on_close};
use crate::runtime::Surroundings;

/// After both directions ended: how long the last bytes and FINs may take.
const DRAIN: Duration = Duration::from_secs(30);

/// Reads of 64 KiB after which a session lets the runtime's others have a turn. Tokio's own measure
/// is 128 steps, which on a slow processor is longer than [`crate::health`] suffers.
const TURN: u32 = 4;

/// Buffers of one runtime, used by one session at a time, never across an await.
pub struct Scratch {
    wire: Vec<u8>,
    plain: Vec<u8>,
    forward: Vec<u8>,
    alerts: Vec<Alert>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { wire: vec![0; 64 << 10], plain: Vec::new(), forward: Vec::new(), alerts: Vec::new() }
    }
}

/// A session being relayed.
pub struct Relay<'a> {
    client: Side,
    server: Side,
    inspected: InspectedSession,
    /// Reset on a block: (client, server) (SPEC T8).
    reset_on_block: (bool, bool),
    surroundings: &'a Rc<Surroundings>,
    record: &'a mut SessionRecord,
}

struct Side {
    leg: Leg,
    /// TCP has said its last.
    fin_received: bool,
    /// Nothing more will be read from it.
    ended: bool,
    /// Nothing more will be sent to it: FIN follows the last byte.
    closing: bool,
    fin_sent: bool,
}

/// Why a relay stopped early.
enum Fault {
    Client(LegFault),
    Server(LegFault),
    Dropped(Dropped),
}

impl<'a> Relay<'a> {
    pub fn new(
        client: Leg,
        server: Leg,
        flow: &FlowPolicy<'_>,
        service: Service,
        surroundings: &'a Rc<Surroundings>,
        record: &'a mut SessionRecord,
    ) -> Self {
        let side =
            |leg| Side { leg, fin_received: false, ended: false, closing: false, fin_sent: false };
        let reset_on_block = match &flow.proxy {
            Proxy::Server { proxy, .. } => (true, proxy.reset_server_on_block),
            Proxy::Client { proxy, .. } => (proxy.reset_client_on_block, true),
        };
        Self {
            client: side(client),
            server: side(server),
            inspected: InspectedSession::with_rules_by_direction(
                flow.rules.map(Arc::clone),
                service,
            ),
            reset_on_block,
            surroundings,
            record,
        }
    }

    /// To the end; `Some` where the session was blocked.
    pub async fn run(mut self) -> Option<Blocked> {
        match self.turn().await {
            Ok(()) => {
                let (client, server) = (&self.client.leg.stream, &self.server.leg.stream);
                close_in_order(client, server).await;
                None
            }
            Err(Fault::Client(fault)) => {
                debug!(session = self.record.id, %fault, "client side broke");
                self.wind_down(Direction::ToServer).await
            }
            Err(Fault::Server(fault)) => {
                debug!(session = self.record.id, %fault, "server side broke");
                self.wind_down(Direction::ToClient).await
            }
            Err(Fault::Dropped(dropped)) => Some(self.block(&dropped)),
        }
    }

    /// The session is dropped: both sides are closed as the proxy's options say.
    fn block(&self, dropped: &Dropped) -> Blocked {
        let (reset_client, reset_server) = self.reset_on_block;
        reset_on_close(&self.client.leg.stream, reset_client);
        reset_on_close(&self.server.leg.stream, reset_server);
        if let Dropped::Filter(alert) = dropped {
            self.tell(alert, FilterAction::Block);
        }
        dropped.into()
    }

    /// The side that sends in `direction` broke. What it sent before still goes to the other side,
    /// as it would without us (a server that answers and then resets is common); then the other
    /// side is reset by the drop of its stream.
    async fn wind_down(&mut self, direction: Direction) -> Option<Blocked> {
        loop {
            let (from, to) = self.sides(direction);
            if !from.reads() || to.leg.pending() >= HIGH_WATER {
                break;
            }
            match self.take_in(direction, Input::Wire) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) | Err(Fault::Client(_) | Fault::Server(_)) => break,
                Err(Fault::Dropped(dropped)) => return Some(self.block(&dropped)),
            }
        }
        // What a leg whose work is done elsewhere was given before.
        let settled = async {
            while self.sides(direction).0.leg.tls.in_progress().wire > 0 {
                progress(&mut self.sides(direction).0.leg.tls).await;
                match self.take_in(direction, Input::Buffered) {
                    Ok(_) => {}
                    Err(Fault::Client(_) | Fault::Server(_)) => break,
                    Err(Fault::Dropped(dropped)) => return Some(self.block(&dropped)),
                }
            }
            None
        };
        if let Ok(Some(blocked)) = tokio::time::timeout(DRAIN, settled).await {
            return Some(blocked);
        }
        let (from, to) = self.sides(direction);
        // An alert to the broken side, if TLS has one and TCP takes it.
        from.leg.collect();
        let _ = from.leg.flush_some();
        to.leg.collect();
        let delivered = async {
            to.leg.flush_all().await?;
            wait_for_acknowledgement(&to.leg.stream).await;
            Ok::<(), io::Error>(())
        };
        // Past it the other side is reset with what it did not take.
        let _ = tokio::time::timeout(DRAIN, delivered).await;
        None
    }

    async fn turn(&mut self) -> Result<(), Fault> {
        // Application data may have come with the last handshake message.
        self.take_in(Direction::ToClient, Input::Buffered)?;
        self.take_in(Direction::ToServer, Input::Buffered)?;
        let mut drain = None;
        let mut reads: u32 = 0;
        loop {
            self.client.push().map_err(Fault::Client)?;
            self.server.push().map_err(Fault::Server)?;
            if self.client.done() && self.server.done() {
                return Ok(());
            }
            if self.client.ended && self.server.ended && drain.is_none() {
                drain = Some(tokio::time::Instant::now() + DRAIN);
            }
            reads = reads.wrapping_add(1);
            if reads.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
            let read_client = self.client.reads() && self.server.leg.pending() < HIGH_WATER;
            let read_server = self.server.reads() && self.client.leg.pending() < HIGH_WATER;
            let (to_client, to_server) = (self.client.leg.unsent(), self.server.leg.unsent());
            tokio::select! {
                ready = self.client.leg.stream.readable(), if read_client => {
                    ready.map_err(|error| Fault::Client(error.into()))?;
                    self.take_in(Direction::ToServer, Input::Wire)?;
                }
                ready = self.server.leg.stream.readable(), if read_server => {
                    ready.map_err(|error| Fault::Server(error.into()))?;
                    self.take_in(Direction::ToClient, Input::Wire)?;
                }
                ready = self.client.leg.stream.writable(), if to_client > 0 => {
                    ready.map_err(|error| Fault::Client(error.into()))?;
                }
                ready = self.server.leg.stream.writable(), if to_server > 0 => {
                    ready.map_err(|error| Fault::Server(error.into()))?;
                }
                () = progress(&mut self.client.leg.tls) => {
                    self.take_in(Direction::ToServer, Input::Buffered)?;
                }
                () = progress(&mut self.server.leg.tls) => {
                    self.take_in(Direction::ToClient, Input::Buffered)?;
                }
                () = until(drain) => return Ok(()),
            }
        }
    }

    /// One read of the side that sends in `direction`: decrypt, inspect, encrypt for the other.
    fn take_in(&mut self, direction: Direction, input: Input) -> Result<Progress, Fault> {
        let surroundings = Rc::clone(self.surroundings);
        let mut scratch = surroundings.scratch.borrow_mut();
        let Scratch { wire, plain, forward, alerts } = &mut *scratch;
        plain.clear();
        forward.clear();
        alerts.clear();
        let fault = match direction {
            Direction::ToServer => Fault::Client,
            Direction::ToClient => Fault::Server,
        };
        let (from, _) = self.sides(direction);
        let mut broken = None;
        match input {
            // Of a leg whose work is done elsewhere, also its error.
            Input::Buffered => {
                broken = from.leg.tls.read_wire(&[]).err();
                from.leg.collect();
            }
            Input::Wire => match from.leg.stream.try_read(wire) {
                Ok(0) => from.fin_received = true,
                Ok(read) => {
                    // Plaintext that came before an error is still good.
                    broken = from.leg.tls.read_wire(wire.get(..read).unwrap_or_default()).err();
                    from.leg.collect();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Progress::None);
                }
                Err(error) => return Err(fault(error.into())),
            },
        }
        from.leg.tls.read_plain(plain);
        let closed = from.leg.tls.peer_closed();
        // An end is one when all that came before it has become plaintext.
        let eof = from.fin_received && from.leg.tls.in_progress().wire == 0;
        let eof = eof && !from.ended;
        let closed = closed && !from.ended;
        if eof || closed {
            from.ended = true;
        }

        let verdict = if plain.is_empty() {
            Ok(())
        } else {
            self.inspected.inspect(direction, plain, forward, alerts)
        };
        let verdict = match verdict {
            Ok(()) if eof || closed => self.inspected.finish(direction, forward, alerts),
            verdict => verdict,
        };
        for alert in alerts.iter() {
            self.tell(alert, FilterAction::Permit);
        }
        verdict.map_err(Fault::Dropped)?;

        self.count_bytes(direction, forward.len());
        let (_, to) = self.sides(direction);
        let other = match direction {
            Direction::ToServer => Fault::Server,
            Direction::ToClient => Fault::Client,
        };
        to.leg.send_plain(forward).map_err(other)?;
        if (eof || closed) && !to.closing {
            to.closing = true;
            if closed {
                to.leg.tls.close_notify();
                to.leg.collect();
            }
        }
        // What the other direction was made to wait with, this one may have set free.
        let back = direction.reverse();
        if self.inspected.is_released(back) {
            forward.clear();
            alerts.clear();
            let verdict = self.inspected.inspect(back, &[], forward, alerts);
            for alert in alerts.iter() {
                self.tell(alert, FilterAction::Permit);
            }
            verdict.map_err(Fault::Dropped)?;
            self.count_bytes(back, forward.len());
            let (_, to) = self.sides(back);
            to.leg.send_plain(forward).map_err(fault)?;
        }
        match broken {
            Some(error) => Err(fault(error.into())),
            None => Ok(Progress::Some),
        }
    }

    fn count_bytes(&mut self, direction: Direction, bytes: usize) {
        let total = match direction {
            Direction::ToServer => &mut self.record.bytes_to_server,
            Direction::ToClient => &mut self.record.bytes_to_client,
        };
        *total = total.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The side that sends in `direction`, and the one that receives.
    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }

    fn tell(&self, alert: &Alert, action: FilterAction) {
        self.surroundings.tell(FromEngine::Filter(Box::new(FilterEvent {
            session: self.record.id,
            time: milliseconds_now(),
            segment: self.record.segment,
            client: self.record.client,
            server: self.record.server,
            server_name: self.record.server_name.clone(),
            profile: self.record.profile.clone(),
            sid: alert.sid,
            rev: alert.rev,
            message: alert.message.to_string(),
            action,
            tls_inspected: true,
        })));
    }
}

/// Whether a step found something to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    None,
    Some,
}

/// Where a step's bytes come from.
#[derive(Clone, Copy)]
enum Input {
    /// What TLS has decrypted already.
    Buffered,
    Wire,
}

impl Side {
    /// Sends what TCP takes, and FIN after the last byte.
    fn push(&mut self) -> Result<(), LegFault> {
        self.leg.flush_some()?;
        if self.closing && !self.fin_sent && self.leg.pending() == 0 {
            self.fin_sent = true;
            shut_down(&self.leg.stream)?;
        }
        Ok(())
    }

    fn reads(&self) -> bool {
        !self.ended && !self.fin_received && self.leg.tls.wants_read()
    }

    fn done(&self) -> bool {
        self.ended && self.fin_sent
    }
}

/// Waits until both ends acknowledged everything, FIN included, then lets the streams close without
/// a reset. A peer that never acknowledges is reset after [`DRAIN`].
async fn close_in_order(client: &TcpStream, server: &TcpStream) {
    let acknowledged = async {
        wait_for_acknowledgement(client).await;
        wait_for_acknowledgement(server).await;
    };
    if tokio::time::timeout(DRAIN, acknowledged).await.is_ok() {
        reset_on_close(client, false);
        reset_on_close(server, false);
    }
}

/// The kernel has no event for it: asked in growing pauses.
async fn wait_for_acknowledgement(stream: &TcpStream) {
    let mut pause = Duration::from_millis(1);
    while unacknowledged(stream) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

nix::ioctl_read_bad!(
    /// SIOCOUTQ (tcp(7)): bytes sent and not yet acknowledged, FIN counted as one.
    output_queue, TIOCOUTQ, c_int
);

fn unacknowledged(stream: &TcpStream) -> bool {
    if stream.peer_addr().is_err() {
        return false; // reset by its peer: closed, whatever the queue says
    }
    let mut bytes = 0;
    // SAFETY: the descriptor is open while `stream` is borrowed, and TIOCOUTQ writes one int. No
    // safe wrapper of this ioctl exists for sockets.
    let result = unsafe { output_queue(std::os::fd::AsRawFd::as_raw_fd(stream), &raw mut bytes) };
    result.is_ok() && bytes > 0
}

/// FIN; the stream stays readable.
fn shut_down(stream: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        // The peer reset in the meantime: the read side will tell.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Byte for byte, both ways, to the end: a flow that was taken with an incomplete hello and then
/// proved excepted (SPEC D12).
pub async fn as_is(mut taken: TakenFlow, record: &mut SessionRecord) {
    let mut relayed = Relayed::default();
    let result = taken.relay(&mut relayed).await;
    record.bytes_to_server = relayed.to_server;
    record.bytes_to_client = relayed.to_client;
    match result {
        Ok(()) => close_in_order(&taken.client, &taken.server).await,
        Err(error) => debug!(%error, "relayed flow broke; both ends are reset"),
    }
}
