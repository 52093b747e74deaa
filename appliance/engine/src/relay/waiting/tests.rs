use std::future::{pending, ready};
use std::pin::pin;
use std::time::Duration;

use socket2::SockRef;
use tokio::time::{Instant, sleep};
use weir_dataplane::DYING;

use super::super::side::Side;
use super::super::testing::{Answering, side};
use super::super::timer::{Purpose, Timer};
use super::*;
use crate::leg::HIGH_WATER;

/// Client's side and server's.
struct Both([Side; 2]);

/// With their peers.
async fn both() -> (Both, [TcpStream; 2]) {
    let [(client, its), (server, servers)] = [side().await, side().await];
    for side in [&client, &server] {
        // A new stream passes for readable until it was read once.
        let nothing = side.leg.stream.try_read(&mut [0; 1]);
        assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    (Both([client, server]), [its, servers])
}

impl Both {
    /// The next event where there is neither a timer nor a question.
    async fn next(&mut self, first: End) -> Result<(Event, bool), Fault> {
        self.next_beside(first, None, pending()).await
    }

    async fn next_beside(
        &mut self,
        first: End,
        timer: Option<&mut Timer>,
        asked: impl Future<Output = [bool; 2]>,
    ) -> Result<(Event, bool), Fault> {
        let [client, server] = &mut self.0;
        let wanted = [client.wanted(server), server.wanted(client)];
        next_event(Watched::both([client, server], wanted), first, timer, pin!(asked)).await
    }

    async fn event(&mut self) -> Event {
        self.next(End::Client).await.ok().unwrap().0
    }

    /// Whether nothing happens for now.
    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.next(End::Client)).await.is_err()
    }

    /// The server's peer takes nothing more, and has more to take than its client is read beside.
    async fn fill_server(&mut self) {
        let leg = &mut self.0[1].leg;
        loop {
            while leg.pending() < 2 * HIGH_WATER {
                leg.send_plain(&[0; 1 << 16]).unwrap();
            }
            leg.flush_some().unwrap();
            // What was taken is on its way, and makes room.
            let more = tokio::time::timeout(Duration::from_millis(20), leg.stream.writable());
            if more.await.is_err() && leg.pending() >= 2 * HIGH_WATER {
                return;
            }
        }
    }
}

/// Whose time is short.
fn impatient(other: &Side) -> Patience {
    Patience::lasting(Duration::from_millis(100), &other.leg.stream, Instant::now() + DYING)
}

fn reset(peer: TcpStream) {
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn of_two_sides_that_are_readable_the_first_one_is_told() {
    let (mut both, peers) = both().await;
    for (side, peer) in both.0.iter().zip(&peers) {
        peer.try_write(b"hello").unwrap();
        side.leg.stream.readable().await.unwrap();
    }
    for first in [End::Server, End::Client] {
        // It was there, without a wait.
        assert_eq!(both.next(first).await.ok().unwrap(), (Event::Readable(first), false));
    }
}

#[tokio::test]
async fn what_comes_later_is_waited_for() {
    let (mut both, [_client, server]) = both().await;
    assert!(both.is_quiet().await);
    let (event, ()) = tokio::join!(both.next(End::Client), async {
        sleep(Duration::from_millis(20)).await;
        server.try_write(b"hello").unwrap();
    });
    assert_eq!(event.ok().unwrap(), (Event::Readable(End::Server), true));
}

#[tokio::test]
async fn side_is_not_read_while_the_other_takes_nothing_and_is_once_it_does() {
    let (mut both, [client, server]) = both().await;
    both.fill_server().await;
    client.try_write(b"more").unwrap();
    assert!(both.is_quiet().await);
    // Its peer reads: TCP takes more, and at last there is room for the client's.
    loop {
        let _ = server.try_read(&mut [0; 1 << 16]);
        match tokio::time::timeout(Duration::from_millis(1), both.next(End::Client)).await {
            Ok(event) => match event.ok().unwrap().0 {
                Event::Writable => both.0[1].push().unwrap(),
                event => break assert_eq!(event, Event::Readable(End::Client)),
            },
            Err(_elapsed) => {}
        }
    }
    assert!(both.0[1].leg.pending() < HIGH_WATER);
}

#[tokio::test]
async fn error_of_a_side_that_is_read_is_told_by_its_reading() {
    let (mut both, [client, _server]) = both().await;
    reset(client);
    assert_eq!(both.event().await, Event::Readable(End::Client));
}

#[tokio::test]
async fn side_that_is_gone_while_it_is_not_read_is_told_once_and_then_when_the_other_took_nothing()
{
    let (mut both, [client, _server]) = both().await;
    both.fill_server().await;
    reset(client);
    assert_eq!(both.event().await, Event::Gone(End::Client));
    // As the relay answers to it.
    let [client, server] = &mut both.0;
    client.patience = Some(impatient(server));
    assert_eq!(both.event().await, Event::Abandoned(End::Client));
}

#[tokio::test]
async fn side_that_is_gone_is_not_abandoned_while_the_other_acknowledges_what_it_said() {
    let (mut both, [client, server]) = both().await;
    both.fill_server().await;
    reset(client);
    assert_eq!(both.event().await, Event::Gone(End::Client));
    let [client, side] = &mut both.0;
    client.patience = Some(impatient(side));
    for _ in 0..5 {
        let before = weir_dataplane::acknowledged(&both.0[1].leg.stream);
        while weir_dataplane::acknowledged(&both.0[1].leg.stream) == before {
            let _ = server.try_read(&mut [0; 1 << 12]);
            sleep(Duration::from_millis(1)).await;
        }
        // Its time is over, and it has it again.
        sleep(Duration::from_millis(150)).await;
        let now = tokio::time::timeout(Duration::ZERO, both.next(End::Client)).await;
        let event = now.ok().map(|event| event.ok().unwrap().0);
        assert!(matches!(event, None | Some(Event::Writable)), "{event:?}");
    }
}

/// A peer that takes a byte now and then would hold both for ever.
#[tokio::test]
async fn side_that_is_gone_for_long_is_abandoned_though_the_other_takes_what_it_said() {
    let (mut both, [client, server]) = both().await;
    both.fill_server().await;
    reset(client);
    assert_eq!(both.event().await, Event::Gone(End::Client));
    let [client, side] = &mut both.0;
    let until = Instant::now() + Duration::from_secs(1);
    let patience = Patience::lasting(Duration::from_millis(500), &side.leg.stream, until);
    client.patience = Some(patience);
    let takes = async {
        loop {
            let _ = server.try_read(&mut [0; 1 << 16]);
            sleep(Duration::from_millis(5)).await;
        }
    };
    let abandoned = async {
        loop {
            match both.event().await {
                Event::Writable => {}
                event => break event,
            }
            // So that the client is not read, whatever TCP took.
            loop {
                both.0[1].push().unwrap();
                if both.0[1].leg.pending() >= HIGH_WATER {
                    break;
                }
                both.0[1].leg.send_plain(&[0; 1 << 16]).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        event = abandoned => assert_eq!(event, Event::Abandoned(End::Client)),
        () = takes => {}
    }
}

#[tokio::test]
async fn nobody_is_told_that_one_is_gone_which_had_left_nor_where_both_have_ended() {
    for all_ended in [false, true] {
        let (mut both, [client, _server]) = both().await;
        both.0[0].ended = true;
        both.0[1].ended = all_ended;
        reset(client);
        if all_ended {
            assert!(both.is_quiet().await);
            continue;
        }
        assert_eq!(both.event().await, Event::Gone(End::Client));
        both.0[0].leave();
        assert!(both.is_quiet().await);
    }
}

#[tokio::test]
async fn tls_that_is_done_elsewhere_tells_how_far_it_is_after_the_wire_has() {
    let (mut both, [_client, server]) = both().await;
    both.0[1].leg.tls = Box::new(Answering::that_comes_further());
    server.try_write(b"hello").unwrap();
    both.0[1].leg.stream.readable().await.unwrap();
    assert_eq!(both.event().await, Event::Readable(End::Server));
    let mut buffer = [0; 16];
    assert_eq!(both.0[1].leg.try_read(&mut buffer).unwrap(), 5);
    assert_eq!(both.event().await, Event::Progress(End::Server));
    assert!(both.is_quiet().await);
}

#[tokio::test]
async fn timer_comes_before_the_sides_and_questions_behind_them() {
    let (mut both, [client, _server]) = both().await;
    let mut timer = Timer::new(Purpose::Tickets, Duration::ZERO);
    client.try_write(b"hello").unwrap();
    both.0[0].leg.stream.readable().await.unwrap();
    sleep(Duration::from_millis(5)).await;
    let asked = [true, false];
    let event = both.next_beside(End::Client, Some(&mut timer), ready(asked)).await;
    assert_eq!(event.ok().unwrap().0, Event::Time);
    let event = both.next_beside(End::Client, None, ready(asked)).await;
    assert_eq!(event.ok().unwrap().0, Event::Readable(End::Client));
    both.0[0].leg.try_read(&mut [0; 16]).unwrap();
    let event = both.next_beside(End::Client, None, ready(asked)).await;
    assert_eq!(event.ok().unwrap(), (Event::Asked(asked), false));
}
