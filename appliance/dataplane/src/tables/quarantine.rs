//! Hosts in quarantine: put there while packets cross, released by time or by hand.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap as EbpfHashMap, MapData};
use weir_policy::precedence::Quarantine;

use super::{ApplyError, in_table, map};
use crate::layout::mapped;
use crate::ring::monotonic_nanoseconds;

/// Why a host was not quarantined.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("{0} is exempt from quarantine by the configuration")]
    Exempt(IpAddr),
    #[error("{} hosts are quarantined, which is the most there can be", QuarantineTable::MOST)]
    Full,
    #[error(transparent)]
    Table(#[from] ApplyError),
    #[error("clock: {0}")]
    Clock(std::io::Error),
}

pub struct QuarantineTable {
    map: EbpfHashMap<MapData, [u8; 16], u64>,
    settings: Quarantine,
}

impl QuarantineTable {
    /// As in `bpf/rule_maps.h`.
    pub const MOST: usize = 65_536;

    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ApplyError> {
        Ok(Self { map: map(ebpf, "quarantine")?, settings: Quarantine::default() })
    }

    /// Hosts that are exempt now are released.
    pub fn apply(&mut self, settings: &Quarantine) -> Result<(), ApplyError> {
        self.settings = settings.clone();
        for (host, _) in self.hosts(0) {
            if self.settings.exempts(host) {
                self.release(host)?;
            }
        }
        Ok(())
    }

    /// For `duration`, or as long as the configuration says; a longer stay is not shortened.
    /// What it is in the end.
    pub fn add(
        &mut self,
        host: IpAddr,
        duration: Option<Duration>,
    ) -> Result<Duration, QuarantineError> {
        if self.settings.exempts(host) {
            return Err(QuarantineError::Exempt(host));
        }
        let now = monotonic_nanoseconds().map_err(QuarantineError::Clock)?;
        let default = Duration::from_secs(self.settings.timeout.into());
        let duration = duration.unwrap_or(default).as_nanos();
        let until = now.saturating_add(u64::try_from(duration).unwrap_or(u64::MAX));
        let key = mapped(host);
        let known = self.map.get(&key, 0).ok();
        if known.is_none() && self.map.keys().count() >= Self::MOST {
            self.sweep(now)?;
            if self.map.keys().count() >= Self::MOST {
                return Err(QuarantineError::Full);
            }
        }
        let until = known.map_or(until, |known| known.max(until));
        self.map.insert(key, until, 0).map_err(in_table("quarantine"))?;
        Ok(Duration::from_nanos(until.saturating_sub(now)))
    }

    /// Whether it was quarantined.
    pub fn release(&mut self, host: IpAddr) -> Result<bool, ApplyError> {
        let key = mapped(host);
        if self.map.get(&key, 0).is_err() {
            return Ok(false);
        }
        self.map.remove(&key).map_err(in_table("quarantine"))?;
        Ok(true)
    }

    /// Those still there at `now`, with the nanoseconds that are left.
    pub fn hosts(&self, now: u64) -> Vec<(IpAddr, Duration)> {
        let entries = self.map.iter().filter_map(Result::ok);
        entries
            .filter(|(_, until)| *until > now)
            .map(|(host, until)| {
                (Ipv6Addr::from(host).to_canonical(), Duration::from_nanos(until - now))
            })
            .collect()
    }

    fn sweep(&mut self, now: u64) -> Result<(), ApplyError> {
        let over: Vec<_> = self
            .map
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, until)| *until <= now)
            .map(|(host, _)| host)
            .collect();
        for host in over {
            self.map.remove(&host).map_err(in_table("quarantine"))?;
        }
        Ok(())
    }
}
