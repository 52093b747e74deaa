//! Rules over heads, bodies and trailers: what of a message is forwarded before it is dropped.

use weir_inspect::{HttpViolation, MAX_ALERTS};

use super::common::{Run, ToClient, ToServer, filter};
use super::{GET, QUIET, drop_rule, violation};

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
fn shipped_example_blocks_what_it_names() {
    let text = include_str!("../../rules/example.rules");
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
