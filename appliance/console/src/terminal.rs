//! The terminal as the console needs it: bytes one by one, no echo by the kernel, a bound on
//! waiting, and its settings given back at the end.
//!
//! Not for: what the bytes mean (see [`crate::editor`]). Fails by I/O errors; a hang-up is
//! [`Input::Closed`].

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr,
    tcsetattr,
};

pub enum Input {
    Byte(u8),
    /// Nothing was typed for as long as was asked for.
    Idle,
    Closed,
}

pub struct Terminal {
    settings: Termios,
    /// Read ahead, in reverse.
    pending: Vec<u8>,
}

impl Terminal {
    pub fn open() -> io::Result<Self> {
        let settings = tcgetattr(io::stdin())?;
        let mut raw = settings.clone();
        raw.local_flags.remove(
            LocalFlags::ICANON
                | LocalFlags::ECHO
                | LocalFlags::ECHONL
                | LocalFlags::ISIG
                | LocalFlags::IEXTEN,
        );
        raw.input_flags.remove(
            InputFlags::ICRNL
                | InputFlags::INLCR
                | InputFlags::IGNCR
                | InputFlags::IXON
                | InputFlags::ISTRIP,
        );
        // Lines are printed with a bare line feed.
        raw.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR);
        raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { settings, pending: Vec::new() })
    }

    pub fn read(&mut self, patience: Duration) -> io::Result<Input> {
        if let Some(byte) = self.pending.pop() {
            return Ok(Input::Byte(byte));
        }
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        loop {
            let stdin = io::stdin();
            let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                Ok(0) => return Ok(Input::Idle),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut bytes = [0; 256];
            match nix::unistd::read(stdin.as_fd(), &mut bytes) {
                Ok(0) | Err(Errno::EIO) => return Ok(Input::Closed),
                Ok(length) => {
                    self.pending.extend(bytes.iter().take(length).rev());
                    if let Some(byte) = self.pending.pop() {
                        return Ok(Input::Byte(byte));
                    }
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn print(&self, text: &str) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(text.as_bytes())?;
        output.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that hung up has no settings to give back.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.settings);
    }
}
