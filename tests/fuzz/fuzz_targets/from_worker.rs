//! What the legacy TLS worker says to the engine: no bytes make reading it panic, and what was read is
//! what was written, however it comes.
#![no_main]

use weir_api::legacy::Frames;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut whole = Frames::default();
    whole.push(input);
    let (mut said, mut written) = (Vec::new(), Vec::new());
    let end = loop {
        match whole.from_worker() {
            Ok(Some(message)) => {
                message.encode(&mut written).expect("what fits into a frame fits again");
                said.push(message);
            }
            end => break end.err(),
        }
    };
    assert!(input.starts_with(&written));
    let mut pieces = Frames::default();
    let mut again = Vec::new();
    for piece in input.chunks(7) {
        pieces.push(piece);
        while let Ok(Some(message)) = pieces.from_worker() {
            again.push(message);
        }
    }
    assert_eq!(again, said);
    assert_eq!(pieces.from_worker().err(), end);
});
