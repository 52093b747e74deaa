//! A wire for tests: a client's and a server's namespace with a segment between them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::{Engine, PORT};
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{self, Names};
use weir_dataplane::{Attach, HeldFlows};

pub mod capture;
pub mod ends;
pub mod engine;
pub mod facts;
pub mod faults;
pub mod frames;
mod packet_socket;
pub mod packets;
pub mod quic;
pub mod random;
pub mod raw;
mod segments;

pub use engine::SEGMENT;

/// Prefix, pin directory and deed of an engine that is a process of its own.
pub const ENGINE_VARIABLE: &str = "WEIR_TEST_ENGINE";

/// For what must come about: longer than any busy machine takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const CLIENT: &str = "10.77.0.1";
pub const SERVER: &str = "10.77.0.2";

pub struct Wire {
    pub names: Names,
    pub client: PathBuf,
    pub server: PathBuf,
    pub pins: PathBuf,
    prefix: String,
}

impl Wire {
    pub fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// A wire whose ports and ends have this MTU.
    pub fn with_mtu(mtu: u32) -> Self {
        Self::made(mtu, |names, _, ports| segment::create(names, SEGMENT, ports).unwrap())
    }

    /// `make` makes the segment, out of the ports in its namespace, with the directory of pins.
    pub fn made_by(make: impl FnOnce(&Names, &Path, [&str; 2]) + Send) -> Self {
        Self::made(1500, make)
    }

    fn made(mtu: u32, make: impl FnOnce(&Names, &Path, [&str; 2]) + Send) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make network namespaces: run as root"
        );
        let prefix = format!("wdp{}-{}-", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let names = Names { prefix: prefix.clone(), ..Names::default() };
        let path = |name: &str| names.netns_directory.join(format!("{prefix}{name}"));
        let wire = Self {
            client: path("client"),
            server: path("server"),
            pins: PathBuf::from(format!("/run/{prefix}pins")),
            names: names.clone(),
            prefix: prefix.clone(),
        };
        for name in ["yard", "client", "server"] {
            ip(&format!("netns add {prefix}{name}"));
            ip(&format!("-n {prefix}{name} link set lo up"));
        }
        for (port, end, address) in [("portA", "client", CLIENT), ("portB", "server", SERVER)] {
            let mac = if end == "client" { "02:aa:00:00:00:01" } else { "02:bb:00:00:00:02" };
            ip(&format!(
                "-n {prefix}yard link add name {port} mtu {mtu} type veth peer name e0 address {mac} mtu {mtu} netns {prefix}{end}"
            ));
            ip(&format!("-n {prefix}{end} addr add {address}/24 dev e0"));
            let six = if end == "client" { "fd77::1" } else { "fd77::2" };
            ip(&format!("-n {prefix}{end} addr add {six}/64 dev e0 nodad"));
            ip(&format!("-n {prefix}{end} link set e0 up"));
        }
        wire.wait_for_addresses(&wire.client);
        wire.wait_for_addresses(&wire.server);
        inside(&path("yard"), || make(&names, &wire.pins, ["portA", "portB"])).unwrap();
        wire
    }

    /// Every frame on its own with all its checksums, as a real wire has it: the ends' and the
    /// ports' interfaces leave neither checksums nor segmentation to what comes after them.
    pub fn without_offloads(&self) {
        let wire = self.names.wire();
        let places = [(&self.client, "e0"), (&self.server, "e0"), (&wire, "1A"), (&wire, "1B")];
        for (namespace, interface) in places {
            self.python(namespace, CHECKSUMS_OFF, &[interface]);
        }
    }

    /// A listener in the server's namespace, on the port whose flows are held, at `address`.
    pub fn listen_at(&self, address: &str) -> TcpListener {
        let address: std::net::IpAddr = address.parse().unwrap();
        inside(&self.server, || TcpListener::bind((address, PORT)).unwrap()).unwrap()
    }

    /// Gives the client's end or the server's (its namespace) one more address.
    pub fn add_address(&self, end: &Path, address: &str) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.run(end, &format!("ip addr add {address} dev e0 {nodad}"));
        self.wait_for_addresses(end);
    }

    /// Until those of IPv6 can be bound: the kernel makes them good in its own time, `nodad` or not.
    fn wait_for_addresses(&self, end: &Path) {
        let tentative = "ip -6 addr show dev e0 scope global tentative";
        wait_for(|| self.run(end, tentative).trim().is_empty());
    }

    /// Takes the wire away and leaves the pins.
    pub fn remove_namespaces(&self) {
        for name in ["yard", "client", "server", "engine-1", "wire"] {
            if self.names.netns_directory.join(self.name(name)).exists() {
                ip(&format!("netns del {}", self.name(name)));
            }
        }
    }

    /// Mounts the file system that an engine with few rights cannot mount.
    pub fn mount_pins(&self) {
        std::fs::create_dir_all(&self.pins).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), &self.pins, Some("bpf"), flags, None::<&str>).unwrap();
    }

    /// An engine inside this process.
    pub fn engine(&self, attach: Attach) -> (Engine, HeldFlows) {
        Engine::open(&self.names, &self.pins, attach)
    }

    /// As above, opened with other options.
    pub fn engine_with(
        &self,
        attach: Attach,
        change: impl FnOnce(&mut weir_dataplane::Options),
    ) -> (Engine, HeldFlows) {
        Engine::open_changed(&self.names, &self.pins, attach, change)
    }

    /// An engine as a process of its own, once it is ready: this test binary again, running
    /// `engine_of_its_own` alone.
    pub fn engine_process(&self, does: &str) -> Child {
        self.engine_process_under(&[], does)
    }

    /// As above, run by a command like `setpriv`.
    pub fn engine_process_under(&self, wrapper: &[&str], does: &str) -> Child {
        let own = std::env::current_exe().unwrap();
        let mut command = match wrapper {
            [] => Command::new(own),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(own);
                command
            }
        };
        let mut child = command
            .args(["engine_of_its_own", "--exact", "--ignored", "--nocapture"])
            .env(ENGINE_VARIABLE, format!("{} {} {does}", self.prefix, self.pins.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("ready")), "the engine did not start");
        child
    }

    /// A listener in the server's namespace, on the port whose flows are held.
    pub fn listen(&self) -> TcpListener {
        inside(&self.server, || TcpListener::bind((SERVER, PORT)).unwrap()).unwrap()
    }

    /// A connection of the client to it.
    pub fn connect(&self) -> TcpStream {
        self.connect_to(&(SERVER.parse::<std::net::IpAddr>().unwrap(), PORT).into())
    }

    pub fn connect_to(&self, address: &std::net::SocketAddr) -> TcpStream {
        let stream =
            inside(&self.client, || TcpStream::connect_timeout(address, PATIENCE).unwrap())
                .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Both ends of a new connection.
    pub fn pair(&self, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.connect_to(&listener.local_addr().unwrap());
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, server)
    }

    /// Runs a shell command in the client's or server's namespace; what it prints.
    pub fn run(&self, namespace: &Path, command: &str) -> String {
        execute(namespace, &["sh", "-c", command])
    }

    /// Runs a Python script there.
    pub fn python(&self, namespace: &Path, script: &str, arguments: &[&str]) -> String {
        execute(namespace, &[&["python3", "-c", script], arguments].concat())
    }

    /// Sends a datagram each way and opens a TCP connection, between the two ends' addresses.
    pub fn crosses(&self, client: &str, server: &str) {
        let bind = format!("{}:0", bracket(server));
        let (udp, tcp) = inside(&self.server, || {
            (UdpSocket::bind(&bind).unwrap(), TcpListener::bind(&bind).unwrap())
        })
        .unwrap();
        let (to_udp, to_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        inside(&self.client, || {
            let socket = UdpSocket::bind(format!("{}:0", bracket(client))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"there", to_udp).unwrap();
            let mut bytes = [0; 16];
            let (length, from) = udp.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"there");
            udp.send_to(b"back", from).unwrap();
            assert_eq!(socket.recv(&mut bytes).unwrap(), 4);
            TcpStream::connect_timeout(&to_tcp, PATIENCE).unwrap();
        })
        .unwrap();
    }

    pub fn name(&self, what: &str) -> String {
        format!("{}{what}", self.prefix)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.remove_namespaces();
        if self.pins.exists() {
            let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_dir(&self.pins);
        }
    }
}

/// One request and its answer on a new connection.
pub fn talks(wire: &Wire, listener: &TcpListener) {
    let (mut client, mut server) = wire.pair(listener);
    says(&mut client, &mut server);
}

pub fn says(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    server.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    server.write_all(b"there").unwrap();
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"there");
}

/// Until it holds; panics after half a minute.
pub fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come about");
}

/// SIOCETHTOOL with ETHTOOL_STXCSUM: 0.
const CHECKSUMS_OFF: &str = r#"
import ctypes, fcntl, socket, struct, sys
value = ctypes.create_string_buffer(struct.pack('II', 0x17, 0))
request = struct.pack('16sP', sys.argv[1].encode(), ctypes.addressof(value))
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
"#;

/// Bytes that differ everywhere (a linear congruential generator).
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

fn execute(namespace: &Path, command: &[&str]) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec"])
        .arg(namespace.file_name().unwrap())
        .args(command)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn bracket(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
