//! Taps: an interface whose other end is a descriptor, of QEMU or of a relay of the lab.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// Longest name of an interface.
const NAME: usize = libc::IFNAMSIZ - 1;

/// What a read of the descriptor brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Frames with a virtio header before them, and segmentation and checksums left to the reader:
    /// without it a guest's offloads would not work.
    Offloaded,
    /// Plain frames as on a cable: cut to the MTU, checksums filled in; reads do not block.
    Plain,
}

/// Makes the tap `name` in `namespace`.
pub fn open_in(namespace: &Namespace, name: &str, frames: Frames) -> Result<File> {
    namespace
        .enter(|| open(name, frames))
        .with_context(|| format!("in namespace {}", namespace.name()))
}

/// Makes the tap `name` in the caller's namespace. It goes with its descriptor.
pub fn open(name: &str, frames: Frames) -> Result<File> {
    anyhow::ensure!(name.len() <= NAME, "{name}: an interface's name has at most {NAME} bytes");
    let (blocking, flags) = match frames {
        Frames::Offloaded => (0, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR),
        Frames::Plain => (libc::O_NONBLOCK, libc::IFF_TAP | libc::IFF_NO_PI),
    };
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(blocking)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
    let request = std::ptr::from_ref(&request);
    // SAFETY: TUNSETIFF reads an ifreq, which lives until the call returns, and keeps none of
    // it. No safe wrapper for this ioctl is in nix.
    unsafe { tun_set_interface(tun.as_raw_fd(), request.expose_provenance() as libc::c_ulong) }
        .with_context(|| format!("making the tap {name}"))?;
    Ok(tun)
}
