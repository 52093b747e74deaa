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
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::{FilterAction, FilterEvent, FromEngine, SessionRecord};
use weir_dataplane::TakenFlow;
use weir_inspect::{Alert, Direction, Dropped, Session as InspectedSession};
use weir_policy::outcome::Blocked;

use crate::compiled::{FlowPolicy, Proxy};
use crate::flow::milliseconds_now;
use crate::leg::{HIGH_WATER, Leg, LegFault, reset_on_close};
use crate::runtime::Surroundings;

/// After both directions ended: how long the last bytes and FINs may take.
const DRAIN: Duration = Duration::from_secs(30);

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
        surroundings: &'a Rc<Surroundings>,
        record: &'a mut SessionRecord,
    ) -> Self {
        let side = |leg| Side { leg, ended: false, closing: false, fin_sent: false };
        let reset_on_block = match &flow.proxy {
            Proxy::Server { proxy, .. } => (true, proxy.reset_server_on_block),
            Proxy::Client { proxy, .. } => (proxy.reset_client_on_block, true),
        };
        Self {
            client: side(client),
            server: side(server),
            inspected: InspectedSession::new(Arc::clone(flow.rules), flow.proxy.service()),
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
                self.last_words();
                None
            }
            Err(Fault::Server(fault)) => {
                debug!(session = self.record.id, %fault, "server side broke");
                self.last_words();
                None
            }
            Err(Fault::Dropped(dropped)) => {
                let (reset_client, reset_server) = self.reset_on_block;
                for (side, reset) in
                    [(&mut self.client, reset_client), (&mut self.server, reset_server)]
                {
                    reset_on_close(&side.leg.stream, reset);
                }
                if let Dropped::Filter(alert) = &dropped {
                    self.tell(alert, FilterAction::Block);
                }
                Some(blocked(&dropped))
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Fault> {
        // Application data may have come with the last handshake message.
        self.take_in(Direction::ToClient, Input::Buffered)?;
        self.take_in(Direction::ToServer, Input::Buffered)?;
        let mut drain = None;
        loop {
            self.client.push().map_err(Fault::Client)?;
            self.server.push().map_err(Fault::Server)?;
            if self.client.done() && self.server.done() {
                return Ok(());
            }
            if self.client.ended && self.server.ended && drain.is_none() {
                drain = Some(tokio::time::Instant::now() + DRAIN);
            }
            let read_client = !self.client.ended && self.server.leg.pending() < HIGH_WATER;
            let read_server = !self.server.ended && self.client.leg.pending() < HIGH_WATER;
            tokio::select! {
                ready = self.client.leg.stream.readable(), if read_client => {
                    ready.map_err(|error| Fault::Client(error.into()))?;
                    self.take_in(Direction::ToServer, Input::Wire)?;
                }
                ready = self.server.leg.stream.readable(), if read_server => {
                    ready.map_err(|error| Fault::Server(error.into()))?;
                    self.take_in(Direction::ToClient, Input::Wire)?;
                }
                ready = self.client.leg.stream.writable(), if self.client.leg.pending() > 0 => {
                    ready.map_err(|error| Fault::Client(error.into()))?;
                }
                ready = self.server.leg.stream.writable(), if self.server.leg.pending() > 0 => {
                    ready.map_err(|error| Fault::Server(error.into()))?;
                }
                () = until(drain) => return Ok(()),
            }
        }
    }

    /// One read of the side that sends in `direction`: decrypt, inspect, encrypt for the other.
    fn take_in(&mut self, direction: Direction, input: Input) -> Result<(), Fault> {
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
        let eof = match input {
            Input::Buffered => false,
            Input::Wire => match from.leg.stream.try_read(wire) {
                Ok(0) => true,
                Ok(read) => {
                    let fed = from.leg.tls.read_wire(wire.get(..read).unwrap_or_default());
                    // Answers first, alerts too: they go out even where the feed failed.
                    from.leg.collect();
                    fed.map_err(|error| fault(error.into()))?;
                    false
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(fault(error.into())),
            },
        };
        from.leg.tls.read_plain(plain);
        let closed = from.leg.tls.peer_closed();
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

        let length = u64::try_from(forward.len()).unwrap_or(u64::MAX);
        let total = match direction {
            Direction::ToServer => &mut self.record.bytes_to_server,
            Direction::ToClient => &mut self.record.bytes_to_client,
        };
        *total = total.saturating_add(length);
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
        Ok(())
    }

    /// The side that sends in `direction`, and the one that receives.
    fn sides(&mut self, direction: Direction) -> (&mut Side, &mut Side) {
        match direction {
            Direction::ToServer => (&mut self.client, &mut self.server),
            Direction::ToClient => (&mut self.server, &mut self.client),
        }
    }

    /// A broken session: alerts that TLS still wants to send go out if TCP takes them; both ends
    /// are reset when the streams are dropped.
    fn last_words(&mut self) {
        for side in [&mut self.client, &mut self.server] {
            side.leg.collect();
            let _ = side.leg.flush_some();
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

    fn done(&self) -> bool {
        self.ended && self.fin_sent
    }
}

/// Waits until both ends acknowledged everything, FIN included, then lets the streams close without
/// a reset. A peer that never acknowledges is reset after [`DRAIN`].
async fn close_in_order(client: &TcpStream, server: &TcpStream) {
    let deadline = tokio::time::Instant::now() + DRAIN;
    let mut pause = Duration::from_millis(1);
    while unacknowledged(client) || unacknowledged(server) {
        if tokio::time::Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    reset_on_close(client, false);
    reset_on_close(server, false);
}

nix::ioctl_read_bad!(
    /// SIOCOUTQ (tcp(7)): bytes sent and not yet acknowledged, FIN counted as one.
    output_queue, TIOCOUTQ, c_int
);

fn unacknowledged(stream: &TcpStream) -> bool {
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

fn blocked(dropped: &Dropped) -> Blocked {
    match dropped {
        Dropped::Filter(alert) => Blocked::Filter(alert.sid),
        Dropped::HeadTooLarge => Blocked::HeadTooLarge,
        Dropped::ProtocolViolation(_) => Blocked::ProtocolViolation,
    }
}

/// Byte for byte, both ways, to the end: a flow that was taken with an incomplete hello and then
/// proved excepted (SPEC D12).
pub async fn as_is(taken: TakenFlow) {
    let TakenFlow { mut client, mut server, received, guard } = taken;
    let relayed = async {
        server.write_all(&received).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    match relayed.await {
        Ok(_) => close_in_order(&client, &server).await,
        Err(error) => debug!(%error, "relayed flow broke; both ends are reset"),
    }
    drop((client, server, guard));
}
