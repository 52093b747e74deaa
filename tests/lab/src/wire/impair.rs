//! A bad cable, or a long one: a relay between an end and Weir's port that loses, delays, duplicates and
//! reorders frames and, like a router with a small link behind it, refuses large ones.
//!
//! For: the tests of chaos and of long paths, where the kernel has no netem. Both its sides are taps with plain frames,
//! so that every checksum is computed and compared by the two ends. What is done to a frame is
//! decided by a seeded sequence for each direction. Fails where a tap cannot be opened; a tap that
//! goes away ends the relay.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, poll};

use crate::random::Random;

/// Frames kept back at one time in a direction; more are passed at once.
const KEPT: usize = 4096;
/// Frames taken from a side before the other has its turn.
const TURN: usize = 64;
/// Longest frame: a jumbo frame with two tags.
const LONGEST: usize = 9018 + 8;
/// How long a relay may take to see that it is to end.
const TICK: Duration = Duration::from_millis(20);
/// The router's address in its refusals, of the ends' network.
const ROUTER: [u8; 4] = [10, 66, 0, 254];

/// How bad the cable is: each is a chance in ten thousand, for each frame.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    pub lost: u64,
    pub duplicated: u64,
    /// Kept back for 1 to 15 ms while later frames pass.
    pub delayed: u64,
}

/// What was done so far, both directions together.
#[derive(Debug, Default)]
pub struct Counts {
    pub passed: AtomicU64,
    pub lost: AtomicU64,
    pub duplicated: AtomicU64,
    pub delayed: AtomicU64,
    pub too_large: AtomicU64,
}

/// A running relay; ends when dropped.
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    troubled: AtomicBool,
    /// Longest IP packet that is let through.
    mtu: AtomicUsize,
    /// Microseconds that each frame is on its way.
    latency: AtomicU64,
    counts: Counts,
    trouble: Trouble,
}

impl Relay {
    /// Joins two taps with plain frames. It begins as a good cable.
    pub fn start(sides: [File; 2], trouble: Trouble, seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            troubled: AtomicBool::new(false),
            mtu: AtomicUsize::new(usize::MAX),
            latency: AtomicU64::new(0),
            counts: Counts::default(),
            trouble,
        });
        let work = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                let [one, other] = sides;
                let mut directions = [Direction::new(seed, 0), Direction::new(seed, 1)];
                while !work.stop.load(Ordering::Relaxed) {
                    if let Err(error) = turn([&one, &other], &mut directions, &work) {
                        eprintln!("lab: a relay ended: {error:#}");
                        return;
                    }
                }
            })
            .context("starting a relay's thread")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether the trouble is on.
    pub fn set_troubled(&self, on: bool) {
        self.shared.troubled.store(on, Ordering::Relaxed);
    }

    /// From now on IPv4 packets over `mtu` bytes that must not be fragmented are answered with ICMP
    /// "fragmentation needed" (RFC 792, RFC 1191) instead of being passed.
    pub fn set_mtu(&self, mtu: usize) {
        self.shared.mtu.store(mtu, Ordering::Relaxed);
    }

    /// From now on each frame takes so long, either way.
    pub fn set_latency(&self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.shared.latency.store(microseconds, Ordering::Relaxed);
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Frames from one side to the other.
struct Direction {
    random: Random,
    kept: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    number: u64,
}

impl Direction {
    fn new(seed: u64, which: u64) -> Self {
        Self { random: Random::of(seed, which), kept: BinaryHeap::new(), number: 0 }
    }

    /// When the first kept frame is due.
    fn due(&self) -> Option<Instant> {
        self.kept.peek().map(|Reverse((at, ..))| *at)
    }

    /// Decides what becomes of a frame.
    fn carry(&mut self, frame: &[u8], to: &File, shared: &Shared) -> Result<()> {
        let counts = &shared.counts;
        let Trouble { lost, duplicated, delayed } = shared.trouble;
        if !shared.troubled.load(Ordering::Relaxed) {
            return self.pass_later(Duration::ZERO, frame, to, shared);
        }
        if self.random.in_ten_thousand(lost) {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if self.random.in_ten_thousand(duplicated) {
            counts.duplicated.fetch_add(1, Ordering::Relaxed);
            self.pass_later(Duration::ZERO, frame, to, shared)?;
        }
        let mut wait = Duration::ZERO;
        if self.random.in_ten_thousand(delayed) && self.kept.len() < KEPT {
            counts.delayed.fetch_add(1, Ordering::Relaxed);
            wait = Duration::from_millis(self.random.between(1, 16));
        }
        self.pass_later(wait, frame, to, shared)
    }

    /// After the way's latency and `wait`, as far as there is room.
    fn pass_later(
        &mut self,
        wait: Duration,
        frame: &[u8],
        to: &File,
        shared: &Shared,
    ) -> Result<()> {
        let latency = Duration::from_micros(shared.latency.load(Ordering::Relaxed));
        let wait = wait.saturating_add(latency);
        if wait.is_zero() || self.kept.len() >= KEPT {
            return pass(frame, to, &shared.counts);
        }
        self.number += 1;
        self.kept.push(Reverse((Instant::now() + wait, self.number, frame.to_vec())));
        Ok(())
    }

    fn pass_due(&mut self, to: &File, shared: &Shared) -> Result<()> {
        let now = Instant::now();
        while self.due().is_some_and(|at| at <= now) {
            if let Some(Reverse((_, _, frame))) = self.kept.pop() {
                pass(&frame, to, &shared.counts)?;
            }
        }
        Ok(())
    }
}

/// Waits for frames of either side, or for a kept one to be due, and carries what is there.
fn turn(sides: [&File; 2], directions: &mut [Direction; 2], shared: &Shared) -> Result<()> {
    let now = Instant::now();
    let due = directions.iter().filter_map(Direction::due).min();
    let wait = due.map_or(TICK, |at| at.saturating_duration_since(now)).min(TICK);
    let [one, other] = sides;
    let mut ready = [
        PollFd::new(one.as_fd(), PollFlags::POLLIN),
        PollFd::new(other.as_fd(), PollFlags::POLLIN),
    ];
    // Rounded up: a poll of no time at all would spin.
    let milliseconds = u16::try_from(wait.as_millis() + 1).unwrap_or(u16::MAX);
    match poll(&mut ready, milliseconds) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error).context("waiting for frames"),
    }
    let [forth, back] = directions;
    for (from, to, direction) in [(one, other, forth), (other, one, back)] {
        direction.pass_due(to, shared)?;
        let mut frame = [0; LONGEST];
        for _ in 0..TURN {
            let mut reader = from;
            let length = match reader.read(&mut frame) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The interface is down: nothing comes, nothing goes.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                Err(error) => return Err(error).context("reading a frame"),
            };
            let frame = frame.get(..length).unwrap_or_default();
            let mtu = shared.mtu.load(Ordering::Relaxed);
            match refusal(frame, mtu) {
                Some(answer) => {
                    shared.counts.too_large.fetch_add(1, Ordering::Relaxed);
                    pass(&answer, from, &shared.counts)?;
                }
                None => direction.carry(frame, to, shared)?,
            }
        }
    }
    Ok(())
}

/// A full queue or an interface that is down loses the frame, as on any cable.
fn pass(frame: &[u8], mut to: &File, counts: &Counts) -> Result<()> {
    match to.write(frame) {
        Ok(_) => {
            counts.passed.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error)
            if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EIO) =>
        {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(error).context("writing a frame"),
    }
}

/// The frame by which a router refuses an untagged IPv4 packet over `mtu` with DF set.
fn refusal(frame: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (ethernet, packet) = (frame.get(..14)?, frame.get(14..)?);
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let dont_fragment = packet.get(6)? & 0x40 != 0;
    if ethernet.get(12..14)? != [0x08, 0x00] || total <= mtu || !dont_fragment {
        return None;
    }
    let quoted = packet.get(..usize::from(packet.first()? & 15) * 4 + 8)?;
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend(u16::try_from(mtu).ok()?.to_be_bytes());
    icmp.extend(quoted);
    put_checksum(&mut icmp, 2);
    let length = u16::try_from(20 + icmp.len()).ok()?.to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0];
    header.extend(ROUTER);
    header.extend(packet.get(12..16)?);
    put_checksum(&mut header, 10);
    let mut answer = Vec::with_capacity(34 + icmp.len());
    answer.extend(ethernet.get(6..12)?);
    answer.extend(ethernet.get(..6)?);
    answer.extend([0x08, 0x00]);
    answer.extend(header);
    answer.extend(icmp);
    Some(answer)
}

/// The Internet checksum (RFC 1071) of `bytes`, put at `at`, where zeroes are now.
fn put_checksum(bytes: &mut [u8], at: usize) {
    let sum = !sum(bytes);
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let high = u32::from(pair.first().copied().unwrap_or(0)) << 8;
        high | u32::from(pair.get(1).copied().unwrap_or(0))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(length: u16, flags: u8) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
        let [high, low] = length.to_be_bytes();
        frame.extend([0x45, 0, high, low, 0, 1, flags, 0, 64, 6, 0, 0, 10, 66, 0, 1, 10, 66, 0, 2]);
        frame.resize(14 + usize::from(length), 7);
        frame
    }

    #[test]
    fn a_large_packet_is_answered_to_its_sender_with_the_mtu() {
        let answer = refusal(&packet(1500, 0x40), 1280).unwrap();
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(answer[6..12], [2, 0, 0, 0, 0, 2]);
        assert_eq!(answer[26..34], [10, 66, 0, 254, 10, 66, 0, 1]);
        assert_eq!(answer[34..36], [3, 4]);
        assert_eq!(answer[40..42], 1280u16.to_be_bytes());
        assert_eq!(answer[42..70], packet(1500, 0x40)[14..42]);
        // Right checksums make the sum over header and message all ones (RFC 1071).
        assert_eq!([sum(&answer[14..34]), sum(&answer[34..])], [0xffff, 0xffff]);
    }

    #[test]
    fn what_fits_or_may_be_fragmented_is_let_through() {
        assert!(refusal(&packet(1280, 0x40), 1280).is_none());
        assert!(refusal(&packet(1500, 0), 1280).is_none());
        assert!(refusal(&[0; 10], 0).is_none());
    }
}
