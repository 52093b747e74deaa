//! Where messages begin and end, and what leaves that in doubt: a violation, and not forwarded.

use weir_inspect::HttpViolation;

use super::common::{Run, ToClient, ToServer, filter};
use super::{GET, QUIET, drop_rule, violation};

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
