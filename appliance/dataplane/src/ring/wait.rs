//! Waiting for records of a reader's rings.
//!
//! For: reading what there is, and sleeping where there is nothing, without missing what comes meanwhile.
//! Not for: what the records say. Fails where the kernel gives no memory or descriptor for it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::positions::Positions;
use crate::frame::{Frame, FrameError};
use crate::layout::{Held, read_held};
use crate::rings::Share;

/// What is due is looked after this often when no packet comes.
const TICK: Duration = Duration::from_millis(100);
/// Records between two looks at the clock.
const BETWEEN_LOOKS: usize = 32;

/// The rings of one reader.
pub struct RingSet {
    rings: Vec<Ring>,
    tick: Interval,
}

struct Ring {
    number: usize,
    /// Readable when the programs woke the reader.
    woken: AsyncFd<RingBuf<MapData>>,
    positions: Positions,
}

impl RingSet {
    /// Inside a runtime.
    pub fn new(share: Share) -> io::Result<Self> {
        let rings = share.into_iter().map(|(number, ring)| {
            let positions = Positions::of(&ring)?;
            // SAFETY: the ring owns its map, whose one descriptor stays open as long as it lives. aya's
            // rings have no safe form of this (AsFd).
            let woken = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
            Ok(Ring { number, woken, positions })
        });
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { rings: rings.collect::<io::Result<_>>()?, tick })
    }

    pub fn numbers(&self) -> impl Iterator<Item = usize> + '_ {
        self.rings.iter().map(|ring| ring.number)
    }

    /// Reads `most` records of each ring, and about so long. Whether there is more, or will be in a moment.
    pub fn read(
        &mut self,
        most: usize,
        turn: Duration,
        mut each: impl FnMut(&Held, Result<Frame, FrameError>),
    ) -> bool {
        let mut more = false;
        for ring in &mut self.rings {
            let began = Instant::now();
            for number in 1..=most {
                let Some(record) = ring.woken.get_mut().next() else { break };
                let held = read_held(&record)
                    .map(|(held, frame)| (held, Frame::parse(frame, held.gso_size, held.tag())));
                // The ring's room is free again at once.
                drop(record);
                if let Some((held, frame)) = held {
                    each(&held, frame);
                }
                if number.is_multiple_of(BETWEEN_LOOKS) && began.elapsed() > turn {
                    break;
                }
            }
            more |= ring.positions.differ();
        }
        more
    }

    /// Until there is something to read, something may be due, or nothing more will come, behind which it is
    /// not to be called again.
    pub async fn wait(&mut self, mut closed: Pin<&mut impl Future<Output = ()>>) -> io::Result<()> {
        poll_fn(|cx| {
            let mut woken = self.tick.poll_tick(cx).is_ready();
            woken |= closed.as_mut().poll(cx).is_ready();
            for ring in &self.rings {
                if let Poll::Ready(ready) = ring.woken.poll_read_ready(cx) {
                    // Before it is read: what comes later wakes again.
                    ready?.clear_ready();
                    woken = true;
                }
            }
            if woken { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}
