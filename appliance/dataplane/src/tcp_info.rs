//! What the kernel knows of a stream's connection (TCP_INFO of tcp(7)).
//!
//! For: how far its peer has come, and since when nothing was said on it. One system call a question: asked
//! in doubt, never for each packet. Fails to "nothing".

use std::os::fd::AsRawFd as _;
use std::time::Duration;

use tokio::net::TcpStream;

/// tcpi_last_data_sent and tcpi_last_data_recv, milliseconds. They are of data alone: no keep-alive and no
/// acknowledgement changes them.
const DATA_SENT: usize = 44;
const DATA_RECEIVED: usize = 52;
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

/// For how long no byte of data went over any of these streams, either way; "not at all" where the kernel
/// does not say.
pub fn idle_for(streams: [&TcpStream; 2]) -> Duration {
    let milliseconds = |info: &[u8; LENGTH], at: usize| {
        info.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
    };
    let least = streams.into_iter().map(|stream| {
        let info = info(stream)?;
        Some(milliseconds(&info, DATA_SENT)?.min(milliseconds(&info, DATA_RECEIVED)?))
    });
    let least = least.map(Option::unwrap_or_default).min().unwrap_or_default();
    Duration::from_millis(least.into())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        [listener.accept().await.unwrap().0, peer]
    }

    #[tokio::test]
    async fn data_of_either_stream_either_way_ends_idleness_and_keep_alives_do_not() {
        /// Of the kernel's clock.
        const TICKS: Duration = Duration::from_millis(20);
        let [[one, its], [other, others]] = [pair().await, pair().await];
        for says in [&one, &its, &other, &others] {
            let long = Duration::from_millis(200);
            while idle_for([&one, &other]) < long {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            crate::socket::ask(&one).unwrap();
            assert!(idle_for([&one, &other]) >= long);
            let before = Instant::now();
            says.try_write(b"data").unwrap();
            let idle = idle_for([&one, &other]);
            assert!(idle <= before.elapsed() + TICKS, "{idle:?}");
        }
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_counted_and_what_waits_for_its_peer_is_not() {
        let [stream, peer] = pair().await;
        assert_eq!(acknowledged(&stream), 0);
        peer.try_write(b"of the other way").unwrap();
        stream.try_write(b"12345").unwrap();
        while acknowledged(&stream) < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(acknowledged(&stream), 5);
    }
}
