//! The console on a terminal that, like a serial line with nothing at its end, never answers a
//! query, against an agent that speaks the real frames.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use weir_api::console::{Greeting, Request, Response, Role};

/// Nothing in these tests waits this long where the console works.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn login_commands_and_logout_on_a_silent_serial_line() {
    let agent = FakeAgent::start(None);
    let mut line = SerialLine::open(&agent.socket);
    line.expect("edge login: ");
    line.send("admin\r");
    line.expect("Password: ");
    line.send("wrong\r");
    line.expect("Login incorrect");
    line.expect("edge login: ");
    line.send("admin\r");
    line.expect("Password: ");
    line.send("right\r");
    line.expect("Logged in as admin, role administrator");
    line.expect("edge{} ");
    line.send("sh");
    line.send("\t");
    line.expect("Valid entries at this position are:");
    line.expect("shutdown");
    line.send("ow ver\t\r");
    line.expect("Weir                    9.9.9");
    line.expect("edge{} ");
    line.send("show sesions\r");
    line.expect("            ^");
    line.expect("\"sesions\" is not valid here");
    line.expect("edge{} ");
    line.send("reboot\r");
    line.expect("[y/N] ");
    line.send("n\r");
    line.expect("Nothing was done.");
    line.expect("edge{} ");
    line.send("\x1b[A\x1b[A");
    line.expect("show sesions");
    line.send("\x15reboot -y\r");
    line.expect("the appliance reboots");
    line.send("exit\r");
    line.expect("edge login: ");
    assert!(!line.seen.contains("right"), "the password was echoed");
    assert!(!line.seen.contains("\x1b[6n"), "the terminal was asked for its cursor");
    assert_eq!(agent.requests.try_iter().filter(|r| matches!(r, Request::Reboot)).count(), 1);
}

#[test]
fn question_mark_helps_at_once_and_keeps_the_line() {
    let agent = FakeAgent::start(Some(Role::Superuser));
    let mut line = SerialLine::open(&agent.socket);
    line.expect("edge{} ");
    line.send("high-availability force ?");
    line.expect("Valid entries at this position are:");
    line.expect("fallback");
    line.expect("edge{} high-availability force ");
    line.send("fallback\r");
    line.expect("done: ForceFallback(true)");
    line.send("exit\r");
    assert!(line.wait_for_end(), "the console ends with an error");
}

#[test]
fn agent_that_is_away_is_said_and_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("console.sock");
    let mut line = SerialLine::open(&socket);
    line.expect("Trying again.");
    let first = FakeAgent::at(&socket, Some(Role::Superuser));
    line.expect("edge{} ");
    first.hang_up();
    line.send("show version\r");
    line.expect("The agent went away");
    line.expect("edge{} ");
}

#[test]
fn read_only_console_says_so() {
    let agent = FakeAgent::start(Some(Role::Viewer));
    let mut line = SerialLine::open(&agent.socket);
    line.expect("the console is read-only");
    line.expect("Press Enter");
    line.send("\r");
    line.expect("edge{} ");
}

#[test]
fn single_command_prints_and_ends() {
    let agent = FakeAgent::start(Some(Role::Superuser));
    let run = |command: &str| {
        Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["--socket".as_ref(), agent.socket.as_os_str(), "-c".as_ref(), command.as_ref()])
            .output()
            .unwrap()
    };
    let shown = run("show version");
    assert!(shown.status.success());
    assert!(String::from_utf8_lossy(&shown.stdout).starts_with("Weir                    9.9.9\n"));
    let wrong = run("show nothing");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("\"nothing\" is not valid here"));
    let refused = run("show log");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("refused: not today"));
}

/// A console on a pseudo terminal.
struct SerialLine {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// All that was printed, and how far it was expected.
    seen: String,
    expected: usize,
}

impl SerialLine {
    fn open(socket: &Path) -> Self {
        let pty = openpty(None, None).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["--socket".as_ref(), socket.as_os_str()])
            .env("TERM", "vt100")
            .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
            .stdout(Stdio::from(pty.slave.try_clone().unwrap()))
            .stderr(Stdio::from(pty.slave))
            .spawn()
            .unwrap();
        let keyboard = File::from(pty.master);
        let mut screen = keyboard.try_clone().unwrap();
        let (send, receive) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                if send.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, screen: receive, seen: String::new(), expected: 0 }
    }

    fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` is printed after what was expected before.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen[self.expected..].find(text) {
                self.expected += at + text.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no {text:?} after:\n{}", &self.seen[self.expected..]),
            }
        }
    }

    fn wait_for_end(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for SerialLine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers as an agent would: user `admin`, password `right`.
struct FakeAgent {
    socket: PathBuf,
    requests: Receiver<Request>,
    connections: Receiver<UnixStream>,
    _directory: Option<tempfile::TempDir>,
}

impl FakeAgent {
    fn start(role: Option<Role>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut agent = Self::at(&directory.path().join("console.sock"), role);
        agent._directory = Some(directory);
        agent
    }

    fn at(socket: &Path, role: Option<Role>) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (told, requests) = channel();
        let (connected, connections) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let _ = connected.send(stream.try_clone().unwrap());
                let told = told.clone();
                thread::spawn(move || serve(stream, role, |request| drop(told.send(request))));
            }
        });
        Self { socket: socket.to_owned(), requests, connections, _directory: None }
    }

    /// Closes the connection that is open.
    fn hang_up(&self) {
        let stream = self.connections.recv_timeout(PATIENCE).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

fn serve(mut stream: UnixStream, role: Option<Role>, told: impl Fn(Request)) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).unwrap();
        let request: Request = serde_json::from_slice(&body).unwrap();
        told(request.clone());
        let response = serde_json::to_vec(&answer(request, role)).unwrap();
        stream.write_all(&u32::try_from(response.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&response).unwrap();
    }
}

fn answer(request: Request, role: Option<Role>) -> Response {
    match request {
        Request::Greeting => Response::Greeting(Greeting {
            hostname: "edge.example.org".into(),
            version: "9.9.9".into(),
            login_possible: role.is_none(),
            provisioning_errors: vec![],
            role,
        }),
        Request::Login { user, password } if password.expose() == b"right" => {
            Response::LoggedIn { user, role: Role::Administrator }
        }
        Request::Login { .. } => Response::Refused("Login incorrect".into()),
        Request::Version => {
            Response::Version { version: "9.9.9".into(), kernel: "6.12".into(), slot: None }
        }
        Request::Reboot => Response::Done("the appliance reboots".into()),
        Request::Log { .. } => Response::Refused("not today".into()),
        other => Response::Done(format!("done: {other:?}")),
    }
}
