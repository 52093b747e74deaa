//! The load: bulk TCP, short TCP connections, small UDP datagrams.
//!
//! For: the same bytes by every way, so that two measurements differ in the way alone; each function
//! returns the CPU time from when both ends are ready until both are through. Sizes are given and
//! nothing runs on by itself; a peer that vanishes ends a read after [`PATIENCE`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::site::Site;
use crate::bench::cpu::{Reading, Used};
use crate::bench::threads::{PATIENCE, join, on_a_runtime, patient};

/// Connections open at one time.
const CONCURRENT: usize = 32;
/// The same where each waits for [`PAUSE`] most of its time.
const CONCURRENT_WITH_PAUSE: usize = 256;
/// Longer than the engine holds a flow for the rest of its hello before it takes it over undecided
/// (SPEC D12: 20 ms); if that then proves excepted it is relayed unread, which is what is left of a
/// session when its TLS work is taken away.
const PAUSE: Duration = Duration::from_millis(40);
/// What a server answers a short connection with, in bytes.
const ANSWER: usize = 512;
const CHUNK: usize = 64 * 1024;

/// What a client says first.
#[derive(Clone)]
pub enum First {
    Hello(Arc<[u8]>),
    /// The same, with [`PAUSE`] in its middle.
    InTwo(Arc<[u8]>),
    /// No more than the first half of it: [`PAUSE`], and the end.
    Half(Arc<[u8]>),
    Nothing,
}

impl First {
    /// Of what is said.
    fn length(&self) -> usize {
        match self {
            Self::Hello(hello) | Self::InTwo(hello) => hello.len(),
            Self::Half(hello) => hello.len() / 2,
            Self::Nothing => 0,
        }
    }

    fn halves(&self) -> (&[u8], Option<&[u8]>) {
        match self {
            Self::Hello(hello) => (hello, None),
            Self::InTwo(hello) => {
                let (first, rest) = hello.split_at(hello.len() / 2);
                (first, Some(rest))
            }
            Self::Half(hello) => (hello.split_at(hello.len() / 2).0, Some(&[])),
            Self::Nothing => (&[], None),
        }
    }

    fn concurrent(&self) -> usize {
        if self.halves().1.is_some() { CONCURRENT_WITH_PAUSE } else { CONCURRENT }
    }

    async fn say(&self, stream: &mut tokio::net::TcpStream) -> std::io::Result<()> {
        let (first, rest) = self.halves();
        stream.write_all(first).await?;
        if let Some(rest) = rest {
            tokio::time::sleep(PAUSE).await;
            stream.write_all(rest).await?;
        }
        Ok(())
    }

    fn say_at_once(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let (first, rest) = self.halves();
        stream.write_all(first)?;
        if let Some(rest) = rest {
            std::thread::sleep(PAUSE);
            stream.write_all(rest)?;
        }
        Ok(())
    }
}

/// One connection that carries `bytes` each way, one after the other, behind the hello.
pub fn bulk(site: &Site, to: SocketAddr, first: &First, bytes: usize) -> Result<Used> {
    let length = first.length();
    let (ready, wait) = channel();
    let server = site.at_server(move || {
        let listener = TcpListener::bind(to)?;
        ready.send(())?;
        let mut stream = patient(listener.accept()?.0)?;
        let mut first = vec![0; length];
        stream.read_exact(&mut first)?;
        write(&mut stream, bytes)?;
        read(&mut stream, bytes)?;
        stream.write_all(b"!")?;
        Ok(())
    })?;
    wait.recv().context("the server did not start")?;
    let before = Reading::now(Some(site.weir))?;
    let first = first.clone();
    let client = site.at_client(move || {
        let mut stream = patient(TcpStream::connect_timeout(&to, PATIENCE)?)?;
        stream.set_nodelay(true)?;
        first.say_at_once(&mut stream)?;
        read(&mut stream, bytes)?;
        write(&mut stream, bytes)?;
        let mut end = [0];
        stream.read_exact(&mut end)?;
        Ok(())
    })?;
    join(client).context("bulk client")?;
    join(server).context("bulk server")?;
    before.used()
}

/// Short connections, many at a time: the hello, an answer, the end.
pub fn connections(site: &Site, to: SocketAddr, first: &First, count: usize) -> Result<Used> {
    let length = first.length();
    let (ready, wait) = channel();
    let server = site.at_server(move || {
        serve(to, count, ready, async move |mut stream: tokio::net::TcpStream| {
            let mut first = vec![0; length];
            stream.read_exact(&mut first).await?;
            stream.write_all(&[0x55; ANSWER]).await?;
            // Until the client closes: it holds the port numbers.
            let _end = stream.read(&mut first).await?;
            Ok(())
        })
    })?;
    wait.recv().context("the server did not start")?;
    let before = Reading::now(Some(site.weir))?;
    let (first, concurrent) = (first.clone(), first.concurrent());
    let client = site.at_client(move || {
        connect(to, count, concurrent, async move |mut stream: tokio::net::TcpStream| {
            first.say(&mut stream).await?;
            let mut answer = [0; ANSWER];
            stream.read_exact(&mut answer).await?;
            Ok(())
        })
    })?;
    join(client).context("connecting client")?;
    join(server).context("accepting server")?;
    before.used()
}

/// Connections that say so much and no more, and end, with nothing said when the middle has ended them.
pub fn until_ended(
    site: &Site,
    to: SocketAddr,
    listen_at: SocketAddr,
    first: &First,
    count: usize,
) -> Result<()> {
    let (ready, wait) = channel();
    let server = site.at_server(move || {
        serve(listen_at, count, ready, async |mut stream: tokio::net::TcpStream| {
            let mut rest = [0; 256];
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            Ok(())
        })
    })?;
    wait.recv().context("the server did not start")?;
    let (first, concurrent) = (first.clone(), first.concurrent());
    let client = site.at_client(move || {
        connect(to, count, concurrent, async move |mut stream: tokio::net::TcpStream| {
            let mut rest = [0; 256];
            let _ = first.say(&mut stream).await;
            if !matches!(first, First::Nothing) {
                stream.shutdown().await?;
            }
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            Ok(())
        })
    })?;
    join(client).context("connecting client")?;
    join(server).context("accepting server")
}

/// Runs `each` with `count` accepted connections.
fn serve(
    at: SocketAddr,
    count: usize,
    ready: std::sync::mpsc::Sender<()>,
    each: impl AsyncFn(tokio::net::TcpStream) -> Result<()> + Clone + 'static,
) -> Result<()> {
    on_a_runtime(async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        let listener = socket.listen(1024)?;
        ready.send(())?;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept())
                .await
                .context("no connection came")??;
            let each = each.clone();
            tasks.spawn_local(async move {
                tokio::time::timeout(PATIENCE, each(stream)).await.context("server waited")?
            });
            while let Some(done) = tasks.try_join_next() {
                done??;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    })
}

/// Runs `each` with `count` connections, so many at a time.
fn connect(
    to: SocketAddr,
    count: usize,
    concurrent: usize,
    each: impl AsyncFn(tokio::net::TcpStream) -> Result<()> + Clone + 'static,
) -> Result<()> {
    on_a_runtime(async move {
        let mut tasks = tokio::task::JoinSet::new();
        let mut started = 0;
        loop {
            while started < count && tasks.len() < concurrent {
                let each = each.clone();
                tasks.spawn_local(async move {
                    tokio::time::timeout(PATIENCE, async {
                        let stream = tokio::net::TcpStream::connect(to).await?;
                        stream.set_nodelay(true)?;
                        each(stream).await
                    })
                    .await
                    .context("client waited")?
                });
                started += 1;
            }
            match tasks.join_next().await {
                Some(done) => done??,
                None => return Ok(()),
            }
        }
    })
}

fn write(stream: &mut TcpStream, mut bytes: usize) -> Result<()> {
    let chunk = vec![0xa5; CHUNK];
    while bytes > 0 {
        let now = bytes.min(CHUNK);
        stream.write_all(&chunk[..now])?;
        bytes -= now;
    }
    Ok(())
}

fn read(stream: &mut TcpStream, mut bytes: usize) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    while bytes > 0 {
        let now = bytes.min(CHUNK);
        let got = stream.read(&mut chunk[..now])?;
        ensure!(got > 0, "the stream ended {bytes} bytes early");
        bytes -= got;
    }
    Ok(())
}
