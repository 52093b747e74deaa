//! The server ports of which there may be flows in any table.
//!
//! For: packets of all others, which are not looked for (`bpf/entry.h`). Not for: which flows are candidates. Ports
//! are only added, as long as the pins: flows outlive the policy that they were held by. Fails with the table.

use aya::Ebpf;
use aya::maps::{Array, MapData};
use weir_policy::precedence::tables::{Compiled, POLICY_AT};

use super::{ApplyError, in_table, map};
use crate::layout::rules::PortSet;

/// Policies have words of a row to themselves.
const _: () = assert!(POLICY_AT.is_multiple_of(64));

pub struct CoveredPorts(Array<MapData, PortSet>);

impl CoveredPorts {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        Ok(Self(map(ebpf, "covered_ports")?))
    }

    /// Before the policies that cover them are in force.
    pub fn add(&mut self, ports: &PortSet) -> Result<(), ApplyError> {
        let known = self.0.get(&0, 0).map_err(in_table("covered_ports"))?;
        let mut all = known;
        for (byte, more) in all.0.iter_mut().zip(ports.0) {
            *byte |= more;
        }
        if all == known {
            return Ok(());
        }
        self.0.set(0, all, 0).map_err(in_table("covered_ports"))
    }
}

/// The server ports that any policy covers, of whatever addresses.
pub fn ports_of(compiled: &Compiled) -> PortSet {
    let covered: Vec<bool> = compiled
        .rows
        .iter()
        .map(|row| {
            row.0.get(POLICY_AT / 64..).is_some_and(|words| words.iter().any(|word| *word != 0))
        })
        .collect();
    let mut ports = PortSet([0; 65536 / 8]);
    for (port, class) in (0..=u16::MAX).zip(&compiled.classes.destination_port) {
        let place = port.to_be();
        if covered.get(usize::from(*class)).is_some_and(|covered| *covered)
            && let Some(byte) = ports.0.get_mut(usize::from(place >> 3))
        {
            *byte |= 1 << (place & 7);
        }
    }
    ports
}
