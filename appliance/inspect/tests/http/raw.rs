//! What is not HTTP is a raw stream; a server that speaks first turns no rule off.

use weir_inspect::{HttpViolation, Service};

use super::common::{Run, ToClient, ToServer, filter, rules};
use super::{GET, QUIET, drop_rule, violation};

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
