use super::*;

fn frame(at: u32, payload: &[u8], flags: u8) -> Frame {
    client_frame(1000, at, payload, flags)
}

#[test]
fn whole_and_partial_checksums_hold_and_others_do_not() {
    let partial = frame(0, b"abc", 0);
    assert!(Frame::parse(partial.bytes(), 0, None).is_ok());
    let mut whole = partial.bytes().to_vec();
    let at = partial.transport;
    whole[at + 16..at + 18].fill(0);
    let checksum = !fold(partial.pseudo_header_sum() + sum(&whole[at..]));
    whole[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
    assert!(Frame::parse(&whole, 0, None).is_ok());
    *whole.last_mut().unwrap() ^= 1;
    assert_eq!(Frame::parse(&whole, 0, None).unwrap_err(), FrameError::Checksum);
}

#[test]
fn a_wrong_header_checksum_is_refused() {
    let mut bytes = frame(0, b"abc", 0).bytes().to_vec();
    bytes[14 + 10] ^= 1;
    assert_eq!(Frame::parse(&bytes, 0, None).unwrap_err(), FrameError::HeaderChecksum);
    assert_eq!(Frame::parse(&bytes, 1000, None).unwrap_err(), FrameError::HeaderChecksum);
}

#[test]
fn only_a_rst_may_come_without_acknowledgement() {
    for (flags, refused) in [(0, true), (FIN, true), (0x08, true), (RST, false), (ACK, false)] {
        let mut bytes = frame(0, b"abc", 0).bytes().to_vec();
        bytes[14 + 20 + 13] = flags;
        let refusal = Frame::parse(&bytes, 0, None).err();
        assert_eq!(refusal, refused.then_some(FrameError::NoAcknowledgement), "{flags:#x}");
    }
}

#[test]
fn timestamps_are_found() {
    assert_eq!(frame(0, b"abc", 0).timestamp(), Some(5));
}

#[test]
fn no_prefix_of_a_frame_panics() {
    let whole = frame(0, b"abcdef", 0).bytes().to_vec();
    for length in 0..whole.len() {
        assert!(Frame::parse(&whole[..length], 0, None).is_err());
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x0f, 0xf0, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(frame) = Frame::parse(&changed, 1, None) {
                let _ = (frame.timestamp(), frame.payload());
            }
        }
    }
}
