//! The load: TLS clients, their sessions, requests and bytes, and nothing more than was asked for.
//!
//! For: the same work by every way, so that two measurements differ in the way alone. Clients offer
//! what [`super::config`] says and tell which certificate they were shown. Two threads, a runtime
//! each. Fails where an answer is not what was asked for, and where a client waits longer than
//! [`PATIENCE`].

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use tokio::net::TcpStream;

use super::config::{KeyExchange, config};
use crate::bench::threads::{PATIENCE, join, on_a_runtime, spawn};

const THREADS: usize = 2;
/// Room for one read.
const READ: usize = 64 << 10;
/// A response's head; a longer one is an error.
const HEAD: usize = 4096;

/// Which certificate a client is to be shown.
#[derive(Clone)]
pub enum Shown {
    /// This one.
    This(CertificateDer<'static>),
    /// Any but this one: a copy.
    CopyOf(CertificateDer<'static>),
}

/// Where sessions go, and how.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub server_name: &'static str,
    /// What an HTTP proxy is asked to connect to, before TLS.
    pub connect: Option<SocketAddr>,
    pub shown: Shown,
    /// The ClientHello comes in two pieces, the second after this pause.
    pub pause: Option<Duration>,
    pub key_exchange: KeyExchange,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub sessions: usize,
    /// Sessions at one time.
    pub concurrent: usize,
    /// Requests of each session, one after the other.
    pub requests: usize,
    pub path: &'static str,
    /// The length of each answer's body.
    pub length: usize,
}

/// Does it all, to the end of the last session.
pub fn run(namespace: &Path, target: &Target, amount: Amount) -> Result<()> {
    on_threads(namespace, target, amount, None).map(drop)
}

/// Sessions that stay open after their requests; closed when dropped.
pub struct Open {
    threads: Vec<std::thread::JoinHandle<Result<()>>>,
    release: Vec<mpsc::Sender<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.release.clear();
        for thread in self.threads.drain(..) {
            let _ = join(thread);
        }
    }
}

/// Opens that many sessions.
pub fn open(namespace: &Path, target: &Target, amount: Amount) -> Result<Open> {
    let (opened, told) = mpsc::channel();
    let open = on_threads(namespace, target, amount, Some(opened))?;
    for _ in 0..THREADS {
        if told.recv().is_err() {
            break;
        }
    }
    if open.threads.iter().any(std::thread::JoinHandle::is_finished) {
        let mut open = open;
        for thread in open.threads.drain(..).filter(std::thread::JoinHandle::is_finished) {
            join(thread)?;
        }
        bail!("sessions that were to stay open ended");
    }
    Ok(open)
}

fn on_threads(
    namespace: &Path,
    target: &Target,
    amount: Amount,
    stay: Option<mpsc::Sender<()>>,
) -> Result<Open> {
    let config = config(target.key_exchange)?;
    let left = Arc::new(AtomicUsize::new(amount.sessions));
    let mut open = Open { threads: vec![], release: vec![] };
    for number in 0..THREADS {
        let client = Client { config: config.clone(), target: target.clone(), amount };
        let left = left.clone();
        let stay = stay.clone().map(|opened| {
            let (release, wait) = mpsc::channel();
            open.release.push(release);
            (opened, wait)
        });
        open.threads.push(spawn("bench-client", namespace, number, move || {
            on_a_runtime(async move {
                let kept = client.take_turns(left, stay.is_some()).await?;
                if let Some((opened, wait)) = stay {
                    opened.send(())?;
                    drop(opened);
                    let _released = wait.recv();
                }
                drop(kept);
                Ok(())
            })
        })?);
    }
    if stay.is_none() {
        for thread in open.threads.drain(..) {
            join(thread)?;
        }
    }
    Ok(open)
}

#[derive(Clone)]
struct Client {
    config: Arc<ClientConfig>,
    target: Target,
    amount: Amount,
}

impl Client {
    /// This thread's share of the sessions, and the sessions themselves where they stay.
    async fn take_turns(self, left: Arc<AtomicUsize>, stay: bool) -> Result<Vec<Session>> {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..self.amount.concurrent.div_ceil(THREADS) {
            let (client, left) = (self.clone(), left.clone());
            tasks.spawn_local(async move {
                let mut kept = Vec::new();
                let one_less = |count: usize| count.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    let mut session = client.begin().await?;
                    if stay {
                        session.buffer = Vec::new();
                        kept.push(session);
                    } else {
                        session.end().await?;
                    }
                }
                anyhow::Ok(kept)
            });
        }
        let mut kept = Vec::new();
        while let Some(done) = tasks.join_next().await {
            kept.extend(done??);
        }
        Ok(kept)
    }

    /// A session with all its requests answered.
    async fn begin(&self) -> Result<Session> {
        let mut session = in_time("handshake", self.shake_hands()).await?;
        let Target { address, connect, server_name, .. } = &self.target;
        let port = connect.unwrap_or(*address).port();
        let path = self.amount.path;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server_name}:{port}\r\n\r\n");
        for _ in 0..self.amount.requests {
            in_time("answer", session.ask(request.as_bytes(), self.amount.length)).await?;
        }
        Ok(session)
    }

    async fn shake_hands(&self) -> Result<Session> {
        let stream = TcpStream::connect(self.target.address).await?;
        stream.set_nodelay(true)?;
        if let Some(to) = self.target.connect {
            connect_by_proxy(&stream, to).await?;
        }
        let name = ServerName::try_from(self.target.server_name)?;
        let tls = ClientConnection::new(self.config.clone(), name)?;
        let mut session = Session { stream, tls, buffer: vec![0; READ] };
        if let Some(pause) = self.target.pause {
            let mut hello = Vec::new();
            while session.tls.wants_write() {
                session.tls.write_tls(&mut hello)?;
            }
            let (first, second) = hello.split_at(hello.len() / 2);
            write(&session.stream, first).await?;
            tokio::time::sleep(pause).await;
            write(&session.stream, second).await?;
        }
        while session.tls.is_handshaking() {
            session.flush().await?;
            if session.tls.is_handshaking() {
                let open = session.receive(|_| bail!("data before the handshake's end")).await?;
                ensure!(open, "the connection ended amid the handshake");
            }
        }
        session.flush().await?;
        let shown = session.tls.peer_certificates().and_then(<[_]>::first);
        let shown = shown.context("no certificate was shown")?;
        let (right, wanted) = match &self.target.shown {
            Shown::This(this) => (this == shown, "its own"),
            Shown::CopyOf(of) => (of != shown, "a copy"),
        };
        ensure!(right, "{}: the certificate shown is not {wanted}", self.target.address);
        Ok(session)
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .with_context(|| format!("no {what} within {} s", PATIENCE.as_secs()))?
        .with_context(|| what.to_owned())
}

/// A TLS connection with a buffer for what comes.
struct Session {
    stream: TcpStream,
    tls: ClientConnection,
    buffer: Vec<u8>,
}

impl Session {
    /// Sends a request and reads its answer whole.
    async fn ask(&mut self, request: &[u8], length: usize) -> Result<()> {
        io::Write::write_all(&mut self.tls.writer(), request)?;
        self.flush().await?;
        let mut head = Vec::new();
        // What is to come after the head, once that is known.
        let mut left: Option<usize> = None;
        while left != Some(0) {
            let open = self
                .receive(|plain| {
                    match &mut left {
                        Some(left) => {
                            *left = left.checked_sub(plain.len()).context("too long an answer")?;
                        }
                        None => {
                            head.extend_from_slice(plain);
                            left = rest(&head, length)?;
                        }
                    }
                    Ok(())
                })
                .await?;
            ensure!(open, "the connection ended amid the answer");
        }
        Ok(())
    }

    /// One read of the wire, and what plaintext it brought; false at the end.
    async fn receive(&mut self, mut plain: impl FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        self.stream.readable().await?;
        let mut wire = match self.stream.try_read(&mut self.buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => self.buffer.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire)?;
            self.tls.process_new_packets()?;
            let mut reader = self.tls.reader();
            // Nothing, or the peer's close_notify, which TCP tells as well.
            while let Ok(chunk @ [_, ..]) = io::BufRead::fill_buf(&mut reader) {
                let length = chunk.len();
                plain(chunk)?;
                io::BufRead::consume(&mut reader, length);
            }
        }
        Ok(true)
    }

    async fn flush(&mut self) -> Result<()> {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire)?;
        }
        write(&self.stream, &wire).await
    }

    /// Ends it, and waits until the other side did: its work for the session is then done.
    async fn end(mut self) -> Result<()> {
        self.tls.send_close_notify();
        self.flush().await?;
        socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write)?;
        let ended = async {
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut self.buffer) {
                    // However the other side does it.
                    Ok(0) => return anyhow::Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Ok(()),
                    _ => {}
                }
            }
        };
        in_time("end", ended).await
    }
}

/// How much is still to come after this beginning of an answer; none: not even the head is whole.
fn rest(head: &[u8], length: usize) -> Result<Option<usize>> {
    ensure!(head.len() <= HEAD + READ, "a head of {} bytes", head.len());
    let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(head.get(..end).unwrap_or_default());
    ensure!(text.starts_with("HTTP/1.1 200 "), "the answer is {text}");
    let came = head.len() - end - 4;
    Ok(Some(length.checked_sub(came).context("too long an answer")?))
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn connect_by_proxy(stream: &TcpStream, to: SocketAddr) -> Result<()> {
    write(stream, format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        stream.readable().await?;
        match stream.try_read_buf(&mut answer) {
            Ok(0) => bail!("the proxy closed"),
            Ok(_) => ensure!(answer.len() < HEAD, "the proxy talks on"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the proxy says {}", answer.escape_ascii());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_was_asked_for_or_an_error() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(rest(&head[..20], 5).unwrap(), None);
        assert_eq!(rest(head, 5).unwrap(), Some(5));
        assert_eq!(rest(&[head.as_slice(), b"12345"].concat(), 5).unwrap(), Some(0));
        assert!(rest(&[head.as_slice(), b"123456"].concat(), 5).is_err());
        assert!(rest(b"HTTP/1.1 404 Not Found\r\n\r\n", 0).is_err());
    }
}
