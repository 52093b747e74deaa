//! Sockets of an engine's namespace, and putting one into the middle of a connection.
//!
//! For: TCP_REPAIR (Linux's checkpoint and restore of sockets): a socket that was never connected
//! speaks for one end of a flow from a given sequence number on. Not for: deciding which flow.
//! Fails with the option the kernel refused.
//!
//! Order and pitfalls, each found the hard way: options before TCP_REPAIR_WINDOW; TCP_MAXSEG before
//! connect, else the first segments are 524 bytes; the window scale always, else connect's own
//! default stays; bit 0 of TCP_TIMESTAMP means microseconds to newer kernels.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::TcpStream;
use weir_policy::snapshot::CongestionControl;

use crate::layout::{END_SACK, END_TIMESTAMPS, END_WINDOW_SCALE, End};
use crate::link::{set_option, set_option_bytes};

/// Sockets ready in the pool: two a flow, so flows do not wait for a system call in a namespace.
const POOL: usize = 64;
/// The pool is filled again when it has fewer: its thread is woken for many sockets at a time.
const LOW: usize = POOL / 2;
/// A socket is made in microseconds when the pool is empty; longer means descriptors ran out.
const WAITS: usize = 20;

/// How sockets of the pool control congestion, whatever the machine's own are made with: BBR's pacing
/// costs a timer for every few segments. (A namespace takes no default of its own that the first one does
/// not allow to everybody.)
const MADE_WITH: CongestionControl = CongestionControl::Cubic;

/// A value of `TCP_REPAIR`.
const REPAIR_OFF_NO_PROBE: i32 = -1;

/// Sockets of one engine namespace, for one runtime. A thread that lives in the namespace makes
/// them; it ends with the pool.
#[derive(Debug)]
pub struct SocketPool {
    ipv4: Family,
    ipv6: Family,
}

#[derive(Debug)]
struct Family(Arc<Store>);

#[derive(Debug, Default)]
struct Store {
    stock: Mutex<Stock>,
    low: Condvar,
}

#[derive(Debug, Default)]
struct Stock {
    sockets: Vec<Socket>,
    closed: bool,
}

impl SocketPool {
    pub fn start(namespace: &Path) -> io::Result<Self> {
        Ok(Self {
            ipv4: Family::start(namespace, Domain::IPV4)?,
            ipv6: Family::start(namespace, Domain::IPV6)?,
        })
    }

    /// A socket of the family of `peer`. Never blocks the runtime's thread: where the pool is empty
    /// its thread is waited for, for [`WAITS`] milliseconds at most.
    pub async fn take(&self, peer: SocketAddr, control: CongestionControl) -> io::Result<Socket> {
        let family = if peer.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let socket = family.take().await?;
        if control != MADE_WITH {
            socket.set_tcp_congestion(control.word().as_bytes())?;
        }
        Ok(socket)
    }
}

impl Family {
    fn start(namespace: &Path, domain: Domain) -> io::Result<Self> {
        let store = Arc::new(Store::default());
        let file = std::fs::File::open(namespace)?;
        let (entered, wait) = sync_channel(1);
        std::thread::Builder::new().name("weir-sockets".into()).stack_size(128 * 1024).spawn({
            let store = Arc::clone(&store);
            move || {
                let inside = nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET);
                let ready = inside.is_ok();
                let _ = entered.send(inside);
                if ready {
                    store.fill(domain);
                }
            }
        })?;
        wait.recv().map_err(io::Error::other)??;
        Ok(Self(store))
    }

    async fn take(&self) -> io::Result<Socket> {
        for _ in 0..WAITS {
            if let Some(socket) = self.0.take() {
                return Ok(socket);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.0.take().ok_or_else(|| io::Error::other("no socket was made in time"))
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.low.notify_one();
    }
}

impl Store {
    fn take(&self) -> Option<Socket> {
        let mut stock = self.lock();
        let socket = stock.sockets.pop();
        if stock.sockets.len() < LOW {
            self.low.notify_one();
        }
        socket
    }

    /// Makes sockets until the pool is gone. Where one cannot be made (no descriptors left) it
    /// waits a little and tries again: flows are released meanwhile.
    fn fill(&self, domain: Domain) {
        loop {
            let stock = self.lock();
            let enough = |stock: &mut Stock| !stock.closed && stock.sockets.len() >= LOW;
            let stock = self.low.wait_while(stock, enough).unwrap_or_else(PoisonError::into_inner);
            if stock.closed {
                return;
            }
            let missing = POOL.saturating_sub(stock.sockets.len());
            drop(stock);
            let mut default = None;
            for _ in 0..missing {
                match transparent(domain, &mut default) {
                    Ok(socket) => self.lock().sockets.push(socket),
                    Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                        tracing::info!(?domain, "no such sockets here: such flows are not taken");
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no socket for taking flows over");
                        std::thread::sleep(Duration::from_millis(100));
                        break;
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this kernel controls congestion so; a module is loaded for it where there is one.
pub fn is_known(control: CongestionControl) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    match socket.set_tcp_congestion(control.word().as_bytes()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        known => known.map(|()| true),
    }
}

/// `default`: whether sockets are made with [`MADE_WITH`] by themselves, once that is known.
fn transparent(domain: Domain, default: &mut Option<bool>) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    } else {
        set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    }
    socket.set_tcp_nodelay(true)?;
    let wanted = MADE_WITH.word().as_bytes();
    if default.is_none() {
        let named = socket.tcp_congestion()?;
        *default = Some(named.split(|byte| *byte == 0).next() == Some(wanted));
    }
    if *default != Some(true) {
        socket.set_tcp_congestion(wanted)?;
    }
    // When, the namespace says (`engine_namespace`).
    socket.set_keepalive(true)?;
    // An engine that dies resets both ends; an orderly close clears this.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// From where on, and how, a socket speaks for one end (`own`) to the other (`peer`).
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub own: &'a End,
    pub peer: &'a End,
    /// Largest IP packet that fits the port it leaves by, in its tunnel.
    pub packet: u32,
    /// Sequence number of the first byte to send, and to receive.
    pub send: u32,
    pub receive: u32,
    /// Bytes the peer may be sent, and the peer was told it may send.
    pub send_window: u32,
    pub receive_window: u32,
    /// First timestamp value to send; `None` where timestamps were not negotiated.
    pub timestamp: Option<u32>,
}

impl Position<'_> {
    /// Payload of a segment, TCP options included: what the peer takes (RFC 9293 3.7.1 where it did
    /// not say), and what fits the port. The peer's own packets are bounded by what the ends said.
    fn mss(&self) -> u32 {
        let (headers, unsaid) = if self.remote.is_ipv4() { (40, 536) } else { (60, 1220) };
        let peer = if self.peer.mss == 0 { unsaid } else { u32::from(self.peer.mss) };
        peer.min(self.packet.saturating_sub(headers)).clamp(88, 32767)
    }

    pub fn both(&self, flag: u8) -> bool {
        self.own.flags & self.peer.flags & flag != 0
    }
}

/// Puts a fresh socket into the connection. It stays in repair mode: nothing is sent, and closing
/// it sends nothing.
pub fn place(socket: &Socket, position: &Position<'_>) -> io::Result<()> {
    const TCP_RECV_QUEUE: i32 = 1;
    const TCP_SEND_QUEUE: i32 = 2;
    const OPTION_MSS: u32 = 2;
    const OPTION_WINDOW_SCALE: u32 = 3;
    const OPTION_SACK: u32 = 4;
    const OPTION_TIMESTAMPS: u32 = 8;
    let tcp = |name, value: u32| set_option(socket, libc::SOL_TCP, name, value as i32);

    tcp(libc::TCP_REPAIR, 1)?;
    socket.bind(&SockAddr::from(position.local))?;
    for (queue, sequence) in [(TCP_SEND_QUEUE, position.send), (TCP_RECV_QUEUE, position.receive)] {
        tcp(libc::TCP_REPAIR_QUEUE, queue as u32)?;
        tcp(libc::TCP_QUEUE_SEQ, sequence)?;
    }
    let mss = position.mss();
    tcp(libc::TCP_MAXSEG, mss)?;
    socket.connect(&SockAddr::from(position.remote))?;

    let scale = if position.both(END_WINDOW_SCALE) {
        u32::from(position.peer.window_scale) | u32::from(position.own.window_scale) << 16
    } else {
        0
    };
    // struct tcp_repair_opt: code, value. In the place of one not agreed on the MSS comes again.
    let agreed = |flag, option| if position.both(flag) { [option, 0] } else { [OPTION_MSS, mss] };
    let options = [
        [OPTION_MSS, mss],
        [OPTION_WINDOW_SCALE, scale],
        agreed(END_SACK, OPTION_SACK),
        agreed(END_TIMESTAMPS, OPTION_TIMESTAMPS),
    ];
    let options = options.map(words);
    let options = options.as_flattened().as_flattened();
    set_option_bytes(socket, libc::SOL_TCP, libc::TCP_REPAIR_OPTIONS, options)?;
    if let Some(timestamp) = position.timestamp {
        tcp(libc::TCP_TIMESTAMP, timestamp)?;
    }
    // struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup.
    let window = words([
        position.receive.wrapping_sub(1),
        position.send_window,
        position.send_window,
        position.receive_window,
        position.receive,
    ]);
    let window = window.as_flattened();
    set_option_bytes(socket, libc::SOL_TCP, libc::TCP_REPAIR_WINDOW, window)
}

/// Gives a fresh socket, for a connection of its own, the address and port of an end that may have other
/// flows from there, towards other ends. An ordinary bind would refuse them: sockets that have left repair
/// mode share their port with nobody. That the two ends are not connected yet, connect sees to.
pub fn bind_beside_others(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, 1)?;
    socket.bind(&SockAddr::from(local))?;
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE)
}

/// Ends repair mode without a window probe: the socket speaks for its end from now on.
pub fn speak(socket: &TcpStream) -> io::Result<()> {
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, REPAIR_OFF_NO_PROBE)
}

/// Makes a socket send what a keep-alive is (RFC 9293 3.8.4), at once: the probe with which repair
/// mode ends otherwise. Nobody may read or write the socket meanwhile. A socket that has sent or
/// received FIN sends nothing.
pub fn ask(socket: &TcpStream) -> io::Result<()> {
    const REPAIR_OFF: i32 = 0;
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, 1)?;
    set_option(socket, libc::SOL_TCP, libc::TCP_REPAIR, REPAIR_OFF)
}

/// The kernel's clock of the socket goes on from this value: even, and newer than `seen`.
pub fn timestamp_after(seen: u32) -> u32 {
    seen.wrapping_add(2) & !1
}

fn words<const N: usize>(values: [u32; N]) -> [[u8; 4]; N] {
    values.map(u32::to_ne_bytes)
}
