//! A real agent in a directory of its own, and the ends that speak to it: frames over Unix
//! sockets, without the agent's own code.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use weir_api::capture::{CaptureProgress, FromCapture, ToCapture};
use weir_api::console::{Request, Response};
use weir_api::engine::FromEngine;
use weir_api::init::{FromInit, MachineStatus, ToInit};
use weir_api::links::{FromLinks, LinkStatus, ToLinks};
use weir_policy::snapshot::SegmentId;

/// Nothing in these tests waits this long where the agent works.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Agent {
    pub directory: TempDir,
    child: Child,
    log: Receiver<String>,
}

impl Agent {
    /// A directory with a configuration; `prepare` adds to it before the agent starts.
    pub fn start(configuration: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("weir.yaml"), configuration).unwrap();
        prepare(directory.path());
        let at = |name: &str| directory.path().join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_weir-agent"))
            .arg("run")
            .args(["--configuration".as_ref(), at("weir.yaml").as_os_str()])
            .args(["--provisioned".as_ref(), at("provisioned.json").as_os_str()])
            .args(["--provisioning-errors".as_ref(), at("provisioning-errors").as_os_str()])
            .args(["--state".as_ref(), at("state").as_os_str()])
            .args(["--engine-socket".as_ref(), at("engine.sock").as_os_str()])
            .args(["--console-socket".as_ref(), at("console.sock").as_os_str()])
            .args(["--init-socket".as_ref(), at("init.sock").as_os_str()])
            .args(["--links-socket".as_ref(), at("links.sock").as_os_str()])
            .args(["--capture-socket".as_ref(), at("capture.sock").as_os_str()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (lines, log) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let agent = Self { directory, child, log };
        agent.wait_for("agent ready");
        agent
    }

    /// Waits for a line of the agent's log.
    pub fn wait_for(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no {text:?} in the agent's log:\n{}", seen.join("\n")),
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn configure(&self, configuration: &str) {
        fs::write(self.path("weir.yaml"), configuration).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    pub fn console(&self) -> Peer {
        Peer::connect(&self.path("console.sock"))
    }

    /// An engine that said that it started.
    pub fn engine(&self) -> Peer {
        let mut engine = Peer::connect(&self.path("engine.sock"));
        let segments = vec![SegmentId(1)];
        engine.tell(&FromEngine::Started {
            version: "test".into(),
            segments,
            runtimes: 1,
            counter_meanings: vec![("held".into(), "flow held".into())],
        });
        engine
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One end of a connection that speaks frames.
pub struct Peer(UnixStream);

impl Peer {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn tell<T: Serialize>(&mut self, message: &T) {
        let body = serde_json::to_vec(message).unwrap();
        self.0.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(&body).unwrap();
    }

    /// `None` where the agent closed the connection.
    pub fn try_hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some(serde_json::from_slice(&body).unwrap())
    }

    pub fn hear<T: DeserializeOwned>(&mut self) -> T {
        self.try_hear().expect("the agent closed the connection")
    }

    pub fn ask(&mut self, request: &Request) -> Response {
        self.tell(request);
        self.hear()
    }

    pub fn raw(&mut self) -> &mut UnixStream {
        &mut self.0
    }
}

/// Answers as init does; tells what it was asked besides the status.
pub fn fake_init(socket: &Path, status: MachineStatus) -> Receiver<ToInit> {
    let listener = UnixListener::bind(socket).unwrap();
    let (told, orders) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = Peer(stream.unwrap());
            while let Some(request) = peer.try_hear::<ToInit>() {
                match request {
                    ToInit::Status => peer.tell(&FromInit::Status(status.clone())),
                    order => {
                        let _ = told.send(order);
                        peer.tell(&FromInit::Going);
                    }
                }
            }
        }
    });
    orders
}

/// Answers as link-down synchronisation does; tells what it was asked besides the status.
pub fn fake_links(socket: &Path, status: LinkStatus) -> Receiver<ToLinks> {
    let listener = UnixListener::bind(socket).unwrap();
    let (told, orders) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = Peer(stream.unwrap());
            while let Some(question) = peer.try_hear::<ToLinks>() {
                if !matches!(question, ToLinks::Status) {
                    let _ = told.send(question);
                }
                peer.tell(&FromLinks::Status(vec![status]));
            }
        }
    });
    orders
}

/// Answers as the capture helper does: every capture runs, but one called `short`, which has ended.
/// Tells what it was asked.
pub fn fake_capture(socket: &Path) -> Receiver<ToCapture> {
    let listener = UnixListener::bind(socket).unwrap();
    let (told, orders) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = Peer(stream.unwrap());
            let Some(request) = peer.try_hear::<ToCapture>() else { continue };
            let _ = told.send(request.clone());
            peer.tell(&match request {
                ToCapture::Start(options) => FromCapture::Started(options.file.unwrap()),
                ToCapture::Progress { name, .. } => {
                    let ended = (name == "short").then(|| "count reached".to_owned());
                    FromCapture::Progress(CaptureProgress { name, ended, ..Default::default() })
                }
                _ => FromCapture::Done("done".into()),
            });
        }
    });
    orders
}
