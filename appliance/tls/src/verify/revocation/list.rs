//! Certificate revocation lists (RFC 5280 section 5): webpki reads and verifies them.
//!
//! A list is believed that the leaf's issuer signed, that is within its dates, whole (no delta) and for
//! such certificates. Fails by [`AnswerError`].

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, BorrowedCertRevocationList, CertRevocationList, EndEntityCert, Error,
    ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::{Answer, AnswerError, Issuer, Status, holds_until};
use crate::certificate::unix_time;
use crate::der::{self, DerError, Reader};

/// What the list says of the certificate, at `now`. Its cost grows with the list's length: tens of
/// milliseconds for the longest.
///
/// # Errors
/// It says nothing that is believed.
pub fn judge_list(
    leaf: &[u8],
    issuer: &Issuer,
    list: &[u8],
    now: UnixTime,
) -> Result<Answer, AnswerError> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (made, next) = dates(list)?;
    let until = holds_until(made, Some(next), seconds).ok_or(AnswerError::OutOfDate)?;
    if !issuer.signs_lists {
        return Err(AnswerError::Responder);
    }
    let parsed = BorrowedCertRevocationList::from_der(list).map_err(|error| failed(&error))?;
    let parsed = CertRevocationList::from(parsed);
    let lists = [&parsed];
    let options =
        RevocationOptionsBuilder::new(&lists).map_err(|_| AnswerError::OtherCertificate)?;
    let options = options
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_status_policy(UnknownStatusPolicy::Deny)
        // Its dates were looked at above, with patience for clocks.
        .with_expiration_policy(ExpirationPolicy::Ignore)
        .build();
    let der = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&der).map_err(|_| DerError::Value)?;
    // The issuer is the whole path: of several paths webpki would tell the failure that it holds for
    // the most specific, and a server that sends an expired namesake hides the revocation.
    let (anchors, usage) = ([issuer.anchor()?], KeyUsage::server_auth());
    let options = Some(options);
    match leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &[], now, usage, options, None) {
        Ok(_) => Ok(Answer { status: Status::Good, made, until }),
        Err(Error::CertRevoked) => Ok(Answer { status: Status::Revoked, made, until }),
        Err(error) => Err(failed(&error)),
    }
}

/// Until when a list holds at most, in seconds since the Unix epoch; `None`: it is none.
pub fn list_lasts_until(list: &[u8]) -> Option<i64> {
    dates(list).ok().map(|(_, next)| next)
}

/// thisUpdate and nextUpdate.
fn dates(list: &[u8]) -> Result<(i64, i64), DerError> {
    let mut outer = Reader(list);
    let mut whole = Reader(outer.expect(der::SEQUENCE)?.contents);
    let mut fields = Reader(whole.expect(der::SEQUENCE)?.contents);
    fields.optional(der::INTEGER)?;
    fields.expect(der::SEQUENCE)?;
    fields.expect(der::SEQUENCE)?;
    Ok((unix_time(fields.any()?)?, unix_time(fields.any()?)?))
}

fn failed(error: &Error) -> AnswerError {
    match error {
        Error::UnknownRevocationStatus => AnswerError::OtherCertificate,
        Error::UnsupportedCriticalExtension
        | Error::UnsupportedDeltaCrl
        | Error::UnsupportedIndirectCrl
        | Error::UnsupportedRevocationReasonsPartitioning => AnswerError::CriticalExtension,
        Error::IssuerNotCrlSigner => AnswerError::Responder,
        Error::BadDer | Error::TrailingData(_) => AnswerError::Malformed(DerError::Value),
        Error::InvalidCrlSignatureForPublicKey
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => AnswerError::Signature,
        _ => AnswerError::Unsupported,
    }
}
