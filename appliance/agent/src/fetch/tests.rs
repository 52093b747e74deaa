//! Against servers on loopback that this file drives: past [`target`], which never lets them be
//! reached, the question is asked on a connection that the test made.

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
                    accept: application/pkix-cert, application/pkcs7-mime\r\n\r\n";
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
    // A length that is too long is believed, before anything comes.
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bound + 1);
    let (_, result) = answered(intermediate(), vec![long.into_bytes(), vec![7; bound + 1]]).await;
    assert_eq!(result, Err(FetchFailure::TooLong));
}

#[tokio::test]
async fn an_answer_in_many_pieces_is_whole_up_to_the_bound() {
    let bound = intermediate().bound();
    for (bytes, is_whole) in [(bound, true), (bound + 1, false)] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let pieces = format!("{head}{}0\r\nTrailer: 1\r\n\r\n", "1\r\n7\r\n".repeat(bytes));
        let (_, result) = answered(intermediate(), vec![pieces.into_bytes()]).await;
        let whole = Ok(Bytes(vec![b'7'; bytes]));
        assert_eq!(result, if is_whole { whole } else { Err(FetchFailure::TooLong) });
    }
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
async fn a_silent_server_is_given_up_in_time() {
    LocalSet::new()
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let stream = TcpStream::connect(address).await.unwrap();
            let fetch = intermediate();
            let asked = tokio::time::timeout(FETCH_WITHIN, ask(&fetch, stream));
            assert!(asked.await.is_err());
        })
        .await;
}

/// What is told next.
async fn next(told: &mut mpsc::Receiver<Told>) -> (u64, FetchFailure) {
    match told.recv().await.unwrap().message {
        ToEngine::Fetched { number, result: Err(failure) } => (number, failure),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_without_a_turn_or_a_place_says_nothing_of_who_was_to_be_asked() {
    LocalSet::new()
        .run_until(async {
            let fetcher = Rc::new(Fetcher::default());
            // Nobody gets a turn.
            let turns = fetcher.unverified.turns.acquire_many(AT_ONCE as u32).await.unwrap();
            let (answers, mut told) = mpsc::channel(MOST_TOLD);
            for number in 0..=MOST_FETCHES as u64 {
                fetcher.start(number, intermediate(), Vec::new(), &answers);
            }
            let mut failed = Vec::new();
            for _ in 0..=MOST_FETCHES {
                failed.push(next(&mut told).await);
            }
            assert_eq!(failed[0].0, MOST_FETCHES as u64, "at once");
            assert!(failed.iter().all(|(_, failure)| *failure == FetchFailure::Busy), "{failed:?}");
            assert_eq!(fetcher.unverified.places.available_permits(), MOST_FETCHES);
            drop(turns);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_anybody_wants_fetched_keeps_no_authority_waiting() {
    LocalSet::new()
        .run_until(async {
            let fetcher = Rc::new(Fetcher::default());
            let Bounds { places, turns, look_ups } = &fetcher.unverified;
            let _turns = turns.acquire_many(AT_ONCE as u32).await.unwrap();
            let _look_ups = look_ups.acquire_many(LOOK_UPS as u32).await.unwrap();
            let (answers, mut told) = mpsc::channel(MOST_TOLD);
            for number in 0..MOST_FETCHES as u64 {
                fetcher.start(number, intermediate(), Vec::new(), &answers);
            }
            assert_eq!(places.available_permits(), 0);
            let url = |host| url(&format!("http://{host}/"));
            let ocsp = Fetch::Ocsp { url: url("127.0.0.1"), request: Bytes(Vec::new()) };
            fetcher.start(100, ocsp, Vec::new(), &answers);
            let (number, failure) = next(&mut told).await;
            assert_eq!(number, 100);
            assert!(matches!(failure, FetchFailure::Refused { .. }), "{failure:?}");
            // Nor is its name's resolution one too many.
            let list = Fetch::RevocationList { url: url("localhost") };
            let result = fetcher.fetch(&list, &[]).await;
            let refused = matches!(result, Err(FetchFailure::Refused { .. } | FetchFailure::Name));
            assert!(refused, "{result:?}");
            let result = fetcher.fetch(&Fetch::Intermediate { url: url("localhost") }, &[]).await;
            assert_eq!(result, Err(FetchFailure::Busy));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_ends_when_its_answer_is_written() {
    LocalSet::new()
        .run_until(async {
            let fetcher = Rc::new(Fetcher::default());
            let (answers, mut told) = mpsc::channel(MOST_TOLD);
            let refused = || Fetch::RevocationList { url: url("http://127.0.0.1/") };
            for number in 0..=AT_ONCE as u64 {
                fetcher.start(number, refused(), Vec::new(), &answers);
            }
            tokio::time::sleep(TURN_WITHIN * 2).await;
            // The engine has read nothing so far.
            let mut waiting = Vec::new();
            while let Ok(one) = told.try_recv() {
                waiting.push(one);
            }
            let ToEngine::Fetched { number, result } = &waiting.last().unwrap().message else {
                panic!("{waiting:?}");
            };
            assert_eq!((*number, result), (AT_ONCE as u64, &Err(FetchFailure::Busy)));
            assert_eq!(fetcher.verified.turns.available_permits(), 0);
            waiting.clear();
            assert_eq!(fetcher.verified.turns.available_permits(), AT_ONCE);
            assert_eq!(fetcher.verified.places.available_permits(), MOST_FETCHES);
        })
        .await;
}
