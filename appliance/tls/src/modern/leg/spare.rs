//! Buffers that a thread's legs share, so that an idle leg has none.
//!
//! For: plaintext and records between two events. One buffer of each is kept a thread; what is
//! larger than [`SPARE_BOUND`], or smaller than the one that is kept, is freed.

use std::cell::RefCell;
use std::thread::LocalKey;

use crate::leg::PLAIN_BOUND;

thread_local! {
    /// Buffers that no leg of this thread is using, for plaintext and for records: between two
    /// events a leg has none.
    pub(super) static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    pub(super) static SPARE_OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Capacity past which a buffer is freed instead.
const SPARE_BOUND: usize = 4 * PLAIN_BOUND;

pub(super) fn give_back(spare: &'static LocalKey<RefCell<Vec<u8>>>, mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() <= SPARE_BOUND {
        spare.with_borrow_mut(|spare| {
            if spare.capacity() < buffer.capacity() {
                *spare = buffer;
            }
        });
    }
}
