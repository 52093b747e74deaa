//! Calls of an engine's process that fail on demand (`faults.c`): what a machine without memory or
//! descriptors does at the worst moment.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Which call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// `socket` of IPv4 and IPv6: ENOBUFS.
    Socket,
    /// The beginning of TCP_REPAIR: EPERM.
    Repair,
    /// ENOMEM.
    Bind,
    /// ENOBUFS.
    Connect,
    /// TCP_REPAIR_OPTIONS: ENOMEM.
    Options,
    /// TCP_REPAIR_WINDOW: ENOBUFS.
    Window,
    /// Of a socket with its runtime: ENOSPC.
    Register,
    /// The end of TCP_REPAIR, of the client's socket: ENOMEM.
    Speak,
    /// As above, of the server's.
    SpeakServer,
    /// Every change of a flow's state: ENOMEM.
    Table,
}

/// What the test and the library in the engine have in common.
pub struct Faults {
    file: File,
    pub variables: [String; 2],
}

impl Faults {
    /// Compiles the library into a directory of the test's.
    pub fn new(directory: &Path) -> Self {
        let (library, shared) = (directory.join("faults.so"), directory.join("faults"));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/faults.c"))
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(compiled.success());
        std::fs::write(&shared, [0; 8]).unwrap();
        let variables = [
            format!("LD_PRELOAD={}", library.display()),
            format!("WEIR_TEST_FAULTS={}", shared.display()),
        ];
        Self { file: File::options().read(true).write(true).open(shared).unwrap(), variables }
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        self.file.write_all_at(&(fault as u32).to_ne_bytes(), 0).unwrap();
    }

    /// Calls that failed so far.
    pub fn hits(&self) -> u32 {
        let mut hits = [0; 4];
        self.file.read_exact_at(&mut hits, 4).unwrap();
        u32::from_ne_bytes(hits)
    }
}
