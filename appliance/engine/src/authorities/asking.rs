//! Asks whether one certificate is revoked, in an order and within a time.
//!
//! For: what the server stapled of it, what is known, its responders, its authority's list, one after the
//! other until one is believed. Not for: which certificates are asked about ([`super`]). Fails by
//! [`Why`]: it is unknown.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use tokio::time::Instant;
use weir_api::engine::RevocationSource;
use weir_api::fetch::{Bytes, Fetch};
use weir_tls::SerialNumber;
use weir_tls::verify::Issuer;
use weir_tls::verify::revocation::{Sources, judge_ocsp, ocsp_request};

use super::fetching::FAILURE_LASTS;
use super::known::Subject;
use super::{Authorities, Revocation, Why};

/// A certificate of a path that verified.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// In DER.
    pub certificate: &'a [u8],
    pub issuer: &'a Issuer,
    /// The OCSP answer that the server sent along.
    pub staple: Option<&'a [u8]>,
}

impl Authorities {
    /// A staple that is believed is known then: servers staple nothing when they resume.
    pub(super) async fn answer(
        &self,
        question: Question<'_>,
        now: UnixTime,
        deadline: Instant,
    ) -> Revocation {
        let Question { certificate, issuer, staple } = question;
        let Some(serial) = SerialNumber::of(certificate) else {
            return Revocation::Unknown(Why::NoSource);
        };
        let subject = Subject { issuer: issuer.digest(), serial };
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut why = Why::NoSource;
        if let Some(staple) = staple {
            let source = RevocationSource::Staple;
            let judged = judge_ocsp(certificate, issuer, staple, now)
                .and_then(|answer| self.known.learn(&subject, answer, source, seconds));
            match judged {
                Ok(revocation) => return revocation,
                Err(error) => why = error.into(),
            }
        }
        if let Some(known) = self.known.find(&subject, seconds) {
            return known;
        }
        self.ask((certificate, issuer), &subject, why, now, deadline).await
    }

    /// `why` it is unknown so far.
    async fn ask(
        &self,
        (certificate, issuer): (&[u8], &Issuer),
        subject: &Subject,
        mut why: Why,
        now: UnixTime,
        deadline: Instant,
    ) -> Revocation {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let sources = Sources::of(certificate);
        let request = ocsp_request(certificate, issuer).unwrap_or_default();
        let mut unknown_lasts = UnknownLasts::default();
        for url in sources.responders.iter().filter_map(|url| url.parse().ok()) {
            let fetch = Fetch::Ocsp { url, request: Bytes(request.clone()) };
            let judged = match self.fetching.fetch(fetch.clone(), None, deadline).await {
                Ok(answer) => judge_ocsp(certificate, issuer, &answer, now)
                    .and_then(|answer| {
                        self.known.learn(subject, answer, RevocationSource::Ocsp, seconds)
                    })
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
            let (list, lasts) = self.lists.get(&self.fetching, &fetch, issuer, now, deadline).await;
            let learnt = list.and_then(|list| {
                let answer = list.says(certificate, now)?;
                Ok(self.known.learn(subject, answer, RevocationSource::List, seconds)?)
            });
            match learnt {
                Ok(revocation) => return revocation,
                Err(error) => why = error,
            }
            unknown_lasts.and(why, lasts);
        }
        match unknown_lasts.0 {
            Some(lasts) => self.known.keep_unknown(subject, why, seconds, lasts),
            None => Revocation::Unknown(why),
        }
    }
}

/// Seconds for which every source that was asked says no more than it did. `None`: one may at once.
pub(super) struct UnknownLasts(pub(super) Option<i64>);

impl Default for UnknownLasts {
    fn default() -> Self {
        Self(i64::try_from(FAILURE_LASTS.as_secs()).ok())
    }
}

impl UnknownLasts {
    /// One that said nothing, why, and how long that is remembered of it.
    pub(super) fn and(&mut self, why: Why, lasts: Option<Duration>) {
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
