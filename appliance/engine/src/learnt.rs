//! Sessions that policy would decrypt, but that this engine has learnt to leave alone: servers that
//! ask for a client certificate (SPEC T10), and clients that have pinned the server's own.
//!
//! For: bypassing them, each only where the proxy says so, for the time that it says, and only
//! at the address and port where it was seen: a name alone is the client's word. A client that is
//! known to pin a name rejects once at another address of it, and not twice. Each proxy, known by its
//! name, learns for itself, and only what it bypasses. Not for: exceptions that
//! somebody configured. What is learnt outlives policies and ends with the engine. Cannot fail: what
//! was forgotten costs one more broken session.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use weir_api::engine::LearntBypass;
use weir_policy::outcome::Bypassed;
use weir_policy::snapshot::{OnRefusal, Refusals};
use weir_policy::{Place, ServerAt};
use weir_tls::ShardedCache;

/// Entries; past it the least recently used goes.
const BOUND: usize = 4096;
/// A client that rejects forged certificates for one name twice within this has pinned it.
const REJECTIONS_WITHIN: Duration = Duration::from_secs(60);

/// What one engine has learnt.
pub struct Learnt {
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
    /// The proxy's name, and whether it is a server proxy.
    proxy: (String, bool),
    place: Place,
    /// `None`: any client; it is the server that asks.
    client: Option<IpAddr>,
    /// `None`: that the client pins the name, wherever in its place the server is.
    server: Option<SocketAddr>,
    /// Lower case, without a trailing dot.
    name: Option<String>,
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

impl Default for Learnt {
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
        let asks = || self.is_bypassed(&asking(proxy, server, name), proxy, now);
        let pins = || self.is_bypassed(&pinned(proxy, client, server, name), proxy, now);
        if proxy.on_client_certificate_request == OnRefusal::Bypass && asks() {
            return Some(Bypassed::ClientCertificateRequested);
        }
        (proxy.on_pinned_client == OnRefusal::Bypass && pins()).then_some(Bypassed::PinnedClient)
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
            self.entries.put(asking(proxy, server, name), Entry::Bypassed(now));
        }
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
            self.believed.put(of_name(pinned(proxy, client, server, name)), now);
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
        let subject = pinned(proxy, client, server, name);
        let known = of_name(subject.clone());
        if rejection == Rejection::Left
            && let Some(believed) = self.believed.find(&known, |believed| *believed)
            && now.saturating_duration_since(believed) <= REJECTIONS_WITHIN
        {
            return;
        }
        let lasts = lasts(proxy);
        // Looked at and changed at one time: of two sessions that end at once one is the second.
        let pins = self.entries.with(
            known,
            || Entry::New,
            |entry| {
                let pins = match entry {
                    Entry::New => false,
                    Entry::Rejected(first) => {
                        now.saturating_duration_since(*first) <= REJECTIONS_WITHIN
                    }
                    Entry::Pins(since) | Entry::Bypassed(since) => {
                        now.saturating_duration_since(*since) < lasts
                    }
                };
                *entry = if pins { Entry::Pins(now) } else { Entry::Rejected(now) };
                pins
            },
        );
        if pins {
            self.entries.put(subject, Entry::Bypassed(now));
        }
    }

    pub fn forget(&self) {
        self.entries.clear();
        self.believed.clear();
    }

    /// What is bypassed by these proxies as they are now: the newest `most`.
    pub fn list(&self, proxies: &[Refusals<'_>], most: usize, now: Instant) -> Vec<LearntBypass> {
        let mut bypassed = self.entries.gather(|subject, entry| {
            let Entry::Bypassed(since) = entry else { return None };
            let (name, is_server_proxy) = &subject.proxy;
            let proxy = proxies
                .iter()
                .find(|proxy| proxy.proxy == name && proxy.is_server_proxy == *is_server_proxy)?;
            let setting = match subject.client {
                None => proxy.on_client_certificate_request,
                Some(_) => proxy.on_pinned_client,
            };
            let age = now.saturating_duration_since(*since);
            let left = lasts(proxy).checked_sub(age).filter(|left| !left.is_zero())?;
            (setting == OnRefusal::Bypass).then(|| LearntBypass {
                proxy: subject.proxy.0.clone(),
                place: subject.place,
                client: subject.client,
                server: subject.server,
                server_name: subject.name.clone(),
                seconds: age.as_secs(),
                left: left.as_secs(),
            })
        });
        bypassed.sort_by_key(|one| one.seconds);
        bypassed.truncate(most);
        bypassed
    }

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

fn lasts(proxy: &Refusals<'_>) -> Duration {
    Duration::from_secs(proxy.learnt_bypass_time.into())
}

fn asking(proxy: &Refusals<'_>, server: ServerAt, name: Option<&str>) -> Subject {
    let (proxy, name) = (key(proxy), name.map(normalised));
    let ServerAt { place, address } = server;
    Subject { proxy, place, client: None, server: Some(address), name }
}

fn pinned(proxy: &Refusals<'_>, client: IpAddr, server: ServerAt, name: Option<&str>) -> Subject {
    Subject { client: Some(client), ..asking(proxy, server, name) }
}

/// Wherever the server is, the client pins its name, where it has one.
fn of_name(subject: Subject) -> Subject {
    match subject.name {
        Some(_) => Subject { server: None, ..subject },
        None => subject,
    }
}

fn key(proxy: &Refusals<'_>) -> (String, bool) {
    (proxy.proxy.to_owned(), proxy.is_server_proxy)
}

fn normalised(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
pub(crate) mod tests {
    use weir_policy::SecretBytes;
    use weir_policy::snapshot::{CertifiedKey, ClientProxy, SegmentId, Service};

    use super::*;

    const NAME: Option<&str> = Some("a.example");

    /// Without a certificate to sign with.
    pub(crate) fn proxy(certificates: OnRefusal, pinned: OnRefusal) -> ClientProxy {
        ClientProxy {
            name: "p".into(),
            detection_ports: Vec::new(),
            service: Service::Http,
            signing_certificate: CertifiedKey {
                chain: Vec::new(),
                key: SecretBytes::new(Vec::new()),
            },
            block_invalid_certificates: false,
            block_expired_certificates: false,
            reset_client_on_block: true,
            logging: false,
            downgrade_http2: false,
            minimum_rsa_key_length: 2048,
            allowed: weir_policy::suites::Allowed::default(),
            on_encrypted_client_hello: Default::default(),
            on_client_certificate_request: certificates,
            on_pinned_client: pinned,
            learnt_bypass_time: 100,
            revocation: Default::default(),
            revocation_unknown: Default::default(),
        }
    }

    fn ends() -> (IpAddr, ServerAt) {
        ("10.0.0.1".parse().unwrap(), Place::default().server("192.0.2.1:443".parse().unwrap()))
    }

    fn later(start: Instant, seconds: u64) -> Instant {
        start.checked_add(Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn server_that_asks_for_certificates_is_bypassed_for_all_until_it_expires() {
        let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
        let on = proxy(OnRefusal::Bypass, OnRefusal::Block);
        let of = |proxy, client, name, seconds| {
            learnt.bypass(proxy, client, server, name, later(start, seconds))
        };
        assert_eq!(of(&on, client, NAME, 0), None);
        learnt.client_certificate_requested(&on, server, NAME, start);
        let other = "10.0.0.2".parse().unwrap();
        let asked = Some(Bypassed::ClientCertificateRequested);
        assert_eq!(of(&on, client, NAME, 1), asked);
        assert_eq!(of(&on, other, Some("A.Example."), 99), asked);
        assert_eq!(of(&on, client, Some("b.example"), 1), None);
        let off = proxy(OnRefusal::Block, OnRefusal::Bypass);
        assert_eq!(of(&off, client, NAME, 1), None);
        // Another network with the same addresses.
        let elsewhere = Place::new(SegmentId(1), Some(7)).server(server.address);
        assert_eq!(learnt.bypass(&on, client, elsewhere, NAME, later(start, 1)), None);
        assert_eq!(of(&on, client, NAME, 100), None);
    }

    #[test]
    fn client_that_rejects_twice_within_a_minute_is_bypassed_for_that_name() {
        let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
        let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
        let of =
            |client, name, seconds| learnt.bypass(&on, client, server, name, later(start, seconds));
        let rejects = |server, seconds| {
            learnt.rejected(&on, client, server, NAME, Rejection::Told, later(start, seconds));
        };
        let listed = |seconds| learnt.list(&[(&on).into()], 10, later(start, seconds));
        rejects(server, 0);
        assert_eq!(of(client, NAME, 1), None);
        // Too late for the first, so it is a first one again.
        rejects(server, 61);
        assert_eq!(of(client, NAME, 61), None);
        rejects(server, 80);
        assert_eq!(of(client, NAME, 81), Some(Bypassed::PinnedClient));
        assert_eq!(of("10.0.0.2".parse().unwrap(), NAME, 81), None);
        assert_eq!(of(client, None, 81), None);
        assert_eq!(listed(90).len(), 1);
        assert_eq!(listed(90)[0].seconds, 10);
        // The same name at another address: taken over until the client rejects it there, once.
        let elsewhere = server.place.server("192.0.2.2:443".parse().unwrap());
        let there = |seconds| learnt.bypass(&on, client, elsewhere, NAME, later(start, seconds));
        assert_eq!(there(95), None);
        rejects(elsewhere, 95);
        assert_eq!(there(96), Some(Bypassed::PinnedClient));
        assert_eq!(listed(96).len(), 2);
        learnt.forget();
        assert_eq!(of(client, NAME, 82), None);
    }

    #[test]
    fn browser_that_drops_connections_it_does_not_need_pins_nothing() {
        let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
        let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
        let of = |seconds| learnt.bypass(&on, client, server, NAME, later(start, seconds));
        let leaves = |rejection, seconds| {
            learnt.rejected(&on, client, server, NAME, rejection, later(start, seconds));
        };
        // On one of them it goes on.
        learnt.accepted(&on, client, server, Some("A.example."), start);
        for seconds in 0..3 {
            leaves(Rejection::Left, seconds);
        }
        assert_eq!(of(3), None);
        // Another program of the same client says that it does not.
        leaves(Rejection::Told, 4);
        leaves(Rejection::Told, 5);
        assert_eq!(of(6), Some(Bypassed::PinnedClient));
        learnt.forget();
        // Much later nobody goes on.
        leaves(Rejection::Left, 100);
        leaves(Rejection::Left, 101);
        assert_eq!(of(102), Some(Bypassed::PinnedClient));
    }

    /// What is blocked is not told as bypassed, nor what is decrypted again.
    #[test]
    fn told_is_only_what_is_bypassed_and_for_how_long() {
        let (learnt, start, (client, server)) = (Learnt::default(), Instant::now(), ends());
        let [blocks, bypasses] = [OnRefusal::Block, OnRefusal::Bypass].map(|on| proxy(on, on));
        let learns = |proxy: &ClientProxy| {
            learnt.client_certificate_requested(proxy, server, NAME, start);
            learnt.rejected(proxy, client, server, NAME, Rejection::Left, start);
            learnt.rejected(proxy, client, server, NAME, Rejection::Left, start);
        };
        learns(&blocks);
        assert_eq!(learnt.entries.count(), 0);
        learns(&bypasses);
        let told = |proxy: &ClientProxy, seconds| {
            let told = learnt.list(&[proxy.into()], 10, later(start, seconds));
            told.iter().map(|one| (one.seconds, one.left)).collect::<Vec<_>>()
        };
        assert_eq!(told(&bypasses, 99), [(99, 1); 2]);
        assert_eq!(told(&bypasses, 100), []);
        assert_eq!(told(&blocks, 1), [], "policy has changed");
        let other = ClientProxy { name: "other".into(), ..bypasses };
        assert_eq!(told(&other, 1), []);
        let bypass = learnt.bypass(&other, client, server, NAME, later(start, 1));
        assert_eq!(bypass, None, "it learns for itself");
    }

    #[test]
    fn what_is_learnt_stays_bounded() {
        let (learnt, now, (client, server)) = (Learnt::default(), Instant::now(), ends());
        let on = proxy(OnRefusal::Block, OnRefusal::Bypass);
        for number in 0..6000 {
            let name = format!("host-{number}.example");
            learnt.rejected(&on, client, server, Some(&name), Rejection::Left, now);
        }
        assert_eq!(learnt.entries.count(), BOUND);
    }
}
