//! What the programs read of every packet: which half of the tables is in force, fallback, whose
//! programs are on the ports.
//!
//! For: changing it in one step, behind a lock of its own: whoever enters fallback does not wait for
//! tables that are being filled. Not for: the tables. Fails with the table's error.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use weir_policy::snapshot::Device;

use super::{ApplyError, FallbackCause, evasion, in_table, map, nanoseconds};
use crate::layout::Configuration;

/// Shared by the tables and whoever watches over the engine's health.
#[derive(Clone)]
pub struct InForce(Arc<Mutex<Inner>>);

struct Inner {
    configuration: Array<MapData, Configuration>,
    /// As this engine wrote it last.
    current: Configuration,
    /// This engine's number.
    instance: u32,
    /// Its programs are, or were, those on the ports.
    attached: bool,
    /// It has put a policy in force.
    has_policy: bool,
}

impl InForce {
    /// Takes the map out of the object. What is in force stays in force, a fallback that was told
    /// included.
    pub fn new(
        ebpf: &mut Ebpf,
        instance: u32,
        heartbeat_timeout: Duration,
    ) -> Result<Self, ApplyError> {
        let configuration = map(ebpf, "configuration")?;
        let current = Configuration::default();
        let mut inner =
            Inner { configuration, current, instance, attached: false, has_policy: false };
        inner.current = inner.read()?;
        // The other causes are of the engine that found them.
        inner.current.fallback &= FallbackCause::Told.bit();
        inner.current.heartbeat_timeout = nanoseconds(heartbeat_timeout);
        if inner.current.seed == 0 {
            inner.current.seed = RandomState::new().hash_one(0).max(1);
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    /// Whether Layer-2 fallback is in force for this cause.
    pub fn fallback(&self, cause: FallbackCause) -> bool {
        self.lock().current.fallback & cause.bit() != 0
    }

    pub fn set_fallback(&self, cause: FallbackCause, on: bool) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        if on {
            inner.current.fallback |= cause.bit();
        } else {
            inner.current.fallback &= !cause.bit();
        }
        inner.put()
    }

    /// This engine's programs are on the ports now: from here on the tables are its own.
    pub fn attached(&self) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        inner.attached = true;
        inner.current.attached = inner.instance;
        inner.write()
    }

    /// Whether another engine's programs took the place of this one's.
    pub fn superseded(&self) -> bool {
        self.lock().superseded()
    }

    /// What this engine's policy does about evasion; `None` while what is in force is another engine's:
    /// it has applied none yet, its programs are not on the ports yet, or not any more.
    pub fn own_evasion(&self) -> Option<u32> {
        let inner = self.lock();
        let own = inner.has_policy && inner.attached && !inner.superseded();
        own.then_some(inner.current.evasion)
    }

    /// Of the clients' cells; as long as the pins.
    pub fn seed(&self) -> u64 {
        self.lock().current.seed
    }

    /// The tables' generation, which an engine that is about to be superseded may have changed.
    pub(super) fn generation(&self) -> Result<u64, ApplyError> {
        let mut inner = self.lock();
        inner.current.generation = inner.read()?.generation;
        Ok(inner.current.generation)
    }

    /// The number of the policy in force, where it is this engine's.
    pub fn own_policy(&self) -> Option<u64> {
        let inner = self.lock();
        let own = inner.has_policy && inner.attached && !inner.superseded();
        own.then_some(inner.current.policies)
    }

    /// As this engine knows it.
    pub(super) fn known_generation(&self) -> u64 {
        self.lock().current.generation
    }

    /// The half that was filled is looked up from here on.
    pub(super) fn switch(&self, device: &Device) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        inner.current.generation += 1;
        inner.current.policies += 1;
        inner.current.heartbeat_timeout = nanoseconds(device.health.heartbeat_timeout);
        inner.current.evasion = evasion(&device.evasion);
        inner.current.client_flows = device.max_handshakes_per_client;
        inner.has_policy = true;
        inner.put()
    }

    /// Packets like earlier ones are classified anew; the half in force stays. An engine that drains
    /// may do this, too.
    pub(super) fn forget_verdicts(&self) -> Result<(), ApplyError> {
        let mut inner = self.lock();
        let now = inner.read()?;
        let generation = now.generation + 2;
        inner.current.generation = generation;
        let next = Configuration { generation, ..now };
        inner.configuration.set(0, next, 0).map_err(in_table("configuration"))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn superseded(&self) -> bool {
        self.attached && self.read().is_ok_and(|now| now.attached != self.instance)
    }

    fn put(&mut self) -> Result<(), ApplyError> {
        if self.superseded() { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), ApplyError> {
        let now = self.read()?;
        if !self.attached {
            // Whose programs are on the ports is not for this engine to say yet.
            self.current.attached = now.attached;
        }
        // It only grows, also where two engines live at one time.
        self.current.generation = self.current.generation.max(now.generation);
        self.current.policies = self.current.policies.max(now.policies);
        self.configuration.set(0, self.current, 0).map_err(in_table("configuration"))
    }

    fn read(&self) -> Result<Configuration, ApplyError> {
        self.configuration.get(&0, 0).map_err(in_table("configuration"))
    }
}
