//! Segments: two ports, the bridge that joins them, and the engine's namespace beside it.
//!
//! For: making a segment once at boot, through rtnetlink, so that it bridges before any engine runs
//! and goes on when one ends. Not for: looking at packets. Fails by naming the interface or
//! namespace and what the kernel said; what was made before the failure stays, and a second call
//! goes on from there.
//!
//! The bridge behaves as a wire (SPEC D2): no addresses, no learning, no spanning tree, no snooping;
//! LLDP, LACP and 802.1X cross. PAUSE frames cannot: the kernel never forwards them.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkMessage,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use weir_policy::snapshot::{SegmentId, Side};

use crate::engine_namespace;
use crate::namespace::{self, inside};
use crate::programs::{self, Attach, ProgramError};

/// Largest segment number: the eBPF tables are indexed by it.
pub const MAX_SEGMENT: u16 = 63;

/// Link-layer addresses of the engine's veth, outer and inner end. They never reach a wire.
pub(crate) const OUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xef];
pub(crate) const INNER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xee];
/// MTU of the engine's veth, at least. Larger than the ports', so that a port's MTU may change: what
/// the sockets send is bounded for each flow by the port it leaves by (`socket::Position`).
const ENGINE_MTU: u32 = 9216;

/// Where namespaces are and what they and the interfaces in them are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Put before every namespace's name; empty in the appliance.
    pub prefix: String,
    pub netns_directory: PathBuf,
}

impl Default for Names {
    fn default() -> Self {
        Self { prefix: String::new(), netns_directory: PathBuf::from("/run/netns") }
    }
}

impl Names {
    /// The namespace of all segment ports and bridges.
    pub fn wire(&self) -> PathBuf {
        self.netns_directory.join(format!("{}wire", self.prefix))
    }

    /// The namespace of the engine's sockets of a segment.
    pub fn engine(&self, id: SegmentId) -> PathBuf {
        self.netns_directory.join(format!("{}engine-{}", self.prefix, id.0))
    }

    /// A segment's port, inside the wire namespace: `1A`.
    pub fn port(&self, id: SegmentId, side: Side) -> String {
        format!("{}{}", id.0, if side == Side::A { 'A' } else { 'B' })
    }

    /// A segment's bridge, inside the wire namespace: `seg1`.
    pub fn bridge(&self, id: SegmentId) -> String {
        format!("seg{}", id.0)
    }

    /// The end of the engine's veth inside the wire namespace: `eng1`.
    pub fn engine_outer(&self, id: SegmentId) -> String {
        format!("eng{}", id.0)
    }

    /// The end of the engine's veth inside the engine's namespace.
    pub fn engine_inner(&self) -> &'static str {
        "eng"
    }

    /// The segments that were made, by their engine namespaces, in order.
    pub fn segments_present(&self) -> io::Result<Vec<SegmentId>> {
        let start = format!("{}engine-", self.prefix);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.netns_directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(&start)?.parse().ok());
            if let Some(id) = id
                && namespace::is_namespace(&entry.path())
            {
                found.push(SegmentId(id));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Why a segment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("segment {0}: the number must be 1 to {MAX_SEGMENT}")]
    Number(u16),
    #[error("namespace {path}: {error}")]
    Namespace { path: PathBuf, error: io::Error },
    #[error("interface {0}: not found, neither here nor as the segment's port")]
    NoInterface(String),
    #[error("{what}: {error}")]
    Netlink { what: String, error: rtnetlink::Error },
    #[error("{setting}: {error}")]
    Setting { setting: String, error: io::Error },
    #[error("blocked until there is an engine: {0}")]
    Block(#[from] ProgramError),
}

/// How a segment is made, beside its ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Making<'a> {
    /// Of both ports; `None`: each keeps its own.
    pub mtu: Option<u32>,
    /// With `layer-2-fallback: block-all`: not a packet crosses before an engine has put its programs
    /// in place of what is in this directory of pins then. Fails without joining the ports where it
    /// cannot be blocked.
    pub blocked: Option<(&'a Path, Attach)>,
}

/// A port that keeps the MTU it had.
#[derive(Debug, thiserror::Error)]
#[error("port {port} refuses an MTU of {mtu}, and keeps its own: {error}")]
pub struct MtuRefused {
    pub port: String,
    pub mtu: u32,
    pub error: SegmentError,
}

/// Makes a segment, or completes it: namespaces, ports (the two interfaces, named as they are in
/// the caller's namespace, moved and renamed), bridge and engine veth. Needs root. Blocks; call it
/// from any thread, inside a runtime or not.
pub fn create(names: &Names, id: SegmentId, interfaces: [&str; 2]) -> Result<(), SegmentError> {
    create_as(names, id, interfaces, &Making::default()).map(drop)
}

/// The same with settings. A port that refuses its MTU is no failure: the segment bridges what fits it.
pub fn create_as(
    names: &Names,
    id: SegmentId,
    interfaces: [&str; 2],
    making: &Making<'_>,
) -> Result<Vec<MtuRefused>, SegmentError> {
    if id.0 == 0 || id.0 > MAX_SEGMENT {
        return Err(SegmentError::Number(id.0));
    }
    let (wire, engine) = (names.wire(), names.engine(id));
    for path in [&wire, &engine] {
        namespace::make(path)
            .map_err(|error| SegmentError::Namespace { path: path.clone(), error })?;
    }
    in_namespace(&wire, settle_wire_namespace)??;
    // A thread of its own starts in the caller's namespace and has no runtime yet.
    std::thread::scope(|scope| {
        let moving = scope
            .spawn(|| netlink(async |handle| move_ports(names, id, interfaces, &handle).await));
        moving
            .join()
            .unwrap_or_else(|_| Err(setting("moving the ports", io::Error::other("panicked"))))
    })?;
    let refused = in_namespace(&wire, || prepare_ports(names, id, making))??;
    let mtu =
        in_namespace(&wire, || netlink(async |handle| join_ports(names, id, &handle).await))??;
    in_namespace(&engine, || engine_namespace::settle(names.engine_inner(), mtu))??;
    Ok(refused)
}

/// In the wire namespace, with the ports there, not yet joined and not yet up.
fn prepare_ports(
    names: &Names,
    id: SegmentId,
    making: &Making<'_>,
) -> Result<Vec<MtuRefused>, SegmentError> {
    let mut refused = Vec::new();
    for side in [Side::A, Side::B] {
        let port = names.port(id, side);
        if let Some((pins, how)) = making.blocked {
            programs::attach_block(&port, pins, how)?;
        }
        let Some(mtu) = making.mtu else { continue };
        let set = netlink(async |handle| {
            set(&handle, &port, by_name(&handle, &port).await?.mtu(mtu)).await
        });
        if let Err(error) = set {
            refused.push(MtuRefused { port, mtu, error });
        }
    }
    Ok(refused)
}

/// What holds for the whole wire namespace: it speaks no IP of its own.
fn settle_wire_namespace() -> Result<(), SegmentError> {
    for setting in ["net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"] {
        sysctl_if_present(setting, "1")?;
    }
    // Where br_netfilter is there, it must not look at what crosses.
    for table in ["iptables", "ip6tables", "arptables"] {
        sysctl_if_present(&format!("net/bridge/bridge-nf-call-{table}"), "0")?;
    }
    netlink(async |handle| set(&handle, "lo", by_name(&handle, "lo").await?.up()).await)
}

async fn move_ports(
    names: &Names,
    id: SegmentId,
    interfaces: [&str; 2],
    handle: &Handle,
) -> Result<(), SegmentError> {
    let wire = names.wire();
    for (interface, side) in interfaces.iter().zip([Side::A, Side::B]) {
        let port = names.port(id, side);
        if in_namespace(&wire, || {
            netlink(async |handle| Ok(find(&handle, &port).await?.is_some()))
        })?? {
            continue;
        }
        let link = find(handle, interface)
            .await?
            .ok_or_else(|| SegmentError::NoInterface((*interface).to_owned()))?;
        let namespace = fs::File::open(&wire)
            .map_err(|error| SegmentError::Namespace { path: wire.clone(), error })?;
        let index = link.header.index;
        set(handle, interface, LinkUnspec::new_with_index(index).down()).await?;
        let moved = LinkUnspec::new_with_index(index).name(port).setns_by_fd(namespace.as_raw_fd());
        set(handle, interface, moved).await?;
    }
    Ok(())
}

/// Inside the wire namespace: bridge and ports, and the engine's veth. Returns that one's MTU.
async fn join_ports(names: &Names, id: SegmentId, handle: &Handle) -> Result<u32, SegmentError> {
    let bridge = names.bridge(id);
    if find(handle, &bridge).await?.is_none() {
        let new = LinkBridge::new(&bridge).set_info_data(InfoData::Bridge(vec![
            InfoBridge::StpState(0),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(0),
            // Bits 0 to 2 are set per port: the bridge's own mask refuses them.
            InfoBridge::GroupFwdMask(0xfff8),
        ]));
        add(handle, &bridge, new.down().build()).await?;
    }
    let bridge_index = index(handle, &bridge).await?;
    let mut mtu = ENGINE_MTU;
    for side in [Side::A, Side::B] {
        let name = names.port(id, side);
        let link =
            find(handle, &name).await?.ok_or_else(|| SegmentError::NoInterface(name.clone()))?;
        for attribute in &link.attributes {
            if let LinkAttribute::Mtu(value) = attribute {
                mtu = mtu.max(*value);
            }
        }
        let port = LinkUnspec::new_with_index(link.header.index).controller(bridge_index);
        set(handle, &name, port).await?;
        let settings = LinkMessageBuilder::<LinkUnspec>::default()
            .index(link.header.index)
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(false),
                InfoBridgePort::UnicastFlood(true),
                InfoBridgePort::MulticastFlood(true),
                InfoBridgePort::BroadcastFlood(true),
                InfoBridgePort::GroupFwdMask(0xfffd), // all but PAUSE
            ]))
            .build();
        handle
            .link()
            .set_port(settings)
            .execute()
            .await
            .map_err(|error| SegmentError::Netlink { what: format!("port {name}"), error })?;
        let up = LinkUnspec::new_with_index(link.header.index).promiscuous(true).up();
        set(handle, &name, up).await?;
    }
    set(handle, &bridge, LinkUnspec::new_with_index(bridge_index).arp(false).up()).await?;
    join_engine(names, id, mtu, handle).await?;
    Ok(mtu)
}

async fn join_engine(
    names: &Names,
    id: SegmentId,
    mtu: u32,
    handle: &Handle,
) -> Result<(), SegmentError> {
    let (outer, path) = (names.engine_outer(id), names.engine(id));
    if find(handle, &outer).await?.is_none() {
        let namespace =
            fs::File::open(&path).map_err(|error| SegmentError::Namespace { path, error })?;
        let inner = LinkMessageBuilder::<LinkUnspec>::new()
            .name(names.engine_inner().to_owned())
            .address(INNER_MAC.to_vec())
            .mtu(mtu)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let veth = LinkVeth::new(&outer, names.engine_inner())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inner)))
            .address(OUTER_MAC.to_vec())
            .mtu(mtu)
            .build();
        add(handle, &outer, veth).await?;
    }
    let index = index(handle, &outer).await?;
    set(handle, &outer, LinkUnspec::new_with_index(index).mtu(mtu).arp(false).up()).await
}

/// Runs netlink work on a runtime of its own, in the thread's namespace.
pub(crate) fn netlink<T>(
    work: impl AsyncFnOnce(Handle) -> Result<T, SegmentError>,
) -> Result<T, SegmentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| setting("netlink", error))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| setting("netlink", error))?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, SegmentError> {
    inside(path, work).map_err(|error| SegmentError::Namespace { path: path.to_owned(), error })
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, SegmentError> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        found => found.map_err(|error| SegmentError::Netlink { what: name.to_owned(), error }),
    }
}

pub(crate) async fn index(handle: &Handle, name: &str) -> Result<u32, SegmentError> {
    let link = find(handle, name).await?;
    link.map(|link| link.header.index).ok_or_else(|| SegmentError::NoInterface(name.to_owned()))
}

async fn by_name(
    handle: &Handle,
    name: &str,
) -> Result<LinkMessageBuilder<LinkUnspec>, SegmentError> {
    Ok(LinkUnspec::new_with_index(index(handle, name).await?))
}

pub(crate) async fn set(
    handle: &Handle,
    name: &str,
    link: LinkMessageBuilder<LinkUnspec>,
) -> Result<(), SegmentError> {
    let done = handle.link().set(link.build()).execute().await;
    done.map_err(|error| SegmentError::Netlink { what: name.to_owned(), error })
}

async fn add(handle: &Handle, name: &str, link: LinkMessage) -> Result<(), SegmentError> {
    let done = handle.link().add(link).execute().await;
    done.map_err(|error| SegmentError::Netlink { what: name.to_owned(), error })
}

pub(crate) fn ignore(
    result: Result<(), rtnetlink::Error>,
    errno: i32,
    what: &str,
) -> Result<(), SegmentError> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -errno => Ok(()),
        result => result.map_err(|error| SegmentError::Netlink { what: what.to_owned(), error }),
    }
}

pub(crate) fn sysctl(name: &str, value: &str) -> Result<(), SegmentError> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(|error| setting(name, error))
}

fn sysctl_if_present(name: &str, value: &str) -> Result<(), SegmentError> {
    match fs::write(format!("/proc/sys/{name}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| setting(name, error)),
    }
}

fn setting(setting: &str, error: io::Error) -> SegmentError {
    SegmentError::Setting { setting: setting.to_owned(), error }
}
