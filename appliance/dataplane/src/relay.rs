//! Moving a taken flow's bytes from one socket to the other, unread.
//!
//! For: flows that were taken over and then proved excepted (SPEC D12). Not for: bytes that anybody
//! looks at. What one end ends in order is ended at the other; an error of either ends both ways,
//! and the streams, dropped as they come, reset both ends.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::taken::TakenFlow;

/// Bytes moved by one pair of system calls, at most; a buffer for each thread.
const CHUNK: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Bytes moved, those received before the takeover included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    pub to_server: u64,
    pub to_client: u64,
}

impl TakenFlow {
    /// Moves bytes both ways until both ends have ended. The streams stay open: close them in order
    /// (see [`crate::set_reset_on_close`]).
    pub async fn relay(&mut self) -> io::Result<Relayed> {
        let received = std::mem::take(&mut self.received);
        write(&self.server, &received).await?;
        let (to_server, to_client) = tokio::try_join!(
            one_way(&self.client, &self.server),
            one_way(&self.server, &self.client)
        )?;
        Ok(Relayed { to_server: to_server + received.len() as u64, to_client })
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream) -> io::Result<u64> {
    let mut moved = 0;
    loop {
        from.readable().await?;
        let rest = match BUFFER.with_borrow_mut(|buffer| step(from, to, buffer)) {
            Ok(Step::Moved { bytes, rest }) => {
                moved += bytes as u64;
                rest
            }
            Ok(Step::Ended) => {
                return match SockRef::from(to).shutdown(Shutdown::Write) {
                    // It was reset meanwhile: its own direction says so.
                    Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
                    _ => Ok(moved),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        write(to, &rest).await?;
    }
}

enum Step {
    /// Read, and written but for `rest`.
    Moved {
        bytes: usize,
        rest: Vec<u8>,
    },
    Ended,
}

fn step(from: &TcpStream, to: &TcpStream, buffer: &mut [u8]) -> io::Result<Step> {
    let bytes = from.try_read(buffer)?;
    if bytes == 0 {
        return Ok(Step::Ended);
    }
    let read = buffer.get(..bytes).unwrap_or_default();
    let written = match to.try_write(read) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    Ok(Step::Moved { bytes, rest: read.get(written..).unwrap_or_default().to_vec() })
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
