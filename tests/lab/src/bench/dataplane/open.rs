//! Many connections open at one time, held by processes of their own: each end of each is a
//! descriptor, of which a process gets only so many, and what they need is not the engine's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::site::Site;
use super::{hello, policy};
use crate::bench::threads::{PATIENCE, patient};

/// Connections of a process.
const EACH: usize = 12_500;

/// The hidden command that such a process runs: it says `ready` (the server, listening) and `open`
/// (all are), and holds them until its standard input ends.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    #[arg(long)]
    namespace: PathBuf,
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    count: usize,
    #[arg(long)]
    server: bool,
}

pub fn run(settings: &Settings) -> Result<()> {
    let file = std::fs::File::open(&settings.namespace)?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let hello = hello(policy::EXCEPTED)?;
    let _open =
        if settings.server { accept(settings, hello.len()) } else { connect(settings, &hello) }?;
    println!("open");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn accept(settings: &Settings, length: usize) -> Result<Vec<TcpStream>> {
    let listener = TcpListener::bind(settings.address)?;
    // std's own is 128.
    SockRef::from(&listener).listen(1024)?;
    println!("ready");
    let mut first = vec![0; length];
    let mut streams = Vec::with_capacity(settings.count);
    for _ in 0..settings.count {
        let mut stream = patient(listener.accept()?.0)?;
        stream.read_exact(&mut first).context("hello")?;
        streams.push(stream);
    }
    Ok(streams)
}

fn connect(settings: &Settings, hello: &[u8]) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(settings.count);
    for _ in 0..settings.count {
        let mut stream = TcpStream::connect_timeout(&settings.address, PATIENCE)?;
        stream.write_all(hello)?;
        streams.push(stream);
    }
    Ok(streams)
}

/// Processes with open connections; their end is the connections'.
pub struct Open {
    processes: Vec<Child>,
    pub connections: usize,
}

impl Open {
    /// Opens `count` connections through the segment, on one server port for each pair of processes.
    pub fn new(site: &Site, ports: impl Iterator<Item = u16>, count: usize) -> Result<Self> {
        let mut open = Self { processes: vec![], connections: 0 };
        for port in ports {
            let now = EACH.min(count - open.connections);
            if now == 0 {
                break;
            }
            let mut server = open.start(site, true, port, now)?;
            expect(&mut server, "ready")?;
            let mut client = open.start(site, false, port, now)?;
            expect(&mut client, "open").context("client")?;
            expect(&mut server, "open").context("server")?;
            open.connections += now;
        }
        ensure!(open.connections == count, "too few ports for {count} connections");
        Ok(open)
    }

    fn start(
        &mut self,
        site: &Site,
        server: bool,
        port: u16,
        count: usize,
    ) -> Result<impl BufRead + use<>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "open", "--namespace"]).arg(site.end(server));
        command.arg("--address").arg(Site::server(super::SEGMENT, port).to_string());
        command.args(["--count", &count.to_string()]);
        if server {
            command.arg("--server");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        self.processes.push(child);
        Ok(BufReader::new(output))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.stdin.take());
        }
        for process in &mut self.processes {
            let _ = process.wait();
        }
    }
}

fn expect(output: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line.trim_end() == word, "a process with connections said {line:?}, not {word:?}");
    Ok(())
}
