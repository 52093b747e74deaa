//! Lines for the operator, on every console the kernel has (`/sys/class/tty/console/active`).
//!
//! For: the handful of lines that a boot, a failure or a shutdown is worth. Not for: the log. It
//! never fails and never waits long: a console that takes nothing for [`PATIENCE`] loses the line.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Milliseconds a full console is waited for, each time it is full, and until it is empty.
const PATIENCE: u16 = 300;

/// Says `weir: <line>`. Opened anew each time: lines are few, and a login may hang terminals up.
pub fn say(line: &str) {
    // The line begins at the left edge even where a login is editing its own.
    let text = format!("\rweir: {line}\r\n");
    for console in consoles() {
        write(&console, text.as_bytes());
        drain(&console);
    }
}

/// Says it as a warning.
pub fn warn(line: &str) {
    say(&format!("warning: {line}"));
}

fn consoles() -> Vec<File> {
    let open = |path: &str| {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)
            .ok()
    };
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let opened: Vec<File> =
        active.split_whitespace().filter_map(|name| open(&format!("/dev/{name}"))).collect();
    if opened.is_empty() { open("/dev/console").into_iter().collect() } else { opened }
}

fn write(mut console: &File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(0) => return,
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut room = [PollFd::new(console.as_fd(), PollFlags::POLLOUT)];
                if !matches!(poll(&mut room, PollTimeout::from(PATIENCE)), Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Waits until the line is out: a login that ends hangs its terminal up, and what is still queued
/// there is thrown away.
fn drain(console: &File) {
    for _ in 0..PATIENCE / 10 {
        let mut queued: libc::c_int = 0;
        // SAFETY: TIOCOUTQ writes an integer to the pointer, which is to a local. nix has only
        // tcdrain, which waits without a bound.
        let asked = unsafe { libc::ioctl(console.as_raw_fd(), libc::TIOCOUTQ, &mut queued) };
        if asked < 0 || queued == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
