//! How long a client has for its hello, on a clock that only runs while everybody waits.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::first::{HELLO_DEADLINE, HOLD};
use super::*;
use crate::leg::LegFault;

/// A client that sends so many bytes of a hello that never ends, one every second, and stays.
async fn dribbles(bytes: usize) -> TcpStream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let hello =
        [0x16, 3, 1, 0x20, 0, 1, 0, 0x1f, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(1));
    tokio::spawn(async move {
        for byte in hello.take(bytes) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.try_write(&[byte]).is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    listener.accept().await.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn client_that_never_ends_its_hello_is_given_up_at_the_deadline() {
    for (bytes, least) in [(0, 0), (5, 5), (1000, 28)] {
        let (stream, started) = (dribbles(bytes).await, Instant::now());
        let mut received = Vec::new();
        let ended = rest_of_hello(&stream, &mut received).await.map(drop);
        assert!(matches!(ended, Err(LegFault::Slow)), "{ended:?}");
        let took = started.elapsed();
        assert!((HELLO_DEADLINE..HELLO_DEADLINE + HOLD).contains(&took), "{took:?}");
        assert!(received.len() >= least && received.len() <= bytes.min(31), "{}", received.len());
    }
}
