//! The worker process: started, asked whether it turns, killed where it does not, started again.
//!
//! For: one thread that does nothing else. Not for: legs. Cannot fail after its start: a worker that
//! cannot be started is tried again, and legacy sessions fail meanwhile.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use tokio::sync::watch;
use tracing::{info, warn};
use weir_api::legacy::{CONTROL_PING, CONTROL_READY, MAX_LEGS};

use super::Counts;

/// Between two questions.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// A worker that is waited for so many times running, [`ASKED_EVERY`] each, without an answer is stuck:
/// killed. Counted by our own waits, and not by the clock: a machine that was paused, or that had no turn
/// for either process, is no fault of the worker's.
const STUCK_AFTER: u32 = 5;
/// Loading the library and entering the sandbox, on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// The pause before the next start doubles from the first to the last, and is the first again after
/// a worker that lived for [`LIVED`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
const LIVED: Duration = Duration::from_secs(60);

/// Bytes of a datagram that are read.
const LONGEST: usize = 512;

type Control = Option<Arc<OwnedFd>>;

pub fn start(program: PathBuf, counts: Arc<Counts>) -> anyhow::Result<watch::Receiver<Control>> {
    let (publish, control) = watch::channel(None);
    let look_after = move || {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let ended = one_life(&program, &publish, &counts);
            if counts.process.swap(0, Ordering::Relaxed) != 0 {
                *counts.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            counts.crashes.fetch_add(1, Ordering::Relaxed);
            if publish.is_closed() {
                return; // the engine ends
            }
            if started.elapsed() >= LIVED {
                pause = FIRST_PAUSE;
            }
            warn!(why = %ended, ?pause, "the legacy TLS worker ended; its sessions are reset");
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
    };
    std::thread::Builder::new().name("legacy-worker".into()).spawn(look_after)?;
    Ok(control)
}

/// From the start to the end of one worker; says why it ended.
fn one_life(program: &Path, publish: &watch::Sender<Control>, counts: &Counts) -> String {
    let (mut child, control) = match spawn(program) {
        Ok(started) => started,
        Err(error) => return format!("{}: {error}", program.display()),
    };
    let control = Arc::new(control);
    let why = match wait_until_ready(&control) {
        Ok(Ready { legs, refused }) => {
            info!(
                process = child.id(),
                "legacy TLS worker ready, its sandbox proven: refused {refused}"
            );
            if legs < MAX_LEGS {
                warn!("it has open files (RLIMIT_NOFILE) for {legs} legs of {MAX_LEGS}");
            }
            counts.most.store(legs.min(MAX_LEGS), Ordering::Relaxed);
            counts.process.store(child.id().into(), Ordering::Relaxed);
            publish.send_replace(Some(Arc::clone(&control)));
            let why = watch_over(&control, publish);
            publish.send_replace(None);
            why
        }
        Err(why) => why,
    };
    // It may have ended by itself, which is told below.
    let _ = child.kill();
    ending(&mut child).map_or(why.clone(), |status| format!("{why} ({status})"))
}

fn ending(child: &mut Child) -> Option<String> {
    child.wait().ok().map(|status| status.to_string())
}

/// The control socket is its standard input; of the environment it gets nothing.
fn spawn(program: &Path) -> io::Result<(Child, OwnedFd)> {
    let (ours, its) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let timeout = TimeVal::milliseconds(i64::try_from(ASKED_EVERY.as_millis()).unwrap_or(1000));
    setsockopt(&ours, sockopt::ReceiveTimeout, &timeout)?;
    let child = Command::new(program)
        .env_clear()
        .env("OPENSSL_CONF", "/dev/null")
        .current_dir("/")
        .stdin(Stdio::from(its))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, ours))
}

/// What a worker says when it is.
struct Ready {
    /// As many as it takes at a time.
    legs: usize,
    /// By its sandbox, in words.
    refused: String,
}

impl Ready {
    fn read(said: &[u8]) -> Option<Self> {
        let (legs, refused) = said.split_first_chunk()?;
        let legs = usize::try_from(u32::from_be_bytes(*legs)).ok()?;
        let refused = String::from_utf8_lossy(refused);
        Some(Self { legs, refused: refused.chars().filter(|one| !one.is_control()).collect() })
    }
}

fn wait_until_ready(control: &OwnedFd) -> Result<Ready, String> {
    let started = Instant::now();
    while started.elapsed() < READY_WITHIN {
        match datagram(control)? {
            Some((CONTROL_READY, said)) => {
                return Ready::read(&said).ok_or_else(|| "it did not say what it takes".to_owned());
            }
            Some((other, _)) => return Err(format!("it said {other} before it was ready")),
            None => {}
        }
    }
    Err("it did not become ready".to_owned())
}

fn watch_over(control: &OwnedFd, publish: &watch::Sender<Control>) -> String {
    let mut unanswered: u32 = 0;
    let mut asked = None::<Instant>;
    while !publish.is_closed() {
        if asked.is_none_or(|asked| asked.elapsed() >= ASKED_EVERY) {
            asked = Some(Instant::now());
            // Where its queue is full it will not answer either.
            let _ = send(
                control.as_raw_fd(),
                &[CONTROL_PING],
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            );
        }
        match answer(control) {
            Ok(Some(_)) => unanswered = 0,
            Ok(None) if unanswered >= STUCK_AFTER => return "it was stuck".to_owned(),
            Ok(None) => unanswered += 1,
            Err(why) => return why,
        }
    }
    "the engine ends".to_owned()
}

fn answer(control: &OwnedFd) -> Result<Option<u8>, String> {
    Ok(datagram(control)?.map(|(kind, _)| kind))
}

/// One datagram, waited for as long as between two questions, cut at [`LONGEST`]; `None`: nothing came.
fn datagram(control: &OwnedFd) -> Result<Option<(u8, Vec<u8>)>, String> {
    let mut bytes = [0; LONGEST];
    match recv(control.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
        Ok(0) => Err("it closed the control socket".to_owned()),
        Ok(length) => {
            let said = bytes.get(..length).and_then(<[u8]>::split_first);
            Ok(said.map(|(kind, rest)| (*kind, rest.to_vec())))
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(error) => Err(format!("control socket: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_ready_says_how_many_legs_it_takes() {
        let ready = Ready::read(b"\0\0\x40\x00opening a file, \x1b[2Ja signal").unwrap();
        assert_eq!((ready.legs, &*ready.refused), (16_384, "opening a file, [2Ja signal"));
        assert!(Ready::read(b"\0\0\x40").is_none());
    }
}
