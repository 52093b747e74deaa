//! A tap opened inside a namespace: QEMU, outside, gets the descriptor.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::ends::INTERFACE;
use crate::namespace::Namespace;

nix::ioctl_write_int!(tun_set_interface, b'T', 202);

/// Makes the tap [`INTERFACE`] in `namespace`. With IFF_VNET_HDR, or segmentation and checksum
/// offloads of the guest would not work.
pub fn open(namespace: &Namespace) -> Result<OwnedFd> {
    namespace.enter(|| {
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun")?;
        // SAFETY: ifreq is plain old data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(INTERFACE.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
        let request = std::ptr::from_ref(&request);
        // SAFETY: TUNSETIFF reads an ifreq, which lives until the call returns, and keeps none of
        // it. No safe wrapper for this ioctl is in nix.
        unsafe { tun_set_interface(tun.as_raw_fd(), request.expose_provenance() as libc::c_ulong) }
            .with_context(|| format!("making a tap in namespace {}", namespace.name()))?;
        Ok(tun.into())
    })
}
