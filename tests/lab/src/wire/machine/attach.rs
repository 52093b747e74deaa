//! This terminal on the appliance's serial console, for `weir-lab demo --keep`.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-].
const DETACH: u8 = 0x1d;

/// Copies both ways until [`DETACH`] is typed, or either side ends.
pub fn attach(mut line: UnixStream) -> Result<()> {
    let mut terminal = std::io::stdin();
    let _raw = Raw::enter()?;
    let mut output = std::io::stdout();
    let mut bytes = [0; 8192];
    // The console prints its prompt again.
    line.write_all(b"\r")?;
    loop {
        let mut ready = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(line.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE).context("waiting for terminal and console")?;
        let [typed, printed] = ready.map(|ready| ready.any().unwrap_or(true));
        if printed {
            let count = line.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            output.write_all(bytes.get(..count).unwrap_or_default())?;
            output.flush()?;
        }
        if typed {
            let count = terminal.read(&mut bytes)?;
            let typed = bytes.get(..count).unwrap_or_default();
            if count == 0 || typed.contains(&DETACH) {
                return Ok(());
            }
            line.write_all(typed)?;
        }
    }
}

/// The terminal in raw mode; as it was when dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self> {
        let before = tcgetattr(std::io::stdin()).context("standard input is no terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.before);
    }
}
