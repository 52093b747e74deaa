//! The ClientHello parser: no input makes it panic, and its answer does not change its mind.
//!
//! Seeds: `seeds/client_hello`, which the parser's unit tests run as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_tls::{Peek, peek};

fuzz_target!(|bytes: &[u8]| {
    let whole = peek(bytes);
    if let Peek::Hello(hello) = &whole {
        assert!(hello.wire_length <= bytes.len());
        let _ = hello.supported();
        // What follows the hello does not matter, and nothing of it can be missing.
        assert_eq!(peek(&bytes[..hello.wire_length]), whole);
        assert_eq!(peek(&bytes[..hello.wire_length - 1]), Peek::Incomplete);
    }
    // Fewer bytes are a prefix of what more bytes turned out to be, or were refused at once.
    if whole == Peek::Incomplete {
        assert_eq!(peek(&bytes[..bytes.len() / 2]), Peek::Incomplete);
    }
});
