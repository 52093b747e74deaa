//! What authorities say of certificates beyond the chain that a server sends: missing intermediates,
//! and whether a certificate is revoked (SPEC T12).
//!
//! For: asking, in an order and within a time, and keeping what was answered. Not for: fetching (the
//! agent's, by the management port: [`fetching`]), and what an answer is worth (`weir_tls::verify`).
//! Nothing here decides what becomes of a session; where nothing can be learnt in time the certificate
//! is what it was, and its revocation is unknown, with the reason.

mod fetching;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use weir_api::engine::{RevocationRecord, RevocationSource};
use weir_api::fetch::{Bytes, Fetch};
use weir_tls::verify::revocation::{
    Answer, AnswerError, Sources, Status, judge_list, judge_ocsp, ocsp_request,
};
use weir_tls::verify::{Failure, Issuer};
use weir_tls::{SerialNumber, TrustAnchors};

use self::fetching::FAILURE_LASTS;
pub use self::fetching::{Client, Fetching, Unavailable};

/// For all that one session's certificate needs; the client waits for it.
pub const WITHIN: Duration = Duration::from_secs(3);
/// Intermediates that are fetched for one chain.
const MOST_INTERMEDIATES: usize = 4;
/// Certificates of which it is known whether they are revoked, about 200 bytes each; past it the least
/// recently used goes.
const KNOWN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8191);

/// One serves all runtimes of an engine, and every generation of its policy.
pub struct Authorities {
    pub fetching: Fetching,
    known: Mutex<LruCache<Subject, Known>>,
    /// Lists are looked through one at a time.
    lists: Semaphore,
}

/// A certificate, by who issued it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    issuer: [u8; 32],
    serial: SerialNumber,
}

/// All times are seconds since the Unix epoch.
#[derive(Clone)]
struct Known {
    revocation: Revocation,
    until: i64,
    /// thisUpdate of the last answer that said that it is revoked, for as long as it is remembered:
    /// none that was made before it is believed any more, however long that one holds.
    revoked: Option<i64>,
}

impl Known {
    fn is_unknown(&self) -> bool {
        matches!(self.revocation, Revocation::Unknown(_))
    }
}

/// What is known of a certificate's revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    Good(RevocationSource),
    Revoked(RevocationSource),
    Unknown(Why),
}

/// Why it is unknown. Of several sources, the last that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Why {
    #[error("the certificate names nobody to ask by HTTP")]
    NoSource,
    #[error("not fetched: {0}")]
    NotFetched(#[from] Unavailable),
    #[error("the answer is not believed: {0}")]
    NotBelieved(#[from] AnswerError),
}

impl Revocation {
    pub fn record(self) -> RevocationRecord {
        match self {
            Self::Good(source) => RevocationRecord::Good(source),
            Self::Revoked(source) => RevocationRecord::Revoked(source),
            Self::Unknown(why) => RevocationRecord::Unknown(why.to_string()),
        }
    }

    fn of(answer: Answer, source: RevocationSource) -> Self {
        match answer.status {
            Status::Good => Self::Good(source),
            Status::Revoked => Self::Revoked(source),
        }
    }
}

/// A chain that verified, of whose leaf is asked.
pub struct Question<'a> {
    pub chain: &'a [CertificateDer<'static>],
    pub issuer: &'a Issuer,
    /// The OCSP answer that the server sent along.
    pub staple: Option<&'a [u8]>,
}

impl Authorities {
    pub fn new(fetching: Fetching) -> Self {
        let known = Mutex::new(LruCache::new(KNOWN));
        Self { fetching, known, lists: Semaphore::new(1) }
    }

    /// What may be fetched from where may have changed.
    pub fn forget_failures(&self) {
        self.fetching.forget_failures();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = known.iter().filter(|(_, known)| known.is_unknown());
        let unknown: Vec<Subject> = unknown.map(|(subject, _)| subject.clone()).collect();
        for subject in unknown {
            known.pop(&subject);
        }
    }

    /// The chain, and behind its leaf the intermediates that it lacks, as far as they can be had. Those
    /// that make it verify are learnt by `anchors`: the next session need not ask.
    pub async fn complete(
        &self,
        anchors: &TrustAnchors,
        mut chain: Vec<CertificateDer<'static>>,
        client: Client,
        now: UnixTime,
        deadline: Instant,
    ) -> Vec<CertificateDer<'static>> {
        // Once: a search takes its time, and whether the last one found is the last that is missing
        // says its issuer.
        let verdict = anchors.verify(&chain, None, 0, now);
        if !verdict.has(Failure::Untrusted) && !verdict.has(Failure::IntermediateDates) {
            return chain;
        }
        for _ in 0..MOST_INTERMEDIATES {
            let Some(missing) = anchors.missing_issuer(&chain, now) else { break };
            let mut found = None;
            for url in missing.urls.iter().filter_map(|url| url.parse().ok()) {
                let fetch = Fetch::Intermediate { url };
                let fetched = self.fetching.fetch(fetch.clone(), Some(client), deadline).await;
                let Ok(der) = fetched else { continue };
                if missing.is(&der) {
                    found = Some(der);
                    break;
                }
                self.fetching.disbelieved(&fetch, &der);
            }
            let Some(der) = found else { break };
            chain.insert(1, CertificateDer::from(der.to_vec()));
        }
        chain
    }

    /// Whether the leaf is revoked: by what its server staples, what is known, OCSP, its authority's
    /// list. A staple that is believed is known then: servers staple nothing when they resume.
    pub async fn revocation(
        &self,
        question: &Question<'_>,
        now: UnixTime,
        deadline: Instant,
    ) -> Revocation {
        let Some(leaf) = question.chain.first() else { return Revocation::Unknown(Why::NoSource) };
        let Some(serial) = SerialNumber::of(leaf) else {
            return Revocation::Unknown(Why::NoSource);
        };
        let subject = Subject { issuer: question.issuer.digest(), serial };
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut why = Why::NoSource;
        if let Some(staple) = question.staple {
            let judged = judge_ocsp(leaf, question.issuer, staple, now)
                .and_then(|answer| self.learn(&subject, answer, RevocationSource::Staple, seconds));
            match judged {
                Ok(revocation) => return revocation,
                Err(error) => why = error.into(),
            }
        }
        if let Some(known) = self.known(&subject, seconds) {
            return known;
        }
        self.ask(question, &subject, (leaf, why), now, deadline).await
    }

    fn known(&self, subject: &Subject, now: i64) -> Option<Revocation> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(subject).filter(|known| now < known.until).map(|known| known.revocation)
    }

    fn keep(&self, subject: &Subject, revocation: Revocation, until: i64) -> Revocation {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = known.peek(subject).and_then(|before| before.revoked);
        known.put(subject.clone(), Known { revocation, until, revoked });
        revocation
    }

    /// What follows from an answer and those before it. Whoever has the key of a revoked certificate has
    /// answers of before that say good, and may staple them for as long as they hold: what is known to
    /// be revoked stays so for as long as that is known, and then until a later answer.
    fn learn(
        &self,
        subject: &Subject,
        answer: Answer,
        source: RevocationSource,
        now: i64,
    ) -> Result<Revocation, AnswerError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.peek(subject);
        let revoked = before.and_then(|before| before.revoked);
        let revoked = match answer.status {
            Status::Revoked => revoked.max(Some(answer.made)),
            Status::Good => {
                if let Some(Known { revocation: was @ Revocation::Revoked(_), until, .. }) = before
                    && now < *until
                {
                    return Ok(*was);
                }
                if revoked.is_some_and(|revoked| answer.made <= revoked) {
                    return Err(AnswerError::Superseded);
                }
                None
            }
        };
        let revocation = Revocation::of(answer, source);
        known.put(subject.clone(), Known { revocation, until: answer.until, revoked });
        Ok(revocation)
    }

    /// `why` it is unknown so far.
    async fn ask(
        &self,
        question: &Question<'_>,
        subject: &Subject,
        (leaf, mut why): (&CertificateDer<'_>, Why),
        now: UnixTime,
        deadline: Instant,
    ) -> Revocation {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let sources = Sources::of(leaf);
        let request = ocsp_request(leaf, question.issuer).unwrap_or_default();
        let mut unknown_lasts = UnknownLasts::default();
        for url in sources.responders.iter().filter_map(|url| url.parse().ok()) {
            let fetch = Fetch::Ocsp { url, request: Bytes(request.clone()) };
            let judged = match self.fetching.fetch(fetch.clone(), None, deadline).await {
                Ok(answer) => judge_ocsp(leaf, question.issuer, &answer, now)
                    .and_then(|answer| self.learn(subject, answer, RevocationSource::Ocsp, seconds))
                    .map_err(Why::from),
                Err(unavailable) => Err(unavailable.into()),
            };
            match judged {
                Ok(revocation) => return revocation,
                Err(error) => why = error,
            }
            unknown_lasts.and(why, self.fetching.lasts(&fetch));
        }
        for url in sources.lists.iter().filter_map(|url| url.parse().ok()) {
            let fetch = Fetch::RevocationList { url };
            let list = match self.fetching.fetch(fetch.clone(), None, deadline).await {
                Ok(list) => list,
                Err(unavailable) => {
                    why = unavailable.into();
                    unknown_lasts.and(why, self.fetching.lasts(&fetch));
                    continue;
                }
            };
            let turn = tokio::time::timeout_at(deadline, self.lists.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return Revocation::Unknown(Unavailable::Slow.into()) };
            // Who had his turn before may have asked the same.
            if let Some(known) = self.known(subject, seconds) {
                return known;
            }
            let judged = by_list(leaf, question.issuer, Arc::clone(&list), now).await;
            let learnt = judged.and_then(|answer| {
                Ok(self.learn(subject, answer, RevocationSource::List, seconds)?)
            });
            match learnt {
                Ok(revocation) => return revocation,
                Err(error) => why = error,
            }
            if matches!(why, Why::NotBelieved(_)) {
                self.fetching.disbelieved(&fetch, &list);
            }
            unknown_lasts.and(why, self.fetching.lasts(&fetch));
        }
        let unknown = Revocation::Unknown(why);
        match unknown_lasts.0 {
            Some(lasts) => self.keep(subject, unknown, seconds.saturating_add(lasts)),
            None => unknown,
        }
    }
}

/// Seconds for which every source that was asked says no more than it did. `None`: one may at once.
struct UnknownLasts(Option<i64>);

impl Default for UnknownLasts {
    fn default() -> Self {
        Self(i64::try_from(FAILURE_LASTS.as_secs()).ok())
    }
}

impl UnknownLasts {
    /// One that said nothing, why, and how long that is remembered of it.
    fn and(&mut self, why: Why, lasts: Option<Duration>) {
        // That one session had no time left, or no turn, says nothing of the next one.
        let is_passing = matches!(why, Why::NotFetched(unavailable) if unavailable.is_passing());
        let lasts = lasts.and_then(|lasts| i64::try_from(lasts.as_secs()).ok());
        self.0 = match (self.0, lasts) {
            _ if is_passing => None,
            (Some(so_far), Some(lasts)) => Some(so_far.min(lasts)),
            (so_far, _) => so_far,
        };
    }
}

/// A long list takes tens of milliseconds: not the runtime's.
async fn by_list(
    leaf: &CertificateDer<'_>,
    issuer: &Issuer,
    list: Arc<[u8]>,
    now: UnixTime,
) -> Result<Answer, Why> {
    let (leaf, issuer) = (leaf.clone().into_owned(), issuer.clone());
    let judged = tokio::task::spawn_blocking(move || judge_list(&leaf, &issuer, &list, now));
    match judged.await {
        Ok(judged) => judged.map_err(Why::from),
        Err(_) => Err(Unavailable::Slow.into()),
    }
}

#[cfg(test)]
mod tests;
