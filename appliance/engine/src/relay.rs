//! Plaintext between the two legs of a session, inspected before it is forwarded; and bytes as they
//! are between the two streams of a flow that was taken and then excepted.
//!
//! Back-pressure: a side is read only while the other side's out buffer is under its high water.
//! Ends: a closed direction is closed on the other side the same way (with a close_notify where
//! there was one), the other direction lives on; a side that ends by an alert ends the other by the
//! nearest one; a side whose TCP breaks resets the other; a dropped session resets as the proxy's
//! options say.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tracing::debug;
use weir_api::engine::{BreakRecord, End, FilterAction, FilterEvent, FromEngine, SessionRecord};
use weir_dataplane::{FlowGuard, Relayed, TakenFlow};
use weir_inspect::{Alert, Direction, Dropped, Session as InspectedSession};
use weir_policy::Resets;
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::Service;
use weir_tls::LegError;

use crate::closing::{DRAIN, close_in_order, part, shut_down, wait_for_acknowledgement};
use crate::compiled::{FlowPolicy, Proxy};
use crate::flow::milliseconds_now;
use crate::leg::{HIGH_WATER, Leg, LegFault, progress, reset_on_close};
use crate::runtime::Surroundings;

/// A client that closes so soon after the handshake, having said nothing, did not like the
/// certificate: so do programs that compare it with one that they know only once TLS is done.
const REJECTS_WITHIN: Duration = Duration::from_secs(1);

/// Within it the runtime has asked the kernel for what has already happened.
const NEXT_EVENT: Duration = Duration::from_millis(1);

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
    guard: &'a FlowGuard,
    inspected: InspectedSession,
    resets_on_block: Resets,
    surroundings: &'a Rc<Surroundings>,
    record: &'a mut SessionRecord,
    started: Instant,
    client_spoke: bool,
    rejected: bool,
}

/// How a relayed session ended.
pub struct Ended {
    pub blocked: Option<Blocked>,
    /// The client left, or said so, because of the certificate it was shown.
    pub certificate_rejected: bool,
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
        (client, server): (Leg, Leg),
        guard: &'a FlowGuard,
        flow: &FlowPolicy<'_>,
        service: Service,
        surroundings: &'a Rc<Surroundings>,
        record: &'a mut SessionRecord,
    ) -> Self {
        let side =
            |leg| Side { leg, fin_received: false, ended: false, closing: false, fin_sent: false };
        let resets_on_block = match &flow.proxy {
            Proxy::Server { proxy, .. } => proxy.resets_on_block(),
            Proxy::Client { proxy, .. } => proxy.resets_on_block(),
        };
        Self {
            client: side(client),
            server: side(server),
            guard,
            inspected: InspectedSession::with_rules_by_direction(
                flow.rules.map(Arc::clone),
                service,
            ),
            resets_on_block,
            surroundings,
            record,
            started: Instant::now(),
            client_spoke: false,
            rejected: false,
        }
    }

    /// To the end.
    pub async fn run(mut self) -> Ended {
        let blocked = match self.turn().await {
            Ok(()) => {
                let (client, server) = (&self.client.leg.stream, &self.server.leg.stream);
                close_in_order(client, server).await;
                None
            }
            Err(Fault::Client(fault)) => self.broken(End::Client, &fault).await,
            Err(Fault::Server(fault)) => self.broken(End::Server, &fault).await,
            Err(Fault::Dropped(dropped)) => Some(self.block(&dropped)),
        };
        Ended { blocked, certificate_rejected: self.rejected }
    }

    /// `by` broke the session, or ended it by an alert.
    async fn broken(&mut self, by: End, fault: &LegFault) -> Option<Blocked> {
        debug!(session = self.record.id, %by, %fault, "session broken");
        self.record.broken = Some(BreakRecord { by, words: fault.in_short() });
        let direction = sent_by(by);
        if by == End::Client {
            self.rejected |= match fault {
                LegFault::Tls(LegError::AlertReceived(alert)) => alert.rejects_certificate(),
                LegFault::Tcp(_) => self.left_at_once(),
                _ => false,
            };
        }
        self.wind_down(direction, fault.alert_for_other_side()).await
    }

    /// Of a client that leaves now.
    fn left_at_once(&self) -> bool {
        !self.client_spoke && self.started.elapsed() < REJECTS_WITHIN
    }

    /// The session is dropped: both sides are closed as the proxy's options say.
    fn block(&self, dropped: &Dropped) -> Blocked {
        reset_on_close(&self.client.leg.stream, self.resets_on_block.client);
        reset_on_close(&self.server.leg.stream, self.resets_on_block.server);
        if let Dropped::Filter(alert) = dropped {
            self.tell(alert, FilterAction::Block);
        }
        dropped.into()
    }

    /// The side that sends in `direction` broke. What it sent before still goes to the other side,
    /// as it would without us (a server that answers and then resets is common); then the other
    /// side gets `alert` and an orderly end, or is reset by the drop of its stream.
    async fn wind_down(
        &mut self,
        direction: Direction,
        alert: Option<weir_tls::Alert>,
    ) -> Option<Blocked> {
        loop {
            let (from, to) = self.sides(direction);
            if !from.reads() || to.leg.pending() >= HIGH_WATER {
                break;
            }
            match self.take_in(direction, Input::Wire) {
                Ok(Progress::Some) => {}
                Ok(Progress::None) => {
                    // What came since the last event is told by the next.
                    let more = self.sides(direction).0.leg.stream.readable();
                    if tokio::time::timeout(NEXT_EVENT, more).await.is_err() {
                        break;
                    }
                }
                Err(Fault::Client(_) | Fault::Server(_)) => break,
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
        if let Some(alert) = alert {
            tokio::join!(part(&mut from.leg, None), part(&mut to.leg, Some(alert)));
            return None;
        }
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
        let guard = self.guard;
        let mut asked = pin!(guard.asked());
        let mut drain = None;
        let mut reads: u32 = 0;
        loop {
            self.client.push().map_err(Fault::Client)?;
            self.server.push().map_err(Fault::Server)?;
            if self.client.done() && self.server.done() {
                return Ok(());
            }
            if self.client.ended && self.server.ended && drain.is_none() {
                drain = Some(Box::pin(tokio::time::sleep(DRAIN)));
            }
            reads = reads.wrapping_add(1);
            if reads.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
            let wanted = self.wanted();
            // Neither side comes first always.
            let first = if reads.is_multiple_of(2) { End::Client } else { End::Server };
            let event = poll_fn(|context| {
                if drain.as_mut().is_some_and(|drain| drain.as_mut().poll(context).is_ready()) {
                    return Poll::Ready(Ok(Event::Drained));
                }
                // Where bytes come and go, nobody need ask.
                let sides = self.poll_sides(first, wanted, context);
                if sides.is_ready() {
                    return sides;
                }
                asked.as_mut().poll(context).map(|asked| Ok(Event::Asked(asked)))
            });
            match event.await? {
                Event::Readable(end) => {
                    self.take_in(sent_by(end), Input::Wire)?;
                }
                Event::Progress(end) => {
                    self.take_in(sent_by(end), Input::Buffered)?;
                }
                Event::Writable => {}
                Event::Asked(ends) => {
                    guard.pass_on(ends, &self.client.leg.stream, &self.server.leg.stream);
                    asked.set(guard.asked());
                }
                Event::Drained => return Ok(()),
            }
        }
    }

    /// Of the client's side and the server's.
    fn wanted(&self) -> [Wanted; 2] {
        let wanted = |side: &Side, other: &Side| Wanted {
            read: side.reads() && other.leg.pending() < HIGH_WATER,
            write: side.leg.unsent() > 0,
        };
        [wanted(&self.client, &self.server), wanted(&self.server, &self.client)]
    }

    fn poll_sides(
        &mut self,
        first: End,
        [client, server]: [Wanted; 2],
        context: &mut Context<'_>,
    ) -> Poll<Result<Event, Fault>> {
        let mut poll = |end| match end {
            End::Client => self.client.poll(End::Client, client, context).map_err(Fault::Client),
            End::Server => self.server.poll(End::Server, server, context).map_err(Fault::Server),
        };
        let second = if first == End::Client { End::Server } else { End::Client };
        let event = poll(first);
        if event.is_ready() { event } else { poll(second) }
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
            Input::Wire => match from.leg.try_read(wire) {
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
            if direction == Direction::ToServer && plain.is_empty() && !self.server.ended {
                self.rejected = self.left_at_once();
            }
        }
        self.client_spoke |= direction == Direction::ToServer && !plain.is_empty();

        let unread = self.inspected.forwards_unread();
        let verdict = if plain.is_empty() || unread {
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

        let forward = if unread { plain } else { forward };
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
        if self.fin_sent {
            // What TLS would answer to its peer has no way any more (a KeyUpdate, for one).
            self.leg.discard();
            return Ok(());
        }
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

    fn poll(
        &mut self,
        end: End,
        wanted: Wanted,
        context: &mut Context<'_>,
    ) -> Poll<Result<Event, LegFault>> {
        let stream = &self.leg.stream;
        if wanted.read
            && let Poll::Ready(ready) = stream.poll_read_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Readable(end)).map_err(LegFault::Tcp));
        }
        if wanted.write
            && let Poll::Ready(ready) = stream.poll_write_ready(context)
        {
            return Poll::Ready(ready.map(|()| Event::Writable).map_err(LegFault::Tcp));
        }
        self.leg.tls.poll_progress(context).map(|()| Ok(Event::Progress(end)))
    }
}

/// What of a side is waited for.
#[derive(Clone, Copy)]
struct Wanted {
    read: bool,
    write: bool,
}

/// What a relay waits for.
enum Event {
    Readable(End),
    Writable,
    Progress(End),
    /// The client, and the server, asked whether the other is there.
    Asked([bool; 2]),
    /// Both sides ended, and had their time to take what is left.
    Drained,
}

fn sent_by(end: End) -> Direction {
    match end {
        End::Client => Direction::ToServer,
        End::Server => Direction::ToClient,
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
