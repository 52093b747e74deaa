//! Which servers are asked with their client's hello, for how long, and what of their answers is relayed.
//! Servers over loopback; the clock only runs while everybody waits.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use weir_policy::snapshot::SegmentId;
use weir_tls::hello::{Peek, peek};

use super::*;
use crate::compiled::CompiledPolicy;
use crate::compiled::tests::{of, server, two_policies};

const ECDHE: [u8; 2] = [0xc0, 0x2f];
/// DHE, which Weir does not have.
const DHE: [u8; 2] = [0, 0x9e];
const BRAINPOOL: [u8; 2] = [0, 26];
const X25519: [u8; 2] = [0, 29];

/// Of TLS 1.2, with these and group X25519, and brainpoolP256r1.
fn hello_wire() -> Vec<u8> {
    hello_with_session(&[])
}

/// The same of a client that has a session of this number.
fn hello_with_session(session: &[u8]) -> Vec<u8> {
    let groups = [&[0, 10, 0, 6, 0, 4][..], &X25519, &BRAINPOOL].concat();
    let signatures = [0, 13, 0, 4, 0, 2, 4, 1];
    let extensions = [&groups[..], &signatures].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[u8::try_from(session.len()).unwrap()],
        session,
        &[0, 4],
        &ECDHE,
        &DHE,
        &[1, 0, 0, u8::try_from(extensions.len()).unwrap()],
        &extensions,
    ]
    .concat();
    handshake(&[message(1, &body)])
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, u8::try_from(body.len()).unwrap()], body].concat()
}

fn handshake(messages: &[Vec<u8>]) -> Vec<u8> {
    let messages = messages.concat();
    [&[22, 3, 3, 0, u8::try_from(messages.len()).unwrap()], &messages[..]].concat()
}

fn server_hello(suite: [u8; 2]) -> Vec<u8> {
    message(2, &[&[3, 3][..], &[7; 32], &[0], &suite, &[0]].concat())
}

fn key_exchange(group: [u8; 2]) -> Vec<u8> {
    message(12, &[&[3][..], &group, &[1, 9]].concat())
}

/// On a suite that Weir has, and a group that is not told.
fn resumed() -> Vec<u8> {
    [&handshake(&[server_hello(ECDHE)])[..], &[20, 3, 3, 0, 1, 1]].concat()
}

const REFUSAL: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// The rest of what a session has, its client aside.
struct World {
    policy: CompiledPolicy,
    hello: ClientHello,
    received: Vec<u8>,
    record: SessionRecord,
    again: Again,
}

/// Further connections to a server, each by its answer to whatever it is sent.
struct Again {
    listener: TcpListener,
    answer: Answer,
    after: Duration,
    made: Cell<usize>,
}

#[derive(Clone)]
enum Answer {
    Says(Vec<u8>),
    /// Resumes the session that it is offered; says this to a hello without one.
    Resumes(Vec<u8>),
    Mute,
    /// A ServerHello that never ends, a byte a second.
    Trickles,
}

impl Again {
    async fn connected(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (mut server, answer) = (self.listener.accept().await.unwrap().0, self.answer.clone());
        tokio::spawn(async move {
            let mut heard = Vec::with_capacity(4096);
            let _ = server.read_buf(&mut heard).await;
            match answer {
                Answer::Says(words) => server.write_all(&words).await.unwrap(),
                Answer::Resumes(otherwise) => {
                    let offers = matches!(peek(&heard), Peek::Hello(hello) if hello.session_id);
                    let words = if offers { resumed() } else { otherwise };
                    server.write_all(&words).await.unwrap();
                }
                Answer::Mute => {}
                Answer::Trickles => {
                    for byte in
                        [22, 3, 3, 0x40, 0, 2, 0, 0x3f].into_iter().chain(std::iter::repeat(0))
                    {
                        if server.write_all(&[byte]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            // Stays there as long as its peer does.
            let _ = server.read(&mut [0; 4096]).await;
        });
        stream
    }
}

impl ConnectAgain for Again {
    async fn again(&self, _: TcpStream, _: &SessionRecord) -> io::Result<TcpStream> {
        self.made.set(self.made.get() + 1);
        tokio::time::sleep(self.after).await;
        Ok(self.connected().await)
    }
}

impl World {
    async fn of(answer: Answer) -> Self {
        let received = hello_wire();
        let Peek::Hello(hello) = peek(&received) else { panic!("no hello") };
        let (client, at) = ("10.0.0.1:1".parse().unwrap(), server().address);
        Self {
            policy: two_policies(),
            hello,
            received,
            record: SessionRecord::new(1, 0, SegmentId(1), client, at),
            again: Again {
                listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
                answer,
                after: Duration::ZERO,
                made: Cell::new(0),
            },
        }
    }

    fn flow(&self) -> FlowPolicy<'_> {
        of(&self.policy, 0)
    }

    fn may<'a>(&'a self, flow: &'a FlowPolicy<'a>) -> May<'a> {
        May::of(flow, &self.hello, server(), &self.received).unwrap()
    }

    /// Hellos of ours have failed so. Whether the two are relayed, and whether the server was asked.
    async fn after(&self, fault: LegFault, asked: bool, was_modern: bool) -> (bool, bool) {
        let flow = self.flow();
        let failed = ServerFailed { asked, ..ServerFailed::by(fault) };
        self.after_on(&flow, failed, was_modern).await
    }

    async fn after_on(
        &self,
        flow: &FlowPolicy<'_>,
        failed: ServerFailed,
        was_modern: bool,
    ) -> (bool, bool) {
        let mut failed = ServerFailed { stream: Some(self.again.connected().await), ..failed };
        let (may, before) = (self.may(flow), self.again.made.get());
        let (again, record) = (&self.again, &self.record);
        let relayed = may.asks_after(&mut failed, was_modern, again, record, until()).await;
        (relayed.is_some(), self.again.made.get() > before)
    }

    fn is_known(&self) -> bool {
        self.may(&self.flow()).is_known()
    }
}

fn until() -> tokio::time::Instant {
    tokio::time::Instant::now() + HANDSHAKE_DEADLINE
}

fn told(alert: Alert) -> LegFault {
    LegError::AlertReceived(alert).into()
}

fn chose(fault: Fault) -> LegFault {
    LegError::Refused { fault, alert: Alert::HANDSHAKE_FAILURE }.into()
}

fn beyond() -> Answer {
    Answer::Says(handshake(&[server_hello(DHE)]))
}

#[tokio::test]
async fn only_a_server_that_said_so_itself_is_asked() {
    let world = World::of(beyond()).await;
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset).into();
    let of_tls = [
        Fault::Malformed,
        Fault::Misbehaved,
        Fault::BadSignature,
        Fault::NoApplicationProtocol,
        Fault::OversizedRecord,
        Fault::Undecryptable,
    ];
    let others = [LegFault::Closed, LegFault::Slow, LegFault::Mute, reset()]
        .into_iter()
        .chain(of_tls.map(chose))
        .chain([Alert::INTERNAL_ERROR, Alert::UNRECOGNIZED_NAME, Alert::DECODE_ERROR].map(told))
        .chain([LegError::NotTls("SSH".into()).into()]);
    for fault in others {
        let words = fault.to_string();
        assert_eq!(world.after(fault, false, false).await, (false, false), "{words}");
        assert!(!world.is_known(), "{words}");
    }
    // For a client certificate the policy has its own way.
    assert_eq!(world.after(told(Alert::HANDSHAKE_FAILURE), true, false).await, (false, false));
    assert!(!world.is_known());
    let says_so = [Alert::HANDSHAKE_FAILURE, Alert::PROTOCOL_VERSION, Alert::INSUFFICIENT_SECURITY]
        .map(told)
        .into_iter()
        .chain([Fault::Incompatible, Fault::NoGroupOrSignature].map(chose));
    for fault in says_so {
        let words = fault.to_string();
        assert_eq!(world.after(fault, false, false).await, (true, true), "{words}");
        assert!(world.is_known(), "{words}");
        world.policy.learnt.forget();
    }
}

#[tokio::test]
async fn server_that_has_spoken_with_the_modern_stack_of_late_is_not_asked() {
    let world = World::of(beyond()).await;
    let fault = || told(Alert::HANDSHAKE_FAILURE);
    assert_eq!(world.after(fault(), false, true).await, (false, false));
    assert!(!world.is_known());
    assert_eq!(world.after(fault(), false, false).await, (true, true));
    assert!(world.is_known());
    // Nor one that has since it was learnt.
    let (flow, now) = (world.flow(), Instant::now());
    flow.modern_servers.remember(server(), None, Duration::from_secs(3600), now);
    assert!(world.may(&flow).is_modern());
    assert!(!world.is_known());
}

#[tokio::test]
async fn where_policy_blocks_what_cannot_be_decrypted_nobody_is_asked() {
    let world = World::of(beyond()).await;
    let mut flow = world.flow();
    flow.unsupported_tls = EvasionAction::Block;
    let failed = ServerFailed::by(told(Alert::HANDSHAKE_FAILURE));
    assert_eq!(world.after_on(&flow, failed, false).await, (false, false));
    world.may(&flow).learn(true);
    assert!(!world.may(&flow).is_known());
}

#[tokio::test]
async fn only_what_weir_does_not_have_is_relayed() {
    let within = handshake(&[server_hello(ECDHE), key_exchange(X25519)]);
    let group = handshake(&[server_hello(ECDHE), key_exchange(BRAINPOOL)]);
    let no_tls = b"SSH-2.0-OpenSSH\r\n".to_vec();
    for (answer, relayed) in [
        (within, false),
        (resumed(), false),
        (REFUSAL.to_vec(), false),
        (no_tls, false),
        (group, true),
        (handshake(&[server_hello(DHE)]), true),
    ] {
        let world = World::of(Answer::Says(answer.clone())).await;
        let fault = told(Alert::HANDSHAKE_FAILURE);
        assert_eq!(world.after(fault, false, false).await, (relayed, true), "{answer:?}");
        assert_eq!(world.is_known(), relayed, "{answer:?}");
    }
}

/// Nobody has seen the session begin: an engine before this one had, or it is older than what was learnt.
#[tokio::test]
async fn session_of_before_is_resumed_with_a_server_that_shares_nothing_in_a_full_handshake() {
    let of_group = |group| handshake(&[server_hello(ECDHE), key_exchange(group)]);
    for (full, relayed, connections) in [
        (of_group(BRAINPOOL), true, 3),
        (handshake(&[server_hello(DHE)]), true, 3),
        (of_group(X25519), false, 2),
        (REFUSAL.to_vec(), false, 2),
        (resumed(), false, 2),
    ] {
        let mut world = World::of(Answer::Resumes(full.clone())).await;
        world.received = hello_with_session(&[1; 32]);
        let Peek::Hello(hello) = peek(&world.received) else { panic!("no hello") };
        world.hello = hello;
        let fault = told(Alert::HANDSHAKE_FAILURE);
        assert_eq!(world.after(fault, false, false).await, (relayed, true), "{full:?}");
        assert_eq!((world.is_known(), world.again.made.get()), (relayed, connections), "{full:?}");
    }
}

/// Asked at once where it is known; what it agrees on decides each time.
#[tokio::test]
async fn known_server_that_agrees_on_what_weir_has_is_known_no_more() {
    let answers = [
        (handshake(&[server_hello(DHE)]), true),
        // A session of the two that was relayed: its group is none of Weir's.
        (resumed(), true),
        (handshake(&[server_hello(ECDHE), key_exchange(X25519)]), false),
        (REFUSAL.to_vec(), false),
    ];
    for (answer, relayed) in answers {
        let world = World::of(Answer::Says(answer.clone())).await;
        let flow = world.flow();
        world.may(&flow).learn(true);
        let stream = world.again.connected().await;
        let may = world.may(&flow);
        let asked = may.asks(stream, &world.again, &world.record, until()).await;
        let is = matches!(asked, Ok(Asked::Unshared(_)));
        assert_eq!((is, world.is_known()), (relayed, relayed), "{answer:?}");
        assert!(asked.is_ok(), "{answer:?}");
    }
}

/// Its client waits meanwhile.
#[tokio::test(start_paused = true)]
async fn asking_a_server_has_one_deadline_whatever_it_answers() {
    let within = |started: tokio::time::Instant| {
        let (took, most) = (started.elapsed(), HANDSHAKE_DEADLINE + Duration::from_millis(20));
        assert!(took < most, "{took:?}");
    };
    for answer in [Answer::Mute, Answer::Trickles] {
        let mut world = World::of(answer).await;
        let (stream, started) = (world.again.connected().await, tokio::time::Instant::now());
        let asked = {
            let flow = world.flow();
            let may = world.may(&flow);
            may.learn(true);
            may.asks(stream, &world.again, &world.record, until()).await
        };
        assert!(asked.is_err_and(|failed| matches!(failed.fault, LegFault::Slow)));
        within(started);
        // No connection for a second try; and nothing is known of it that was not.
        assert_eq!((world.again.made.get(), world.is_known()), (0, true));
        world.policy.learnt.forget();
        world.again.after = HANDSHAKE_DEADLINE - Duration::from_secs(1);
        let started = tokio::time::Instant::now();
        let fault = told(Alert::HANDSHAKE_FAILURE);
        assert_eq!(world.after(fault, false, false).await, (false, true));
        within(started);
        world.again.after = HANDSHAKE_DEADLINE * 2;
        let started = tokio::time::Instant::now();
        let fault = told(Alert::HANDSHAKE_FAILURE);
        assert_eq!(world.after(fault, false, false).await, (false, true));
        within(started);
    }
}
