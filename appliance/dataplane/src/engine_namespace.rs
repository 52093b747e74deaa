//! The namespace of an engine's sockets: no address; what comes in by the veth is local, what goes
//! out has one neighbour, for IPv4 and IPv6 alike.
//!
//! For: settling it once at boot. Not for: the veth itself and its outer end (`segment`). Nothing
//! here speaks on a wire by itself: ARP is off, and so are duplicate address detection, router
//! solicitations and automatic addresses (and the programs drop what is no taken flow's). A kernel
//! without IPv6 gets IPv4 alone. Fails by naming the setting and what the kernel said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::segment::{OUTER_MAC, SegmentError, ignore, index, netlink, set, sysctl};

/// The permanent neighbours that stand for every destination.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 1);
const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Routing table of what comes in by the engine's veth: everything is local.
const LOCAL_TABLE: u32 = 100;
/// Most bytes of a segmentable packet of the sockets: with a tunnel's header around it its length
/// must still fit the 16 bits of IPv4.
const GSO_MAX: u32 = 65_000;

/// Fragments of taken flows are put together here. The rest of a packet comes right behind its first fragment
/// or not at all: what is kept longer is forged, or its end says it again with another id. Shorter than the
/// programs keep it apart from what it could be mixed up with (`REST_COMES` of bpf/fragments.h).
const FRAGMENTS_SECONDS: &str = "2";
/// Bytes of packets that are not whole. One client has 256 fragments at most (twice `FRAGMENT_SHARE` of
/// bpf/clients.h, by windows of time) of some 4 KiB with all that the kernel keeps of each: room for 16 clients
/// that send what is never whole. Past it fragments are dropped, and come again.
const FRAGMENTS_ROOM: &str = "16777216";

/// Inside the namespace, whose end of the veth is `inner`.
pub fn settle(inner: &str, mtu: u32) -> Result<(), SegmentError> {
    let ipv6 = Path::new("/proc/sys/net/ipv6/conf").exists();
    for (setting, value) in [
        ("net/ipv4/conf/all/rp_filter".to_owned(), "0"),
        (format!("net/ipv4/conf/{inner}/rp_filter"), "0"),
        ("net/ipv4/tcp_max_tw_buckets".to_owned(), "0"),
        // Idle sessions live as long as their ends do (SPEC D17) where no idle timeout is set: an end that
        // vanished without a word is found after some eight minutes. IPv6's too, whatever their names.
        ("net/ipv4/tcp_keepalive_time".to_owned(), "300"),
        ("net/ipv4/tcp_keepalive_intvl".to_owned(), "30"),
        ("net/ipv4/tcp_keepalive_probes".to_owned(), "6"),
        // An ICMP error about a tunnel's packet goes to the tunnel's end and not to us: after some
        // timeouts a socket tries smaller segments (RFC 4821). IPv6's too, whatever its name.
        ("net/ipv4/tcp_mtu_probing".to_owned(), "1"),
        ("net/ipv4/ipfrag_time".to_owned(), FRAGMENTS_SECONDS),
        ("net/ipv4/ipfrag_high_thresh".to_owned(), FRAGMENTS_ROOM),
        // No bound on what else comes from its sender between two fragments of a packet: forged ones of other
        // packets would spoil it. The programs let nothing in that stands out of order.
        ("net/ipv4/ipfrag_max_dist".to_owned(), "0"),
        // The engine binds servers' own ports without being root.
        ("net/ipv4/ip_unprivileged_port_start".to_owned(), "0"),
    ] {
        sysctl(&setting, value)?;
    }
    if ipv6 {
        sysctl("net/ipv6/ip6frag_time", FRAGMENTS_SECONDS)?;
        sysctl("net/ipv6/ip6frag_high_thresh", FRAGMENTS_ROOM)?;
        // Before the interface is up: what is set later has happened already.
        for (setting, value) in [
            ("addr_gen_mode", "1"), // none
            ("accept_dad", "0"),
            ("dad_transmits", "0"),
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("router_solicitations", "0"),
            ("disable_ipv6", "0"),
        ] {
            sysctl(&format!("net/ipv6/conf/{inner}/{setting}"), value)?;
        }
    }
    netlink(async |handle| {
        let (lo, eng) = (index(&handle, "lo").await?, index(&handle, inner).await?);
        // Turning ARP off flushes permanent neighbours: it comes first.
        let link = LinkUnspec::new_with_index(eng).mtu(mtu).arp(false);
        let link = link.append_extra_attribute(LinkAttribute::GsoMaxSize(GSO_MAX));
        set(&handle, inner, link).await?;
        set(&handle, inner, LinkUnspec::new_with_index(eng).up()).await?;
        set(&handle, "lo", LinkUnspec::new_with_index(lo).up()).await?;
        neighbour(&handle, eng, IpAddr::V4(GATEWAY)).await?;
        let rule = handle.rule().add().v4().input_interface(inner.to_owned());
        let rule = rule.table_id(LOCAL_TABLE).priority(10).action(RuleAction::ToTable);
        ignore(rule.execute().await, libc::EEXIST, "rule iif eng")?;
        let local = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .table_id(LOCAL_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .output_interface(lo);
        let out = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
            .gateway(GATEWAY)
            .onlink()
            .output_interface(eng);
        route(&handle, "local route", local.build()).await?;
        route(&handle, "default route", out.build()).await?;
        if ipv6 { settle_ipv6(&handle, inner, lo, eng).await } else { Ok(()) }
    })
}

async fn settle_ipv6(handle: &Handle, inner: &str, lo: u32, eng: u32) -> Result<(), SegmentError> {
    neighbour(handle, eng, IpAddr::V6(GATEWAY_IPV6)).await?;
    let rule = handle.rule().add().v6().input_interface(inner.to_owned());
    let rule = rule.table_id(LOCAL_TABLE).priority(10).action(RuleAction::ToTable);
    ignore(rule.execute().await, libc::EEXIST, "IPv6 rule iif eng")?;
    let local = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .table_id(LOCAL_TABLE)
        .kind(RouteType::Local)
        .output_interface(lo);
    let out = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
        .gateway(GATEWAY_IPV6)
        .onlink()
        .output_interface(eng);
    route(handle, "IPv6 local route", local.build()).await?;
    route(handle, "IPv6 default route", out.build()).await
}

async fn neighbour(handle: &Handle, eng: u32, gateway: IpAddr) -> Result<(), SegmentError> {
    let added = handle
        .neighbours()
        .add(eng, gateway)
        .link_local_address(&OUTER_MAC)
        .replace()
        .execute()
        .await;
    added.map_err(|error| SegmentError::Netlink { what: format!("neighbour {gateway}"), error })
}

async fn route(handle: &Handle, what: &str, route: RouteMessage) -> Result<(), SegmentError> {
    let added = handle.route().add(route).replace().execute().await;
    added.map_err(|error| SegmentError::Netlink { what: what.to_owned(), error })
}
