//! Plaintext between the two legs of a session, inspected before it is forwarded; and bytes as they
//! are between the two streams of a flow that was taken and then excepted.
//!
//! Back-pressure: a side is read only while the other side's out buffer is under its high water, and
//! its own is not full of answers that its peer does not take.
//! Ends: a closed direction is closed on the other side the same way (with a close_notify where
//! there was one), the other direction lives on; a side that ends by an alert ends the other by the
//! nearest one; a side whose TCP breaks resets the other, also where it is not being read; a dropped
//! session resets as the proxy's options say.

mod direction;
mod ending;
mod renegotiation;
mod side;
#[cfg(test)]
pub(crate) mod testing;
mod timer;
mod waiting;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;
use weir_api::engine::{Carried, End, SessionRecord};
use weir_dataplane::{
    DYING, FlowGuard, Patience, RelayFault, Relayed, TakenFlow, acknowledged, idle_for, why_gone,
};
use weir_inspect::{Direction, Dropped, Session as InspectedSession};
use weir_policy::Resets;
use weir_policy::outcome::Blocked;
use weir_policy::snapshot::Service;
use weir_tls::LegError;

use self::direction::Input;
pub use self::direction::Scratch;
pub use self::renegotiation::Insistence;
use self::renegotiation::Renegotiation;
use self::side::Side;
use self::timer::{Purpose, Timer};
use self::waiting::{Event, Watched, next_event};
use crate::closing::{DRAIN, Dies, close_in_order, last_words};
use crate::compiled::FlowPolicy;
use crate::leg::{Leg, LegFault};
use crate::runtime::Surroundings;

/// Events in a row, of 64 KiB each at most, that were there without a wait: after them a session lets the
/// runtime's others have a turn. Tokio's own measure is 128 steps, which on a slow processor is longer than
/// [`crate::health`] suffers.
const TURN: u32 = 4;

/// For how long a client's tickets wait for its first words, to go with what is answered to those: most say
/// them right behind their Finished.
const FIRST_WORDS: Duration = Duration::from_millis(20);

/// How long the server of a client that left may say nothing: as long as a client that ended and is there
/// is not asked.
const LEFT: Duration = Duration::from_secs(3600);

/// A session being relayed.
pub struct Relay<'a> {
    client: Side,
    server: Side,
    guard: &'a FlowGuard,
    flow: &'a FlowPolicy<'a>,
    inspected: InspectedSession,
    resets_on_block: Resets,
    surroundings: &'a Rc<Surroundings>,
    record: &'a mut SessionRecord,
    started: Instant,
    client_spoke: bool,
    rejected: bool,
    renegotiation: Renegotiation,
    /// Seconds; 0: never.
    idle_timeout: u32,
    /// Where an end is gone, or both have ended.
    dies: Dies,
}

/// How a relayed session ended.
pub struct Ended {
    pub blocked: Option<Blocked>,
    /// The client left, or said so, because of the certificate it was shown.
    pub certificate_rejected: bool,
    /// The server wanted to renegotiate, which was refused.
    pub renegotiation: Option<Insistence>,
}

/// Why a relay stopped early.
enum Fault {
    Client(LegFault),
    Server(LegFault),
    /// One is gone, and the other takes nothing of what it said last.
    Abandoned(End, LegFault),
    /// Both have ended, and this one takes nothing of what the other said last.
    Silent(End),
    Dropped(Dropped),
    /// Neither has said anything for as long as the device's idle timeout.
    Idle,
}

impl Fault {
    fn of(end: End, fault: LegFault) -> Self {
        match end {
            End::Client => Self::Client(fault),
            End::Server => Self::Server(fault),
        }
    }
}

impl<'a> Relay<'a> {
    pub fn new(
        (client, server): (Leg, Leg),
        guard: &'a FlowGuard,
        flow: &'a FlowPolicy<'a>,
        service: Service,
        surroundings: &'a Rc<Surroundings>,
        record: &'a mut SessionRecord,
    ) -> Self {
        Self {
            client: Side::of(client),
            server: Side::of(server),
            guard,
            flow,
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
            renegotiation: Renegotiation::default(),
            idle_timeout: flow.idle_timeout,
            dies: Dies::default(),
        }
    }

    /// To the end.
    pub async fn run(mut self) -> Ended {
        let ended = self.turn().await;
        let told = matches!(ended, Err(Fault::Server(LegFault::Tls(LegError::AlertReceived(_)))));
        match &ended {
            Err(Fault::Server(_) | Fault::Abandoned(End::Server, _)) => {
                self.renegotiation.ended(End::Server);
            }
            // Ours, too, is no server's word.
            Err(_) => self.renegotiation.ended(End::Client),
            Ok(()) => {}
        }
        let renegotiation = self.renegotiation.insistence(told);
        let blocked = match ended {
            Ok(()) => {
                let (client, server) = (&self.client.leg.stream, &self.server.leg.stream);
                // Where its FIN alone is not acknowledged nothing was lost.
                if let Err(silent) = close_in_order(client, server, self.dies.at()).await {
                    self.note_broken(silent, &late());
                }
                None
            }
            Err(Fault::Client(fault)) => self.broken(End::Client, &fault).await,
            Err(Fault::Server(fault)) => self.broken(End::Server, &fault).await,
            Err(Fault::Abandoned(by, fault)) => {
                self.note_broken(by, &fault);
                self.cut_short(by);
                None // both are reset by the drop of their streams
            }
            Err(Fault::Silent(end)) => {
                self.note_broken(end, &late());
                self.count_cut_short(end.other());
                None // as above
            }
            Err(Fault::Dropped(dropped)) => Some(self.block(&dropped)),
            Err(Fault::Idle) => {
                // Both are reset: by an end in order half a message would pass for a whole one.
                self.record.idle = Some(self.idle_timeout);
                None
            }
        };
        Ended { blocked, certificate_rejected: self.rejected, renegotiation }
    }

    async fn turn(&mut self) -> Result<(), Fault> {
        // Application data may have come with the last handshake message.
        self.take_in(Direction::ToClient, Input::Buffered)?;
        self.take_in(Direction::ToServer, Input::Buffered)?;
        // The client's tickets go with the first answer: a client that says something and closes at once
        // would answer them with a reset, and its server has said nothing that draws one.
        self.client.withholds =
            self.nothing_said_to_client() && !self.client.leg.tls.peer_awaits_last_flight();
        let mut timer = (self.client.withholds && self.client.leg.unsent() > 0)
            .then(|| Timer::new(Purpose::Tickets, FIRST_WORDS))
            .or_else(|| self.next_timer());
        let guard = self.guard;
        let mut asked = pin!(guard.asked());
        let (mut in_a_row, mut first) = (0, End::Client);
        loop {
            self.client.push().map_err(Fault::Client)?;
            self.server.push().map_err(Fault::Server)?;
            if self.client.done() && self.server.done() {
                return Ok(());
            }
            match &timer {
                Some(Timer { purpose: Purpose::Drain { .. }, .. }) => {}
                _ if self.client.ended && self.server.ended => {
                    self.dies.at();
                    timer = Some(Timer::new(self.drains(), DRAIN));
                }
                Some(Timer { purpose: Purpose::Tickets, .. }) if self.client_spoke => {
                    timer = self.next_timer();
                }
                _ => {}
            }
            if in_a_row >= TURN {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
            // Neither side comes first always.
            first = if first == End::Client { End::Server } else { End::Client };
            let watched = self.watched();
            let (event, waited) =
                next_event(watched, first, timer.as_mut(), asked.as_mut()).await?;
            in_a_row = if waited { 0 } else { in_a_row + 1 };
            match event {
                Event::Readable(end) => {
                    self.take_in(sent_by(end), Input::Wire)?;
                }
                Event::Progress(end) => {
                    self.take_in(sent_by(end), Input::Buffered)?;
                }
                Event::Writable => {}
                Event::Gone(end) => {
                    self.is_gone(end)?;
                    if self.client.left {
                        timer = self.next_timer();
                    }
                }
                Event::Abandoned(end) => {
                    let (side, _) = self.sides(sent_by(end));
                    return Err(Fault::Abandoned(end, why_gone(&side.leg.stream).into()));
                }
                Event::Asked(ends) => {
                    // Who ended in order may be gone, and would answer with a reset.
                    let [client, server] = ends;
                    if server && self.client.left {
                        return Err(Fault::Client(reset()));
                    }
                    let ends = [client && !self.server.ended, server && !self.client.ended];
                    guard.pass_on(ends, &self.client.leg.stream, &self.server.leg.stream);
                    asked.set(guard.asked());
                }
                Event::Time => match timer.as_mut().map(|timer| timer.purpose) {
                    Some(before @ Purpose::Drain { .. }) => {
                        let now = self.drains();
                        let next = tokio::time::Instant::now() + DRAIN;
                        if now == before || next >= self.dies.at() {
                            let silent = if self.client.done() { End::Server } else { End::Client };
                            return Err(Fault::Silent(silent));
                        }
                        timer = Some(Timer::new(now, DRAIN));
                    }
                    Some(Purpose::Tickets) => {
                        self.client.has_tickets = self.client.withholds;
                        self.client.withholds = false;
                        timer = self.next_timer();
                    }
                    Some(Purpose::Idle) => {
                        let idle = idle_for([&self.client.leg.stream, &self.server.leg.stream]);
                        timer = self.idle_timer(idle);
                        if timer.is_none() {
                            return Err(Fault::Idle);
                        }
                    }
                    Some(Purpose::Left) => return Err(Fault::Client(reset())),
                    None => {}
                },
            }
        }
    }

    fn watched(&mut self) -> [Watched<'_>; 2] {
        let (client, server) = (&mut self.client, &mut self.server);
        let wanted = [client.wanted(server), server.wanted(client)];
        for (side, wanted) in [&mut *client, &mut *server].into_iter().zip(wanted) {
            if wanted.read || side.ended {
                side.patience = None;
            }
        }
        Watched::both([client, server], wanted)
    }

    /// What bounds the session from now on, if anything does.
    fn next_timer(&self) -> Option<Timer> {
        if self.client.left && !(1..=LEFT.as_secs()).contains(&self.idle_timeout.into()) {
            return Some(Timer::new(Purpose::Left, LEFT));
        }
        self.idle_timer(Duration::ZERO)
    }

    /// For the rest of the device's idle timeout, of which so much is over; `None`: none is left, or there is
    /// no such time. Nothing is noted for each record: the kernel is asked when it could be over.
    fn idle_timer(&self, idle: Duration) -> Option<Timer> {
        let rest = Duration::from_secs(self.idle_timeout.into()).checked_sub(idle)?;
        (!rest.is_zero()).then(|| Timer::new(Purpose::Idle, rest))
    }

    /// How far both ends have come in taking what was said to them last.
    fn drains(&self) -> Purpose {
        let [client, server] = [&self.client, &self.server].map(|side| &side.leg.stream);
        let acknowledged = acknowledged(client).wrapping_add(acknowledged(server));
        Purpose::Drain { acknowledged: acknowledged as u32 }
    }

    fn nothing_said_to_client(&self) -> bool {
        self.record.bytes.is_none_or(|bytes| bytes.to_client == 0)
    }

    /// A side that nobody reads at the moment is gone. One that had ended in order ends the session so,
    /// unless a word of ours drew its reset: its server has said none. What another said last is waited
    /// for, and the error comes behind it.
    fn is_gone(&mut self, end: End) -> Result<(), Fault> {
        let unanswered = end == End::Client && self.nothing_said_to_client();
        let (side, _) = self.sides(sent_by(end));
        if side.ended {
            let by_words_of_ours = unanswered && side.left_by_words_of_ours();
            let error = why_gone(&side.leg.stream);
            // One that vanished without a word drew nothing.
            let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            if by_words_of_ours && kinds.contains(&error.kind()) {
                side.leave();
                return Ok(());
            }
            return Err(Fault::of(end, error.into()));
        }
        let since = self.dies.since();
        let (side, other) = self.sides(sent_by(end));
        side.patience = Some(Patience::with(&other.leg.stream, since));
        Ok(())
    }

    /// The side that sends in `direction`, and the one that receives.
    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }
}

/// What a client that left would answer to its server.
fn reset() -> LegFault {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn late() -> LegFault {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

fn sent_by(end: End) -> Direction {
    match end {
        End::Client => Direction::ToServer,
        End::Server => Direction::ToClient,
    }
}

/// Byte for byte, both ways, to the end: a flow that was taken with an incomplete hello and then
/// proved excepted (SPEC D12).
/// `idle_timeout`: of the device.
pub async fn as_is(mut taken: TakenFlow, idle_timeout: u32, record: &mut SessionRecord) {
    let mut relayed = Relayed::default();
    let idle = (idle_timeout > 0).then(|| Duration::from_secs(idle_timeout.into()));
    let result = taken.relay(&mut relayed, idle).await;
    record.bytes = Some(Carried { to_server: relayed.to_server, to_client: relayed.to_client });
    let dies = relayed.gone_since.unwrap_or_else(tokio::time::Instant::now) + DYING;
    match result {
        Ok(()) => {
            if let Err(silent) = close_in_order(&taken.client, &taken.server, dies).await {
                debug!(%silent, "relayed flow's last bytes not taken; both ends are reset");
            }
        }
        Err(RelayFault::Idle) => record.idle = Some(idle_timeout),
        Err(error @ RelayFault::Tcp(_)) => {
            debug!(%error, "relayed flow broke; both ends are reset");
            last_words(&taken.client, &taken.server, dies).await;
        }
    }
}
