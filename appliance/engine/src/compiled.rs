//! A snapshot made ready: keys parsed, rules compiled, trust stores built, once a generation.
//!
//! Fails with the name of the item that cannot be honoured; the running policy then stays.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use weir_inspect::{RuleSet, RuleText};
use weir_policy::judge::PolicyKind;
use weir_policy::snapshot::{ClientProxy, Profile, ServerProxy, Service};
use weir_policy::{Inspection, Snapshot};
use weir_tls::forge::Forger;
use weir_tls::hello::ClientHello;
use weir_tls::key::KeyKind;
use weir_tls::verify::TrustAnchors;
use weir_tls::{ModernStack, ServerCertificates};

/// Policy as flows use it. Immutable; a session keeps the one it started with (SPEC P10).
#[derive(Default)]
pub struct CompiledPolicy {
    pub snapshot: Snapshot,
    /// As the snapshot's `server_proxies`.
    server_proxies: Vec<(ServerCertificates, Stack)>,
    /// As the snapshot's `client_proxies`.
    client_proxies: Vec<(Forger, Stack)>,
    /// As the snapshot's `trust_stores`.
    trust_stores: Vec<Arc<TrustAnchors>>,
    /// As the snapshot's `profiles`.
    rules: Vec<Arc<RuleSet>>,
}

/// A proxy's TLS stack; `None` where the proxy allows no suite that the stack has.
type Stack = Option<ModernStack>;

/// What decrypts one flow.
pub struct FlowPolicy<'a> {
    pub virtual_segment: &'a str,
    pub profile: &'a Profile,
    pub rules: &'a Arc<RuleSet>,
    pub proxy: Proxy<'a>,
    pub stack: Option<&'a ModernStack>,
}

/// With whose certificate the client is answered.
pub enum Proxy<'a> {
    Server { name: &'a str, proxy: &'a ServerProxy, certificates: &'a ServerCertificates },
    Client { name: &'a str, proxy: &'a ClientProxy, forger: &'a Forger, anchors: &'a TrustAnchors },
}

impl Proxy<'_> {
    /// The policy's name.
    pub fn policy(&self) -> &str {
        match self {
            Self::Server { name, .. } | Self::Client { name, .. } => name,
        }
    }

    pub fn service(&self) -> Service {
        match self {
            Self::Server { proxy, .. } => proxy.service,
            Self::Client { proxy, .. } => proxy.service,
        }
    }

    /// Whether the client can be answered with the certificate it would get: its key type counts.
    pub fn can_answer(&self, hello: &ClientHello) -> bool {
        match self {
            Self::Server { certificates, proxy, .. } => {
                let kind = certificates.choose(hello.server_name.as_deref()).kind();
                hello.supported_with(kind, &proxy.allowed)
            }
            // Forged certificates have one shared P-256 key.
            Self::Client { proxy, .. } => hello.supported_with(KeyKind::P256, &proxy.allowed),
        }
    }
}

impl CompiledPolicy {
    pub fn compile(snapshot: Snapshot) -> anyhow::Result<Self> {
        let server_proxies = snapshot
            .server_proxies
            .iter()
            .map(|proxy| {
                let context = || format!("server proxy `{}`", proxy.name);
                let certificates =
                    ServerCertificates::new(&proxy.certificates).with_context(context)?;
                Ok((certificates, ModernStack::under(&proxy.allowed).with_context(context)?))
            })
            .collect::<anyhow::Result<_>>()?;
        let client_proxies = snapshot
            .client_proxies
            .iter()
            .map(|proxy| {
                let untrusted = snapshot
                    .untrusted_authority
                    .as_ref()
                    .ok_or_else(|| anyhow!("the snapshot has no untrusted authority"))?;
                let context = || format!("client proxy `{}`", proxy.name);
                let forger =
                    Forger::new(&proxy.signing_certificate, untrusted).with_context(context)?;
                Ok((forger, ModernStack::under(&proxy.allowed).with_context(context)?))
            })
            .collect::<anyhow::Result<_>>()?;
        let trust_stores = snapshot
            .trust_stores
            .iter()
            .map(|store| {
                TrustAnchors::new(&store.authorities, store.default_ca_package)
                    .map(Arc::new)
                    .with_context(|| format!("trust store `{}`", store.name))
            })
            .collect::<anyhow::Result<_>>()?;
        let rules = snapshot
            .profiles
            .iter()
            .map(|profile| {
                let texts: Vec<RuleText> = profile
                    .filters
                    .iter()
                    .filter_map(|&index| snapshot.filters.get(index))
                    .map(|set| RuleText { origin: set.origin.clone(), text: set.rules.clone() })
                    .collect();
                RuleSet::parse(&texts).map(Arc::new).map_err(|errors| {
                    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    anyhow!("profile `{}`: {}", profile.name, lines.join("; "))
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { snapshot, server_proxies, client_proxies, trust_stores, rules })
    }

    /// The parts that `inspection` names; `None` only for an inspection of another snapshot.
    pub fn of(&self, inspection: Inspection) -> Option<FlowPolicy<'_>> {
        let profile = self.snapshot.profiles.get(inspection.profile)?;
        let (proxy, stack) = match inspection.policy {
            PolicyKind::Server(index) => {
                let policy = profile.server_policies.get(index)?;
                let (certificates, stack) = self.server_proxies.get(policy.server_proxy)?;
                let proxy = self.snapshot.server_proxies.get(policy.server_proxy)?;
                (Proxy::Server { name: &policy.name, proxy, certificates }, stack)
            }
            PolicyKind::Client(index) => {
                let policy = profile.client_policies.get(index)?;
                let (forger, stack) = self.client_proxies.get(policy.client_proxy)?;
                let proxy = self.snapshot.client_proxies.get(policy.client_proxy)?;
                let anchors = self.trust_stores.get(policy.trust_store)?;
                (Proxy::Client { name: &policy.name, proxy, forger, anchors }, stack)
            }
        };
        Some(FlowPolicy {
            virtual_segment: &self.snapshot.virtual_segments.get(inspection.virtual_segment)?.name,
            profile,
            rules: self.rules.get(inspection.profile)?,
            proxy,
            stack: stack.as_ref(),
        })
    }
}
