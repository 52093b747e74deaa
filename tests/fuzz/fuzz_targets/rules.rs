//! Rule texts: no text makes the parser panic; what is refused is refused with a place in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_inspect::{RuleSet, RuleText};

fuzz_target!(|text: &str| {
    let lines = text.lines().count();
    let text = RuleText { origin: "x".to_owned(), text: text.to_owned() };
    if let Err(errors) = RuleSet::parse(&[text]) {
        assert!(!errors.is_empty());
        for error in errors {
            assert!((1..=lines).contains(&error.line), "{error}");
        }
    }
});
