//! Checks of the device's own settings and of its segments (SPEC D2, D7 to D9).

use std::time::Duration;

use super::MAX_SEGMENTS;
use super::check::{Check, path, path2};
use crate::document::{DeviceSection, Document, EvasionSection, HealthSection, Network, networks};
use crate::layers::{Path, child};
use crate::revocation::is_fetched_from;
use crate::snapshot::{
    Device, Evasion, FLOW_TABLE, HANDSHAKES_PER_CLIENT, Health, IDLE_TIMEOUT, MOST_FETCH_NETWORKS,
    MOST_SESSIONS, SEGMENT_MTU, Segment, SegmentId,
};

/// Longest wait before a port follows its partner down, seconds.
const LONGEST_WAIT: u32 = 240;

impl Check<'_> {
    pub(super) fn device(&mut self, document: &Document) -> Device {
        let section = &document.device;
        if section.max_concurrent_sessions == 0 {
            let message = "is 0; at least 1 is expected (client-inspection: false and \
                           server-inspection: false turn inspection off)";
            self.error(&path2("device", "max-concurrent-sessions"), message);
        }
        if section.max_concurrent_sessions > MOST_SESSIONS {
            let message = format!(
                "is {}; at most {MOST_SESSIONS} are expected",
                section.max_concurrent_sessions
            );
            self.error(&path2("device", "max-concurrent-sessions"), message);
        }
        let per_client = section.max_handshakes_per_client;
        if !HANDSHAKES_PER_CLIENT.contains(&per_client) {
            let (least, most) = (HANDSHAKES_PER_CLIENT.start(), HANDSHAKES_PER_CLIENT.end());
            let message = format!("is {per_client}; {least} to {most} are expected");
            self.error(&path2("device", "max-handshakes-per-client"), message);
        }
        let idle = section.idle_timeout;
        if idle != 0 && !IDLE_TIMEOUT.contains(&idle) {
            let (least, most) = (IDLE_TIMEOUT.start(), IDLE_TIMEOUT.end());
            let message =
                format!("is {idle}; 0 (never), or {least} to {most} seconds are expected");
            self.error(&path2("device", "idle-timeout"), message);
        }
        if !FLOW_TABLE.contains(&section.flow_table) {
            let message = format!(
                "is {}; {} to {} entries are expected",
                section.flow_table,
                FLOW_TABLE.start(),
                FLOW_TABLE.end()
            );
            self.error(&path2("device", "flow-table"), message);
        }
        self.fetch_private_networks(section);
        self.refuse_modes(section);
        Device {
            client_inspection: section.client_inspection,
            server_inspection: section.server_inspection,
            max_concurrent_sessions: section.max_concurrent_sessions,
            over_threshold: section.over_threshold,
            max_handshakes_per_client: per_client,
            flow_table: section.flow_table,
            congestion_control: section.congestion_control,
            idle_timeout: idle,
            asymmetric_mode: section.asymmetric_mode,
            web_mode: section.web_mode,
            vlan_translation: section.vlan_translation,
            encrypt_then_mac: section.encrypt_then_mac,
            fetch_intermediates: section.fetch_intermediates,
            fetch_private_networks: networks(&section.fetch_private_networks),
            health: self.health(&section.health),
            evasion: evasion(&section.evasion),
        }
    }

    fn fetch_private_networks(&mut self, section: &DeviceSection) {
        let at = path2("device", "fetch-private-networks");
        let networks = &section.fetch_private_networks;
        if networks.len() > MOST_FETCH_NETWORKS {
            let count = networks.len();
            let message =
                format!("has {count} networks; at most {MOST_FETCH_NETWORKS} are allowed");
            self.error(&at, message);
        }
        for (index, Network(network)) in networks.iter().enumerate() {
            if !is_fetched_from(network) {
                let message = format!(
                    "is {network}, of which nothing is ever fetched (loopback, link-local, \
                     multicast, unspecified); give the networks of your authorities, like 10.1.0.0/16"
                );
                self.error(&child(&at, index), message);
            }
        }
    }

    /// SPEC D8.
    fn refuse_modes(&mut self, section: &DeviceSection) {
        let inspection = match (section.client_inspection, section.server_inspection) {
            (false, false) => return self.warn_of_modes(section),
            (true, false) => "client-inspection is",
            (false, true) => "server-inspection is",
            (true, true) => "client-inspection and server-inspection are",
        };
        let modes = [
            (
                section.asymmetric_mode,
                "asymmetric-mode",
                "a session whose two directions take different ways cannot be decrypted",
            ),
            (
                section.web_mode,
                "web-mode",
                "it passes everything but cleartext web traffic by, TLS sessions too",
            ),
            (
                section.vlan_translation,
                "vlan-translation",
                "an inspected session keeps its VLAN tags as both ends see them",
            ),
        ];
        for (on, key, reason) in modes {
            if on {
                let message = format!(
                    "is true while {inspection} on: {reason}; set it to false, or turn TLS \
                     inspection off with client-inspection: false and server-inspection: false"
                );
                self.error(&path2("device", key), message);
            }
        }
    }

    /// They are keys so that each is refused beside inspection; nothing else reads them.
    fn warn_of_modes(&mut self, section: &DeviceSection) {
        for (on, key) in [
            (section.asymmetric_mode, "asymmetric-mode"),
            (section.web_mode, "web-mode"),
            (section.vlan_translation, "vlan-translation"),
        ] {
            if on {
                let message = "is true, which changes nothing: with TLS inspection off every segment \
                               only bridges; leave it out";
                self.warning(&path2("device", key), message);
            }
        }
    }

    fn health(&mut self, section: &HealthSection) -> Health {
        let mut at = |key, value: u32, least: u32, most: u32, unit| {
            if !(least..=most).contains(&value) {
                let path: Path = child(&path2("device", "health"), key);
                self.error(&path, format!("is {value}; {least} to {most} {unit} are expected"));
            }
            u64::from(value)
        };
        Health {
            // Less than some beats of 50 ms would take an ordinary pause for a stuck engine.
            heartbeat_timeout: Duration::from_millis(at(
                "heartbeat-timeout",
                section.heartbeat_timeout,
                200,
                60_000,
                "milliseconds",
            )),
            overload_lag: Duration::from_millis(at(
                "overload-lag",
                section.overload_lag,
                10,
                60_000,
                "milliseconds",
            )),
            recovery_time: Duration::from_secs(at(
                "recovery-time",
                section.recovery_time,
                0,
                3600,
                "seconds",
            )),
            drain_time: Duration::from_secs(at(
                "drain-time",
                section.drain_time,
                0,
                3600,
                "seconds",
            )),
        }
    }

    pub(super) fn segments(&mut self, document: &Document) -> Vec<Segment> {
        let mut segments = Vec::<Segment>::new();
        for (index, section) in document.segments.iter().enumerate() {
            let at = path(["segments"], index);
            if !(1..=MAX_SEGMENTS).contains(&section.id) {
                let message = format!("is {}; 1 to {MAX_SEGMENTS} is expected", section.id);
                self.error(&child(&at, "id"), message);
            }
            if segments.iter().any(|other| other.id.0 == section.id) {
                let id = section.id;
                let message = format!(
                    "is {id} as for another segment; ids are unique, segment {id} has the ports \
                     {id}A and {id}B"
                );
                self.error(&child(&at, "id"), message);
            }
            let default = || format!("segment {}", section.id);
            let name = section.name.as_ref().map_or_else(default, |name| name.0.clone());
            if segments.iter().any(|other| other.name == name) {
                let message = format!("is {name:?}, the name of another segment as well");
                self.error(&child(&at, "name"), message);
            }
            if section.wait_time > LONGEST_WAIT {
                let wait = section.wait_time;
                let message = format!("is {wait}; 0 to {LONGEST_WAIT} seconds are expected");
                self.error(&child(&at, "wait-time"), message);
            }
            if let Some(mtu) = section.mtu.filter(|mtu| !SEGMENT_MTU.contains(mtu)) {
                let (least, most) = (SEGMENT_MTU.start(), SEGMENT_MTU.end());
                let message = format!("is {mtu}; {least} to {most} bytes are expected");
                self.error(&child(&at, "mtu"), message);
            }
            segments.push(Segment {
                id: SegmentId(section.id),
                name,
                layer2_fallback: section.layer_2_fallback,
                link_down_synchronisation: section.link_down_synchronisation,
                wait_time: Duration::from_secs(section.wait_time.into()),
                mtu: section.mtu,
            });
        }
        segments
    }
}

/// SPEC D15: every combination is a policy.
fn evasion(section: &EvasionSection) -> Evasion {
    Evasion {
        server_speaks_first: section.server_speaks_first,
        syn_data: section.syn_data,
        untakeable_options: section.untakeable_options,
        unseen_handshake: section.unseen_handshake,
        fragments: section.fragments,
        decoy: section.decoy,
        table_full: section.table_full,
        client_flood: section.client_flood,
        two_passes: section.two_passes,
        unread_headers: section.unread_headers,
        malformed_hello: section.malformed_hello,
        invalid_server_name: section.invalid_server_name,
        oversize_hello: section.oversize_hello,
        incomplete_hello: section.incomplete_hello,
        unsupported_tls: section.unsupported_tls,
    }
}
