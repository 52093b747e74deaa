//! RST for packets that come into an engine's namespace for a socket that is gone.
//!
//! For: ends whose engine died, or whose sockets were closed, and that did not get the first RST:
//! whatever they send next is answered (SPEC D10), instead of being retransmitted into a black hole
//! for minutes. Not for: live flows, whose sockets the kernel finds first. Fails with what the
//! kernel refused; without it such ends find out by their own timeouts.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use aya::maps::SockMap;
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::link::set_option;
use crate::namespace::inside;
use crate::programs::ProgramError;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stray.bpf.o"));
const PROGRAM: &str = "refuse_stray";

/// In force until dropped, or until the process ends.
pub struct StrayRefusal {
    /// Owns program and link.
    _ebpf: Ebpf,
    _listener: Socket,
}

impl StrayRefusal {
    /// For the engine's namespace at that path.
    pub fn start(namespace: &Path) -> Result<Self, ProgramError> {
        let io = |error| ProgramError::PinDirectory { path: namespace.to_owned(), error };
        let program = |error| ProgramError::Program { name: PROGRAM, error };
        let listener = inside(namespace, refuser).and_then(|made| made).map_err(io)?;
        let mut ebpf = EbpfLoader::new().btf(None).load(OBJECT)?;
        let map = ebpf.map_mut("refuser").ok_or(ProgramError::Missing("refuser"))?;
        SockMap::try_from(map)
            .and_then(|mut map| map.set(0, &listener, 0))
            .map_err(|error| ProgramError::Pinned { path: namespace.to_owned(), error })?;
        let lookup: &mut SkLookup = ebpf
            .program_mut(PROGRAM)
            .ok_or(ProgramError::Missing(PROGRAM))?
            .try_into()
            .map_err(program)?;
        lookup.load().map_err(program)?;
        lookup.attach(File::open(namespace).map_err(io)?).map_err(program)?;
        Ok(Self { _ebpf: ebpf, _listener: listener })
    }
}

/// A socket that listens and to which no SYN comes. The kernel answers every other packet given to
/// it with RST; transparent, so that it does in the name of an address that is not the namespace's.
fn refuser() -> io::Result<Socket> {
    // One for both families where there is IPv6, as a lookup may only give out one that fits. Never
    // bound to all addresses: a client's own port may be the same.
    let six = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
        socket.set_only_v6(false)?;
        set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        Ok((socket, SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0))))
    });
    let (socket, address) = match six {
        Ok(six) => six,
        Err(_) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            (socket, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        }
    };
    set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    socket.attach_filter(&no_syn())?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(1)?;
    Ok(socket)
}

/// Classic BPF over the TCP header: drops what has SYN, and so would open a connection.
fn no_syn() -> [SockFilter; 4] {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    let code = |code: u32| u16::try_from(code).unwrap_or(0);
    let load = code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS);
    let test = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    [
        SockFilter::new(load, 0, 0, FLAGS),
        SockFilter::new(test, 0, 1, SYN),
        SockFilter::new(answer, 0, 0, 0),
        SockFilter::new(answer, 0, 0, u32::MAX),
    ]
}
