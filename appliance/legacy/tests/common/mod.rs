//! A worker started as the engine starts it, and legs of it joined with each other.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test's own helper: a panic is the test's failure")]

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use weir_api::legacy::{
    BINDING, CONTROL_LEG, CONTROL_READY, Established, Frames, FromWorker, Open, Role, ToWorker,
};
use weir_policy::suites::{Suite, TABLE};
use zeroize::Zeroizing;

pub struct Worker {
    pub child: Child,
    pub control: UnixDatagram,
    /// As many as it says that it takes.
    pub legs: u32,
}

impl Worker {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With an environment, where the engine gives none.
    pub fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-legacy"));
        Self::of(command.env_clear().envs(environment.iter().copied()))
    }

    /// With so many open files.
    pub fn start_with_files(most: usize) -> Self {
        let mut command = Command::new("prlimit");
        Self::of(command.arg(format!("--nofile={most}")).arg(env!("CARGO_BIN_EXE_weir-legacy")))
    }

    fn of(command: &mut Command) -> Self {
        let (ours, its) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        let child = command.stdin(Stdio::from(its)).spawn().unwrap();
        let control = UnixDatagram::from(ours);
        control.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut said = [0; 5];
        assert_eq!(control.recv(&mut said).unwrap(), 5);
        let [CONTROL_READY, legs @ ..] = said else { panic!("it said {said:?}") };
        Self { child, control, legs: u32::from_be_bytes(legs) }
    }

    pub fn leg(&self, open: Open) -> Leg {
        let (ours, its) = UnixStream::pair().unwrap();
        let bytes = [std::io::IoSlice::new(&[CONTROL_LEG])];
        let message = [ControlMessage::ScmRights(&[its.as_raw_fd()])];
        sendmsg::<()>(self.control.as_raw_fd(), &bytes, &message, MsgFlags::empty(), None).unwrap();
        drop(its);
        ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut leg = Leg { socket: ours, frames: Frames::default(), said: Vec::new() };
        leg.say(&ToWorker::Open(Box::new(open)));
        leg
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Leg {
    pub socket: UnixStream,
    frames: Frames,
    /// All but wire bytes and acknowledgements, in order.
    pub said: Vec<FromWorker>,
}

impl Leg {
    pub fn say(&mut self, message: &ToWorker) {
        let mut frame = Vec::new();
        message.encode(&mut frame).unwrap();
        self.socket.write_all(&frame).unwrap();
    }

    /// Reads up to the acknowledgement of what was sent last, or the end; returns the wire bytes.
    pub fn settle(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        loop {
            while let Some(message) = self.frames.from_worker().unwrap() {
                match message {
                    FromWorker::Wire(bytes) => wire.extend(bytes),
                    FromWorker::Done { .. } => return wire,
                    other => self.said.push(other),
                }
            }
            let mut buffer = [0; 65536];
            match self.socket.read(&mut buffer).unwrap() {
                0 => return wire,
                read => self.frames.push(&buffer[..read]),
            }
        }
    }

    /// The same, when it was given the peer's bytes.
    pub fn feed(&mut self, wire: &[u8]) -> Vec<u8> {
        self.say(&ToWorker::Wire(wire.to_vec()));
        self.settle()
    }

    pub fn plain(&self) -> Vec<u8> {
        let plain = self.said.iter().filter_map(|message| match message {
            FromWorker::Plain(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        plain.collect::<Vec<_>>().concat()
    }

    pub fn established(&self) -> Option<&Established> {
        self.said.iter().find_map(|message| match message {
            FromWorker::Established(established) => Some(established.as_ref()),
            _ => None,
        })
    }

    pub fn failure(&self) -> Option<&weir_api::legacy::Failure> {
        self.said.iter().find_map(|message| match message {
            FromWorker::Failed(failure) => Some(failure),
            _ => None,
        })
    }
}

/// Carries bytes between two legs until neither has any.
pub fn join(client: &mut Leg, server: &mut Leg) {
    let mut to_server = client.settle();
    server.settle();
    for _ in 0..20 {
        if to_server.is_empty() {
            return;
        }
        let to_client = server.feed(&to_server);
        if to_client.is_empty() {
            return;
        }
        to_server = client.feed(&to_client);
    }
    panic!("no end of bytes");
}

pub struct Certified {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
}

pub fn certified(algorithm: &'static rcgen::SignatureAlgorithm) -> Certified {
    let key = if algorithm == &rcgen::PKCS_RSA_SHA256 {
        rcgen::KeyPair::generate_rsa_for(algorithm, rcgen::RsaKeySize::_2048)
    } else {
        rcgen::KeyPair::generate_for(algorithm)
    };
    let key = key.unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Certified { chain: vec![certificate.der().to_vec()], key: key.serialize_der() }
}

/// The same, of an authority: openssl staples nothing to a certificate that signed itself.
pub fn certified_by_another(algorithm: &'static rcgen::SignatureAlgorithm) -> Certified {
    let own = certified(algorithm);
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    let issuer = rcgen::Issuer::new(authority, rcgen::KeyPair::generate().unwrap());
    let key = rcgen::KeyPair::try_from(own.key.as_slice()).unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &issuer).unwrap();
    Certified { chain: vec![certificate.der().to_vec()], key: own.key }
}

/// With a key on P-224, which rcgen does not make.
pub fn certified_on_p224() -> Certified {
    let at = std::env::temp_dir().join(format!("weir-p224-{}", std::process::id()));
    std::fs::create_dir_all(&at).unwrap();
    let openssl = |words: &str| {
        let done = Command::new("openssl").current_dir(&at).args(words.split(' ')).output();
        assert!(done.unwrap().status.success(), "openssl {words}");
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-224 -nodes -keyout k.pem -out c.pem -subj /CN=server.test",
    );
    openssl("x509 -in c.pem -outform der -out c.der");
    openssl("pkcs8 -topk8 -nocrypt -in k.pem -outform der -out k.der");
    let read = |name: &str| std::fs::read(at.join(name)).unwrap();
    let certified = Certified { chain: vec![read("c.der")], key: read("k.der") };
    std::fs::remove_dir_all(&at).unwrap();
    certified
}

impl Certified {
    pub fn to_client(&self, versions: (u16, u16), suites: &[u16]) -> Open {
        let (chain, key) = (self.chain.clone(), Zeroizing::new(self.key.clone()));
        let alpn = Some(b"http/1.1".to_vec());
        let role = Role::ToClient { chain, key, alpn, staple: None, session: random() };
        Open { versions, suites: suites.to_vec(), encrypt_then_mac: false, role }
    }
}

pub fn to_server(versions: (u16, u16), suites: &[u16]) -> Open {
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server_name = Some("server.test".to_owned());
    let role = Role::ToServer { server_name, alpn, session: random() };
    Open { versions, suites: suites.to_vec(), encrypt_then_mac: false, role }
}

/// A binding that nobody else has.
pub fn random() -> [u8; BINDING] {
    let mut binding = [0; BINDING];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut binding).unwrap();
    binding
}

pub fn bound_to(mut open: Open, binding: [u8; BINDING]) -> Open {
    match &mut open.role {
        Role::ToServer { session, .. } | Role::ToClient { session, .. } => *session = binding,
    }
    open
}

pub fn all_suites() -> Vec<u16> {
    TABLE.iter().map(|suite: &Suite| suite.id).collect()
}
