//! What others say of whether a certificate is revoked: OCSP answers and lists (SPEC T12).
//!
//! For: where a certificate says that it can be asked for ([`Sources`]), what to ask, and what an
//! answer says, once its signature and its dates are right. What is asked about is any certificate of the
//! path that verified ([`super::Judged::issued`]); of several paths that there may be, that one. Not for:
//! asking. Fails by [`AnswerError`]: such an answer says nothing.

mod list;
pub(super) mod ocsp;
mod sources;

use rustls_pki_types::alg_id;
use thiserror::Error;
use webpki::ALL_VERIFICATION_ALGS;

pub use self::list::RevocationList;
pub use self::ocsp::{judge_ocsp, ocsp_request};
pub use self::sources::{SOURCES_BOUND, Sources};
use super::path::Issuer;
use crate::certificate::public_key_bits;
use crate::der::{self, DerError, Reader};

/// By how many seconds clocks may differ.
const SKEW: i64 = 300;
/// An answer is asked for again after so many seconds, whatever it says of itself.
const LASTS: i64 = 86_400;
/// One that does not say how long it holds is believed for so many seconds after it was made.
const LASTS_UNTOLD: i64 = 3600;

/// What is said of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Good,
    /// Or on hold.
    Revoked,
}

/// An answer whose signature and dates are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: Status,
    /// Seconds since the Unix epoch of its thisUpdate: of two answers the later one counts.
    pub made: i64,
    /// Seconds since the Unix epoch until which it holds.
    pub until: i64,
}

/// Why an answer says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    #[error("malformed: {0}")]
    Malformed(#[from] DerError),
    /// OCSPResponseStatus, as in `tryLater`.
    #[error("the responder has none (status {0})")]
    Refused(u8),
    #[error("it does not know the certificate")]
    Unknown,
    #[error("it is about other certificates")]
    OtherCertificate,
    #[error("it is by nobody who may answer")]
    Responder,
    #[error("its signature is wrong, or of a kind that is not believed")]
    Signature,
    #[error("it is out of its dates")]
    OutOfDate,
    /// It says good.
    #[error("a later one said that the certificate is revoked")]
    Superseded,
    #[error("it has a critical extension that is not understood")]
    CriticalExtension,
    #[error("it is of a kind that is not understood")]
    Unsupported,
}

/// When an answer holds: from its first date, for as long as it says, at most a day. `None`: not now.
fn holds_until(made: i64, next: Option<i64>, now: i64) -> Option<i64> {
    let next = next.unwrap_or_else(|| made.saturating_add(LASTS_UNTOLD));
    let began = made <= now.saturating_add(SKEW);
    let lasts = now < next.saturating_add(SKEW);
    (began && lasts).then(|| next.clamp(now.saturating_add(1), now.saturating_add(LASTS)))
}

/// Verifies a signature by the key of this SubjectPublicKeyInfo. `algorithm`: an AlgorithmIdentifier's
/// contents.
pub(super) fn verify_signature(
    info: &[u8],
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), AnswerError> {
    let mut outer = Reader(info);
    let mut fields = Reader(outer.expect(der::SEQUENCE)?.contents);
    let key_algorithm = fields.expect(der::SEQUENCE)?.contents;
    let key = public_key_bits(info)?;
    let is = |one: alg_id::AlgorithmIdentifier, other: &[u8]| one.as_ref() == other;
    let verified = ALL_VERIFICATION_ALGS
        .iter()
        .filter(|one| is(one.signature_alg_id(), algorithm))
        .filter(|one| is(one.public_key_alg_id(), key_algorithm))
        .any(|one| one.verify_signature(key, message, signature).is_ok());
    if verified { Ok(()) } else { Err(AnswerError::Signature) }
}

/// Whether one of these Extensions is critical. None of those that answers have is understood here.
fn has_critical(extensions: &[u8]) -> Result<bool, DerError> {
    let mut outer = Reader(extensions);
    let mut list = Reader(outer.expect(der::SEQUENCE)?.contents);
    let mut critical = false;
    while !list.is_empty() {
        let mut fields = Reader(list.expect(der::SEQUENCE)?.contents);
        fields.expect(der::OBJECT_IDENTIFIER)?;
        let flag = fields.optional(der::BOOLEAN)?;
        critical |= flag.is_some_and(|flag| flag.contents != [0]);
    }
    Ok(critical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_from_their_date_to_their_next_and_a_day_at_most() {
        let now = 1_000_000_000;
        assert_eq!(holds_until(now - 10, Some(now + 50), now), Some(now + 50));
        assert_eq!(holds_until(now - 10, Some(now + 10 * LASTS), now), Some(now + LASTS));
        assert_eq!(holds_until(now + SKEW, Some(now + 1000), now), Some(now + 1000));
        assert_eq!(holds_until(now + SKEW + 1, Some(now + 1000), now), None);
        assert_eq!(holds_until(now - 1000, Some(now - SKEW + 1), now), Some(now + 1));
        assert_eq!(holds_until(now - 1000, Some(now - SKEW), now), None);
        assert_eq!(holds_until(now - 10, None, now), Some(now - 10 + LASTS_UNTOLD));
        assert_eq!(holds_until(now - LASTS, None, now), None);
        assert_eq!(holds_until(i64::MAX, Some(i64::MIN), i64::MAX), None);
    }
}
