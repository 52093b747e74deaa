//! Making a map of maps, which aya 0.13 cannot make: its loader takes on a pinned one.
//!
//! For: the rings of held packets. Not for: any map that the loader makes. Fails with the system call's
//! error.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// Commands and types of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const BPF_MAP_TYPE_RINGBUF: u32 = 27;

/// `union bpf_attr`, member without a name for BPF_MAP_CREATE (linux/bpf.h), as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}
const _: () = assert!(size_of::<Create>() == 44);

/// The same for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
#[derive(Default)]
struct Update {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}
const _: () = assert!(size_of::<Update>() == 32);

/// A ring of so many bytes, a power of two.
pub fn ring(bytes: u32) -> io::Result<OwnedFd> {
    create(Create { kind: BPF_MAP_TYPE_RINGBUF, max_entries: bytes, ..named("held_ring") })
}

/// An array of `entries` maps, the first of which are `maps`: all of one type, at least one.
pub fn map_of_maps(name: &str, entries: u32, maps: &[OwnedFd]) -> io::Result<OwnedFd> {
    let first = maps.first().ok_or(io::ErrorKind::InvalidInput)?;
    let table = create(Create {
        kind: BPF_MAP_TYPE_ARRAY_OF_MAPS,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u32>() as u32,
        max_entries: entries,
        inner_map: first.as_raw_fd() as u32,
        ..named(name)
    })?;
    for (index, map) in (0u32..).zip(maps) {
        let value = map.as_raw_fd() as u32;
        let mut update = Update {
            map: table.as_raw_fd() as u32,
            key: std::ptr::from_ref(&index) as u64,
            value: std::ptr::from_ref(&value) as u64,
            ..Update::default()
        };
        // SAFETY: `key` and `value` point to the four bytes each that the map was made with, alive
        // during the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut update) }?;
    }
    Ok(table)
}

/// The kernel takes a name of 15 bytes, for people to read.
fn named(name: &str) -> Create {
    let mut create = Create::default();
    for (to, from) in create.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    create
}

fn create(mut create: Create) -> io::Result<OwnedFd> {
    // SAFETY: what BPF_MAP_CREATE reads has no pointers.
    let map = unsafe { bpf(BPF_MAP_CREATE, &mut create) }?;
    // SAFETY: it is a descriptor that the kernel just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}

/// # Safety
/// Pointers in the attributes must be what the command takes them for.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, and what the caller answers for.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
