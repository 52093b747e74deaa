//! Against servers on loopback that this file drives: past [`target`], which never lets them be
//! reached, the question is asked on a connection that the test made.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

fn url(text: &str) -> HttpUrl {
    text.parse().unwrap()
}

fn intermediate() -> Fetch {
    Fetch::Intermediate { url: url("http://ca.example:8080/ca.cer?v=1") }
}

/// What a server that sends `pieces`, each after the one before, is asked, and what is made of it.
async fn answered(fetch: Fetch, pieces: Vec<Vec<u8>>) -> (String, Result<Bytes, FetchFailure>) {
    LocalSet::new()
        .run_until(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let serving = spawn_local(async move {
                let mut asked = vec![0; 4096];
                let read = server.read(&mut asked).await.unwrap();
                asked.truncate(read);
                for piece in pieces {
                    if server.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                String::from_utf8_lossy(&asked).into_owned()
            });
            let result = ask(&fetch, stream).await;
            (serving.await.unwrap(), result)
        })
        .await
}

#[tokio::test]
async fn a_certificate_is_asked_for_with_nothing_but_what_is_needed() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_vec();
    let (asked, result) = answered(intermediate(), vec![answer]).await;
    assert_eq!(result, Ok(Bytes(b"abc".to_vec())));
    let expected = "GET /ca.cer?v=1 HTTP/1.1\r\nhost: ca.example:8080\r\nconnection: close\r\n\
                    accept: application/pkix-cert\r\n\r\n";
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn an_ocsp_request_is_posted() {
    let fetch = Fetch::Ocsp { url: url("http://ocsp.example"), request: Bytes(b"asked".to_vec()) };
    // Without a length: until the end.
    let answer = b"HTTP/1.0 200 OK\r\n\r\nanswer".to_vec();
    let (asked, result) = answered(fetch, vec![answer]).await;
    assert_eq!(result, Ok(Bytes(b"answer".to_vec())));
    assert!(asked.starts_with("POST / HTTP/1.1\r\nhost: ocsp.example\r\n"), "{asked}");
    assert!(asked.contains("content-type: application/ocsp-request\r\n"), "{asked}");
    assert!(asked.ends_with("\r\n\r\nasked"), "{asked}");
}

#[tokio::test]
async fn an_answer_without_end_is_given_up_at_the_bound() {
    let bound = intermediate().bound();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let chunk = [&b"4000\r\n"[..], &vec![7; 0x4000], b"\r\n"].concat();
    let pieces = std::iter::once(head).chain(std::iter::repeat_n(chunk, bound / 0x4000 + 64));
    let (_, result) = answered(intermediate(), pieces.collect()).await;
    assert_eq!(result, Err(FetchFailure::TooLong));
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bound + 1);
    let (_, result) = answered(intermediate(), vec![long.into_bytes(), vec![7; bound + 1]]).await;
    assert_eq!(result, Err(FetchFailure::TooLong));
}

#[tokio::test]
async fn redirects_errors_and_what_is_no_http_are_failures() {
    for (answer, failure) in [
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n".into(),
            FetchFailure::Status(302),
        ),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), FetchFailure::Status(404)),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n".into(), FetchFailure::Malformed),
        (String::new(), FetchFailure::Connection),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".into(), FetchFailure::Connection),
        (
            format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(2 * HEAD)),
            FetchFailure::Malformed,
        ),
    ] {
        let (_, result) = answered(intermediate(), vec![answer.clone().into_bytes()]).await;
        assert_eq!(result, Err(failure), "{answer}");
    }
}

#[tokio::test]
async fn no_name_leads_to_loopback() {
    let fetcher = Rc::new(Fetcher::default());
    let everything = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    for host in ["localhost", "127.0.0.1", "[::1]", "2130706433", "0x7f.1"] {
        let fetch = Fetch::Intermediate { url: url(&format!("http://{host}/")) };
        let result = LocalSet::new().run_until(fetcher.fetch(&fetch, &everything)).await;
        match result {
            Err(FetchFailure::Refused { .. } | FetchFailure::Name) => {}
            other => panic!("{host}: {other:?}"),
        }
    }
}

/// A server that takes a connection, and says nothing.
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_in_time_and_others_past_the_bound_at_once() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let fetch = intermediate();
            let asked = tokio::time::timeout(FETCH_WITHIN, ask(&fetch, stream));
            assert!(asked.await.is_err());

            let fetcher = Rc::new(Fetcher::default());
            // Nobody gets a turn.
            let _turns = fetcher.turns.acquire_many(8).await.unwrap();
            let (answers, mut told) = mpsc::channel(MOST_FETCHES + 1);
            for number in 0..=MOST_FETCHES as u64 {
                fetcher.start(number, fetch.clone(), Vec::new(), &answers);
            }
            let mut failed = Vec::new();
            for _ in 0..=MOST_FETCHES {
                match told.recv().await.unwrap() {
                    ToEngine::Fetched { number, result: Err(failure) } => {
                        failed.push((number, failure));
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(failed.remove(0), (MOST_FETCHES as u64, FetchFailure::Busy));
            assert!(failed.iter().all(|(_, failure)| *failure == FetchFailure::TimedOut));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(fetcher.places.available_permits(), MOST_FETCHES);
        })
        .await;
}
