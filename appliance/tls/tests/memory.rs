//! What an idle session costs in memory: both legs after their handshakes and after data both ways.
//!
//! Counted are Rust's allocations, to the byte, by an allocator of the test's own; and the process's
//! resident memory, which has aws-lc's too. One test only: they would count each other's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{authority, leaf, pump};
use rcgen::PKCS_ECDSA_P256_SHA256;
use weir_policy::suites::{Allowed, Protocol};
use weir_tls::{LegKey, ModernStack, TlsLeg, Verdict};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; only lengths are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's own promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's own promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SESSIONS: usize = 200;
/// The bar is 32 KiB for a session with all that the engine keeps for it.
const BOUND: usize = 16 << 10;

type Session = [Box<dyn TlsLeg>; 4];

/// Two pairs: what a server and a client would be are legs as well, so a session in the engine has
/// half of this.
fn session(stack: &ModernStack, key: &LegKey) -> Session {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 443);
    let mut legs: Vec<Box<dyn TlsLeg>> = Vec::new();
    for _ in 0..2 {
        let mut server_leg =
            stack.server_leg(Some("www.example.org"), address, Vec::new()).unwrap();
        let mut client_leg = stack.client_leg(key, Verdict::default(), None).unwrap();
        pump(server_leg.as_mut(), client_leg.as_mut(), 1400).unwrap();
        legs.extend([server_leg, client_leg]);
    }
    legs.try_into().unwrap_or_else(|_| unreachable!())
}

/// 100 KiB each way, read with one buffer for all sessions, as a runtime of the engine does.
fn transfer(legs: &mut Session, scratch: &mut Vec<u8>) {
    let data = vec![b'x'; 10 << 10];
    let mut wire = Vec::new();
    for _ in 0..10 {
        for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            assert_eq!(legs[from].write_plain(&data), data.len());
            wire.clear();
            legs[from].write_wire(&mut wire);
            legs[to].read_wire(&wire).unwrap();
            scratch.clear();
            legs[to].read_plain(scratch);
            assert_eq!(scratch.len(), data.len());
        }
    }
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn idle_session_keeps_little_memory() {
    let authority = authority("Test CA", &PKCS_ECDSA_P256_SHA256);
    let key = LegKey::new(&leaf(&authority, &["www.example.org"])).unwrap();
    for version in [Protocol::Tls12, Protocol::Tls13] {
        let allowed = Allowed { weakest: version, strongest: version, ..Allowed::default() };
        let stack = ModernStack::under(&allowed).unwrap().unwrap();
        let mut scratch = Vec::new();
        // What is made once: sessions kept, the thread's own buffers.
        transfer(&mut session(&stack, &key), &mut scratch);
        let mut sessions: Vec<Session> = Vec::with_capacity(SESSIONS);
        let (live, pages) = (LIVE.load(Relaxed), resident());
        for _ in 0..SESSIONS {
            sessions.push(session(&stack, &key));
        }
        let shaken = (LIVE.load(Relaxed) - live) / SESSIONS / 2;
        for legs in &mut sessions {
            transfer(legs, &mut scratch);
        }
        let idle = (LIVE.load(Relaxed) - live) / SESSIONS / 2;
        let pages = resident().saturating_sub(pages) / SESSIONS / 2;
        println!(
            "{version}: {shaken} B after the handshakes, {idle} B after data; resident {pages} B"
        );
        assert!(idle <= BOUND, "{version}: {idle} bytes a session");
    }
}
