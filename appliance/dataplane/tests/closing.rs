//! A data plane that is dropped: its readers end with it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire;

use tokio::time::Instant;
use weir_dataplane::Attach;
use wire::Wire;

/// The clock stands still as long as anybody has something to do: it would go on to the reader's next tick.
#[test]
fn a_reader_is_woken_by_the_end_of_its_data_plane() {
    let wire = Wire::new();
    let (engine, mut held) = wire.engine(Attach::Auto);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async move {
        let reading = tokio::spawn(async move { held.next().await.is_none() });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let before = Instant::now();
        drop(engine);
        assert!(reading.await.unwrap());
        assert!(before.elapsed().is_zero(), "it waited for its next tick");
    });
}
