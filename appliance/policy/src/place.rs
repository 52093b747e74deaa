//! Where a flow is: nothing that differs in this is ever mixed up (SPEC D16).
//!
//! For: keys of what is learnt or kept of servers and clients, so that two networks with the same
//! addresses, in two VLANs or behind two tunnels, stay two. Not for: flows themselves, which the data plane
//! knows. Cannot fail.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::snapshot::SegmentId;

/// One network that flows are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub segment: SegmentId,
    /// The outer tag's VLAN, and the inner one's.
    pub vlans: [Option<u16>; 2],
    pub tunnel: Option<Tunnel>,
}

/// A tunnel of GRE or IPv4 in IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tunnel {
    /// As the data plane numbers them.
    pub kind: u8,
    /// GRE's; else 0.
    pub key: u32,
    /// The lower address first, whichever end a flow's client is behind.
    pub ends: [Ipv4Addr; 2],
}

/// A server, where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServerAt {
    pub place: Place,
    pub address: SocketAddr,
}

impl Place {
    /// In no tunnel.
    pub fn new(segment: SegmentId, vlan: Option<u16>) -> Self {
        Self { segment, vlans: [vlan, None], tunnel: None }
    }

    pub fn server(self, address: SocketAddr) -> ServerAt {
        ServerAt { place: self, address }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.segment.0)?;
        for vlan in self.vlans.iter().flatten() {
            write!(f, ", VLAN {vlan}")?;
        }
        if let Some(Tunnel { ends: [one, other], .. }) = &self.tunnel {
            write!(f, ", tunnel {one} to {other}")?;
        }
        Ok(())
    }
}
