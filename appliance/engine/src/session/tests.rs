//! How long a client has for its handshake, on a clock that only runs while everybody waits; and what
//! becomes of one that cannot have any.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::Instant;
use weir_policy::SecretBytes;
use weir_policy::snapshot::{CertifiedKey, SegmentId};
use weir_tls::{LegError, ModernStack, TlsLeg};

use super::*;

fn client_leg() -> Box<dyn TlsLeg> {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
    let chain = vec![parameters.self_signed(&key).unwrap().der().to_vec()];
    let key = SecretBytes::new(key.serialize_der());
    let key = LegKey::new(&CertifiedKey { chain, key }).unwrap();
    ModernStack::new().unwrap().client_leg(&key, Verdict::default(), None).unwrap()
}

/// The client has sent its hello; then it is silent, or sends the record after it byte by byte, one
/// every second.
#[tokio::test(start_paused = true)]
async fn client_that_never_ends_its_handshake_is_given_up_at_the_deadline() {
    let name = Some("server.test");
    let address = "192.0.2.1:443".parse().unwrap();
    let mut hello = Vec::new();
    ModernStack::new().unwrap().server_leg(name, address, vec![]).unwrap().write_wire(&mut hello);
    for dribbles in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            for byte in [0x17, 3, 3, 0x40].into_iter().chain(std::iter::repeat(0)) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if dribbles && client.try_write(&[byte]).is_err() {
                    return;
                }
            }
        });
        let mut leg = Leg::new(listener.accept().await.unwrap().0, client_leg());
        let started = Instant::now();
        let ended = in_time(leg.handshake(&hello)).await;
        assert!(matches!(ended, Err(LegFault::Slow)), "{ended:?}");
        let took = started.elapsed();
        let most = HANDSHAKE_DEADLINE + Duration::from_millis(20);
        assert!((HANDSHAKE_DEADLINE..most).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn client_whose_leg_cannot_be_had_gets_an_alert_and_its_session_a_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut record = SessionRecord::new(1, 0, SegmentId(1), address, address);
    let totals = Totals::default();
    let error = LegError::Internal("no legacy worker runs".to_owned());
    let blocked = client_leg_not_made(error, &stream, &mut record, &totals);
    drop(stream);
    assert_eq!(blocked, Blocked::ClientHandshakeFailed);
    let failed = record.failure.map(|failure| (failure.with, failure.cause));
    assert_eq!(failed, Some((End::Client, FailureCause::Internal)));
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, Alert::INTERNAL_ERROR.fatal_record());
}

/// Also where it says something before.
#[tokio::test]
async fn client_that_has_left_is_seen_to_have() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.writable().await.unwrap();
    assert_eq!(client.try_write(b"unread").unwrap(), 6);
    stream.readable().await.unwrap();
    assert!(!has_said_its_last(&stream));
    drop(client);
    stream.ready(tokio::io::Interest::READABLE).await.unwrap();
    while !has_said_its_last(&stream) {
        tokio::task::yield_now().await;
    }
}

/// Two segments less on either side of a session.
#[tokio::test]
async fn last_flights_that_nobody_waits_for_go_with_the_first_data() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut to_client = Leg::new(listener.accept().await.unwrap().0, client_leg());
    let tls = ModernStack::new().unwrap().server_leg(Some("server.test"), address, vec![]);
    let mut to_server = Leg::new(stream, tls.unwrap());
    let shaken = async {
        to_server.handshake(&[]).await.unwrap();
        assert!(to_server.unsent() > 0, "our Finished");
        to_server.send_plain(b"asked").unwrap();
        to_server.flush_all().await.unwrap();
    };
    let (shaken_too, ()) = tokio::join!(to_client.handshake(&[]), shaken);
    shaken_too.unwrap();
    assert!(to_client.unsent() > 0, "tickets");
    // It came with the Finished, in one read.
    let mut plain = Vec::new();
    to_client.tls.read_plain(&mut plain);
    assert_eq!(plain, b"asked");
}

/// How a client leaves that was shown a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Before it was shown any.
    UnshownByReset,
    ByReset,
    ByEnd,
}

/// Clients that have pinned another certificate leave in any way.
#[tokio::test]
async fn client_that_resets_upon_the_certificate_rejects_it_as_one_that_closes() {
    let name = Some("server.test");
    let address = "192.0.2.1:443".parse().unwrap();
    let mut hello = Vec::new();
    ModernStack::new().unwrap().server_leg(name, address, vec![]).unwrap().write_wire(&mut hello);
    for leaves in [Leaves::UnshownByReset, Leaves::ByReset, Leaves::ByEnd] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut leg = Leg::new(listener.accept().await.unwrap().0, client_leg());
        let client = async move {
            if leaves != Leaves::UnshownByReset {
                assert!(client.read(&mut [0; 16 << 10]).await.unwrap() > 600, "all of it");
            }
            crate::leg::reset_on_close(&client, leaves != Leaves::ByEnd);
        };
        let received = if leaves == Leaves::UnshownByReset { &[][..] } else { &hello };
        let (ended, ()) = tokio::join!(leg.handshake(received), client);
        let fault = ended.unwrap_err();
        let rejected = rejects_certificate(&fault, &leg);
        assert_eq!(rejected.is_some(), leaves != Leaves::UnshownByReset, "{leaves:?}: {fault}");
    }
}
