//! What the kernel knows of a stream's connection (TCP_INFO of tcp(7)).
//!
//! For: how far its peer has come, and since when nothing was said on it. One system call a question: asked
//! in doubt, never for each packet. Fails to "nothing".

use std::os::fd::AsRawFd as _;

use tokio::net::TcpStream;

/// tcpi_bytes_acked of linux/tcp.h (Linux 4.1), which libc's structure lacks.
const BYTES_ACKNOWLEDGED: usize = 120;
/// As far as this module reads.
const LENGTH: usize = BYTES_ACKNOWLEDGED + size_of::<u64>();

/// Bytes that the stream's peer has acknowledged, since there is the stream. It says so for what its own
/// kernel has room for, not for what it has read; so would it without us.
pub fn acknowledged(stream: &TcpStream) -> u64 {
    info(stream)
        .and_then(|info| info.get(BYTES_ACKNOWLEDGED..)?.first_chunk().copied())
        .map_or(0, u64::from_ne_bytes)
}

fn info(stream: &TcpStream) -> Option<[u8; LENGTH]> {
    let mut info = [0; LENGTH];
    let mut length = libc::socklen_t::try_from(LENGTH).ok()?;
    // SAFETY: the descriptor is open while `stream` is borrowed, and the kernel writes `length` bytes at
    // `info` at most. Neither socket2 nor nix gives the fields behind those of libc.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0 && usize::try_from(length) == Ok(LENGTH)).then_some(info)
}
