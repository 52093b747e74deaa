//! Running a program on demand: BPF_PROG_TEST_RUN.
//!
//! Fails with the system call's error only.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// `struct __sk_buff` (linux/bpf.h): the kernel wants room for all of it; all but `cb` is 0 for the
/// program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    head: [u32; 12],
    pub cb: [u32; 5],
    tail: [u32; 31],
}
const _: () = assert!(size_of::<Context>() == 192);

/// `union bpf_attr`, member `test` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    answer: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    reserved: u32,
}

/// Runs the program once on a packet, and returns what it returned; what it did to the packet is
/// lost, what it did to the context is not.
pub fn test_run(
    program: &OwnedFd,
    packet: &[u8],
    context: Option<&mut Context>,
) -> io::Result<u32> {
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ..Attributes::default()
    };
    if let Some(context) = context {
        let size = size_of::<Context>() as u32;
        let at = std::ptr::from_mut(context) as u64;
        (attributes.context_size_in, attributes.context_in) = (size, at);
        (attributes.context_size_out, attributes.context_out) = (size, at);
    }
    // SAFETY: `packet` and `context`, which is borrowed mutably, are alive during the call.
    unsafe { run(attributes) }
}

/// Runs a program of the type of raw tracepoints once, and returns what it returned. At half the cost
/// of a packet: the kernel makes none.
pub fn test_run_with_arguments(program: &OwnedFd, arguments: &[u8]) -> io::Result<u32> {
    let attributes = Attributes {
        program: program.as_raw_fd() as u32,
        context_size_in: arguments.len() as u32,
        context_in: arguments.as_ptr() as u64,
        ..Attributes::default()
    };
    // SAFETY: `arguments` are alive during the call, and the kernel only reads them.
    unsafe { run(attributes) }
}

/// # Safety
/// The kernel reads `size_in` bytes at `data_in` and `context_size_in` bytes at `context_in`, and
/// writes `context_size_out` bytes at `context_out`.
unsafe fn run(mut attributes: Attributes) -> io::Result<u32> {
    // SAFETY: the kernel reads and writes `size_of::<Attributes>()` bytes of `attributes`, and what
    // the caller answers for. aya 0.13 has no call for BPF_PROG_TEST_RUN.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            std::ptr::from_mut(&mut attributes),
            size_of::<Attributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes.answer) }
}
