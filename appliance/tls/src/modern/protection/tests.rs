use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};

use super::*;

const ALL: [(Construction, &Algorithm, usize); 4] = [
    (Construction::Tls13, &AES_256_GCM, NONCE),
    (Construction::Tls13, &CHACHA20_POLY1305, NONCE),
    (Construction::Tls12Implicit, &CHACHA20_POLY1305, NONCE),
    (Construction::Tls12Explicit, &AES_128_GCM, NONCE),
];

fn pair(number: usize, limit: u64) -> [Protection; 2] {
    let (construction, algorithm, iv) = ALL[number];
    let key = vec![7; algorithm.key_len()];
    let one = || Protection::new(algorithm, construction, &key, &vec![9; iv], limit).unwrap();
    [one(), one()]
}

#[test]
fn records_open_in_their_order_and_in_no_other() {
    for number in 0..ALL.len() {
        let [from, to] = pair(number, 100);
        let mut records = vec![];
        for data in [&b""[..], b"one", &[5; LONGEST_PLAIN]] {
            let mut record = vec![];
            from.seal(data, &mut record).unwrap();
            assert_eq!(record.len(), HEADER + from.sealed_length(data.len()));
            assert!(record.len() <= data.len() + MOST_ADDED);
            records.push((data, record));
        }
        let mut plain = b"before".to_vec();
        // The nonce of TLS 1.2's GCM is in the record, the number in the additional data.
        assert!(!to.open(&records[1].1, &mut plain));
        assert_eq!(plain, b"before");
        for (data, record) in &records {
            plain.clear();
            assert!(to.open(record, &mut plain), "{number}");
            assert_eq!(plain, *data);
            assert!(!to.open(record, &mut plain), "twice");
        }
    }
}

#[test]
fn altered_record_leaves_nothing_behind() {
    for number in 0..ALL.len() {
        let [from, to] = pair(number, 100);
        let mut record = vec![];
        from.seal(b"some data", &mut record).unwrap();
        for at in HEADER..record.len() {
            let mut altered = record.clone();
            altered[at] ^= 0x10;
            let mut plain = vec![];
            assert!(!to.open(&altered, &mut plain), "{number}: byte {at}");
            assert!(plain.is_empty());
        }
        for short in 0..record.len() {
            assert!(!to.open(&record[..short], &mut vec![]));
        }
        assert!(to.open(&record, &mut vec![]));
    }
}

#[test]
fn handshake_messages_end_where_their_headers_say_however_they_are_cut() {
    let messages = [&[4, 0, 0, 2, 7, 7][..], &[0, 0, 0, 0], &[24, 0, 0, 1, 1]];
    let ends: Vec<_> = (1..=messages.len()).map(|n| messages[..n].concat().len()).collect();
    let stream = messages.concat();
    for cut in 0..=stream.len() {
        let framing = HandshakeFraming::default();
        framing.pass(&stream[..cut]);
        assert_eq!(framing.amid(), cut > 0 && !ends.contains(&cut), "{cut}");
        stream[cut..].chunks(1).for_each(|byte| framing.pass(byte));
        assert!(!framing.amid(), "{cut}");
    }
}

#[test]
fn key_seals_as_many_records_as_it_may() {
    let [from, _] = pair(0, 2);
    let mut out = vec![];
    assert_eq!(from.seal(b"1", &mut out), Ok(()));
    assert_eq!(from.seal(b"2", &mut out), Ok(()));
    let length = out.len();
    assert_eq!(from.seal(b"3", &mut out), Err(Exhausted));
    assert_eq!(out.len(), length);
}

#[test]
fn control_messages_are_left_to_rustls_and_padding_is_taken_off() {
    let [from, to] = pair(0, 100);
    let mut record = vec![];
    let mut inner = |plain: &[u8]| {
        let (_, nonce) = from.next();
        let mut sealed = plain.to_vec();
        let length = sealed.len() + TAG;
        let aad = Aad::from(make_tls13_aad(length));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = from.key.seal_in_place_separate_tag(nonce, aad, &mut sealed).unwrap();
        record = make_tls13_aad(length).to_vec();
        record.extend_from_slice(&sealed);
        record.extend_from_slice(tag.as_ref());
        record.clone()
    };
    let mut plain = vec![];
    assert!(to.open(&inner(b"data\x17\0\0\0"), &mut plain));
    assert_eq!(plain, b"data");
    for other in [&b"\x01\x00\x15"[..], b"\x18\0\0\x01\0\x16", b"\0\0\0", b""] {
        assert!(!to.open(&inner(other), &mut plain), "{other:?}");
        assert_eq!(plain, b"data");
        to.sequence.fetch_add(1, Relaxed); // as rustls, which opens it
    }
    let long = [vec![b'x'; LONGEST_PLAIN], vec![APPLICATION_DATA, 0]].concat();
    assert!(!to.open(&inner(&long), &mut plain));
}
