//! How long a client has for its handshake, on a clock that only runs while everybody waits.

use tokio::net::TcpListener;
use tokio::time::Instant;
use weir_policy::SecretBytes;
use weir_policy::snapshot::CertifiedKey;
use weir_tls::ModernStack;

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
