//! Plaintext between the two legs of a session, inspected before it is forwarded; and bytes as they
//! are between the two streams of a flow that was taken and then excepted.
//!
//! Back-pressure: a side is read only while the other side's out buffer is under its high water, and
//! its own is not full of answers that its peer does not take.
//! Ends: a closed direction is closed on the other side the same way (with a close_notify where
//! there was one), the other direction lives on; a side that ends by an alert ends the other by the
//! nearest one; a side whose TCP breaks resets the other; a dropped session resets as the proxy's
//! options say.

mod direction;
mod ending;
mod side;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tracing::debug;
use weir_api::engine::{End, SessionRecord};
use weir_dataplane::{FlowGuard, Relayed, TakenFlow};
use weir_inspect::{Direction, Dropped, Session as InspectedSession};
use weir_policy::Resets;
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::Service;

use self::direction::Input;
pub use self::direction::Scratch;
use self::side::{Event, Side, Wanted};
use crate::closing::{DRAIN, close_in_order};
use crate::compiled::FlowPolicy;
use crate::leg::{Leg, LegFault};
use crate::runtime::Surroundings;

/// Reads of 64 KiB after which a session lets the runtime's others have a turn. Tokio's own measure
/// is 128 steps, which on a slow processor is longer than [`crate::health`] suffers.
const TURN: u32 = 4;

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
        Self {
            client: Side::of(client),
            server: Side::of(server),
            guard,
            inspected: InspectedSession::with_rules_by_direction(
                flow.rules.map(Arc::clone),
                service,
            ),
            resets_on_block: flow.proxy.resets_on_block(),
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

    async fn turn(&mut self) -> Result<(), Fault> {
        // Application data may have come with the last handshake message.
        self.take_in(Direction::ToClient, Input::Buffered)?;
        self.take_in(Direction::ToServer, Input::Buffered)?;
        // The client's tickets: it has asked already, and the answer is on its way.
        self.client.withholds = self.client_spoke
            && self.record.bytes_to_client == 0
            && !self.client.leg.tls.peer_awaits_last_flight();
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
        [self.client.wanted(&self.server), self.server.wanted(&self.client)]
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

    /// The side that sends in `direction`, and the one that receives.
    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }
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
