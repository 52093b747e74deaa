//! Properties of inspection that hold for any rules, any bytes and any reads: the verdict is that of
//! a naive search of the whole, and the byte that completes a drop is never forwarded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fmt::Write as _;

use common::{Run, ToClient, ToServer, rules};
use proptest::{collection::vec, prelude::*, sample::select};
use weir_inspect::{Direction, Dropped, Service};

/// A rule as the naive search sees it.
#[derive(Clone, Debug)]
struct NaiveRule {
    drops: bool,
    flow: Option<Direction>,
    contents: Vec<(Vec<u8>, bool)>,
}

impl NaiveRule {
    fn text(&self, protocol: &str, sid: u32) -> String {
        let mut text = format!(
            "{} {protocol} any any -> any any (",
            if self.drops { "drop" } else { "alert" }
        );
        match self.flow {
            Some(ToServer) => text.push_str("flow:to_server;"),
            Some(ToClient) => text.push_str("flow:to_client;"),
            None => {}
        }
        for (content, nocase) in &self.contents {
            let hex = content.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x} ").unwrap();
                hex
            });
            write!(text, "content:\"|{hex}|\";{}", if *nocase { "nocase;" } else { "" }).unwrap();
        }
        write!(text, "sid:{sid};)").unwrap();
        text
    }

    /// Index of the byte with which all contents are there.
    fn completed(&self, direction: Direction, bytes: &[u8]) -> Option<usize> {
        if self.flow.is_some_and(|flow| flow != direction) {
            return None;
        }
        let ends = self.contents.iter().map(|(content, nocase)| {
            let same = |window: &[u8]| {
                if *nocase { window.eq_ignore_ascii_case(content) } else { window == content }
            };
            bytes.windows(content.len()).position(same).map(|start| start + content.len() - 1)
        });
        ends.collect::<Option<Vec<usize>>>()?.into_iter().max()
    }
}

fn rule() -> impl Strategy<Value = NaiveRule> {
    let content = (vec(select(b"abAB".to_vec()), 1..5), any::<bool>());
    let flow = select(vec![None, None, Some(ToServer), Some(ToClient)]);
    (prop::bool::weighted(0.4), flow, vec(content, 1..4))
        .prop_map(|(drops, flow, contents)| NaiveRule { drops, flow, contents })
}

/// The first drop in `bytes`: the completing byte, then the first rule of the set; and the sids of
/// the alerts up to there.
fn naive(
    rules: &[NaiveRule],
    direction: Direction,
    bytes: &[u8],
) -> (Option<(usize, u32)>, Vec<u32>) {
    let completed = |rule: &NaiveRule| rule.completed(direction, bytes);
    let numbered = || (1u32..).zip(rules);
    let drop = numbered()
        .filter(|(_, rule)| rule.drops)
        .filter_map(|(sid, rule)| Some((completed(rule)?, sid)))
        .min();
    let alerts = numbered()
        .filter(|(_, rule)| !rule.drops)
        .filter(|(_, rule)| {
            completed(rule).is_some_and(|at| drop.is_none_or(|(dropped, _)| at <= dropped))
        })
        .map(|(sid, _)| sid)
        .collect();
    (drop, alerts)
}

fn set(protocol: &str, naive: &[NaiveRule]) -> String {
    (1u32..).zip(naive).map(|(sid, rule)| rule.text(protocol, sid) + "\n").collect()
}

/// Feeds in reads of the given lengths, over and over.
fn feed(run: &mut Run, direction: Direction, bytes: &[u8], reads: &[usize]) -> Result<(), Dropped> {
    let mut rest = bytes;
    for read in reads.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at((*read).min(rest.len()));
        run.send(direction, now)?;
        rest = later;
    }
    Ok(())
}

fn sid(verdict: &Result<(), Dropped>) -> Option<u32> {
    match verdict {
        Ok(()) => None,
        Err(Dropped::Filter(alert)) => Some(alert.sid),
        Err(other) => panic!("{other}"),
    }
}

/// Pieces from which HTTP and what nearly is HTTP arises.
fn http_like() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /ab HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n",
        "POST /ab HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "4\r\nabAB\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 x\r\n\r\n",
        "Upgrade: x\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "ab",
        "GET ",
        "HTTP/",
        "\0",
    ];
    vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat().into_bytes())
}

fn reads() -> impl Strategy<Value = Vec<usize>> {
    vec(1usize..9, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stream_verdict_is_that_of_a_naive_search(
        naive_rules in vec(rule(), 1..6),
        bytes in vec(select(b"abABc".to_vec()), 0..60),
        reads in reads(),
        direction in select(vec![ToServer, ToClient]),
    ) {
        let mut run = Run::new(&rules(&set("tcp", &naive_rules)), Service::Other);
        let verdict = feed(&mut run, direction, &bytes, &reads);
        let (drop, alerts) = naive(&naive_rules, direction, &bytes);
        prop_assert_eq!(sid(&verdict), drop.map(|(_, sid)| sid));
        let forwarded = if direction == ToServer { &run.to_server } else { &run.to_client };
        prop_assert_eq!(&forwarded[..], &bytes[..drop.map_or(bytes.len(), |(at, _)| at)]);
        let mut sids = run.sids();
        sids.sort_unstable();
        prop_assert_eq!(sids, alerts);
    }

    #[test]
    fn chunked_body_verdict_is_that_of_a_naive_search_of_the_message(
        naive_rules in vec(rule(), 1..6),
        chunks in vec(vec(select(b"abABc".to_vec()), 1..12), 0..6),
        reads in reads(),
    ) {
        let head = b"POST /cccc HTTP/1.1\r\nHost: c\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (mut sent, mut message) = (head.to_vec(), head.to_vec());
        // Where each byte of the message stands in what is sent.
        let mut places: Vec<usize> = (0..head.len()).collect();
        for chunk in &chunks {
            sent.extend(format!("{:x}\r\n", chunk.len()).bytes());
            places.extend(sent.len()..sent.len() + chunk.len());
            sent.extend(chunk);
            message.extend(chunk);
            sent.extend(b"\r\n");
        }
        sent.extend(b"0\r\n\r\n");

        let mut run = Run::new(&rules(&set("http", &naive_rules)), Service::Http);
        let verdict = feed(&mut run, ToServer, &sent, &reads);
        let (drop, alerts) = naive(&naive_rules, ToServer, &message);
        prop_assert_eq!(sid(&verdict), drop.map(|(_, sid)| sid));
        let forwarded = match drop {
            None => sent.len(),
            // A rule that the head completes: nothing of it.
            Some((at, _)) if at < head.len() => 0,
            Some((at, _)) => places[at],
        };
        prop_assert_eq!(&run.to_server[..], &sent[..forwarded]);
        let mut sids = run.sids();
        sids.sort_unstable();
        prop_assert_eq!(sids, alerts);
    }

    #[test]
    fn reads_change_neither_verdict_nor_what_is_forwarded(
        http_rules in vec(rule(), 0..3),
        client in http_like(),
        server in http_like(),
        reads in reads(),
    ) {
        let text = set("http", &http_rules)
            + "drop tcp any any -> any any (content:\"BB\"; sid:90;)\n"
            + "drop http any any -> any any (http.uri; content:\"ab\"; content:!\"b/\"; sid:91;)\n";
        let rules = rules(&text);
        let mut whole = Run::new(&rules, Service::Http);
        let whole_verdict = whole
            .send(ToServer, &client)
            .and_then(|()| whole.send(ToClient, &server))
            .and_then(|()| whole.end(ToServer))
            .and_then(|()| whole.end(ToClient));
        let mut run = Run::new(&rules, Service::Http);
        let verdict = feed(&mut run, ToServer, &client, &reads)
            .and_then(|()| feed(&mut run, ToClient, &server, &reads))
            .and_then(|()| run.end(ToServer))
            .and_then(|()| run.end(ToClient));
        prop_assert_eq!(&verdict, &whole_verdict);
        prop_assert_eq!(&run.to_server, &whole.to_server);
        prop_assert_eq!(&run.to_client, &whole.to_client);
        prop_assert!(client.starts_with(&run.to_server));
        prop_assert!(server.starts_with(&run.to_client));
    }

    #[test]
    fn any_bytes_are_judged_without_panic_and_forwarded_in_order(
        pieces in vec((any::<bool>(), prop_oneof![vec(any::<u8>(), 0..40), http_like()]), 0..12),
    ) {
        let mut run = Run::http("drop tcp any any -> any any (content:\"|00 00|\"; sid:1;)");
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for (from_client, bytes) in pieces {
            let direction = if from_client { ToServer } else { ToClient };
            if from_client { &mut client } else { &mut server }.extend_from_slice(&bytes);
            if run.send(direction, bytes).is_err() {
                break;
            }
        }
        prop_assert!(client.starts_with(&run.to_server));
        prop_assert!(server.starts_with(&run.to_client));
    }

    #[test]
    fn any_rule_text_is_accepted_or_refused_without_panic(
        words in vec(select(vec![
            "drop ", "alert ", "tcp ", "http ", "any any -> any any ", "(", ")", ";", "\\", "\"",
            "content:", "\"a\"", "!", "|", "0d", "nocase;", "http.uri;", "sid:", "1;", "msg:\"é\";",
            "flow:to_server;", "\n", "#", "\\\n", ":",
        ]), 0..24),
    ) {
        let text = weir_inspect::RuleText { origin: "x".into(), text: words.concat() };
        if let Err(errors) = weir_inspect::RuleSet::parse(&[text]) {
            prop_assert!(!errors.is_empty());
        }
    }
}
