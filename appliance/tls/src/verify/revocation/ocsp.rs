//! OCSP (RFC 6960, in the profile of RFC 5019): a request for one certificate, and its answer.
//!
//! An answer is believed that the certificate's issuer signed, or a certificate that the issuer signed
//! for that purpose (id-kp-OCSPSigning). Of such a certificate it is not asked whether it is revoked
//! itself. No nonces: responders sign ahead. Fails by [`AnswerError`].

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use super::{Answer, AnswerError, Issuer, Status, has_critical, holds_until, verify_signature};
use crate::certificate::{Certificate, public_key_bits, unix_time};
use crate::der::{self, DerError, Element, Reader};

/// id-sha1 and id-sha256.
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// id-pkix-ocsp-basic.
const BASIC_OID: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// id-kp-OCSPSigning.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// Certificates of an answer that are looked at; what comes after is ignored.
const CERTIFICATES: usize = 4;

/// Asks of this certificate. SHA-1 names it, as responders expect (RFC 5019 section 2.1.1), and proves
/// nothing: whoever finds another certificate for the same hash has no answer signed for it. `None`:
/// these bytes are no certificate.
pub fn ocsp_request(certificate: &[u8], issuer: &Issuer) -> Option<Vec<u8>> {
    let certificate = Certificate::parse(certificate).ok()?;
    let hashed = |bytes| digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let (name, key) = (hashed(&issuer.name), hashed(public_key_bits(&issuer.key).ok()?));
    let identifier = der::element(
        der::SEQUENCE,
        &[
            &der::element(
                der::SEQUENCE,
                &[&der::element(der::OBJECT_IDENTIFIER, &[SHA1_OID]), &[0x05, 0]],
            ),
            &der::element(der::OCTET_STRING, &[name.as_ref()]),
            &der::element(der::OCTET_STRING, &[key.as_ref()]),
            &der::element(der::INTEGER, &[certificate.serial]),
        ],
    );
    let request = der::element(der::SEQUENCE, &[&identifier]);
    let list = der::element(der::SEQUENCE, &[&request]);
    Some(der::element(der::SEQUENCE, &[&der::element(der::SEQUENCE, &[&list])]))
}

/// What the answer says of the certificate, at `now`.
///
/// # Errors
/// It says nothing that is believed.
pub fn judge_ocsp(
    certificate: &[u8],
    issuer: &Issuer,
    answer: &[u8],
    now: UnixTime,
) -> Result<Answer, AnswerError> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let serial = Certificate::parse(certificate)?.serial;
    let basic = Basic::parse(answer)?;
    if basic.critical {
        return Err(AnswerError::CriticalExtension);
    }
    let mut found = Err(AnswerError::OtherCertificate);
    for single in basic.singles() {
        let single = single?;
        if single.serial != serial || !single.is_by(issuer)? {
            continue;
        }
        found = match (single.critical, holds_until(single.made, single.next, seconds)) {
            (true, _) => Err(AnswerError::CriticalExtension),
            (false, None) => Err(AnswerError::OutOfDate),
            (false, Some(until)) => {
                let made = single.made;
                match single.status {
                    GOOD => Ok(Answer { status: Status::Good, made, until }),
                    REVOKED => Ok(Answer { status: Status::Revoked, made, until }),
                    _ => Err(AnswerError::Unknown),
                }
            }
        };
        // Of several, one that says that it is revoked decides.
        if matches!(found, Ok(Answer { status: Status::Revoked, .. })) {
            break;
        }
    }
    let found = found?;
    basic.verify(issuer, now)?;
    Ok(found)
}

/// Tags of CertStatus; `unknown` has number 2.
const GOOD: u8 = der::context(0);
pub(in crate::verify) const REVOKED: u8 = der::context_constructed(1);

/// A BasicOCSPResponse taken apart, nothing of it verified.
pub(in crate::verify) struct Basic<'a> {
    /// What is signed.
    signed: &'a [u8],
    responder: Element<'a>,
    singles: &'a [u8],
    critical: bool,
    /// AlgorithmIdentifier's contents.
    algorithm: &'a [u8],
    signature: &'a [u8],
    certificates: Vec<&'a [u8]>,
}

/// One certificate's status.
pub(in crate::verify) struct Single<'a> {
    hash: &'a [u8],
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    pub(in crate::verify) serial: &'a [u8],
    /// The tag of CertStatus.
    pub(in crate::verify) status: u8,
    made: i64,
    pub(in crate::verify) next: Option<i64>,
    critical: bool,
}

impl<'a> Basic<'a> {
    pub(in crate::verify) fn parse(response: &'a [u8]) -> Result<Self, AnswerError> {
        let mut outer = Reader(response);
        let mut fields = Reader(outer.expect(der::SEQUENCE)?.contents);
        outer.end()?;
        match fields.expect(der::ENUMERATED)?.contents {
            [0] => {}
            [status] => return Err(AnswerError::Refused(*status)),
            _ => return Err(DerError::Value.into()),
        }
        let mut bytes = Reader(fields.expect(der::context_constructed(0))?.contents);
        let mut bytes = Reader(bytes.expect(der::SEQUENCE)?.contents);
        if bytes.expect(der::OBJECT_IDENTIFIER)?.contents != BASIC_OID {
            return Err(DerError::Value.into());
        }
        let mut basic = Reader(bytes.expect(der::OCTET_STRING)?.contents);
        let mut basic = Reader(basic.expect(der::SEQUENCE)?.contents);
        let signed = basic.expect(der::SEQUENCE)?;
        let algorithm = basic.expect(der::SEQUENCE)?.contents;
        let [0, signature @ ..] = basic.expect(der::BIT_STRING)?.contents else {
            return Err(DerError::Value.into());
        };
        let mut certificates = Vec::new();
        if let Some(element) = basic.optional(der::context_constructed(0))? {
            let mut list = Reader(Reader(element.contents).expect(der::SEQUENCE)?.contents);
            while !list.is_empty() && certificates.len() < CERTIFICATES {
                certificates.push(list.expect(der::SEQUENCE)?.raw);
            }
        }
        let mut data = Reader(signed.contents);
        data.optional(der::context_constructed(0))?;
        let responder = data.any()?;
        data.expect(der::GENERALIZED_TIME)?;
        let singles = data.expect(der::SEQUENCE)?.contents;
        let critical = match data.optional(der::context_constructed(1))? {
            Some(extensions) => has_critical(extensions.contents)?,
            None => false,
        };
        let signed = signed.raw;
        Ok(Self { signed, responder, singles, critical, algorithm, signature, certificates })
    }

    /// Ends with the first that is malformed.
    pub(in crate::verify) fn singles(&self) -> impl Iterator<Item = Result<Single<'a>, DerError>> {
        let mut rest = Reader(self.singles);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let single = rest.expect(der::SEQUENCE).and_then(Single::parse);
            if single.is_err() {
                rest = Reader(&[]);
            }
            Some(single)
        })
    }

    /// By the issuer's own key, or by a certificate of the issuer's for this purpose.
    fn verify(&self, issuer: &Issuer, now: UnixTime) -> Result<(), AnswerError> {
        if self.is_by(&issuer.name, &issuer.key)? {
            return self.verify_by(&issuer.key);
        }
        for der in &self.certificates {
            let certificate = Certificate::parse(der)?;
            let key = certificate.subject_public_key_info;
            if self.is_by(certificate.subject, key)? && is_delegate(der, issuer, now)? {
                return self.verify_by(key);
            }
        }
        Err(AnswerError::Responder)
    }

    fn verify_by(&self, key: &[u8]) -> Result<(), AnswerError> {
        verify_signature(key, self.algorithm, self.signed, self.signature)
    }

    /// Whether the answer says that who has this name, or this key, made it.
    fn is_by(&self, name: &[u8], key: &[u8]) -> Result<bool, DerError> {
        let mut inside = Reader(self.responder.contents);
        match self.responder.tag {
            tag if tag == der::context_constructed(1) => {
                Ok(inside.expect(der::SEQUENCE)?.raw == name)
            }
            tag if tag == der::context_constructed(2) => {
                let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, public_key_bits(key)?);
                Ok(inside.expect(der::OCTET_STRING)?.contents == hash.as_ref())
            }
            found => Err(DerError::Tag { expected: der::context_constructed(1), found }),
        }
    }
}

impl<'a> Single<'a> {
    fn parse(element: Element<'a>) -> Result<Self, DerError> {
        let mut fields = Reader(element.contents);
        let mut identifier = Reader(fields.expect(der::SEQUENCE)?.contents);
        let mut algorithm = Reader(identifier.expect(der::SEQUENCE)?.contents);
        let hash = algorithm.expect(der::OBJECT_IDENTIFIER)?.contents;
        let issuer_name = identifier.expect(der::OCTET_STRING)?.contents;
        let issuer_key = identifier.expect(der::OCTET_STRING)?.contents;
        let serial = identifier.expect(der::INTEGER)?.contents;
        let status = fields.any()?.tag;
        let made = unix_time(fields.any()?)?;
        let next = match fields.optional(der::context_constructed(0))? {
            Some(time) => Some(unix_time(Reader(time.contents).any()?)?),
            None => None,
        };
        let critical = match fields.optional(der::context_constructed(1))? {
            Some(extensions) => has_critical(extensions.contents)?,
            None => false,
        };
        Ok(Self { hash, issuer_name, issuer_key, serial, status, made, next, critical })
    }

    fn is_by(&self, issuer: &Issuer) -> Result<bool, DerError> {
        let algorithm: &Algorithm = match self.hash {
            SHA1_OID => &SHA1_FOR_LEGACY_USE_ONLY,
            SHA256_OID => &SHA256,
            _ => return Ok(false),
        };
        let name = digest(algorithm, &issuer.name);
        let key = digest(algorithm, public_key_bits(&issuer.key)?);
        Ok(name.as_ref() == self.issuer_name && key.as_ref() == self.issuer_key)
    }
}

/// Whether the issuer signed this certificate for answers, and it is within its dates.
fn is_delegate(der: &[u8], issuer: &Issuer, now: UnixTime) -> Result<bool, DerError> {
    let der = CertificateDer::from(der);
    let Ok(certificate) = EndEntityCert::try_from(&der) else { return Ok(false) };
    let (anchors, usage) = ([issuer.anchor()?], KeyUsage::required(OCSP_SIGNING));
    let path =
        certificate.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &[], now, usage, None, None);
    Ok(path.is_ok())
}
