//! Sessions with servers that share nothing with Weir, and something with their client (SPEC P9, D15).
//!
//! For: asking such a server with the client's own hello, and relaying byte for byte what the two agree on,
//! where the device lets pass what it cannot decrypt. Each session is judged by what its server chose, which
//! nobody on the way can change without breaking the handshake: a server that refuses Weir, and then agrees
//! with the client on what Weir has, is not relayed. A server is asked only where it said that it shares nothing with
//! Weir, and has not spoken with the modern stack within the hour; what is remembered of it saves asking it by
//! hellos of ours before. A server proxy decrypts, or blocks. Not for: clients that offer nothing that
//! Weir could answer, whose flows are judged before they are taken. Asking and what comes before it have one
//! deadline, [`HANDSHAKE_DEADLINE`]: the client waits meanwhile. Fails as the handshake that failed before, or
//! as one that took too long.

use std::io;
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use weir_api::engine::SessionRecord;
use weir_dataplane::{Acknowledgement, FlowGuard, TakenFlow};
use weir_policy::ServerAt;
use weir_policy::outcome::{Blocked, Bypassed, Outcome};
use weir_policy::snapshot::EvasionAction;
use weir_policy::suites::Allowed;
use weir_tls::hello::{Agreed, ClientHello, MOST_ANSWER, agreed, without_session};
use weir_tls::{Alert, Fault, LegError};

use super::HANDSHAKE_DEADLINE;
use crate::compiled::{FlowPolicy, Proxy};
use crate::leg::LegFault;
use crate::record::failure;
use crate::relay;
use crate::stacks::{ConnectAgain, ServerFailed};

/// Reads of an answer, each of which looks at all of it again: no server that means it sends so small pieces.
const MOST_READS: usize = 512;

/// A server that has agreed with the client on what Weir does not have.
pub(super) struct Unshared {
    server: TcpStream,
    /// What it has said. It was given what the client had said before the takeover.
    answer: Vec<u8>,
}

/// A server that has not, with its connection.
enum NotUnshared {
    /// It refuses the client as well, or agrees with it on what Weir has.
    Otherwise(TcpStream),
    /// It resumes a session of before, on a group that it does not tell.
    Resumes(TcpStream),
    /// Nothing is known of it: it has not answered in time.
    Slow(TcpStream),
}

/// What a server that is known turned out to be.
pub(super) enum Asked {
    Unshared(Unshared),
    /// With a connection on which nothing was said.
    Otherwise(TcpStream),
}

/// Whether this session's server and client may share what Weir does not have.
pub(super) struct May<'a> {
    flow: &'a FlowPolicy<'a>,
    hello: &'a ClientHello,
    at: ServerAt,
    /// What the client has said before the takeover: its hello, at least.
    received: &'a [u8],
}

impl<'a> May<'a> {
    /// `None`: the client offers nothing else than Weir has.
    pub(super) fn of(
        flow: &'a FlowPolicy<'a>,
        hello: &'a ClientHello,
        at: ServerAt,
        received: &'a [u8],
    ) -> Option<Self> {
        let more = hello.offers_beyond(flow.proxy.allowed());
        more.then_some(Self { flow, hello, at, received })
    }

    /// Policy lets it pass then.
    pub(super) fn bypasses(&self) -> bool {
        matches!(self.flow.proxy, Proxy::Client { .. })
            && self.flow.unsupported_tls == EvasionAction::Bypass
    }

    /// Whether sessions with this server went so before, and none went as ours since.
    pub(super) fn is_known(&self) -> bool {
        let (proxy, now) = (self.flow.proxy.refusals(), Instant::now());
        self.bypasses()
            && self.flow.learnt.is_unshared(proxy, self.at, self.name(), now)
            && !self.is_modern()
    }

    /// Whether the server has spoken with the modern stack of late. To be asked before a handshake of ours,
    /// which forgets that where the server refuses it.
    pub(super) fn is_modern(&self) -> bool {
        self.flow.modern_servers.knows(self.at, self.name(), Instant::now())
    }

    fn name(&self) -> Option<&str> {
        self.hello.server_name.as_deref()
    }

    /// Asks a server that is known, on its first connection. Where the two agree on anything else it is known
    /// no more, and another connection follows. One that does not answer `until` then is not asked by hellos
    /// of ours: it would not answer its client either.
    pub(super) async fn asks(
        &self,
        server: TcpStream,
        guard: &impl ConnectAgain,
        record: &SessionRecord,
        until: tokio::time::Instant,
    ) -> Result<Asked, ServerFailed> {
        let old = match self.asked(server, true, until).await {
            Ok(unshared) => return Ok(Asked::Unshared(unshared)),
            Err(NotUnshared::Slow(_)) => return Err(ServerFailed::by(LegFault::Slow)),
            Err(NotUnshared::Otherwise(old) | NotUnshared::Resumes(old)) => old,
        };
        self.learn(false);
        match timeout_at(until, guard.again(old, record)).await {
            Ok(Ok(server)) => Ok(Asked::Otherwise(server)),
            Ok(Err(error)) => Err(ServerFailed::by(LegFault::Tcp(error))),
            Err(_) => Err(ServerFailed::by(LegFault::Slow)),
        }
    }

    /// Asks a server that has refused all hellos of ours, on one more connection, or on three where it resumes a
    /// session of before; `was_modern`: [`Self::is_modern`] before these. What it does not answer `until` then is not waited for.
    pub(super) async fn asks_after(
        &self,
        failed: &mut ServerFailed,
        was_modern: bool,
        guard: &impl ConnectAgain,
        record: &SessionRecord,
        until: tokio::time::Instant,
    ) -> Option<Unshared> {
        // One that shares something with us says what it says for other reasons.
        if failed.asked || was_modern || !shares_nothing(&failed.fault) || !self.bypasses() {
            return None;
        }
        let again = async |old| timeout_at(until, guard.again(old, record)).await.ok()?.ok();
        let server = again(failed.stream.take()?).await?;
        let mut asked = self.asked(server, false, until).await;
        if let Err(NotUnshared::Resumes(old)) = asked {
            // What the two agree on where there is no such session tells of it, as of any other of theirs.
            let hello = without_session(self.received)?;
            let full = ask(again(old).await?, (&hello, &[]), self.allowed(), false, until).await;
            asked = match full {
                Ok(Unshared { server, .. }) => self.asked(again(server).await?, true, until).await,
                not => not,
            };
        }
        match asked {
            Ok(unshared) => {
                self.learn(true);
                Some(unshared)
            }
            Err(
                NotUnshared::Otherwise(server)
                | NotUnshared::Resumes(server)
                | NotUnshared::Slow(server),
            ) => {
                failed.stream = Some(server);
                None
            }
        }
    }

    /// Says what the client has said.
    async fn asked(
        &self,
        server: TcpStream,
        is_known: bool,
        until: tokio::time::Instant,
    ) -> Result<Unshared, NotUnshared> {
        let words = self.received.split_at(self.hello.wire_length.min(self.received.len()));
        ask(server, words, self.allowed(), is_known, until).await
    }

    fn allowed(&self) -> &Allowed {
        self.flow.proxy.allowed()
    }

    fn learn(&self, is: bool) {
        let proxy = self.flow.proxy.refusals();
        self.flow.learnt.unshared(proxy, self.at, self.name(), is, Instant::now());
    }
}

/// Whether a server has said so: one that was cut off by somebody on the way, or by its own load, has not.
fn shares_nothing(fault: &LegFault) -> bool {
    const SAYS_SO: [Alert; 3] =
        [Alert::HANDSHAKE_FAILURE, Alert::PROTOCOL_VERSION, Alert::INSUFFICIENT_SECURITY];
    match fault {
        LegFault::Tls(LegError::AlertReceived(alert)) => SAYS_SO.contains(alert),
        LegFault::Tls(LegError::Refused { fault, .. }) => {
            matches!(fault, Fault::Incompatible | Fault::NoGroupOrSignature)
        }
        _ => false,
    }
}

/// Says the client's hello, and looks at the answer. What came behind the hello (early data) follows where
/// the two agree, for only then is this the connection that it is for.
///
/// A session of before that is resumed does not tell its group: with a server that is known to share nothing
/// with Weir it is none of Weir's, or was relayed as another one of theirs would be.
async fn ask(
    mut server: TcpStream,
    (hello, behind): (&[u8], &[u8]),
    allowed: &Allowed,
    is_known: bool,
    until: tokio::time::Instant,
) -> Result<Unshared, NotUnshared> {
    let mut answer = Vec::new();
    let answered = async {
        server.write_all(hello).await?;
        for _ in 0..MOST_READS {
            server.readable().await?;
            let read = match server.try_read_buf(&mut answer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read?,
            };
            match agreed(&answer, allowed) {
                Agreed::Unknown if read > 0 && answer.len() < MOST_ANSWER => continue,
                Agreed::Beyond => {}
                Agreed::Resumed if is_known => {}
                agreed => return Ok::<_, io::Error>(agreed),
            }
            server.write_all(behind).await?;
            return Ok(Agreed::Beyond);
        }
        Ok(Agreed::Unknown)
    };
    match timeout_at(until, answered).await {
        Ok(Ok(Agreed::Beyond)) => Ok(Unshared { server, answer }),
        Ok(Ok(Agreed::Resumed)) => Err(NotUnshared::Resumes(server)),
        Ok(_) => Err(NotUnshared::Otherwise(server)),
        Err(_) => Err(NotUnshared::Slow(server)),
    }
}

/// The client gets what its server has said, and both are relayed from then on.
pub(super) async fn relay_unshared(
    mut client: TcpStream,
    Unshared { server, answer }: Unshared,
    (received, acknowledgement): (usize, Acknowledgement),
    (guard, idle_timeout): (FlowGuard, u32),
    record: &mut SessionRecord,
) -> Outcome {
    let given = tokio::time::timeout(HANDSHAKE_DEADLINE, client.write_all(&answer)).await;
    let fault = match given {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(LegFault::Tcp(error)),
        Err(_) => Some(LegFault::Slow),
    };
    if let Some(fault) = fault {
        record.failure = Some(failure(weir_api::engine::End::Client, false, &fault));
        return Outcome::Blocked(Blocked::ClientHandshakeFailed);
    }
    let answered = answer.len();
    drop(answer);
    let taken = TakenFlow { client, server, received: Vec::new(), acknowledgement, guard };
    relay::as_is(taken, idle_timeout, record).await;
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let counted = record.bytes.get_or_insert_default();
    counted.to_server = counted.to_server.saturating_add(bytes(received));
    counted.to_client = counted.to_client.saturating_add(bytes(answered));
    Outcome::Bypassed(Bypassed::NothingShared)
}

#[cfg(test)]
mod tests;
