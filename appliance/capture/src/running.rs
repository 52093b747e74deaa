//! One capture: from its ports through its filter into its file, until a bound is met or it is told
//! to stop.
//!
//! Fails by ending: the reason is in its progress, and what was written so far is a whole file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weir_api::capture::CaptureProgress;

use crate::filter::Filter;
use crate::packet::Packet;
use crate::pcapng::{Record, Writer};
use crate::port::{self, LARGEST, Port};
use crate::summary;

/// Summary lines kept for who asks for progress; past it the oldest go.
const MOST_LINES: usize = 1000;
/// Frames read from a port before the others, the clock and the order to stop are looked after.
const FRAMES_A_TURN: usize = 256;
/// Longest wait for a frame, ms.
const WAIT: u16 = 100;
/// What a packet block has beside the bytes of the packet, at most.
const BLOCK: u64 = 64;

/// What was asked for, checked.
pub struct Plan {
    pub ports: Vec<Port>,
    pub filter: Option<(String, Filter)>,
    pub count: u64,
    pub duration: Duration,
    pub snaplen: u32,
    pub largest_file: u64,
    pub print: bool,
}

/// A capture that runs or has ended, as everybody sees it.
pub struct Running {
    pub name: String,
    pub ports: Vec<String>,
    largest_file: u64,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    packets: u64,
    bytes: u64,
    lost: u64,
    ended: Option<String>,
    lines: VecDeque<String>,
    /// Number of the line that is next.
    next_line: u64,
}

impl Running {
    /// Starts the capture on a thread of its own.
    pub fn start(name: &str, plan: Plan, file: File) -> io::Result<Arc<Self>> {
        let running = Arc::new(Self {
            name: name.to_owned(),
            ports: plan.ports.iter().map(|port| port.name.clone()).collect(),
            largest_file: plan.largest_file,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let own = Arc::clone(&running);
        std::thread::Builder::new().name("capture".into()).spawn(move || {
            let end = Ending(&own);
            let why = match own.run(&plan, file) {
                Ok(why) => why.to_owned(),
                Err(error) => format!("it failed: {error}"),
            };
            own.lock().ended = Some(why);
            drop(end);
        })?;
        Ok(running)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// Bytes that it may still write to its file: what its writer keeps back counts as written, so
    /// that this is short by at most the writer's buffer.
    pub fn promised(&self) -> u64 {
        let state = self.lock();
        if state.ended.is_some() { 0 } else { self.largest_file.saturating_sub(state.bytes) }
    }

    /// With the lines from the one numbered `from` on.
    pub fn progress(&self, from: u64) -> CaptureProgress {
        let state = self.lock();
        let first = state.next_line.saturating_sub(state.lines.len() as u64);
        let known = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        CaptureProgress {
            name: self.name.clone(),
            packets: state.packets,
            bytes: state.bytes,
            lost: state.lost,
            ended: state.ended.clone(),
            lines: state.lines.iter().skip(known).cloned().collect(),
            next_line: state.next_line,
        }
    }

    fn run(&self, plan: &Plan, file: File) -> io::Result<&'static str> {
        let application = concat!("Weir ", env!("CARGO_PKG_VERSION"));
        let mut writer = Writer::new(BufWriter::new(file), application)?;
        for port in &plan.ports {
            let filter = plan.filter.as_ref().map(|(text, _)| text.as_str());
            writer.interface(&port.name, plan.snaplen, filter)?;
        }
        let started = Instant::now();
        let mut buffer = vec![0; LARGEST];
        let why = loop {
            if self.stop.load(Ordering::Relaxed) {
                break "stopped";
            }
            if started.elapsed() >= plan.duration {
                break "its time is up";
            }
            if let Some(why) = self.turn(plan, &mut writer, &mut buffer)? {
                break why;
            }
            wait(&plan.ports)?;
        };
        for (index, port) in (0..).zip(&plan.ports) {
            // Nothing read the counts before: they are of the whole capture.
            if let Ok((seen, lost)) = port.statistics() {
                writer.statistics(index, port::now(), seen, lost)?;
                self.lock().lost += lost;
            }
        }
        writer.flush()?;
        self.lock().bytes = writer.length();
        Ok(why)
    }

    /// Reads what waits at each port; why the capture ends, where it does.
    fn turn(
        &self,
        plan: &Plan,
        writer: &mut Writer<BufWriter<File>>,
        buffer: &mut [u8],
    ) -> io::Result<Option<&'static str>> {
        for (interface, port) in (0..).zip(&plan.ports) {
            for _ in 0..FRAMES_A_TURN {
                let Some(arrival) = port.receive(buffer)? else { break };
                let frame = buffer.get(..arrival.captured).unwrap_or_default();
                let packet = Packet::parse(frame, arrival.length, arrival.way);
                if plan.filter.as_ref().is_some_and(|(_, filter)| !filter.matches(&packet)) {
                    continue;
                }
                let bytes = frame.get(..plan.snaplen as usize).unwrap_or(frame);
                if writer.length() + bytes.len() as u64 + BLOCK > plan.largest_file {
                    return Ok(Some("the file is as large as it may be"));
                }
                let (time, way, length) = (arrival.time, arrival.way, arrival.length);
                writer.packet(&Record { interface, time, way, bytes, length })?;
                let mut state = self.lock();
                state.packets += 1;
                state.bytes = writer.length();
                if plan.print {
                    state.keep(summary::line(&port.name, time, &packet));
                }
                if state.packets >= plan.count {
                    return Ok(Some("it has as many packets as were asked for"));
                }
            }
        }
        Ok(None)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, line: String) {
        if self.lines.len() == MOST_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.next_line += 1;
    }
}

/// A capture whose thread panics has ended too: its ports are free again.
struct Ending<'a>(&'a Running);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.lock().ended.get_or_insert_with(|| "internal error".into());
    }
}

fn wait(ports: &[Port]) -> io::Result<()> {
    let mut sources: Vec<PollFd<'_>> =
        ports.iter().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut sources, PollTimeout::from(WAIT)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
