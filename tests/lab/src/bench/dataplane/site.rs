//! Where it is measured: a client's and a server's namespace, joined by a segment with Weir's processes,
//! by a plain bridge, and by one that has the data plane's programs with all but empty tables; and by a
//! namespace in the middle where an ordinary proxy runs; and threads inside all of them.
//!
//! All bridges are made by [`segment::create`] and differ in programs and tables only. The namespaces go
//! with the run.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use nix::unistd::Pid;
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;

use super::engine::Engine;
use super::policy;
use crate::bench::{Bench, threads};
use crate::ends::{Ends, INTERFACE, SERVER};
use crate::namespace::Namespace;
use crate::run::Run;
use crate::wire::lab::Lab;

/// Of the ends: every kernel lets every namespace have it; a machine's own may be BBR, whose pacing costs more
/// than all that is measured. The engine's sockets have what the device says.
const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control=reno";

/// With Weir's processes.
pub const SEGMENT: SegmentId = SegmentId(1);
/// A bridge and nothing more.
pub const PLAIN: SegmentId = SegmentId(2);
/// As the first, with a data plane of its own whose tables are all but empty.
pub const LEAN: SegmentId = SegmentId(5);

/// Flows to it, and to all up to the last, might be decrypted.
pub const CANDIDATE_PORT: u16 = 4433;
pub const LAST_PORT: u16 = 4445;
/// Flows to it are not looked at.
pub const OTHER_PORT: u16 = 4000;

pub struct Site {
    /// Of the bridges without Weir's processes.
    pub names: Names,
    /// The supervisor of Weir's processes.
    pub weir: Pid,
    ends: Ends,
    middle: Namespace,
    _yard: Namespace,
    run: Arc<Run>,
}

impl Site {
    /// With Weir's processes in force of a policy with all tables full.
    pub fn new() -> Result<(Self, Engine, policy::Fill)> {
        let bench = Bench::start(Lab::start)?;
        let (document, fill) = policy::document(&bench.ends.certificates, &bench.run)?;
        bench.provision(&document)?;
        let Bench { wire, ends, run } = bench;
        let make = |name: &str| Namespace::create(format!("{}{name}", run.prefix()));
        let (yard, middle) = (make("yard")?, make("middle")?);
        // Not Weir's own: its engine serves every segment with its prefix.
        let names = Names { prefix: format!("{}beside-", run.prefix()), ..Names::default() };
        for id in [PLAIN, LEAN] {
            lay_bridge(&names, &yard, &ends, id)?;
        }
        for (net, end) in [(3, &ends.client), (4, &ends.server)] {
            let (here, there) = (format!("m{net}"), format!("e{net}"));
            lay_link((&middle, &here), (end, &there), None)?;
            for (end, name, host) in [(&middle, &here, 1), (end, &there, 2)] {
                end.ip(&["addr", "add", &format!("10.66.{net}.{host}/24"), "dev", name])?;
                end.ip(&["link", "set", name, "up"])?;
            }
        }
        for end in [&ends.client, &ends.server, &middle] {
            end.sysctl(CONGESTION_CONTROL)?;
            end.sysctl("net.ipv4.ip_local_port_range=1024 65535")?;
            // Port numbers come around within a round.
            end.sysctl("net.ipv4.tcp_max_tw_buckets=0")?;
            end.sysctl("net.core.somaxconn=4096")?;
        }
        let site = Self { names, weir: wire.supervisor(), ends, middle, _yard: yard, run };
        Ok((site, Engine::new(wire)?, fill))
    }

    /// Where the data plane beside Weir's keeps its tables.
    pub fn pins(&self) -> PathBuf {
        self.run.pin_directory().join("beside")
    }

    /// The run leaves no files.
    pub fn succeeded(&self) {
        self.run.succeeded();
    }

    /// Where an ordinary proxy in the middle is connected to, and where it connects to.
    pub fn middle(port: u16) -> [SocketAddr; 2] {
        [
            SocketAddrV4::new(Ipv4Addr::new(10, 66, 3, 1), port).into(),
            SocketAddrV4::new(Ipv4Addr::new(10, 66, 4, 2), port).into(),
        ]
    }

    /// A thread of an ordinary proxy, on the second processor.
    pub fn at_middle<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.thread(name, self.middle.name(), 1, work)
    }

    /// The server's address on a bridge.
    pub fn server(id: SegmentId, port: u16) -> SocketAddr {
        let address = if id == SEGMENT { SERVER } else { Ipv4Addr::new(10, 66, id.0 as u8, 2) };
        SocketAddrV4::new(address, port).into()
    }

    /// The interface of either end on a bridge.
    pub fn interface(id: SegmentId) -> String {
        if id == SEGMENT { INTERFACE.into() } else { format!("e{}", id.0) }
    }

    /// An end's namespace, for a process that enters it.
    pub fn end(&self, server: bool) -> PathBuf {
        let end = if server { &self.ends.server } else { &self.ends.client };
        self.names.netns_directory.join(end.name())
    }

    /// A thread in the client's namespace, on the first processor.
    pub fn at_client<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.thread("bench-client", self.ends.client.name(), 0, work)
    }

    /// A thread in the server's namespace, on the second processor.
    pub fn at_server<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.thread("bench-server", self.ends.server.name(), 1, work)
    }

    fn thread<T: Send + 'static>(
        &self,
        name: &str,
        namespace: &str,
        processor: usize,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        threads::spawn(name, &self.names.netns_directory.join(namespace), processor, work)
    }
}

/// Two ports in the yard with an end's interface each, and a bridge that joins them.
fn lay_bridge(names: &Names, yard: &Namespace, ends: &Ends, id: SegmentId) -> Result<()> {
    let name = Site::interface(id);
    for (port, end, host, mac) in
        [("a", &ends.client, 1, "02:aa:00:00:00"), ("b", &ends.server, 2, "02:bb:00:00:00")]
    {
        let port = format!("{port}{}", id.0);
        lay_link((yard, &port), (end, &name), Some(format!("{mac}:{:02}", id.0)))?;
        end.ip(&["addr", "add", &format!("10.66.{}.{host}/24", id.0), "dev", &name])?;
        end.ip(&["link", "set", &name, "up"])?;
    }
    let ports = [format!("a{}", id.0), format!("b{}", id.0)];
    inside(&names.netns_directory.join(yard.name()), || {
        segment::create(names, id, [&ports[0], &ports[1]])
    })??;
    Ok(())
}

fn lay_link(
    (here, name): (&Namespace, &str),
    (there, peer): (&Namespace, &str),
    mac: Option<String>,
) -> Result<()> {
    let mut command = vec!["link", "add", "name", name, "type", "veth", "peer", "name", peer];
    if let Some(mac) = &mac {
        command.extend(["address", mac]);
    }
    command.extend(["netns", there.name()]);
    here.ip(&command).map(drop)
}
