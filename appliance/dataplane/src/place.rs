//! Where a flow is, by its key: for what the engine learns and keeps of its ends (SPEC D16).

use std::net::Ipv4Addr;

use weir_policy::snapshot::SegmentId;
use weir_policy::{Place, Tunnel};

use crate::layout::FlowKey;

pub fn place(key: &FlowKey) -> Place {
    // With a bit that says that there is a tag.
    let vlan = |tag: u16| (tag != 0).then_some(tag & 0xfff);
    // In the order of the flow's own addresses, of which a tunnel has many.
    let mut ends = key.outer.map(Ipv4Addr::from);
    ends.sort_unstable();
    let tunnel = Tunnel { kind: key.tunnel, key: key.tunnel_key, ends };
    Place {
        // Two bytes of the four are used.
        segment: SegmentId(key.segment as u16),
        vlans: [vlan(key.outer_vlan), vlan(key.inner_vlan)],
        tunnel: (key.tunnel != 0).then_some(tunnel),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn places_differ_in_segment_tags_and_tunnel_and_not_in_the_flows_own_addresses() {
        let outer = [[192, 0, 2, 1], [192, 0, 2, 2]];
        let base = FlowKey { segment: 1, outer_vlan: 0x1007, ..FlowKey::default() };
        let tunnelled = FlowKey { tunnel: 1, outer, ..base };
        let others = [
            FlowKey { segment: 2, ..base },
            FlowKey { outer_vlan: 0x1008, ..base },
            FlowKey { outer_vlan: 0, ..base },
            FlowKey { inner_vlan: 0x1007, ..base },
            tunnelled,
            FlowKey { tunnel: 2, ..tunnelled },
            FlowKey { tunnel_key: 5, ..tunnelled },
            FlowKey { outer: [outer[0]; 2], ..tunnelled },
        ];
        let all: HashSet<Place> = others.iter().chain([&base]).map(place).collect();
        assert_eq!(all.len(), others.len() + 1);
        let back = FlowKey { outer: [outer[1], outer[0]], port: [[1, 2]; 2], ..tunnelled };
        assert_eq!(place(&back), place(&tunnelled));
        assert_eq!(place(&base), Place::new(SegmentId(1), Some(7)));
    }
}
