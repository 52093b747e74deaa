//! How far a ring is written, and how far it is read.
//!
//! For: whether a reader may sleep. Not for: reading, which aya does; it does not tell a ring that is empty
//! from one whose next record is still written. Fails where the kernel maps no memory.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use aya::maps::{MapData, RingBuf};

/// The two positions of a ring, in bytes since it was made: a page each, the reader's first (libbpf's and
/// aya's ABI of BPF_MAP_TYPE_RINGBUF; kernel/bpf/ringbuf.c, ringbuf_map_mmap_kern).
#[derive(Debug)]
pub struct Positions {
    pages: NonNull<libc::c_void>,
    page: usize,
}

// SAFETY: the pages are looked at by atomic loads alone, from whichever thread.
unsafe impl Send for Positions {}
// SAFETY: as above.
unsafe impl Sync for Positions {}

impl Positions {
    pub fn of(ring: &RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: a system call without pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(io::Error::other)?;
        // SAFETY: a new mapping, read only, at a place of the kernel's choice. No safe wrapper of it is
        // there: what a mapping shows changes under its reader.
        let pages = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                0,
            )
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pages = NonNull::new(pages).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pages, page })
    }

    /// Whether there is anything that was not read, be it still written at this moment. The programs wake
    /// nobody where the reader is behind (`wake` of bpf/hold.h): it must not sleep then.
    pub fn differ(&self) -> bool {
        // Between what the reader wrote and what it looks at now. A program that wrote its position and then
        // looks at the reader's has such a fence, too: one of the two sees the other.
        fence(Ordering::SeqCst);
        self.position(0).load(Ordering::Acquire) != self.position(1).load(Ordering::Acquire)
    }

    fn position(&self, page: usize) -> &AtomicUsize {
        // SAFETY: both pages are mapped as long as `self` lives, and begin with an aligned word of the
        // kernel's `unsigned long`. The mapping is read only, and so are the loads.
        unsafe { self.pages.byte_add(page * self.page).cast::<AtomicUsize>().as_ref() }
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of`, and nobody else has it.
        unsafe { libc::munmap(self.pages.as_ptr(), 2 * self.page) };
    }
}
