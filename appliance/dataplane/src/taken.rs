//! Taking a flow over in mid-flight, and what is left of it afterwards.
//!
//! For: from a held flow to two kernel sockets whose sequence numbers go on where the ends were.
//! Not for: moving bytes between them. Where a socket cannot be made the flow is released.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::{SockAddr, SockRef, Socket};
use tokio::net::TcpStream;
use weir_policy::{Place, Resets};

use crate::acknowledgement::Acknowledgement;
use crate::assembly::Assembly;
use crate::core::{Core, Count, Disposition, Finished, Shared};
use crate::frame::{ACK, FIN};
use crate::held::{HeldFlow, NotHeld, TakeOverError, other};
use crate::layout::{END_TIMESTAMPS, END_WINDOW_SCALE, EVASION_TABLE_FULL, FlowKey, State};
use crate::loads::Load;
use crate::segment_of_ours::Segment;
use crate::socket::{Position, ask, bind_beside_others, place, speak, timestamp_after};
use crate::state::Swap;

/// A flow whose two ends are sockets of this process.
#[derive(Debug)]
pub struct TakenFlow {
    /// Speaks to the client, for the server. Its first byte is the one after `received`.
    pub client: TcpStream,
    /// Speaks to the server, for the client. Nothing was sent to the server yet.
    pub server: TcpStream,
    /// The client's bytes that came before the takeover.
    pub received: Vec<u8>,
    /// Tells the client that they arrived. Its next bytes may wait for that: the rest of a hello by Nagle's
    /// algorithm (RFC 9293 3.7.4). Who waits for them gives it at once.
    pub acknowledgement: Acknowledgement,
    /// Keep it as long as the streams.
    pub guard: FlowGuard,
}

/// Whether closing a taken flow's stream resets the connection (as streams come, so that an engine
/// that dies resets both ends) or ends it in order: FIN, after what was written.
pub fn set_reset_on_close(stream: &TcpStream, on: bool) -> io::Result<()> {
    SockRef::from(stream).set_linger(on.then_some(Duration::ZERO))
}

/// Keeps a taken flow's packets coming to its sockets. Dropped, the flow becomes a tombstone: what
/// still comes goes to the sockets while the kernel closes them, never to the bridge; the entry is
/// removed after 60 s without a packet, or by a new SYN.
#[derive(Debug)]
pub struct FlowGuard {
    core: Arc<Core>,
    shared: Arc<Shared>,
    key: FlowKey,
    id: u64,
    /// Whose socket pool is its.
    runtime: usize,
    /// Its handshake is over.
    settled: bool,
}

impl FlowGuard {
    fn new(core: &Arc<Core>, shared: &Arc<Shared>, key: FlowKey, id: u64, runtime: usize) -> Self {
        core.taken_now.fetch_add(1, Ordering::Relaxed);
        core.loads.add(runtime, Load::Taken);
        Self {
            core: Arc::clone(core),
            shared: Arc::clone(shared),
            key,
            id,
            runtime,
            settled: false,
        }
    }

    /// Where the flow is.
    pub fn place(&self) -> Place {
        crate::place::place(&self.key)
    }

    /// Has each end asked whether it is there when the other end asks (SPEC D17), for as long as it
    /// is polled. Poll it on the thread that reads and writes the flow's streams. Safe to cancel.
    pub async fn pass_keep_alives(&self, client: &TcpStream, server: &TcpStream) -> Infallible {
        loop {
            let asked = self.asked().await;
            self.pass_on(asked, client, server);
        }
    }

    /// Waits until the client, or the server, asked whether the other is there: for
    /// [`Self::pass_on`]. Safe to cancel.
    pub async fn asked(&self) -> [bool; 2] {
        loop {
            let asked = std::mem::take(&mut self.shared.lock().kept_alive);
            if asked != [false; 2] {
                return asked;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Asks the other end. On the thread that reads and writes the flow's streams.
    pub fn pass_on(
        &self,
        [client, server]: [bool; 2],
        to_client: &TcpStream,
        to_server: &TcpStream,
    ) {
        for (asked, other) in [(client, to_server), (server, to_client)] {
            if asked {
                self.pass_keep_alive(other);
            }
        }
    }

    fn pass_keep_alive(&self, to: &TcpStream) {
        match ask(to) {
            Ok(()) => {
                if let Some(links) = self.core.segments.get(&self.key.segment) {
                    self.shared.count(links, Count::KeepAlivePassed);
                }
            }
            Err(error) => tracing::debug!(%error, "keep-alive not passed on"),
        }
    }

    /// Says that the flow's handshake is over, whatever its outcome: until then it is among those of
    /// which one client may have only so many (`device.max-handshakes-per-client`).
    pub fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        if let Err(error) = self.core.state.settle(&self.key, self.id) {
            tracing::warn!(%error, "flow counts as in its handshake until it ends");
        }
    }

    /// Resets the connection to the server and opens another between the same ends: addresses,
    /// ports and path stay, and the client sees nothing of it. `client` and `server` are the flow's
    /// ends.
    ///
    /// # Errors
    /// The server does not answer, or no socket is left; the old connection is gone all the same.
    /// The caller bounds the wait.
    pub async fn connect_again(
        &self,
        old: TcpStream,
        client: SocketAddr,
        server: SocketAddr,
    ) -> io::Result<TcpStream> {
        let socket = self.core.socket(self.runtime, self.key.segment, server).await?;
        // What fits the way, as the first connection found.
        let most = SockRef::from(&old).tcp_mss();
        set_reset_on_close(&old, true)?;
        drop(old); // its address is free from here on
        if let Ok(most) = most {
            socket.set_tcp_mss(most)?;
        }
        bind_beside_others(&socket, client)?;
        match socket.connect(&SockAddr::from(server)) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

impl Drop for FlowGuard {
    fn drop(&mut self) {
        self.core.taken_now.fetch_sub(1, Ordering::Relaxed);
        self.core.loads.subtract(self.runtime, Load::Taken);
        let swap = self.core.state.swap(&self.key, self.id, State::Taken, State::Tombstone);
        if let Err(error) = &swap {
            tracing::warn!(%error, "flow's entry stays as taken for now");
        }
        let (disposition, changed) = (Disposition::Tombstone, swap.is_ok());
        self.core.finish(Finished { key: self.key, id: self.id, disposition, changed });
    }
}

impl HeldFlow {
    /// Takes the flow over. Call it inside the runtime that will own the streams. On an error the
    /// flow has been released, except for [`TakeOverError::Lost`] and [`TakeOverError::Blocked`].
    pub async fn take_over(mut self) -> Result<TakenFlow, TakeOverError> {
        self.judged();
        if self.flow.heard_the_end() {
            return Err(self.refuse_ended());
        }
        let decided = Instant::now();
        // Before the flow's lock, which is never held across a wait.
        let placed = match self.sockets().await {
            Ok(sockets) => self.place_sockets(sockets),
            Err(error) => Err(error),
        };
        let [client, server] = match placed {
            Ok(streams) => streams,
            Err(error) => {
                if let Some(links) = self.links() {
                    self.shared.count(links, count_of(&error));
                }
                if self.core.blocks(EVASION_TABLE_FULL) && self.block_now(Resets::BOTH).is_ok() {
                    return Err(TakeOverError::Blocked(Box::new(error)));
                }
                return Err(error); // dropped here: released
            }
        };
        // From here on the flow is ours: it cannot be released any more.
        let guard = FlowGuard::new(&self.core, &self.shared, self.key, self.id, self.runtime);
        if let Err(error) = speak(&client).and_then(|()| speak(&server)) {
            // Before the guard is dropped: the flow is no held one that could be given back.
            self.finish(Disposition::Taken);
            if let Some(links) = self.links() {
                self.shared.count(links, Count::Lost);
                self.reset(links, Resets::BOTH);
            }
            return Err(TakeOverError::Lost(error));
        }
        let (received, acknowledgement) = self.hand_over();
        if let Some(links) = self.links() {
            self.shared.taken_over_in(links, decided.elapsed());
        }
        Ok(TakenFlow { client, server, received, acknowledgement, guard })
    }

    /// What its server ended with no socket can say again, and nobody else will: it would wait for it for
    /// good. Nor does such an end make a bypass: it may be a decoy.
    fn refuse_ended(&mut self) -> TakeOverError {
        if let Some(links) = self.links() {
            self.shared.count(links, Count::ServerEnded);
        }
        match self.block_now(Resets::BOTH) {
            Ok(()) => TakeOverError::Blocked(Box::new(TakeOverError::ServerEnded)),
            Err(NotHeld) => TakeOverError::NotHeld,
        }
    }

    async fn sockets(&self) -> Result<[Socket; 2], TakeOverError> {
        let one = async |peer| {
            let socket = self.core.socket(self.runtime, self.key.segment, peer).await;
            socket.map_err(TakeOverError::Socket)
        };
        Ok([one(self.client()).await?, one(self.server()).await?])
    }

    /// The two sockets in the middle of the connection, still silent, and the flow's state changed.
    fn place_sockets(&mut self, sockets: [Socket; 2]) -> Result<[TcpStream; 2], TakeOverError> {
        let shared = Arc::clone(&self.shared);
        // Held until the state is changed: what comes by the ring meanwhile waits.
        let mut state = shared.lock();
        self.absorb_locked(&mut state);
        let Some(links) = self.links() else { return Err(TakeOverError::NotHeld) };
        let mtu = [self.from(), other(self.from())].map(|side| links.port(side).mtu());
        let [towards_client, towards_server] = self.positions(mtu);
        let [client, server] = sockets;
        // All that can fail comes before the change of state; closed before `speak`, the sockets
        // say nothing.
        place(&client, &towards_client)
            .map_err(|error| not_placed(error, TakeOverError::Client))?;
        place(&server, &towards_server)
            .map_err(|error| not_placed(error, TakeOverError::Server))?;
        let client = stream(client).map_err(TakeOverError::Client)?;
        let server = stream(server).map_err(TakeOverError::Server)?;
        let received = self.payload().len() as u32; // bounded by the assembly
        let time = self.client_timestamp();
        match self.core.state.taking(&self.key, self.id, received, time) {
            Ok(Swap::Done) => {}
            Ok(Swap::TupleOwned) => return Err(TakeOverError::TupleOwned),
            Ok(_) => return Err(TakeOverError::NotHeld),
            Err(error) => return Err(TakeOverError::Table(error)),
        }
        state.disposition = Disposition::Taken;
        Ok([client, server])
    }

    /// Where the two sockets stand in the connection. `mtu`: of the client's port and the server's.
    fn positions(&self, mtu: [u32; 2]) -> [Position<'_>; 2] {
        let [client, server] = &self.flow.end;
        let scaled = client.flags & server.flags & END_WINDOW_SCALE != 0;
        let timestamps = client.flags & server.flags & END_TIMESTAMPS != 0;
        let shift = if scaled { client.window_scale.min(14) } else { 0 };
        let client_window = u32::from(self.client_window()) << shift;
        // What the client heard its server does not say again.
        let server_start = self.flow.heard();
        // What the sockets send goes out as the other end's packets, in that end's tunnel.
        let [client_mtu, server_mtu] = mtu;
        let as_server = self.encapsulation(server, self.server()).overhead();
        let as_client = self.encapsulation(client, self.client()).overhead();
        let towards_client = Position {
            local: self.server(),
            remote: self.client(),
            own: server,
            peer: client,
            packet: client_mtu.saturating_sub(as_server),
            send: server_start,
            receive: self.assembly.next_sequence(),
            send_window: client_window,
            // As a server whose application has read what came.
            receive_window: u32::from(server.syn_window),
            timestamp: timestamps.then(|| timestamp_after(server.tsval)),
        };
        let towards_server = Position {
            local: self.client(),
            remote: self.server(),
            own: client,
            peer: server,
            packet: server_mtu.saturating_sub(as_client),
            send: client.isn.wrapping_add(1),
            receive: server_start,
            send_window: u32::from(server.syn_window),
            receive_window: client_window,
            timestamp: timestamps.then(|| timestamp_after(self.client_timestamp())),
        };
        [towards_client, towards_server]
    }

    /// Gives the sockets, which speak now, what the flow's packets said; returns the client's bytes.
    fn hand_over(&mut self) -> (Vec<u8>, Acknowledgement) {
        let (segment, several) = (self.acknowledging(), !self.came_in_one_segment());
        let acknowledgement =
            Acknowledgement::new(&self.core, self.key, self.id, self.from(), segment, several);
        let assembly = std::mem::replace(&mut self.assembly, Assembly::new(0, 0));
        let (received, rest) = assembly.into_parts();
        if let Some(links) = self.links() {
            for frame in rest {
                links.inject(frame);
            }
            self.shared.count(links, Count::TakenOver);
        }
        self.finish(Disposition::Taken);
        (received, acknowledgement)
    }

    fn came_in_one_segment(&self) -> bool {
        matches!(self.assembly.frames(), [frame] if frame.gso_size == 0 && frame.flags & FIN == 0)
    }

    /// What the server would tell its client now.
    fn acknowledging(&self) -> Segment {
        let [client, server] = &self.flow.end;
        let timestamps = client.flags & server.flags & END_TIMESTAMPS != 0;
        let scaled = client.flags & server.flags & END_WINDOW_SCALE != 0;
        let shift = if scaled { server.window_scale.min(14) } else { 0 };
        let times = (timestamp_after(server.tsval), self.client_timestamp());
        Segment {
            sequence: self.flow.heard(),
            acknowledged: self.assembly.next_sequence(),
            flags: ACK,
            window: server.syn_window >> shift,
            timestamps: timestamps.then_some(times),
            ..self.segment(server, self.server(), self.client())
        }
    }

    /// As in the newest frame of the client, not scaled.
    fn client_window(&self) -> u16 {
        self.assembly.newest().map_or(self.flow.end[0].syn_window, |frame| frame.window)
    }

    fn client_timestamp(&self) -> u32 {
        let newest = self.assembly.newest().and_then(|frame| frame.timestamp());
        newest.unwrap_or(self.flow.end[0].tsval)
    }
}

/// A namespace has one socket for a tuple: the flow of another VLAN or tunnel may have it.
fn not_placed(error: io::Error, otherwise: fn(io::Error) -> TakeOverError) -> TakeOverError {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => TakeOverError::TupleOwned,
        _ => otherwise(error),
    }
}

fn count_of(error: &TakeOverError) -> Count {
    match error {
        TakeOverError::TupleOwned => Count::TupleOwned,
        TakeOverError::NotHeld => Count::NotHeld,
        TakeOverError::Socket(_) => Count::NoSocket,
        TakeOverError::Client(error)
        | TakeOverError::Server(error)
        | TakeOverError::Table(error)
            if is_want_of_memory(error) =>
        {
            Count::NoMemory
        }
        _ => Count::TakeOverFailed,
    }
}

/// ENOSPC is epoll's for too many sockets.
fn is_want_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC))
}

fn stream(socket: Socket) -> io::Result<TcpStream> {
    TcpStream::from_std(socket.into())
}
