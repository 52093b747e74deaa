//! Ends in a VLAN or behind a tunnel, made by a program on their interface (`ends.bpf.c`).

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use aya::maps::{Array, MapData};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfLoader};
use weir_dataplane::namespace::inside;

use super::Wire;

/// How the ends send their packets.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub name: &'static str,
    /// Tags of the client's and of the server's packets.
    pub vlan: Option<[u16; 2]>,
    pub tunnel: Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    None,
    Ipip,
    Gre,
    /// Keys of the client's and of the server's packets.
    GreKey([u32; 2]),
}

impl Tunnel {
    pub fn length(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Ipip => 20,
            Self::Gre => 24,
            Self::GreKey(_) => 28,
        }
    }

    /// The protocol number of an end's packets in it, and what follows their outer IPv4 header.
    pub fn header(self, end: usize) -> Option<(u8, Vec<u8>)> {
        Some(match self {
            Self::None => return None,
            Self::Ipip => (4, vec![]),
            Self::Gre => (47, vec![0, 0, 8, 0]),
            Self::GreKey(keys) => (47, [&[0x20, 0, 8, 0][..], &keys[end].to_be_bytes()].concat()),
        })
    }
}

/// Addresses and TTL of the tunnel's two ends.
pub const OUTER: [[u8; 4]; 2] = [[192, 0, 2, 201], [192, 0, 2, 7]];
pub const OUTER_TTL: [u8; 2] = [61, 33];

pub const PLAIN: Ends = Ends { name: "plain", vlan: None, tunnel: Tunnel::None };
/// PCP 3, and PCP 5 with DEI; VLAN 100.
const VLAN: Option<[u16; 2]> = Some([0x6064, 0xb064]);

pub const ALL: [Ends; 6] = [
    Ends { name: "VLAN", vlan: VLAN, tunnel: Tunnel::None },
    Ends { name: "IPIP", vlan: None, tunnel: Tunnel::Ipip },
    Ends { name: "GRE", vlan: None, tunnel: Tunnel::Gre },
    Ends { name: "GRE with key", vlan: None, tunnel: Tunnel::GreKey([77, 77]) },
    Ends { name: "GRE with two keys", vlan: None, tunnel: Tunnel::GreKey([1234, 5678]) },
    Ends { name: "GRE with key in VLAN", vlan: VLAN, tunnel: Tunnel::GreKey([88, 88]) },
];

/// The programs on both ends' interfaces; they stay attached with the namespaces.
pub struct Emulated {
    mismatches: [Array<MapData, u64>; 2],
    /// What one end sent before its own program was attached.
    before: [u64; 2],
    _programs: [Ebpf; 2],
}

impl Emulated {
    pub fn start(wire: &Wire, ends: &Ends) -> Self {
        let (client, mismatches_client) = attach(&wire.client, ends, 0);
        let (server, mismatches_server) = attach(&wire.server, ends, 1);
        let mut emulated = Self {
            mismatches: [mismatches_client, mismatches_server],
            before: [0; 2],
            _programs: [client, server],
        };
        emulated.before = emulated.mismatches();
        emulated
    }

    /// Packets that came otherwise than the other end sends them.
    pub fn mismatches(&self) -> [u64; 2] {
        [0, 1].map(|end| self.mismatches[end].get(&0, 0).unwrap() - self.before[end])
    }
}

fn attach(namespace: &Path, ends: &Ends, end: usize) -> (Ebpf, Array<MapData, u64>) {
    let kind: u32 = match ends.tunnel {
        Tunnel::None => 0,
        Tunnel::Ipip => 1,
        Tunnel::Gre => 2,
        Tunnel::GreKey(_) => 3,
    };
    let keys = if let Tunnel::GreKey(keys) = ends.tunnel { keys } else { [0, 0] };
    let tci = ends.vlan.unwrap_or_default().map(u32::from);
    let values = [
        ("tunnel", kind),
        ("vlan", u32::from(ends.vlan.is_some())),
        ("own_tci", tci[end]),
        ("peer_tci", tci[1 - end]),
        ("own_key", keys[end]),
        ("peer_key", keys[1 - end]),
        ("own_address", u32::from_be_bytes(OUTER[end])),
        ("peer_address", u32::from_be_bytes(OUTER[1 - end])),
        ("own_ttl", u32::from(OUTER_TTL[end])),
        ("peer_ttl", u32::from(OUTER_TTL[1 - end])),
    ];
    let mut loader = EbpfLoader::new();
    for (name, value) in &values {
        loader.set_global(name, value, true);
    }
    let mut ebpf = loader.load(object()).unwrap();
    inside(namespace, || {
        tc::qdisc_add_clsact("e0").unwrap();
        for (name, direction) in [("leave", TcAttachType::Egress), ("enter", TcAttachType::Ingress)]
        {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
            let id = program.attach("e0", direction).unwrap();
            std::mem::forget(program.take_link(id).unwrap());
        }
    })
    .unwrap();
    let mismatches = Array::try_from(ebpf.take_map("mismatches").unwrap()).unwrap();
    (ebpf, mismatches)
}

fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let out = std::env::temp_dir().join(format!("weir-ends-{}.o", std::process::id()));
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
        let status = Command::new(clang)
            .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror"])
            .args(["-I/usr/include/x86_64-linux-gnu", "-c"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/ends.bpf.c"))
            .arg("-o")
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success());
        let bytes = std::fs::read(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        bytes
    })
}
