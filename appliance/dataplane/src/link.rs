//! Packet sockets in the wire namespace: frames go out of a port, or into an engine's namespace.
//!
//! For: sending frames with the virtio header that leaves checksum and segmentation to the kernel.
//! Not for: receiving; the sockets listen to nothing. Fails with the I/O error of the send; the
//! caller counts it, and TCP sends the bytes again.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::frame::Frame;

/// A socket that sends frames by one interface.
#[derive(Debug)]
pub struct Link {
    socket: File,
    interface: String,
    /// As [`Link::look`] found it last; 0: not yet.
    mtu: AtomicU32,
}

impl Link {
    /// Opens a socket for an interface of the calling thread's namespace.
    pub fn open(interface: &str, index: u32) -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a system call without pointers. std and socket2 have no address of this family.
        let raw = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20)?;
        // SAFETY: plain integers, zero is valid for each.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // Protocol 0: nothing is received.
        // SAFETY: `address` is a sockaddr_ll of the size given and outlives the call.
        let bound = unsafe {
            libc::bind(
                raw,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        let (socket, interface) = (File::from(socket), interface.to_owned());
        let link = Self { socket, interface, mtu: AtomicU32::new(0) };
        link.look()?;
        Ok(link)
    }

    /// The interface's MTU, the largest IP packet, as [`Link::look`] found it last.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Looks for what may change meanwhile: the interface's MTU.
    pub fn look(&self) -> io::Result<()> {
        // SAFETY: plain integers, zero is valid for each.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // One less: the name ends with a zero.
        let room = request.ifr_name.len() - 1;
        for (at, byte) in request.ifr_name.iter_mut().zip(self.interface.bytes().take(room)) {
            *at = byte as libc::c_char;
        }
        // SAFETY: the kernel reads and writes inside `request`, which outlives the call; neither std
        // nor nix has this call.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCGIFMTU as _,
                std::ptr::from_mut(&mut request),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: SIOCGIFMTU fills this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        self.mtu.store(mtu.cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }

    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        const NEEDS_CHECKSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const GSO_TCPV6: u8 = 4;
        const GSO_ECN: u8 = 0x80;
        const CWR: u8 = 0x80;
        if frame.in_tunnel() {
            for segment in frame.segments() {
                self.write(&[0; 10], &segment)?;
            }
            return Ok(());
        }
        let family = if frame.is_ipv6() { GSO_TCPV6 } else { GSO_TCPV4 };
        let gso = match (frame.gso_size, frame.flags & CWR) {
            (0, _) => 0,
            (_, 0) => family,
            _ => family | GSO_ECN,
        };
        let headers = frame.bytes().len() - frame.payload().len();
        // struct virtio_net_hdr (linux/virtio_net.h), host byte order.
        let mut header = [0; 10];
        header[0] = NEEDS_CHECKSUM;
        header[1] = gso;
        header[2..4].copy_from_slice(&(headers as u16).to_ne_bytes());
        header[4..6].copy_from_slice(&frame.gso_size.to_ne_bytes());
        header[6..8].copy_from_slice(&(frame.transport as u16).to_ne_bytes());
        header[8..10].copy_from_slice(&16u16.to_ne_bytes());
        self.write(&header, frame.bytes())
    }

    fn write(&self, header: &[u8; 10], bytes: &[u8]) -> io::Result<()> {
        (&self.socket).write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]).map(drop)
    }

    /// Sends a frame that is complete as it is.
    pub fn send_complete(&self, frame: &[u8]) -> io::Result<()> {
        self.write(&[0; 10], frame)
    }
}

/// Sets an option whose value is an `int`.
pub fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option_bytes(socket, level, name, &value.to_ne_bytes())
}

/// Sets an option whose value is the given bytes.
pub fn set_option_bytes(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes at `value`. The options set here (packet sockets,
    // TCP_REPAIR) are in neither std nor socket2.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
