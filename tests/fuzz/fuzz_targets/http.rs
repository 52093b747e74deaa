//! HTTP/1 sessions: no bytes make inspection panic, what it forwards is what was sent, in order, and
//! the reads in which a direction comes change neither that nor the verdict.
//!
//! Input: pieces, each a byte (lowest bit: from the client; the rest: its length) and its bytes.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use weir_inspect::{Direction, Dropped, RuleSet, RuleText, Service, Session};

const RULES: &str = include_str!("../../../appliance/inspect/rules/example.rules");

static RULE_SET: LazyLock<Arc<RuleSet>> = LazyLock::new(|| {
    let text = RuleText { origin: "example.rules".to_owned(), text: RULES.to_owned() };
    Arc::new(RuleSet::parse(&[text]).expect("the example is right"))
});

fuzz_target!(|input: &[u8]| {
    assert_eq!(run(&RULE_SET, input, 1), run(&RULE_SET, input, usize::MAX));
});

/// What was forwarded to the server and to the client, and the verdict.
type Result = ([Vec<u8>; 2], Option<Dropped>);

fn run(rules: &Arc<RuleSet>, input: &[u8], most: usize) -> Result {
    let mut session = Session::new(Arc::clone(rules), Service::Http);
    let (mut sent, mut forwarded) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut alerts = Vec::new();
    let mut rest = input;
    while let Some((first, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(first >> 1).min(after.len()));
        rest = after;
        let direction = if first & 1 == 1 { Direction::ToServer } else { Direction::ToClient };
        let index = usize::from(direction == Direction::ToClient);
        sent[index].extend_from_slice(piece);
        for read in piece.chunks(most) {
            let verdict = session.inspect(direction, read, &mut forwarded[index], &mut alerts);
            assert!(sent[index].starts_with(&forwarded[index]));
            if let Err(dropped) = verdict {
                return (forwarded, Some(dropped));
            }
        }
    }
    (forwarded, None)
}
