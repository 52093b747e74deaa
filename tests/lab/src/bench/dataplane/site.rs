//! Where it is measured: a client's and a server's namespace, joined by two segments with the
//! data plane's programs and by a plain bridge, and by a namespace in the middle where an ordinary
//! proxy runs; and threads inside all of them.
//!
//! All bridges are made by [`segment::create`] and differ in the programs and tables only. The namespaces go
//! with the run.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Result;
use weir_dataplane::namespace::inside;
use weir_dataplane::segment::{self, Names};
use weir_policy::snapshot::SegmentId;

use crate::bench::threads;
use crate::namespace::Namespace;
use crate::run::Run;
use crate::wire::lab::mount_bpf;

/// With the data plane's programs on it.
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
    pub names: Names,
    client: Namespace,
    server: Namespace,
    middle: Namespace,
    _yard: Namespace,
    run: Arc<Run>,
}

impl Site {
    pub fn new() -> Result<Self> {
        mount_bpf()?;
        let run = Run::new()?;
        let prefix = run.prefix();
        let make = |name: &str| Namespace::create(format!("{prefix}{name}"));
        let (yard, client, server) = (make("yard")?, make("client")?, make("server")?);
        let middle = make("middle")?;
        let names = Names { prefix: prefix.clone(), ..Names::default() };
        for id in [SEGMENT, PLAIN, LEAN] {
            for (port, end, host, mac) in
                [("a", &client, 1, "02:aa:00:00:00"), ("b", &server, 2, "02:bb:00:00:00")]
            {
                let (port, name) = (format!("{port}{}", id.0), format!("e{}", id.0));
                yard.ip(&[
                    "link",
                    "add",
                    "name",
                    &port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    &name,
                    "address",
                    &format!("{mac}:{:02}", id.0),
                    "netns",
                    end.name(),
                ])?;
                end.ip(&["addr", "add", &format!("10.66.{}.{host}/24", id.0), "dev", &name])?;
                end.ip(&["link", "set", &name, "up"])?;
            }
            let ports = [format!("a{}", id.0), format!("b{}", id.0)];
            inside(&names.netns_directory.join(yard.name()), || {
                segment::create(&names, id, [&ports[0], &ports[1]])
            })??;
        }
        for (net, end) in [(3, &client), (4, &server)] {
            let (here, there) = (format!("m{net}"), format!("e{net}"));
            middle.ip(&[
                "link",
                "add",
                "name",
                &here,
                "type",
                "veth",
                "peer",
                "name",
                &there,
                "netns",
                end.name(),
            ])?;
            for (end, name, host) in [(&middle, &here, 1), (end, &there, 2)] {
                end.ip(&["addr", "add", &format!("10.66.{net}.{host}/24"), "dev", name])?;
                end.ip(&["link", "set", name, "up"])?;
            }
        }
        for end in [&client, &server, &middle] {
            // Every kernel lets every namespace have it; a machine's own may be BBR, whose pacing
            // costs more than all that is measured.
            end.sysctl("net.ipv4.tcp_congestion_control=reno")?;
            end.sysctl("net.ipv4.ip_local_port_range=1024 65535")?;
            // Port numbers come around within a round.
            end.sysctl("net.ipv4.tcp_max_tw_buckets=0")?;
            end.sysctl("net.core.somaxconn=4096")?;
        }
        Ok(Self { names, client, server, middle, _yard: yard, run })
    }

    /// Where a segment's data plane keeps its tables.
    pub fn pins(&self, id: SegmentId) -> PathBuf {
        self.run.pin_directory().join(format!("segment-{}", id.0))
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
        SocketAddrV4::new(Ipv4Addr::new(10, 66, id.0 as u8, 2), port).into()
    }

    /// The interface of either end on a bridge.
    pub fn interface(id: SegmentId) -> String {
        format!("e{}", id.0)
    }

    /// An end's namespace, for a process that enters it.
    pub fn end(&self, server: bool) -> PathBuf {
        let end = if server { &self.server } else { &self.client };
        self.names.netns_directory.join(end.name())
    }

    /// A thread in the client's namespace, on the first processor.
    pub fn at_client<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.thread("bench-client", self.client.name(), 0, work)
    }

    /// A thread in the server's namespace, on the second processor.
    pub fn at_server<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        self.thread("bench-server", self.server.name(), 1, work)
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
