//! A terminal for a login: opened without waiting, made sane, handed to its user.
//!
//! For: the console on the serial line. Not for: what is typed there. Fails with the system's
//! error; the supervisor then counts the service as not started and tries again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, tcgetattr,
    tcsetattr,
};
use nix::unistd::Uid;

/// Opens `path` without becoming its session leader and without waiting for a carrier.
pub fn open(path: &Path, owner: Option<Uid>) -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)?;
    make_sane(&file)?;
    // Non-blocking was for the opening only.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.as_raw()), None)?;
    }
    Ok(file.into())
}

/// A former user may have left it raw. The speed stays as the kernel's command line set it.
fn make_sane(file: &File) -> io::Result<()> {
    let mut settings = tcgetattr(file)?;
    settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
    settings.input_flags = InputFlags::ICRNL | InputFlags::IXON | InputFlags::IUTF8;
    settings.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    settings.local_flags = LocalFlags::ICANON
        | LocalFlags::ISIG
        | LocalFlags::IEXTEN
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ECHOCTL
        | LocalFlags::ECHOKE;
    // What terminals send for the key left of "backspace" everywhere today.
    if let Some(erase) = settings.control_chars.get_mut(SpecialCharacterIndices::VERASE as usize) {
        *erase = 0x7f;
    }
    tcsetattr(file, SetArg::TCSANOW, &settings)?;
    Ok(())
}

/// In the child: makes standard input the controlling terminal of its new session, taking it from
/// a session that still has it.
pub fn take_control() -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer and no pointer. nix has no wrapper for it.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 1) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
