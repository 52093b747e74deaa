//! Many legs at once on the legacy worker.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// More than its socket has room for: each waits for its turn, and none is lost.
#[test]
fn legs_wait_for_a_worker_that_is_busy() {
    const LEGS: usize = 400;
    run(async |world| {
        let open = {
            let world = Rc::clone(&world);
            move || world.end(Protocol::Tls10, Suite::by_id(0x002f).unwrap(), client_role(1))
        };
        drop(world.legacy.leg(open()).await.unwrap());
        let process = world.legacy.counts().process.load(Ordering::Relaxed);
        let process = Pid::from_raw(i32::try_from(process).unwrap());
        kill(process, Signal::SIGSTOP).unwrap();
        let legs: Vec<JoinHandle<()>> = (0..LEGS)
            .map(|_| {
                let (world, open) = (Rc::clone(&world), open());
                spawn_local(async move {
                    let mut leg = world.legacy.leg(open).await.unwrap();
                    while !leg.wants_write() {
                        leg.read_wire(&[]).unwrap();
                        progress(&mut leg).await;
                    }
                })
            })
            .collect();
        // Each has tried by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        kill(process, Signal::SIGCONT).unwrap();
        for leg in legs {
            tokio::time::timeout(TIME, leg).await.unwrap().unwrap();
        }
        let counts = world.legacy.counts();
        assert_eq!(counts.refused.load(Ordering::Relaxed), 0);
        assert_eq!(counts.crashes.load(Ordering::Relaxed), 0);
    });
}
