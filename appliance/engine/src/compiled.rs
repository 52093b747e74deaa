//! A snapshot made ready: keys parsed, rules compiled, trust stores built, once a generation.
//!
//! Fails with the name of the item that cannot be honoured; the running policy then stays.

mod excepted;
mod names;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use weir_api::engine::LearntView;
use weir_inspect::{RuleSet, RuleText};
use weir_policy::judge::PolicyKind;
use weir_policy::precedence::IndexedSnapshot;
use weir_policy::snapshot::{
    ClientProxy, DecryptionPolicy, EvasionAction, Profile, Refusals, Revocation, ServerProxy,
    Service, TrustStore,
};
use weir_policy::suites::Allowed;
use weir_policy::{Inspection, Resets, Snapshot, Support};
use weir_tls::forge::Forger;
use weir_tls::hello::ClientHello;
use weir_tls::verify::TrustAnchors;

pub use self::excepted::{Excepted, domain_asked};
use self::names::Names;
use crate::exceptions::{Deciding, Exceptions};
use crate::learnt::Learnt;
use crate::legacy::{KnownServers, SessionScope};
use weir_tls::{Intermediates, LeafKeys, LeafKind, ModernStack, ServerCertificates};

/// Policy as flows use it. Immutable; a session keeps the one it started with (SPEC P10).
#[derive(Default)]
pub struct CompiledPolicy {
    pub snapshot: IndexedSnapshot,
    pub names: Names,
    /// As the snapshot's `server_proxies`.
    server_proxies: Vec<(ServerCertificates, Stack)>,
    /// As the snapshot's `client_proxies`.
    client_proxies: Vec<(Arc<Forger>, Stack)>,
    /// As the snapshot's `trust_stores`.
    trust_stores: Vec<Arc<TrustAnchors>>,
    /// What outlives a generation: leaf keys (with the first client proxy), what was learnt.
    leaf_keys: Option<Arc<LeafKeys>>,
    intermediates: Arc<Intermediates>,
    pub learnt: Arc<Learnt>,
    /// Of this generation.
    pub exceptions: Exceptions,
    /// As the snapshot's `profiles`; last, no rules at all, for sessions that a filter trusts.
    rules: Vec<Arc<RuleSet>>,
}

/// What a proxy has of the two TLS stacks.
struct Stack {
    /// `None` where the proxy allows no suite that it has.
    modern: Option<ModernStack>,
    modern_servers: KnownServers,
    /// Sessions of the legacy stack.
    sessions: SessionScope,
}

impl Stack {
    fn under(allowed: &Allowed) -> anyhow::Result<Self> {
        let (modern, sessions) = (ModernStack::under(allowed)?, SessionScope::new()?);
        Ok(Self { modern, modern_servers: KnownServers::default(), sessions })
    }
}

/// What decrypts one flow.
pub struct FlowPolicy<'a> {
    pub profile: &'a Profile,
    /// By direction: the client's profile judges what it sends, that of the server's packets what
    /// the server answers (SPEC D3).
    pub rules: [&'a Arc<RuleSet>; 2],
    pub proxy: Proxy<'a>,
    pub stack: Option<&'a ModernStack>,
    /// Those that it has spoken with.
    pub modern_servers: &'a KnownServers,
    /// Of the legacy stack.
    pub sessions: &'a SessionScope,
    /// SPEC T3.
    pub encrypt_then_mac: bool,
    /// SPEC T12.
    pub fetch_intermediates: bool,
    /// Seconds; 0: never.
    pub idle_timeout: u32,
    /// What becomes of TLS that cannot be decrypted.
    pub unsupported_tls: EvasionAction,
    /// Which domains are not decrypted.
    pub decryption: Option<&'a DecryptionPolicy>,
    /// Where that is somebody's policy.
    deciding: Option<Deciding>,
    pub learnt: &'a Learnt,
    exceptions: &'a Exceptions,
}

impl FlowPolicy<'_> {
    /// Sessions may wait for what authorities say.
    pub fn fetches(&self) -> bool {
        match &self.proxy {
            Proxy::Client { proxy, .. } => {
                self.fetch_intermediates || proxy.revocation == Revocation::Fetched
            }
            Proxy::Server { .. } => false,
        }
    }

    /// No filter looks at either direction.
    pub fn has_no_filters(&self) -> bool {
        self.rules.iter().all(|rules| rules.is_empty())
    }
}

/// With whose certificate the client is answered.
pub enum Proxy<'a> {
    Server {
        name: &'a str,
        proxy: &'a ServerProxy,
        certificates: &'a ServerCertificates,
    },
    Client {
        name: &'a str,
        proxy: &'a ClientProxy,
        forger: &'a Forger,
        anchors: &'a Arc<TrustAnchors>,
    },
}

impl Proxy<'_> {
    /// The policy's name.
    pub fn policy(&self) -> &str {
        match self {
            Self::Server { name, .. } | Self::Client { name, .. } => name,
        }
    }

    /// Which ends of a session that it blocks are reset (SPEC T8).
    pub fn resets_on_block(&self) -> Resets {
        match self {
            Self::Server { proxy, .. } => proxy.resets_on_block(),
            Self::Client { proxy, .. } => proxy.resets_on_block(),
        }
    }

    /// What becomes of sessions that cannot be decrypted because one end refuses (SPEC T10).
    pub fn refusals(&self) -> Refusals<'_> {
        match self {
            Self::Server { proxy, .. } => (*proxy).into(),
            Self::Client { proxy, .. } => (*proxy).into(),
        }
    }

    /// HTTP/2 is not agreed on (SPEC T8).
    pub fn downgrades_http2(&self) -> bool {
        match self {
            Self::Server { proxy, .. } => proxy.downgrade_http2,
            Self::Client { proxy, .. } => proxy.downgrade_http2,
        }
    }

    pub fn service(&self) -> Service {
        match self {
            Self::Server { proxy, .. } => proxy.service,
            Self::Client { proxy, .. } => proxy.service,
        }
    }

    /// What it may negotiate, on either side.
    pub fn allowed(&self) -> &Allowed {
        match self {
            Self::Server { proxy, .. } => &proxy.allowed,
            Self::Client { proxy, .. } => &proxy.allowed,
        }
    }

    /// A name that only the legacy stack takes puts nobody there who merely sends it to a server of ours: one
    /// of the proxy's certificates must be of it.
    pub fn serves_name(&self, hello: &ClientHello) -> bool {
        match (self, hello.server_name.as_deref()) {
            (Self::Server { certificates, .. }, Some(name)) => {
                ModernStack::takes_name(name) || certificates.serve(name)
            }
            _ => true,
        }
    }

    /// Whether the client can be answered, by either stack, with the certificate it would get: its
    /// key type counts.
    pub fn supports(&self, hello: &ClientHello) -> Support {
        support(hello, |hello| self.can_answer(hello))
    }

    fn can_answer(&self, hello: &ClientHello) -> bool {
        match self {
            Self::Server { certificates, proxy, .. } => {
                let kind = certificates.choose(hello.server_name.as_deref()).kind();
                let allowed = &proxy.allowed;
                hello.supported_with(kind, allowed) || hello.supported_by_legacy(kind, allowed)
            }
            Self::Client { proxy, .. } => LeafKind::for_client(hello, &proxy.allowed).is_some(),
        }
    }
}

/// What a hello offers, where `answers` says of any hello whether it can be answered.
pub fn support(hello: &ClientHello, answers: impl Fn(&ClientHello) -> bool) -> Support {
    if answers(hello) {
        Support::Full
    } else if answers(&hello.with_all_groups_and_signatures()) {
        Support::NoGroupOrSignature
    } else {
        Support::NoSuite
    }
}

impl CompiledPolicy {
    /// Takes over from the `running` policy what is still right: forged certificates where the
    /// authorities are the same, path searches where the trust store is, leaf keys, learnt
    /// intermediates.
    pub fn compile(snapshot: Snapshot, running: &Self) -> anyhow::Result<Self> {
        let leaf_keys = match &running.leaf_keys {
            None if !snapshot.client_proxies.is_empty() => Some(LeafKeys::generate()?),
            leaf_keys => leaf_keys.clone(),
        };
        let server_proxies = snapshot
            .server_proxies
            .iter()
            .map(|proxy| {
                let context = || format!("server proxy `{}`", proxy.name);
                let certificates =
                    ServerCertificates::new(&proxy.certificates).with_context(context)?;
                Ok((certificates, Stack::under(&proxy.allowed).with_context(context)?))
            })
            .collect::<anyhow::Result<_>>()?;
        let client_proxies = snapshot
            .client_proxies
            .iter()
            .map(|proxy| {
                let context = || format!("client proxy `{}`", proxy.name);
                let forger = match running.forger(&snapshot, proxy) {
                    Some(forger) => forger,
                    None => forger(&snapshot, proxy, leaf_keys.as_ref()).with_context(context)?,
                };
                Ok((forger, Stack::under(&proxy.allowed).with_context(context)?))
            })
            .collect::<anyhow::Result<_>>()?;
        let trust_stores = snapshot
            .trust_stores
            .iter()
            .map(|store| match running.anchors(store) {
                Some(anchors) => Ok(anchors),
                None => TrustAnchors::new(&store.authorities, store.default_ca_package)
                    .map(|anchors| Arc::new(anchors.learning(Arc::clone(&running.intermediates))))
                    .with_context(|| format!("trust store `{}`", store.name)),
            })
            .collect::<anyhow::Result<_>>()?;
        let trusted = Profile {
            name: "trusted".to_owned(),
            server_policies: vec![],
            client_policies: vec![],
            filters: vec![],
        };
        let rules = snapshot
            .profiles
            .iter()
            .chain([&trusted])
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
        let intermediates = Arc::clone(&running.intermediates);
        let learnt = Arc::clone(&running.learnt);
        let proxies = snapshot.server_proxies.iter().map(Refusals::from);
        let proxies = proxies.chain(snapshot.client_proxies.iter().map(Refusals::from));
        learnt.keep_only(&proxies.collect::<Vec<_>>());
        Ok(Self {
            names: Names::of(&snapshot),
            snapshot: snapshot.into(),
            server_proxies,
            client_proxies,
            trust_stores,
            leaf_keys,
            intermediates,
            learnt,
            exceptions: Exceptions::default(),
            rules,
        })
    }

    /// The forger of a proxy with the same two authorities.
    fn forger(&self, new: &Snapshot, proxy: &ClientProxy) -> Option<Arc<Forger>> {
        if self.snapshot.untrusted_authority != new.untrusted_authority {
            return None;
        }
        let own = self.snapshot.client_proxies.iter().zip(&self.client_proxies);
        own.filter(|(own, _)| own.signing_certificate == proxy.signing_certificate)
            .map(|(_, (forger, _))| Arc::clone(forger))
            .next()
    }

    /// The anchors of a trust store with the same contents.
    fn anchors(&self, store: &TrustStore) -> Option<Arc<TrustAnchors>> {
        let own = self.snapshot.trust_stores.iter().zip(&self.trust_stores);
        own.filter(|(own, _)| {
            own.authorities == store.authorities
                && own.default_ca_package == store.default_ca_package
        })
        .map(|(_, anchors)| Arc::clone(anchors))
        .next()
    }

    /// Certificates forged so far, under this policy and those before it.
    pub fn certificates_forged(&self) -> u64 {
        self.leaf_keys.as_ref().map_or(0, |keys| keys.certificates())
    }

    /// What is left alone under this policy, the newest `most` of each kind.
    pub fn learnt_so_far(&self, most: usize, now: Instant) -> LearntView {
        let unsupported = self.snapshot.device.evasion.unsupported_tls;
        LearntView {
            bypassed: self.learnt.list(&self.refusals(), unsupported, most, now),
            excepted: self.exceptions.list(&self.snapshot.decryption_policies, most, now),
        }
    }

    /// What is known of this server name, or of servers at this address, is forgotten: how much of it had sessions
    /// left alone.
    pub fn forget_learnt_of(&self, what: &str, now: Instant) -> usize {
        let unsupported = self.snapshot.device.evasion.unsupported_tls;
        let bypassed = self.learnt.forget_of(what, &self.refusals(), unsupported, now);
        bypassed.saturating_add(self.exceptions.forget_of(what, now))
    }

    fn refusals(&self) -> Vec<Refusals<'_>> {
        let servers = self.snapshot.server_proxies.iter().map(Refusals::from);
        self.snapshot.client_proxies.iter().map(Refusals::from).chain(servers).collect()
    }

    fn rules_of(&self, profile: usize, trusted: bool) -> Option<&Arc<RuleSet>> {
        self.rules.get(if trusted { self.snapshot.profiles.len() } else { profile })
    }

    /// The parts that `inspection` names; `None` only for an inspection of another snapshot.
    pub fn of(&self, inspection: Inspection) -> Option<FlowPolicy<'_>> {
        let profile = self.snapshot.profiles.get(inspection.profile)?;
        let (mut decryption, mut deciding) = (None, None);
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
                decryption = policy
                    .decryption_policy
                    .and_then(|index| self.snapshot.decryption_policies.get(index));
                deciding = policy.decryption_policy.map(|decryption_policy| Deciding {
                    client_proxy: policy.client_proxy,
                    trust_store: policy.trust_store,
                    decryption_policy,
                });
                (Proxy::Client { name: &policy.name, proxy, forger, anchors }, stack)
            }
        };
        Some(FlowPolicy {
            profile,
            rules: [
                self.rules_of(inspection.profile, inspection.trusted)?,
                // A trusted session is not inspected at all (SPEC D6).
                self.rules_of(
                    inspection.answers.profile,
                    inspection.trusted || inspection.answers.trusted,
                )?,
            ],
            proxy,
            stack: stack.modern.as_ref(),
            modern_servers: &stack.modern_servers,
            sessions: &stack.sessions,
            encrypt_then_mac: self.snapshot.device.encrypt_then_mac,
            fetch_intermediates: self.snapshot.device.fetch_intermediates,
            idle_timeout: self.snapshot.device.idle_timeout,
            unsupported_tls: self.snapshot.device.evasion.unsupported_tls,
            decryption,
            deciding,
            learnt: &self.learnt,
            exceptions: &self.exceptions,
        })
    }
}

fn forger(
    snapshot: &Snapshot,
    proxy: &ClientProxy,
    leaf_keys: Option<&Arc<LeafKeys>>,
) -> anyhow::Result<Arc<Forger>> {
    let untrusted = snapshot
        .untrusted_authority
        .as_ref()
        .ok_or_else(|| anyhow!("the snapshot has no untrusted authority"))?;
    let leaf_keys = leaf_keys.ok_or_else(|| anyhow!("no leaf keys were made"))?;
    Ok(Arc::new(Forger::new(&proxy.signing_certificate, untrusted, Arc::clone(leaf_keys))?))
}

#[cfg(test)]
pub(crate) mod tests;
