//! Heads, lines and requests without an end: dropped at their bounds.

use weir_inspect::{Dropped, HttpViolation, MAX_HEAD, MAX_OUTSTANDING};

use super::common::{Run, ToClient, ToServer};
use super::{GET, QUIET, violation};

#[test]
fn outstanding_requests_are_bounded() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, GET.repeat(MAX_OUTSTANDING)).unwrap();
    assert_eq!(violation(run.send(ToServer, GET)), HttpViolation::TooManyOutstanding);
    assert_eq!(run.to_server.len(), GET.len() * MAX_OUTSTANDING);
}

#[test]
fn head_up_to_the_bound_passes_and_a_longer_one_is_dropped() {
    let head = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4))
    };
    for drip in [false, true] {
        let send = |run: &mut Run, head: &str| {
            if drip { run.drip(ToServer, head) } else { run.send(ToServer, head) }
        };
        let mut run = Run::http(QUIET);
        send(&mut run, &head(MAX_HEAD)).unwrap();
        assert_eq!(run.to_server.len(), MAX_HEAD);
        assert_eq!(send(&mut run, &head(MAX_HEAD + 1)), Err(Dropped::HeadTooLarge));
        assert_eq!(run.to_server.len(), MAX_HEAD);
    }
    let mut run = Run::http(QUIET);
    run.send(ToServer, GET).unwrap();
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(2 * MAX_HEAD));
    assert_eq!(run.send(ToClient, endless), Err(Dropped::HeadTooLarge));
    assert_eq!(run.to_client, b"");
}

#[test]
fn endless_empty_lines_between_requests_are_dropped() {
    for drip in [false, true] {
        let mut run = Run::http(QUIET);
        run.send(ToServer, GET).unwrap();
        let empty = "\r\n".repeat(MAX_HEAD / 2);
        let verdict = if drip { run.drip(ToServer, &empty) } else { run.send(ToServer, &empty) };
        assert_eq!(verdict, Ok(()));
        assert_eq!(run.send(ToServer, "\r\n"), Err(Dropped::HeadTooLarge));
        assert_eq!(run.send(ToServer, GET), Err(Dropped::HeadTooLarge));
        assert_eq!(run.to_server, GET.as_bytes());
    }
    let mut run = Run::http(QUIET);
    let both = format!("{GET}{}{GET}", "\r\n".repeat(MAX_HEAD / 2 + 1));
    assert_eq!(run.send(ToServer, both), Err(Dropped::HeadTooLarge));
    assert_eq!(run.to_server, GET.as_bytes());
}

#[test]
fn endless_first_line_is_dropped_whatever_its_method() {
    for start in ["A", "FROB ", "G{T ", "GET /", "{"] {
        let endless = format!("{start}{}", "A".repeat(MAX_HEAD));
        for drip in [false, true] {
            let mut run = Run::http(QUIET);
            let verdict =
                if drip { run.drip(ToServer, &endless) } else { run.send(ToServer, &endless) };
            assert_eq!(verdict, Err(Dropped::HeadTooLarge), "{start:?}");
            assert_eq!(run.to_server, b"");
        }
    }
}
