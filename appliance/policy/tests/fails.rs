//! Every document of `fails/` is refused with exactly the one error that its first line expects.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use support::{errors, load, load_layers, messages};
use weir_policy::{Layer, Syntax};

#[test]
fn wrong_documents_are_refused_with_file_line_and_remedy() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fails");
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().next().unwrap().strip_prefix("# expect: ").unwrap();
        let found = messages(errors(&text));
        assert_eq!(found.len(), 1, "{}: {found:#?}", path.display());
        assert!(found[0].starts_with(expected), "{}:\n{}\n{expected}", path.display(), found[0]);
        assert!(!found[0].contains("SECRET"), "{}", found[0]);
        count += 1;
    }
    assert!(count >= 30, "only {count} documents");
}

#[test]
fn key_in_a_wrong_place_is_not_repeated() {
    let key = "SECRET".repeat(30);
    for text in [
        format!("weir: {{ trust-stores: [ {{ name: x, certificates: [ {key} ] }} ] }}"),
        format!("weir: {{ profiles: [ {{ name: x, filters: [ {key} ] }} ] }}"),
        format!("weir: {{ segments: [ {{ id: 1, layer-2-fallback: {key} }} ] }}"),
        format!("weir: {{ segments: [ {{ id: {key} }} ] }}"),
        format!("weir: {{ segments: [ {{ id: 1, name: {key} }} ] }}"),
    ] {
        for message in messages(errors(&text)) {
            assert!(!message.contains("SECRET"), "{message}");
        }
    }
}

#[test]
fn errors_are_bounded() {
    let text = format!("weir:\n  segments:\n{}", "    - { id: x }\n".repeat(500));
    assert_eq!(errors(&text).len(), weir_policy::layers::MAX_ERRORS);
    let text = format!("weir:\n  segments:\n{}", "    - { id: 0 }\n".repeat(500));
    assert_eq!(errors(&text).len(), weir_policy::layers::MAX_ERRORS);
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("weir: {}{}", "[".repeat(40), "]".repeat(40));
    assert!(messages(errors(&text))[0].contains("nested deeper than 32 levels"));
    let text = format!("weir: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(errors(&text).len(), 1);
    let text = format!("a = {}{}", "[".repeat(40), "]".repeat(40));
    let layer = Layer { name: "weir.toml", syntax: Syntax::Toml, text: &text, section: None };
    assert!(messages(load_layers(&[layer]).unwrap_err())[0].contains("weir.toml:1: "));
}

/// Documents that are nearly right: a right one with one line changed.
fn mutated() -> impl Strategy<Value = String> {
    let lines = include_str!("documents/whole.yaml").lines().collect::<Vec<_>>();
    (0..lines.len(), "[ -~\u{e9}\\n]{0,24}", any::<bool>()).prop_map(move |(at, text, replace)| {
        let mut lines = lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        if replace {
            lines[at] = text;
        } else {
            lines[at].push_str(&text);
        }
        lines.join("\n")
    })
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in any::<String>(), yaml in "([a-z]{0,3}[:\\-\\[\\]{},\"'|>&*!#%@ \\n]{1,3}){0,40}") {
        let _ = load(&text);
        let _ = load(&format!("weir:\n  {yaml}"));
        let layer = Layer { name: "weir.toml", syntax: Syntax::Toml, text: &text, section: None };
        let _ = load_layers(&[layer]);
        let layer = Layer { text: &yaml, ..layer };
        let _ = load_layers(&[layer]);
    }

    #[test]
    fn nearly_right_documents_load_or_tell_a_line(text in mutated()) {
        if let Err(errors) = load(&text) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(error.line.is_some_and(|line| line as usize <= text.lines().count() + 1), "{}", error);
            }
        }
    }
}
