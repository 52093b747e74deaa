//! Rule texts as operators write them: what is accepted, and what is refused with which words.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use weir_inspect::{RuleSet, RuleText};

fn parse(text: &str) -> Result<RuleSet, Vec<String>> {
    let text = RuleText { origin: "web.rules".to_owned(), text: text.to_owned() };
    RuleSet::parse(&[text]).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// The only error of a rule with these options.
fn refused(rule: &str) -> String {
    let errors = parse(rule).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.into_iter().next().unwrap()
}

fn refused_options(options: &str) -> String {
    refused(&format!("drop http any any -> any any (msg:\"m\"; sid:1; {options})"))
}

#[test]
fn shipped_example_is_accepted() {
    assert_eq!(parse(include_str!("../rules/example.rules")).unwrap().len(), 7);
}

#[test]
fn comments_and_blank_lines_are_no_rules() {
    assert!(parse("\n# drop nothing\n   \n").unwrap().is_empty());
}

#[test]
fn unknown_keyword_is_refused_with_file_line_and_keyword() {
    let text = "# one\n\ndrop http any any -> any any (msg:\"m\"; content:\"a\"; \\\n  \
                pcre:\"/x/\"; sid:1;)";
    assert_eq!(
        refused(text),
        "web.rules:4: keyword `pcre` is not supported; supported are: content, flow, http.host, \
         http.method, http.uri, msg, nocase, rev, sid"
    );
}

#[test]
fn modifiers_that_change_a_content_are_never_skipped() {
    for keyword in ["depth:5", "offset:1", "distance:0", "within:9", "fast_pattern", "http_uri"] {
        let name = keyword.split(':').next().unwrap();
        let error = refused_options(&format!("content:\"a\"; {keyword};"));
        assert!(error.contains(&format!("keyword `{name}` is not supported")), "{error}");
    }
}

#[test]
fn header_is_refused_word_by_word() {
    let errors = parse("reject udp $HOME_NET any <> any 80 (content:\"a\"; sid:1;)").unwrap_err();
    assert_eq!(
        errors,
        [
            "web.rules:1: action `reject` is not supported; supported are: alert, drop",
            "web.rules:1: protocol `udp` is not supported; supported are: tcp, http",
            "web.rules:1: direction `<>` is not supported; supported is: -> (see the keyword \
             `flow`)",
            "web.rules:1: source address `$HOME_NET` is not supported; supported is: any",
            "web.rules:1: destination port `80` is not supported; supported is: any",
        ]
    );
    assert!(refused("drop http any any (content:\"a\"; sid:1;)").contains("7 words, this one 4"));
}

#[test]
fn all_errors_of_all_texts_are_told() {
    let text = |origin: &str, text: &str| RuleText { origin: origin.into(), text: text.into() };
    let errors = RuleSet::parse(&[
        text("a", "drop tcp any any -> any any (content:\"a\"; sid:7;)\nnonsense"),
        text("b", "\ndrop tcp any any -> any any (content:\"b\"; sid:7;)"),
    ])
    .unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "a:2: a rule's keywords stand in parentheses after its header, up to the end of the \
             line",
            "b:2: keyword `sid` 7 is taken by the rule at a:1; each rule needs its own",
        ]
    );
}

#[test]
fn what_cannot_be_honoured_soundly_is_refused() {
    for (options, words) in [
        ("content:!\"a\";", "negated outside a sticky buffer"),
        ("", "keyword `content` is missing"),
        ("http.uri;", "`http.uri` is a sticky buffer and needs a content"),
        ("http.uri; http.host; content:\"a\";", "`http.uri` is a sticky buffer"),
        ("http.host; content:\"Example\";", "http.host is in lower case"),
        ("flow:to_client; http.uri; content:\"a\";", "`http.uri` is of the request"),
        ("nocase; content:\"a\";", "`nocase` follows no content"),
        ("content:\"a\"; nocase; nocase;", "`nocase` follows no content"),
        ("content:\"a\"; sid:2;", "`sid` stands twice"),
        ("content:\"a\"; rev:-1;", "`rev` cannot be `-1`"),
        ("content:\"a\"; flow:to_server,to_client;", "`flow` cannot be"),
        ("content:\"a\"; flow:stateless;", "`flow` cannot be `stateless`"),
        ("content:\"a;b\";", "`content` has a `;` in quotes"),
        ("content:\"a", "`content` has a quote that is not closed"),
        ("content:\"a\"", "`content` lacks the `;`"),
        ("content:\"|0\";", "the bar that opens hexadecimal bytes is not closed"),
        ("content:\"a\"; nocase:1;", "`nocase` cannot be `1`"),
    ] {
        let error = refused_options(options);
        assert!(error.contains(words), "{options}: {error}");
    }
    let tcp = refused("drop tcp any any -> any any (http.uri; content:\"a\"; sid:1;)");
    assert!(tcp.contains("`http.uri` needs protocol http"), "{tcp}");
    let sid = refused("drop tcp any any -> any any (content:\"a\";)");
    assert!(sid.contains("keyword `sid` is missing"), "{sid}");
    let zero = refused("drop tcp any any -> any any (content:\"a\"; sid:0;)");
    assert!(zero.contains("`sid` cannot be `0`"), "{zero}");
}

#[test]
fn large_rule_set_matches_as_a_small_one() {
    use weir_inspect::{Direction, Dropped, Service, Session};
    // Far past what fits the small automaton, of both kinds.
    let text: String = (1..=4000)
        .map(|sid| {
            let nocase = if sid % 2 == 0 { "nocase;" } else { "" };
            format!(
                "drop tcp any any -> any any (content:\"needle-{sid:05}-x\"; {nocase} sid:{sid};)\n"
            )
        })
        .collect();
    let rules = std::sync::Arc::new(parse(&text).unwrap());
    for (bytes, expected) in [
        ("hay needle-03999-x hay", Some(3999)),
        ("hay NEEDLE-03999-X hay", None),
        ("hay NEEDLE-04000-X hay", Some(4000)),
        ("hay needle-04001-x hay", None),
    ] {
        let mut session = Session::new(std::sync::Arc::clone(&rules), Service::Other);
        let (mut forward, mut alerts) = (Vec::new(), Vec::new());
        let verdict = bytes.as_bytes().chunks(3).try_for_each(|read| {
            session.inspect(Direction::ToClient, read, &mut forward, &mut alerts)
        });
        let sid = match verdict {
            Err(Dropped::Filter(alert)) => Some(alert.sid),
            other => other.map(|()| None).unwrap(),
        };
        assert_eq!(sid, expected, "{bytes}");
        assert_eq!(forward.len(), if expected.is_some() { 17 } else { bytes.len() });
    }
}

#[test]
fn each_direction_is_judged_by_the_rules_that_it_has() {
    use std::sync::Arc;
    use weir_inspect::{Direction, Dropped, Service, Session};
    let rule = |sid| {
        let text = format!("drop tcp any any -> any any (content:\"needle\"; sid:{sid};)\n");
        Arc::new(parse(&text).unwrap())
    };
    let none = Arc::new(parse("").unwrap());
    let judge = |rules: [&Arc<_>; 2], service, direction, bytes: &[u8]| {
        let mut session = Session::with_rules_by_direction(rules.map(Arc::clone), service);
        let (mut forward, mut alerts) = (Vec::new(), Vec::new());
        match session.inspect(direction, bytes, &mut forward, &mut alerts) {
            Ok(()) => Ok(forward.len()),
            Err(Dropped::Filter(alert)) => Err(alert.sid),
            Err(other) => panic!("{other}"),
        }
    };
    let (one, two) = (&rule(1), &rule(2));
    let (to_server, to_client) = (Direction::ToServer, Direction::ToClient);
    for service in [Service::Other, Service::Http] {
        assert_eq!(judge([one, two], service, to_server, b"a needle"), Err(1));
        assert_eq!(judge([one, two], service, to_client, b"a needle"), Err(2));
        assert_eq!(judge([&none, two], service, to_client, b"a needle"), Err(2));
    }
    assert_eq!(judge([one, &none], Service::Other, to_client, b"a needle"), Ok(8));
    assert_eq!(judge([&none, &none], Service::Http, to_client, b"a needle"), Ok(8));
}
