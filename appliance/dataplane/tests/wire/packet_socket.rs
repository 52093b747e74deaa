//! A packet socket with the tags of what it hears.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub fn packet_socket(interface: &str) -> File {
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // All: a socket for IP alone is told of no tag.
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a system call without pointers.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol))
    };
    assert!(raw >= 0, "packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: plain integers, zero is valid for each.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    // SAFETY: `address` is a sockaddr_ll of the size given and outlives the call.
    let bound = unsafe {
        libc::bind(
            raw,
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    assert!(bound >= 0, "bind: {}", std::io::Error::last_os_error());
    const PACKET_IGNORE_OUTGOING: i32 = 23;
    for option in [libc::PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
        let on = 1i32;
        // SAFETY: `on` is an integer of the size given and outlives the call.
        let told = unsafe {
            libc::setsockopt(
                raw,
                libc::SOL_PACKET,
                option,
                std::ptr::from_ref(&on).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        assert!(told >= 0, "option {option}: {}", std::io::Error::last_os_error());
    }
    File::from(socket)
}

/// A frame, and the VLAN whose tag the kernel took off it.
pub fn receive_with_tag(socket: &File, bytes: &mut [u8]) -> (usize, Option<u16>) {
    const VLAN_VALID: u32 = 1 << 4; // TP_STATUS_VLAN_VALID
    let mut control = [0u64; 16];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: plain integers and pointers, zero is valid for each.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the buffers outlive the call and are as long as the message says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    assert!(length >= 0, "recvmsg: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel filled in the message, whose control buffer is alive.
    let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    assert!(!header.is_null(), "no auxiliary data");
    // SAFETY: PACKET_AUXDATA is the only thing that was asked for: status, length, length kept, two
    // offsets, then the tag.
    let data: [u8; 20] = unsafe { std::ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    let status = u32::from_ne_bytes(data[..4].try_into().unwrap());
    let tci = u16::from_ne_bytes(data[16..18].try_into().unwrap());
    (length as usize, (status & VLAN_VALID != 0).then_some(tci & 0xfff))
}
