//! A worker of the legacy stack that ends, or is stuck.

use super::*;

#[test]
fn leg_of_a_worker_that_ends_fails_and_the_next_worker_serves() {
    run(async |world| {
        let suite = Suite::by_id(0x002f).unwrap();
        let open = || world.end(Protocol::Tls10, suite, client_role(1));
        let mut leg = world.legacy.leg(open()).await.unwrap();
        let process = || world.legacy.counts().process.load(Ordering::Relaxed);
        let first = process();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let failed = async {
            while leg.read_wire(&[]).is_ok() {
                progress(&mut leg).await;
            }
        };
        tokio::time::timeout(TIME, failed).await.unwrap();
        // Told to be gone, and then asked for nothing more.
        assert!(matches!(leg.read_wire(b"more"), Err(LegError::Internal(_))));
        assert_eq!(leg.write_plain(b"more"), 0);
        while world.legacy.counts().crashes.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut leg = world.legacy.leg(open()).await.unwrap();
        while !leg.wants_write() {
            progress(&mut leg).await;
        }
        assert_ne!(process(), first);
    });
}

#[test]
fn worker_that_is_stuck_is_killed() {
    run(async |world| {
        let open = world.end(Protocol::Tls10, Suite::by_id(0x002f).unwrap(), client_role(1));
        drop(world.legacy.leg(open).await.unwrap());
        let process = world.legacy.counts().process.load(Ordering::Relaxed);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        let replaced = async {
            while [0, process].contains(&world.legacy.counts().process.load(Ordering::Relaxed)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TIME, replaced).await.unwrap();
        assert_eq!(world.legacy.counts().crashes.load(Ordering::Relaxed), 1);
    });
}
