//! What the engine asks and tells of the rules in force: quarantine, counts, explanations.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use weir_policy::precedence::{Classified, PacketFacts};
use weir_policy::snapshot::{SegmentId, Side};

use super::Dataplane;
use crate::explain::frame_of;
use crate::tables::{ApplyError, DropReport, QuarantineError, RuleReport};

impl Dataplane {
    /// Drops what a host sends and what is sent to it, for a time or for what the configuration says
    /// (SPEC I4). A host that is quarantined already stays for the longer time of the two, which is
    /// returned.
    pub fn quarantine(
        &self,
        host: IpAddr,
        duration: Option<Duration>,
    ) -> Result<Duration, QuarantineError> {
        self.tables().quarantine(host, duration)
    }

    /// Releases a host before its time; whether it was quarantined.
    pub fn release_host(&self, host: IpAddr) -> Result<bool, ApplyError> {
        self.tables().release_host(host)
    }

    /// Quarantined hosts, and how long they stay.
    pub fn quarantined(&self) -> Vec<(IpAddr, Duration)> {
        self.tables().quarantined()
    }

    /// Packets and bytes of each virtual segment, inspection bypass rule and traffic filter.
    pub fn rule_report(&self) -> Vec<RuleReport> {
        self.tables().rule_report()
    }

    /// Packets that eBPF dropped, of each virtual segment that lost any, by reason.
    pub fn drop_report(&self) -> Vec<DropReport> {
        self.tables().drop_report()
    }

    /// What the rules in force say of a frame that comes in by a port of `segment`.
    pub fn explain(&self, frame: &[u8], segment: SegmentId, side: Side) -> io::Result<Classified> {
        self.explain.of(frame, segment, side)
    }

    /// The same of a packet that is told by its facts. One in a tunnel is asked about as what is
    /// inside.
    pub fn explain_packet(&self, facts: &PacketFacts) -> io::Result<Classified> {
        self.explain(&frame_of(facts), facts.segment, facts.from)
    }
}
