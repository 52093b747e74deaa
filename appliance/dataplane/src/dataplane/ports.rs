//! A segment's ports, made known to the programs.

use std::sync::atomic::AtomicU64;

use aya::maps::{Array, MapData};
use weir_policy::snapshot::{SegmentId, Side};

use super::{OpenError, Options};
use crate::core::{Counts, SegmentLinks};
use crate::histogram::Histogram;
use crate::layout::{Port, SIDE_ENGINE};
use crate::link::Link;

/// Inside the wire namespace: a segment's links, and its ports' entries.
pub fn connect(
    options: &Options,
    id: SegmentId,
    ports: &mut Array<MapData, Port>,
) -> Result<SegmentLinks, OpenError> {
    let names = &options.names;
    let at = |interface: &str| {
        nix::net::if_::if_nametoindex(interface).map_err(|error| OpenError::Interface {
            interface: interface.to_owned(),
            error: error.into(),
        })
    };
    let open = |interface: &str, index| {
        Link::open(interface, index)
            .map_err(|error| OpenError::Interface { interface: interface.to_owned(), error })
    };
    let (a, b) = (names.port(id, Side::A), names.port(id, Side::B));
    let outer = names.engine_outer(id);
    let (index_a, index_b, index_engine) = (at(&a)?, at(&b)?, at(&outer)?);
    let port = Port {
        segment: u32::from(id.0),
        side: 0,
        interface: [index_a, index_b],
        engine: index_engine,
    };
    for (index, side) in [(index_a, 0), (index_b, 1), (index_engine, SIDE_ENGINE)] {
        ports
            .set(index, Port { side, ..port }, 0)
            .map_err(|error| OpenError::Map { table: "ports", error })?;
    }
    Ok(SegmentLinks {
        port_a: open(&a, index_a)?,
        port_b: open(&b, index_b)?,
        engine: open(&outer, index_engine)?,
        counts: Counts::default(),
        held_now: AtomicU64::new(0),
        hold_time: Histogram::default(),
        take_over_time: Histogram::default(),
    })
}
