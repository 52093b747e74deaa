//! Sessions that policy would decrypt, but that this engine has learnt to leave alone: servers that
//! ask for a client certificate (SPEC T10), and clients that have pinned the server's own; and servers that
//! were seen to share with their clients what Weir does not have.
//!
//! For: bypassing them, each only where policy says so, for the time that the proxy says, and only
//! at the address and port where it was seen: a name alone is the client's word. A client that is
//! known to pin a name rejects once at another address of it, and not twice. Each proxy, known by its
//! name, learns for itself, only what it bypasses, and in a table of its own: whoever fills that of one pushes
//! nothing out of another's. Not for: exceptions that somebody configured. What is learnt outlives policies and ends with the engine. Cannot fail: what
//! was forgotten costs one more broken session.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use weir_api::engine::LearntBypass;
use weir_policy::outcome::Bypassed;
use weir_policy::snapshot::{EvasionAction, OnRefusal, Refusals};
use weir_policy::{Place, ServerAt};
use weir_tls::ShardedCache;

/// Entries of one proxy, some 200 bytes each; past it the least recently used goes.
const BOUND: usize = 4096;
/// A client that rejects forged certificates for one name twice within this has pinned it; a server that leaves
/// twice within it because it is refused a renegotiation wants a client certificate.
const REJECTIONS_WITHIN: Duration = Duration::from_secs(60);

/// What one engine has learnt.
#[derive(Default)]
pub struct Learnt {
    /// Of proxies that have learnt something: [`Self::keep_only`] those that there are.
    tables: RwLock<HashMap<ProxyKey, Arc<Table>>>,
}

/// The proxy's name, and whether it is a server proxy.
type ProxyKey = (String, bool);

/// What one proxy has learnt.
struct Table {
    entries: ShardedCache<Subject, Entry>,
    /// When a client last believed a forged certificate for a name, where its proxy wants to learn who does
    /// not. As many as above.
    believed: ShardedCache<Subject, Instant>,
}

/// How a client did not go on after it was shown a forged certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It said that it does not believe it.
    Told,
    /// It left without a word. So does a browser that has more connections than it needs.
    Left,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    what: What,
    place: Place,
    /// `None`: that the client pins the name, wherever in its place the server is.
    server: Option<SocketAddr>,
    /// Lower case, without a trailing dot.
    name: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// The server asks any client for a certificate.
    Asks,
    /// This client rejects forged certificates.
    Pins(IpAddr),
    /// The server shares nothing with Weir, and something with a client.
    Unshared,
}

#[derive(Clone, Copy)]
enum Entry {
    /// Until who made it says what it is.
    New,
    /// Once so far, at this time.
    Rejected(Instant),
    /// Twice, for a name: what is bypassed are addresses.
    Pins(Instant),
    Bypassed(Instant),
}

impl Entry {
    /// Whether what happens now happens at least the second time, within [`REJECTIONS_WITHIN`] of the first or
    /// while what was learnt of it lasts.
    fn happened_before(&self, now: Instant, lasts: Duration) -> bool {
        match self {
            Self::New => false,
            Self::Rejected(first) => now.saturating_duration_since(*first) <= REJECTIONS_WITHIN,
            Self::Pins(since) | Self::Bypassed(since) => {
                now.saturating_duration_since(*since) < lasts
            }
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: ShardedCache::new(BOUND), believed: ShardedCache::new(BOUND) }
    }
}

impl Learnt {
    /// Why a session is to be left alone, if it is.
    pub fn bypass<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        client: IpAddr,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) -> Option<Bypassed> {
        let proxy = &proxy.into();
        let table = self.known(proxy)?;
        let holds = |what| table.is_bypassed(&Subject::of(what, server, name), proxy, now);
        if proxy.on_client_certificate_request == OnRefusal::Bypass && holds(What::Asks) {
            return Some(Bypassed::ClientCertificateRequested);
        }
        let pins = proxy.on_pinned_client == OnRefusal::Bypass && holds(What::Pins(client));
        pins.then_some(Bypassed::PinnedClient)
    }

    /// Whether the server was seen to share nothing with Weir, and something with one of its clients. Who
    /// offers it that may be another.
    pub fn is_unshared<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) -> bool {
        let proxy = &proxy.into();
        let subject = Subject::of(What::Unshared, server, name);
        self.known(proxy).is_some_and(|table| table.is_bypassed(&subject, proxy, now))
    }

    /// It was seen to, or (`false`) turned out to be otherwise.
    pub fn unshared<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        server: ServerAt,
        name: Option<&str>,
        is: bool,
        now: Instant,
    ) {
        let subject = Subject::of(What::Unshared, server, name);
        match (is, &proxy.into()) {
            (true, proxy) => self.table(proxy).entries.put(subject, Entry::Bypassed(now)),
            (false, proxy) => {
                self.known(proxy).map(|table| table.entries.remove(&subject));
            }
        }
    }

    /// A server asked for a client certificate.
    pub fn client_certificate_requested<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) {
        let proxy = &proxy.into();
        if proxy.on_client_certificate_request == OnRefusal::Bypass {
            let subject = Subject::of(What::Asks, server, name);
            self.table(proxy).entries.put(subject, Entry::Bypassed(now));
        }
    }

    /// A server may have: it left with a question unanswered, after it had been refused a renegotiation. What
    /// happens once may be chance: it counts where it happens twice within [`REJECTIONS_WITHIN`].
    pub fn client_certificate_suspected<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) {
        let proxy = &proxy.into();
        if proxy.on_client_certificate_request != OnRefusal::Bypass {
            return;
        }
        let lasts = lasts(proxy);
        let change = |entry: &mut Entry| {
            if !entry.happened_before(now, lasts) {
                *entry = Entry::Rejected(now);
            } else if matches!(entry, Entry::Rejected(_)) {
                *entry = Entry::Bypassed(now);
            }
        };
        let subject = Subject::of(What::Asks, server, name);
        self.table(proxy).entries.with(subject, || Entry::New, change);
    }

    /// A client believed a forged certificate, and went on.
    pub fn accepted<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        client: IpAddr,
        server: ServerAt,
        name: Option<&str>,
        now: Instant,
    ) {
        let proxy = &proxy.into();
        if proxy.on_pinned_client == OnRefusal::Bypass {
            let subject = Subject::of(What::Pins(client), server, name).of_name();
            self.table(proxy).believed.put(subject, now);
        }
    }

    /// A client rejected a forged certificate, of a server whose own verified for this name. Where it
    /// believed another one for that name within a minute, it must have said so.
    pub fn rejected<'a>(
        &self,
        proxy: impl Into<Refusals<'a>>,
        client: IpAddr,
        server: ServerAt,
        name: Option<&str>,
        rejection: Rejection,
        now: Instant,
    ) {
        let proxy = &proxy.into();
        if proxy.on_pinned_client != OnRefusal::Bypass {
            return;
        }
        let (subject, table) = (Subject::of(What::Pins(client), server, name), self.table(proxy));
        let known = subject.clone().of_name();
        if rejection == Rejection::Left
            && let Some(believed) = table.believed.find(&known, |believed| *believed)
            && now.saturating_duration_since(believed) <= REJECTIONS_WITHIN
        {
            return;
        }
        let lasts = lasts(proxy);
        // Looked at and changed at one time: of two sessions that end at once one is the second.
        let pins = table.entries.with(
            known,
            || Entry::New,
            |entry| {
                let pins = entry.happened_before(now, lasts);
                *entry = if pins { Entry::Pins(now) } else { Entry::Rejected(now) };
                pins
            },
        );
        if pins {
            table.entries.put(subject, Entry::Bypassed(now));
        }
    }

    pub fn forget(&self) {
        self.tables.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What was learnt of this server name, or of servers at this address, is forgotten: how much of it
    /// [`Self::list`] would have told.
    pub fn forget_of(
        &self,
        what: &str,
        proxies: &[Refusals<'_>],
        unsupported: EvasionAction,
        now: Instant,
    ) -> usize {
        let (name, address) = (normalised(what), what.parse::<IpAddr>().ok());
        let is_of_it = |subject: &Subject| {
            subject.name.as_ref() == Some(&name)
                || address.is_some_and(|ip| subject.server.is_some_and(|one| one.ip() == ip))
        };
        let tables: Vec<_> = {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            tables.iter().map(|(key, table)| (key.clone(), Arc::clone(table))).collect()
        };
        let mut forgotten: usize = 0;
        for (key, table) in tables {
            let proxy = proxies.iter().find(|proxy| is_of(&key, proxy));
            let subjects = table.entries.gather(|subject, entry| {
                let told = proxy.and_then(|proxy| told(proxy, unsupported, subject, entry, now));
                is_of_it(subject).then(|| (subject.clone(), told.is_some()))
            });
            for (subject, is_told) in subjects {
                let removed = table.entries.remove(&subject).is_some();
                forgotten = forgotten.saturating_add(usize::from(removed && is_told));
                // That its client pins it is known by the name alone, too.
                if matches!(subject.what, What::Pins(_)) {
                    table.entries.remove(&subject.of_name());
                }
            }
        }
        forgotten
    }

    /// What other proxies have learnt, which there are no more, is forgotten.
    pub fn keep_only(&self, proxies: &[Refusals<'_>]) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|key, _| proxies.iter().any(|proxy| is_of(key, proxy)));
    }

    /// What is bypassed by these proxies as they are now: the newest `most`. `unsupported`: what the device
    /// says of TLS that cannot be decrypted.
    pub fn list(
        &self,
        proxies: &[Refusals<'_>],
        unsupported: EvasionAction,
        most: usize,
        now: Instant,
    ) -> Vec<LearntBypass> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut bypassed = Vec::new();
        for proxy in proxies {
            let Some(table) = tables.get(&key(proxy)) else { continue };
            let told = |subject: &_, entry: &_| told(proxy, unsupported, subject, entry, now);
            bypassed.extend(table.entries.gather(told));
        }
        bypassed.sort_by_key(|one| one.seconds);
        bypassed.truncate(most);
        bypassed
    }

    /// Where something is to be learnt.
    fn table(&self, proxy: &Refusals<'_>) -> Arc<Table> {
        self.known(proxy).unwrap_or_else(|| {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tables.entry(key(proxy)).or_default())
        })
    }

    /// Where something may be known.
    fn known(&self, proxy: &Refusals<'_>) -> Option<Arc<Table>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        // Most proxies learn nothing.
        if tables.is_empty() { None } else { tables.get(&key(proxy)).map(Arc::clone) }
    }
}

impl Table {
    fn is_bypassed(&self, subject: &Subject, proxy: &Refusals<'_>, now: Instant) -> bool {
        match self.entries.find(subject, |entry| *entry) {
            Some(Entry::Bypassed(since)) if now.saturating_duration_since(since) < lasts(proxy) => {
                true
            }
            Some(Entry::Bypassed(_)) => {
                self.entries.remove(subject);
                false
            }
            _ => false,
        }
    }
}

impl Subject {
    fn of(what: What, server: ServerAt, name: Option<&str>) -> Self {
        let ServerAt { place, address } = server;
        Self { what, place, server: Some(address), name: name.map(normalised) }
    }

    /// Wherever the server is, the client pins its name, where it has one.
    fn of_name(self) -> Self {
        match self.name {
            Some(_) => Self { server: None, ..self },
            None => self,
        }
    }
}

/// An entry of this proxy, as it is now, where it has sessions bypassed.
fn told(
    proxy: &Refusals<'_>,
    unsupported: EvasionAction,
    subject: &Subject,
    entry: &Entry,
    now: Instant,
) -> Option<LearntBypass> {
    let Entry::Bypassed(since) = entry else { return None };
    let (bypasses, reason, client) = match subject.what {
        What::Asks => {
            let reason = Bypassed::ClientCertificateRequested;
            (proxy.on_client_certificate_request == OnRefusal::Bypass, reason, None)
        }
        What::Pins(client) => {
            let bypasses = proxy.on_pinned_client == OnRefusal::Bypass;
            (bypasses, Bypassed::PinnedClient, Some(client))
        }
        What::Unshared => (unsupported == EvasionAction::Bypass, Bypassed::NothingShared, None),
    };
    let age = now.saturating_duration_since(*since);
    let left = lasts(proxy).checked_sub(age).filter(|left| !left.is_zero())?;
    bypasses.then(|| LearntBypass {
        proxy: proxy.proxy.to_owned(),
        reason,
        place: subject.place,
        client,
        server: subject.server,
        server_name: subject.name.clone(),
        seconds: age.as_secs(),
        left: left.as_secs(),
    })
}

fn lasts(proxy: &Refusals<'_>) -> Duration {
    Duration::from_secs(proxy.learnt_bypass_time.into())
}

fn key(proxy: &Refusals<'_>) -> ProxyKey {
    (proxy.proxy.to_owned(), proxy.is_server_proxy)
}

fn is_of((name, is_server_proxy): &ProxyKey, proxy: &Refusals<'_>) -> bool {
    proxy.proxy == name && proxy.is_server_proxy == *is_server_proxy
}

fn normalised(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
pub(crate) mod tests;
