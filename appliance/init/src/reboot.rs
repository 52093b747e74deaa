//! The last step: reboot(2).

use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Reboot,
    PowerOff,
}

/// Writes what is dirty and ends the machine. Where the kernel refuses, PID 1 has nothing left to
/// do but to try again.
pub fn end(how: End) -> ! {
    let mode = match how {
        End::Reboot => RebootMode::RB_AUTOBOOT,
        End::PowerOff => RebootMode::RB_POWER_OFF,
    };
    loop {
        nix::unistd::sync();
        let Err(error) = reboot(mode);
        crate::operator::warn(&format!("the kernel refuses to end: {error}"));
        std::thread::sleep(Duration::from_secs(10));
    }
}
