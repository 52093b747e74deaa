//! The running configuration as a document in YAML, for people: secrets are left out, certificates
//! are told by subject and fingerprint. Not for loading it again.

mod rules;

use std::fmt::Write;

use ipnet::IpNet;

use super::{Configuration, DEFAULT_TRUST_STORE};
use crate::snapshot::{CertifiedKey, DomainPattern, OnRefusal, PortRange, Service, Side, Snapshot};
use crate::suites::{Allowed, Protocol, TABLE};

/// What stands where a private key would.
const SECRET: &str = "(not shown)";

impl Configuration {
    /// The configuration as it is in force, defaults included.
    pub fn to_document(&self) -> String {
        let snapshot = &self.snapshot;
        let mut page = Page::default();
        page.line(0, "weir:");
        page.device(snapshot);
        page.segments(snapshot);
        page.virtual_segments(snapshot);
        page.profiles(snapshot);
        page.server_proxies(snapshot, &self.server_certificates);
        page.client_proxies(snapshot, &self.signing_certificates);
        page.decryption_policies(snapshot);
        page.trust_stores(snapshot);
        page.filters(snapshot);
        page.precedence(&snapshot.precedence);
        page.text
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn device(&mut self, snapshot: &Snapshot) {
        let device = &snapshot.device;
        self.line(1, "device:");
        self.pair(2, "client-inspection", device.client_inspection);
        self.pair(2, "server-inspection", device.server_inspection);
        self.pair(2, "max-concurrent-sessions", device.max_concurrent_sessions);
        self.pair(2, "over-threshold", device.over_threshold.word());
        self.pair(2, "max-handshakes-per-client", device.max_handshakes_per_client);
        self.pair(2, "flow-table", device.flow_table);
        self.pair(2, "congestion-control", device.congestion_control.word());
        self.pair(2, "idle-timeout", device.idle_timeout);
        self.pair(2, "asymmetric-mode", device.asymmetric_mode);
        self.pair(2, "web-mode", device.web_mode);
        self.pair(2, "vlan-translation", device.vlan_translation);
        self.pair(2, "encrypt-then-mac", device.encrypt_then_mac);
        self.pair(2, "fetch-intermediates", device.fetch_intermediates);
        let networks = device.fetch_private_networks.iter().map(IpNet::to_string);
        self.some(2, "fetch-private-networks", networks);
        self.line(2, "health:");
        self.pair(3, "heartbeat-timeout", device.health.heartbeat_timeout.as_millis());
        self.pair(3, "overload-lag", device.health.overload_lag.as_millis());
        self.pair(3, "recovery-time", device.health.recovery_time.as_secs());
        self.pair(3, "drain-time", device.health.drain_time.as_secs());
        self.line(2, "evasion:");
        let evasion = &device.evasion;
        for (way, action) in [
            ("server-speaks-first", evasion.server_speaks_first),
            ("syn-data", evasion.syn_data),
            ("untakeable-options", evasion.untakeable_options),
            ("unseen-handshake", evasion.unseen_handshake),
            ("fragments", evasion.fragments),
            ("decoy", evasion.decoy),
            ("table-full", evasion.table_full),
            ("client-flood", evasion.client_flood),
            ("two-passes", evasion.two_passes),
            ("unread-headers", evasion.unread_headers),
            ("malformed-hello", evasion.malformed_hello),
            ("invalid-server-name", evasion.invalid_server_name),
            ("oversize-hello", evasion.oversize_hello),
            ("incomplete-hello", evasion.incomplete_hello),
            ("unsupported-tls", evasion.unsupported_tls),
        ] {
            self.pair(3, way, action.word());
        }
    }

    fn segments(&mut self, snapshot: &Snapshot) {
        self.heading("segments", snapshot.segments.is_empty());
        for segment in &snapshot.segments {
            self.first(2, "id", segment.id.0);
            self.pair(3, "name", quoted(&segment.name));
            self.pair(3, "layer-2-fallback", segment.layer2_fallback.word());
            let synchronisation = segment.link_down_synchronisation;
            self.pair(3, "link-down-synchronisation", synchronisation.word());
            self.pair(3, "wait-time", segment.wait_time.as_secs());
            if let Some(mtu) = segment.mtu {
                self.pair(3, "mtu", mtu);
            }
        }
    }

    fn virtual_segments(&mut self, snapshot: &Snapshot) {
        self.heading("virtual-segments", snapshot.virtual_segments.is_empty());
        for segment in &snapshot.virtual_segments {
            self.first(2, "name", quoted(&segment.name));
            self.some(3, "segments", segment.segments.iter().map(|id| id.0.to_string()));
            if let Some(side) = segment.from {
                self.pair(3, "from", if side == Side::A { "A" } else { "B" });
            }
            self.some(3, "vlans", segment.vlans.iter().map(u16::to_string));
            self.some(3, "sources", segment.sources.iter().map(IpNet::to_string));
            self.some(3, "destinations", segment.destinations.iter().map(IpNet::to_string));
            let profile = snapshot.profiles.get(segment.profile);
            self.pair(3, "profile", quoted(profile.map_or("", |profile| &profile.name)));
        }
    }

    fn profiles(&mut self, snapshot: &Snapshot) {
        self.heading("profiles", snapshot.profiles.is_empty());
        for profile in &snapshot.profiles {
            self.first(2, "name", quoted(&profile.name));
            if !profile.server_policies.is_empty() {
                self.line(3, "server-policies:");
            }
            for policy in &profile.server_policies {
                self.first(4, "name", quoted(&policy.name));
                let proxy = snapshot.server_proxies.get(policy.server_proxy);
                self.pair(5, "server-proxy", quoted(proxy.map_or("", |proxy| &proxy.name)));
                let exceptions = policy.source_exceptions.iter().map(IpNet::to_string);
                self.some(5, "source-exceptions", exceptions);
            }
            if !profile.client_policies.is_empty() {
                self.line(3, "client-policies:");
            }
            for policy in &profile.client_policies {
                self.first(4, "name", quoted(&policy.name));
                let proxy = snapshot.client_proxies.get(policy.client_proxy);
                self.pair(5, "client-proxy", quoted(proxy.map_or("", |proxy| &proxy.name)));
                let decryption = policy
                    .decryption_policy
                    .and_then(|index| snapshot.decryption_policies.get(index));
                if let Some(decryption) = decryption {
                    self.pair(5, "decryption-policy", quoted(&decryption.name));
                }
                let store = snapshot.trust_stores.get(policy.trust_store);
                if let Some(store) = store.filter(|store| store.name != DEFAULT_TRUST_STORE) {
                    self.pair(5, "trust-store", quoted(&store.name));
                }
                let exceptions = policy.source_exceptions.iter().map(IpNet::to_string);
                self.some(5, "source-exceptions", exceptions);
                self.pair(5, "quic", policy.quic.word());
            }
            let filters = profile.filters.iter().filter_map(|index| snapshot.filters.get(*index));
            self.some(3, "filters", filters.map(|set| quoted(&set.name)));
        }
    }

    fn server_proxies(&mut self, snapshot: &Snapshot, certificates: &[Vec<String>]) {
        self.heading("server-proxies", snapshot.server_proxies.is_empty());
        for (index, proxy) in snapshot.server_proxies.iter().enumerate() {
            self.first(2, "name", quoted(&proxy.name));
            self.some(3, "destinations", proxy.destinations.iter().map(IpNet::to_string));
            self.ports(&proxy.detection_ports, proxy.service);
            self.line(3, "certificates:");
            let descriptions = certificates.get(index).map_or(&[][..], Vec::as_slice);
            for (key, description) in proxy.certificates.iter().zip(descriptions) {
                self.first(4, "certificate", quoted(&described(description, key)));
                self.pair(5, "key", quoted(SECRET));
            }
            self.pair(3, "reset-server-on-block", proxy.reset_server_on_block);
            self.pair(3, "logging", proxy.logging);
            self.pair(3, "downgrade-http2", proxy.downgrade_http2);
            let request = on_refusal(proxy.on_client_certificate_request);
            self.pair(3, "on-client-certificate-request", request);
            self.pair(3, "learnt-bypass-time", proxy.learnt_bypass_time);
            self.allowed(&proxy.allowed);
        }
    }

    fn client_proxies(&mut self, snapshot: &Snapshot, certificates: &[String]) {
        self.heading("client-proxies", snapshot.client_proxies.is_empty());
        for (proxy, description) in snapshot.client_proxies.iter().zip(certificates) {
            self.first(2, "name", quoted(&proxy.name));
            self.ports(&proxy.detection_ports, proxy.service);
            self.line(3, "signing-certificate:");
            let description = described(description, &proxy.signing_certificate);
            self.pair(4, "certificate", quoted(&description));
            self.pair(4, "key", quoted(SECRET));
            self.pair(3, "block-invalid-certificates", proxy.block_invalid_certificates);
            self.pair(3, "block-expired-certificates", proxy.block_expired_certificates);
            self.pair(3, "reset-client-on-block", proxy.reset_client_on_block);
            self.pair(3, "logging", proxy.logging);
            self.pair(3, "downgrade-http2", proxy.downgrade_http2);
            self.pair(3, "minimum-rsa-key-length", proxy.minimum_rsa_key_length);
            let hello = proxy.on_encrypted_client_hello.word();
            self.pair(3, "on-encrypted-client-hello", hello);
            let request = on_refusal(proxy.on_client_certificate_request);
            self.pair(3, "on-client-certificate-request", request);
            self.pair(3, "on-pinned-client", on_refusal(proxy.on_pinned_client));
            self.pair(3, "learnt-bypass-time", proxy.learnt_bypass_time);
            self.pair(3, "revocation", proxy.revocation.word());
            self.pair(3, "revocation-unknown", proxy.revocation_unknown.word());
            self.allowed(&proxy.allowed);
        }
    }

    fn decryption_policies(&mut self, snapshot: &Snapshot) {
        self.heading("decryption-policies", snapshot.decryption_policies.is_empty());
        for policy in &snapshot.decryption_policies {
            self.first(2, "name", quoted(&policy.name));
            let domains =
                policy.domains_not_to_decrypt.iter().map(|pattern| quoted(&domain(pattern)));
            self.long_list(3, "domains-not-to-decrypt", domains);
            self.pair(3, "decided-by", policy.decided_by.word());
        }
    }

    fn trust_stores(&mut self, snapshot: &Snapshot) {
        let configured =
            || snapshot.trust_stores.iter().filter(|store| store.name != DEFAULT_TRUST_STORE);
        self.heading("trust-stores", configured().next().is_none());
        for store in configured() {
            self.first(2, "name", quoted(&store.name));
            let count = store.authorities.len();
            let plural = if count == 1 { "" } else { "s" };
            self.pair(3, "certificates", quoted(&format!("({count} certificate{plural})")));
            self.pair(3, "default-ca-package", store.default_ca_package);
        }
    }

    fn filters(&mut self, snapshot: &Snapshot) {
        self.heading("filters", snapshot.filters.is_empty());
        for set in &snapshot.filters {
            self.first(2, "name", quoted(&set.name));
            self.line(3, &format!("# from {}", set.origin.replace(char::is_control, "?")));
            self.line(3, "rules: |");
            for rule in set.rules.lines() {
                self.line(4, rule.trim());
            }
        }
    }

    fn allowed(&mut self, allowed: &Allowed) {
        let versions = Protocol::ALL.into_iter().filter(|version| allowed.version(*version));
        self.some(3, "protocols", versions.map(|version| version.to_string()));
        // The default is long, and `show tls-inspection ciphers` has it.
        if allowed.suites != Allowed::default().suites {
            let names = TABLE.iter().filter(|suite| allowed.suite(suite));
            self.long_list(3, "suites", names.map(|suite| suite.name.to_owned()));
        }
    }

    fn ports(&mut self, ports: &[PortRange], service: Service) {
        self.some(3, "detection-ports", ports.iter().map(|range| quoted(&port_range(range))));
        let service = match service {
            Service::Http => "http",
            Service::Other => "other",
        };
        self.pair(3, "service", service);
    }

    fn heading(&mut self, key: &str, empty: bool) {
        self.line(1, &format!("{key}:{}", if empty { " []" } else { "" }));
    }

    /// The first pair of a list's item.
    fn first(&mut self, depth: usize, key: &str, value: impl std::fmt::Display) {
        self.line(depth, &format!("- {key}: {value}"));
    }

    fn pair(&mut self, depth: usize, key: &str, value: impl std::fmt::Display) {
        self.line(depth, &format!("{key}: {value}"));
    }

    /// A list on one line; nothing where it is empty.
    fn some(&mut self, depth: usize, key: &str, items: impl Iterator<Item = String>) {
        let items = items.collect::<Vec<_>>();
        if !items.is_empty() {
            self.line(depth, &format!("{key}: [{}]", items.join(", ")));
        }
    }

    /// A list with a line for each item.
    fn long_list(&mut self, depth: usize, key: &str, items: impl Iterator<Item = String>) {
        let mut items = items.peekable();
        let empty = if items.peek().is_none() { " []" } else { "" };
        self.line(depth, &format!("{key}:{empty}"));
        for item in items {
            self.line(depth, &format!("- {item}"));
        }
    }

    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = depth * 2);
    }
}

fn on_refusal(action: OnRefusal) -> &'static str {
    match action {
        OnRefusal::Block => "block",
        OnRefusal::Bypass => "bypass",
    }
}

fn described(description: &str, key: &CertifiedKey) -> String {
    match key.chain.len() {
        0 | 1 => description.to_owned(),
        length => format!("{description}, chain of {length}"),
    }
}

fn port_range(range: &PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}

fn domain(pattern: &DomainPattern) -> String {
    format!("{}{}", if pattern.wildcard { "*." } else { "" }, pattern.domain)
}

/// A YAML double-quoted scalar on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
