//! The lab: a wire with real ends, and what is checked on it.
//!
//! For: building a client (curl) and a server (nginx) in network namespaces, putting Weir between
//! them either as processes on this machine ([`wire::lab`]) or as the appliance booted from its
//! image under QEMU ([`wire::machine`]), and checking from both ends what it does to traffic. Not
//! for: unit tests, and nothing of this is in the product.
//! Fails by `anyhow` errors that say what was expected and what was seen; the files of a failed
//! run (logs, captures, serial console) are kept and their directory is printed.

pub mod bench;
pub mod capture;
pub mod certificates;
pub mod checks;
pub mod crowd;
pub mod document;
pub mod ends;
pub mod exchange;
pub mod fetch;
pub mod namespace;
pub mod peers;
pub mod process;
pub mod random;
pub mod report;
pub mod run;
pub mod tls;
pub mod tunnels;
pub mod wire;
