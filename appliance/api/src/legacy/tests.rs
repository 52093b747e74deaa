use super::*;

fn open() -> ToWorker {
    ToWorker::Open(Box::new(Open {
        versions: (0x0300, 0x0303),
        suites: vec![0x0035, 0x000a],
        encrypt_then_mac: true,
        role: Role::ToClient {
            chain: vec![vec![1; 900], vec![2; 800]],
            key: Zeroizing::new(vec![3; 1200]),
            alpn: Some(b"http/1.1".to_vec()),
            staple: Some(vec![4; 20]),
            session: [5; BINDING],
        },
    }))
}

fn from_worker() -> Vec<FromWorker> {
    vec![
        FromWorker::Wire(vec![7; MAX_BYTES]),
        FromWorker::Plain(Vec::new()),
        FromWorker::Established(Box::new(Established {
            version: 0x0301,
            suite: 0x000a,
            group: 0,
            signature: 0,
            alpn: None,
            resumed: true,
            chain: vec![vec![9; 3]],
            staple: Some(vec![8; 5]),
        })),
        FromWorker::CertificateRequested { chain: vec![vec![6; 700], vec![5; 600]] },
        FromWorker::PeerClosed,
        FromWorker::RenegotiationRequested,
        FromWorker::Done { wire: 1, plain: u32::MAX },
        FromWorker::Failed(Failure::AlertReceived(48)),
        FromWorker::Failed(Failure::AlertSent(70)),
        FromWorker::Failed(Failure::Internal("no memory".into())),
        FromWorker::Failed(Failure::NotTls("http request".into())),
    ]
}

#[test]
fn messages_come_through_a_stream_in_any_pieces() {
    let sent = [
        open(),
        ToWorker::Wire(b"hello".to_vec()),
        ToWorker::Plain(vec![5; 10]),
        ToWorker::CloseNotify,
        ToWorker::Alert(80),
        ToWorker::ForgetSession,
    ];
    let mut wire = Vec::new();
    sent.iter().for_each(|message| message.encode(&mut wire).unwrap());
    for piece in [1, 7, 1000, wire.len()] {
        let (mut frames, mut came) = (Frames::default(), Vec::new());
        for bytes in wire.chunks(piece) {
            frames.push(bytes);
            while let Some(message) = frames.to_worker().unwrap() {
                came.push(message);
            }
        }
        assert_eq!(came, sent);
    }
    let mut wire = Vec::new();
    from_worker().iter().for_each(|message| message.encode(&mut wire).unwrap());
    let (mut frames, mut came) = (Frames::default(), Vec::new());
    frames.push(&wire);
    while let Some(message) = frames.from_worker().unwrap() {
        came.push(message);
    }
    assert_eq!(came, from_worker());
}

#[test]
fn length_is_refused_before_room_is_made_for_it() {
    let mut frames = Frames::default();
    frames.push(&[2, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(frames.to_worker(), Err(Invalid::TooLong(0xffff_ffff)));
    let mut out = Vec::new();
    let long = ToWorker::Wire(vec![0; MAX_BODY + 1]).encode(&mut out);
    assert_eq!((long, out.len()), (Err(Invalid::TooLong(MAX_BODY + 1)), 0));
}

#[test]
fn every_cut_and_every_changed_byte_is_an_error_or_another_message() {
    let mut wire = Vec::new();
    open().encode(&mut wire).unwrap();
    for end in 0..wire.len() {
        let mut frames = Frames::default();
        frames.push(&wire[..end]);
        assert_eq!(frames.to_worker(), Ok(None));
    }
    // The body cut, its length right: never the whole message.
    for end in HEADER..wire.len() {
        let mut cut = wire[..end].to_vec();
        cut[1..HEADER].copy_from_slice(&u32::try_from(end - HEADER).unwrap().to_be_bytes());
        let mut frames = Frames::default();
        frames.push(&cut);
        assert_ne!(frames.to_worker(), Ok(Some(open())));
    }
    for place in 0..wire.len() {
        let mut changed = wire.clone();
        changed[place] ^= 0x80;
        let mut frames = Frames::default();
        frames.push(&changed);
        assert_ne!(frames.to_worker(), Ok(Some(open())));
    }
}

#[test]
fn lists_are_bounded() {
    let suites = vec![0; MAX_ITEMS + 1];
    let role = Role::ToServer { server_name: None, alpn: Vec::new(), session: [0; BINDING] };
    let mut wire = Vec::new();
    let open = Open { versions: (0, 0), suites, encrypt_then_mac: false, role };
    let message = ToWorker::Open(Box::new(open));
    message.encode(&mut wire).unwrap();
    let mut frames = Frames::default();
    frames.push(&wire);
    assert_eq!(frames.to_worker(), Err(Invalid::Value));
}

#[test]
fn keys_do_not_print() {
    assert!(!format!("{:?}", open()).contains("3, 3"));
}
