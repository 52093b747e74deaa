//! The smallest Ethernet frames, as fast as one processor sends them.
//!
//! For: packets that arrived a CPU second, all of the machine's work for them counted. The sender
//! sends a given number with sendmmsg; the receiver reads them with recvmmsg as they come. Some are
//! lost on the way where the receiver is slower: only those that arrived at its interface count.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::site::Site;
use crate::bench::cpu::{Reading, Used};
use crate::bench::threads::join;

/// 64 bytes on a wire: 14 of Ethernet, 20 of IPv4, 8 of UDP, these, and 4 of checksum.
const PAYLOAD: usize = 18;
/// A system call.
const BATCH: usize = 64;
/// Of so many flows in turn, a batch of each.
const FLOWS: usize = 256;

/// Packets that reached the server's interface, and what that cost.
pub struct Blasted {
    pub arrived: u64,
    pub used: Used,
}

pub fn blast(site: &Site, to: SocketAddr, interface: String, count: usize) -> Result<Blasted> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, wait) = channel();
    let until = Arc::clone(&stop);
    let server = site.at_server(move || {
        let socket = UdpSocket::bind(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let before = received(&interface)?;
        ready.send(())?;
        while !until.load(Ordering::Relaxed) {
            take(&socket)?;
        }
        Ok(received(&interface)? - before)
    })?;
    wait.recv().context("the server did not start")?;
    let before = Reading::now(Some(site.weir))?;
    let client = site.at_client(move || {
        let flow = |_| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            Ok(socket)
        };
        let flows: Vec<UdpSocket> = (0..FLOWS).map(flow).collect::<io::Result<_>>()?;
        let mut sent = 0;
        for socket in flows.iter().cycle() {
            if sent >= count {
                break;
            }
            sent += send(socket)?;
        }
        Ok(())
    })?;
    join(client).context("datagram sender")?;
    let used = before.used()?;
    stop.store(true, Ordering::Relaxed);
    let arrived = join(server).context("datagram receiver")?;
    ensure!(arrived > 0, "no datagram arrived");
    Ok(Blasted { arrived, used })
}

/// Sends a batch; how many went.
fn send(socket: &UdpSocket) -> io::Result<usize> {
    let mut payload = [0u8; PAYLOAD];
    let mut vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: PAYLOAD };
    let mut messages = headers(std::iter::repeat_n(&raw mut vector, BATCH));
    // SAFETY: `messages` has BATCH entries, each with one iovec of a live buffer that is only read;
    // no names, no control data. std has no call for sendmmsg.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            error => Err(error),
        },
    }
}

/// Reads what is there, a batch at most; waits for the first no longer than the socket's limit.
fn take(socket: &UdpSocket) -> io::Result<()> {
    let mut payloads = [[0u8; 64]; BATCH];
    let mut vectors = payloads
        .each_mut()
        .map(|payload| libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: 64 });
    let mut messages = headers(vectors.iter_mut().map(std::ptr::from_mut));
    // SAFETY: as above; each iovec is a buffer of its own that lives until the end of this
    // function. A null timeout: the socket's own.
    let taken = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            BATCH as u32,
            libc::MSG_WAITFORONE as _, // signed here, unsigned there
            std::ptr::null_mut(),
        )
    };
    if taken < 0 {
        let error = io::Error::last_os_error();
        if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            return Err(error);
        }
    }
    Ok(())
}

fn headers(vectors: impl Iterator<Item = *mut libc::iovec>) -> Vec<libc::mmsghdr> {
    vectors
        .map(|vector| {
            // SAFETY: mmsghdr is integers and pointers, for which all-zero is valid; it has private
            // padding on musl, so a literal is not possible.
            let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect()
}

/// Packets that an interface of the thread's namespace received so far.
fn received(interface: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    text.lines()
        .find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))
        .and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("no counters of {interface}"))
}
