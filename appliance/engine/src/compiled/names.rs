//! Names of what covers a flow, made once a generation: the records of its sessions share them.
//!
//! For: records of flows as they are held, of which there may be many thousands in a second. Not for: what a
//! policy does ([`super::CompiledPolicy::of`]). Cannot fail.

use std::sync::Arc;

use weir_api::engine::PolicyNames;
use weir_policy::Snapshot;
use weir_policy::judge::PolicyKind;
use weir_policy::snapshot::Profile;

/// By the snapshot's indices.
#[derive(Debug, Default)]
pub struct Names {
    pub virtual_segments: Vec<Arc<str>>,
    profiles: Vec<OfProfile>,
}

#[derive(Debug)]
struct OfProfile {
    server_policies: Vec<OfPolicy>,
    client_policies: Vec<OfPolicy>,
}

#[derive(Debug)]
pub struct OfPolicy {
    pub names: Arc<PolicyNames>,
    /// Its proxy's sessions are logged.
    pub logging: bool,
}

impl Names {
    pub fn of(snapshot: &Snapshot) -> Self {
        let virtual_segments = snapshot.virtual_segments.iter();
        Self {
            virtual_segments: virtual_segments.map(|one| one.name.as_str().into()).collect(),
            profiles: snapshot.profiles.iter().map(|one| OfProfile::new(snapshot, one)).collect(),
        }
    }

    /// `None` only for a policy of another snapshot.
    pub fn of_policy(&self, profile: usize, policy: PolicyKind) -> Option<&OfPolicy> {
        let profile = self.profiles.get(profile)?;
        match policy {
            PolicyKind::Server(index) => profile.server_policies.get(index),
            PolicyKind::Client(index) => profile.client_policies.get(index),
        }
    }
}

impl OfProfile {
    fn new(snapshot: &Snapshot, profile: &Profile) -> Self {
        let of_policy = |policy: &str, proxy: Option<(&str, bool)>, decryption: Option<usize>| {
            // A snapshot's indices are of its own lists.
            let (proxy, logging) = proxy.unwrap_or_default();
            let decryption = decryption.and_then(|index| snapshot.decryption_policies.get(index));
            let names = PolicyNames {
                profile: profile.name.clone(),
                policy: policy.to_owned(),
                proxy: proxy.to_owned(),
                decryption_policy: decryption.map(|policy| policy.name.clone()),
            };
            OfPolicy { names: Arc::new(names), logging }
        };
        let server = profile.server_policies.iter().map(|policy| {
            let proxy = snapshot.server_proxies.get(policy.server_proxy);
            of_policy(&policy.name, proxy.map(|proxy| (proxy.name.as_str(), proxy.logging)), None)
        });
        let client = profile.client_policies.iter().map(|policy| {
            let proxy = snapshot.client_proxies.get(policy.client_proxy);
            let proxy = proxy.map(|proxy| (proxy.name.as_str(), proxy.logging));
            of_policy(&policy.name, proxy, policy.decryption_policy)
        });
        Self { server_policies: server.collect(), client_policies: client.collect() }
    }
}
