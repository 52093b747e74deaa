//! A packet socket that sees every frame of one port, in and out.
//!
//! For: frames as they are on the wire: before any eBPF program on the way in, behind all of them
//! on the way out, VLAN tags put back into the bytes (the kernel hands the outermost one beside
//! them), with the kernel's time. Frames that the card or the kernel segments or joins are seen as
//! one. Not for: sending. Fails with the I/O error of the system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::packet::Way;

/// Largest frame read; more of one is cut off.
pub const LARGEST: usize = 262_144;
/// Asked for; the kernel gives at most net.core.rmem_max. Past it frames are lost, and counted.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;

#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
    pub name: String,
}

/// What was read into the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes in the buffer.
    pub captured: usize,
    /// Bytes on the wire.
    pub length: usize,
    pub way: Way,
    /// ns since the Unix epoch.
    pub time: u64,
}

/// Control messages of one frame: its time, and `struct tpacket_auxdata`.
const CONTROL: usize = 128;

impl Port {
    /// Opens a port of the calling thread's network namespace.
    pub fn open(name: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(name)?;
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing is received before the socket is bound to its port.
        // SAFETY: a system call without pointers. Neither std nor nix opens such sockets.
        let raw = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        // SAFETY: plain integers, zero is valid for each.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
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
        Ok(Self { socket, name: name.to_owned() })
    }

    /// The next frame; `None` where none waits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Arrival>> {
        // Room for a tag is kept behind the bytes, which move up only where there is one.
        let mut control = Control([0; CONTROL]);
        // SAFETY: plain integers, zero is valid for each.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let (received, control_length) = {
            let mut part = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len().saturating_sub(TAG),
            };
            // SAFETY: plain integers and null pointers, zero is valid for each.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_name = std::ptr::from_mut(&mut from).cast();
            message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_iov = &mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            // SAFETY: `message` points to `from`, `part` (a part of `buffer`) and `control`, each of
            // the size it says and alive during the call. nix does not parse PACKET_AUXDATA.
            let received =
                unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, libc::MSG_TRUNC) };
            if received < 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                    // Told once when the port goes down; it may come up again.
                    io::ErrorKind::NetworkDown => Ok(None),
                    _ => Err(error),
                };
            }
            (received as usize, message.msg_controllen as usize)
        };
        let said = control_messages(control.0.get(..control_length).unwrap_or_default());
        let mut arrival = Arrival {
            captured: received.min(buffer.len().saturating_sub(TAG)),
            length: received,
            way: if from.sll_pkttype == libc::PACKET_OUTGOING { Way::Out } else { Way::In },
            time: said.time.unwrap_or_else(now),
        };
        if let Some(tag) = said.tag {
            put_back(buffer, &mut arrival, tag);
        }
        Ok(Some(arrival))
    }

    /// Frames that came, and of them those lost for want of room, since the last call.
    pub fn statistics(&self) -> io::Result<(u64, u64)> {
        // struct tpacket_stats
        let mut counts = [0u32; 2];
        let mut length = size_of_val(&counts) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `counts`, which has as many.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                counts.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((counts[0].into(), counts[1].into()))
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Aligned as `struct cmsghdr` must be.
#[repr(align(8))]
struct Control([u8; CONTROL]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    time: Option<u64>,
    /// Tag protocol and tag.
    tag: Option<(u16, u16)>,
}

/// `struct cmsghdr` (length, level, type: 16 bytes), then its data, the next one 8-byte aligned.
fn control_messages(mut bytes: &[u8]) -> Said {
    const HEADER: usize = 16;
    let mut said = Said::default();
    while let Some(length) =
        bytes.get(..8).and_then(|b| b.try_into().ok()).map(usize::from_ne_bytes)
        && let Some(data) = bytes.get(HEADER..length)
        && let (Some(level), Some(kind)) = (int(bytes, 8), int(bytes, 12))
    {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => said.time = time(data),
            (libc::SOL_PACKET, libc::PACKET_AUXDATA) => said.tag = tag(data),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    said
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `struct timespec`.
fn time(data: &[u8]) -> Option<u64> {
    let long = |at: usize| Some(i64::from_ne_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let seconds = u64::try_from(long(0)?).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(long(8)?).ok()?)
}

/// `struct tpacket_auxdata`: status, len, snaplen (32 bits each), mac, net, vlan_tci, vlan_tpid.
fn tag(data: &[u8]) -> Option<(u16, u16)> {
    const VALID: i32 = 1 << 4; // TP_STATUS_VLAN_VALID
    const PROTOCOL_VALID: i32 = 1 << 6; // TP_STATUS_VLAN_TPID_VALID
    let half = |at: usize| Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?));
    let status = int(data, 0)?;
    let protocol = if status & PROTOCOL_VALID != 0 { half(18)? } else { 0x8100 };
    (status & VALID != 0).then_some((protocol, half(16)?))
}

/// A tag's bytes.
const TAG: usize = 4;

/// Behind the two MAC addresses, where it was on the wire.
fn put_back(buffer: &mut [u8], arrival: &mut Arrival, (protocol, tag): (u16, u16)) {
    const ADDRESSES: usize = 12;
    let Some(end) = arrival.captured.checked_add(TAG) else { return };
    if arrival.captured < ADDRESSES || end > buffer.len() {
        return;
    }
    buffer.copy_within(ADDRESSES..arrival.captured, ADDRESSES + TAG);
    let [a, b] = protocol.to_be_bytes();
    let [c, d] = tag.to_be_bytes();
    if let Some(place) = buffer.get_mut(ADDRESSES..ADDRESSES + TAG) {
        place.copy_from_slice(&[a, b, c, d]);
    }
    arrival.captured = end;
    arrival.length += TAG;
}

/// ns since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn set(socket: &OwnedFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads the four bytes of `value`. The options are in neither std nor nix.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn time_and_tag_are_read_from_control_messages() {
        let mut data = Vec::new();
        for value in [(1i32 << 4) | (1 << 6), 60, 60] {
            data.extend(value.to_ne_bytes());
        }
        for value in [0u16, 14, 0x2064, 0x88a8] {
            data.extend(value.to_ne_bytes());
        }
        let moment: Vec<u8> = [5i64, 7].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let mut bytes = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &moment);
        bytes.extend(message(1, 99, &[0; 4]));
        bytes.extend(message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &data));
        let expected = Said { time: Some(5_000_000_007), tag: Some((0x88a8, 0x2064)) };
        assert_eq!(control_messages(&bytes), expected);
        for end in 0..bytes.len() {
            control_messages(&bytes[..end]); // and does not fail
        }
        data[0] = 0;
        let bytes = message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &data);
        assert_eq!(control_messages(&bytes).tag, None);
    }

    #[test]
    fn a_tag_goes_back_behind_the_addresses() {
        let mut buffer: Vec<u8> = (0..14).collect();
        buffer.extend([0; TAG]);
        let mut arrival = Arrival { captured: 14, length: 60, way: Way::In, time: 0 };
        put_back(&mut buffer, &mut arrival, (0x8100, 0x2064));
        assert_eq!(buffer[12..], [0x81, 0, 0x20, 0x64, 12, 13]);
        assert_eq!((arrival.captured, arrival.length), (18, 64));
    }
}
