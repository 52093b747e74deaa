//! The supervision protocol of services, as systemd's sd_notify(3) has it: `READY=1` once, then
//! `WATCHDOG=1` for as long as the agent's loop turns.
//!
//! Not for: watching others. Fails softly: without `NOTIFY_SOCKET`, or with a supervisor that does
//! not listen, nothing is sent.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// How often the supervisor hears from us where it sets no `WATCHDOG_USEC`.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The supervisor's notification socket.
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Supervisor {
    pub fn from_environment() -> Self {
        Self { socket: env::var_os("NOTIFY_SOCKET").and_then(|path| connect(path.as_bytes())) }
    }

    pub fn ready(&self) {
        self.send("READY=1");
    }

    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// Half of what the supervisor allows between two signs of life.
    pub fn interval() -> Duration {
        env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|microseconds| microseconds.parse::<u64>().ok())
            .filter(|microseconds| *microseconds >= 20_000)
            .map_or(DEFAULT_INTERVAL, |microseconds| Duration::from_micros(microseconds / 2))
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket {
            // A supervisor that went away or is full is not ours to report on.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

/// A path, or an abstract name that begins with `@`.
fn connect(path: &[u8]) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}
