//! How a thread that reads rings and owns flows is scheduled.
//!
//! For: the engine's runtimes, and whoever measures them. Not for: any other thread. Best effort: a thread
//! that could not be settled works too, and costs more.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Binds the calling thread, the `number`th of its kind, to a processor: that whose ring it reads, where
/// there are as many. And has it finish what others are at before it runs (SCHED_BATCH, sched(7)): it is
/// woken out of the middle of a burst of packets, by the first of them, and finds all of the burst where it
/// waits for whoever brings it, ksoftirqd above all. The price: behind a thread that computes it waits for
/// some milliseconds, a turn of the scheduler's.
pub fn settle_runtime_thread(number: usize) {
    let mut set = CpuSet::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if set.set(number % processors).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
    // struct sched_param: a priority, which is 0 for this policy.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads one int of `priority`, which outlives the call. musl's own function of that
    // name refuses, and no safe wrapper is there.
    unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority);
    }
}
