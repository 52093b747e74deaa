//! Certificate revocation lists (RFC 5280 section 5): verified once, and kept as the numbers of what they
//! revoke.
//!
//! For: [`RevocationList`]. A list is believed that the certificate's issuer signed, that is within its
//! dates, whole and for such certificates. webpki reads it: deltas, indirect lists, those for some reasons
//! only, and critical extensions that it does not know are refused. Fails by [`AnswerError`].

use rustls_pki_types::UnixTime;
use webpki::{BorrowedCertRevocationList, CertRevocationList, Error};

use super::sources::{distribution_points, locations};
use super::{Answer, AnswerError, Issuer, Status, holds_until, verify_signature};
use crate::certificate::{Certificate, Signed, unix_time};
use crate::der::{self, DerError, Reader};

/// A list whose signature is right. It takes no more memory than its bytes did.
#[derive(Debug)]
pub struct RevocationList {
    /// thisUpdate and nextUpdate, in seconds since the Unix epoch.
    made: i64,
    next: i64,
    scope: Scope,
    revoked: Serials,
}

impl RevocationList {
    /// Its cost grows with the list's length: tens of milliseconds for one of some megabytes.
    ///
    /// # Errors
    /// It says nothing that is believed, of no certificate.
    pub fn read(list: &[u8], issuer: &Issuer) -> Result<Self, AnswerError> {
        let (made, next) = dates(list)?;
        if !issuer.signs_lists {
            return Err(AnswerError::Responder);
        }
        let parsed = BorrowedCertRevocationList::from_der(list).map_err(|error| failed(&error))?;
        let parsed = CertRevocationList::from(parsed);
        if parsed.issuer() != Reader(&issuer.name).expect(der::SEQUENCE)?.contents {
            return Err(AnswerError::OtherCertificate);
        }
        let Signed { message, algorithm, signature } = Signed::parse(list)?;
        verify_signature(&issuer.key, algorithm, message, signature)?;
        let scope = match parsed.issuing_distribution_point() {
            Some(point) => Scope::parse(point)?,
            None => Scope::default(),
        };
        let CertRevocationList::Borrowed(entries) = &parsed else {
            return Err(AnswerError::Unsupported);
        };
        let numbers = entries.into_iter().map(|entry| entry.map(|entry| entry.serial_number));
        let numbers: Result<Vec<&[u8]>, Error> = numbers.collect();
        let revoked = Serials::new(numbers.map_err(|error| failed(&error))?)?;
        Ok(Self { made, next, scope, revoked })
    }

    /// What it says of a certificate of the issuer's, at `now`.
    ///
    /// # Errors
    /// It is out of its dates, or for other certificates.
    pub fn says(&self, certificate: &[u8], now: UnixTime) -> Result<Answer, AnswerError> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let until =
            holds_until(self.made, Some(self.next), seconds).ok_or(AnswerError::OutOfDate)?;
        let certificate = Certificate::parse(certificate)?;
        if !self.scope.covers(&certificate) {
            return Err(AnswerError::OtherCertificate);
        }
        let is_revoked = self.revoked.has(certificate.serial);
        let status = if is_revoked { Status::Revoked } else { Status::Good };
        Ok(Answer { status, made: self.made, until })
    }

    /// When its authority signs the next one at the latest, in seconds since the Unix epoch.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let points =
            self.scope.points.iter().flatten().map(|point| size_of::<Vec<u8>>() + point.len());
        size_of::<Self>() + points.sum::<usize>() + self.revoked.weight()
    }
}

/// For which certificates a list is (RFC 5280 section 5.2.5).
#[derive(Debug, Default)]
struct Scope {
    only_users: bool,
    only_authorities: bool,
    /// For those that name one of these URIs, or none at all; `None`: for all.
    points: Option<Vec<Vec<u8>>>,
}

impl Scope {
    /// Of an IssuingDistributionPoint that webpki has read, which refuses whatever else may be set in it.
    fn parse(value: &[u8]) -> Result<Self, DerError> {
        const POINT: u8 = der::context_constructed(0);
        const ONLY_USERS: u8 = der::context(1);
        const ONLY_AUTHORITIES: u8 = der::context(2);
        let mut outer = Reader(value);
        let mut fields = Reader(outer.expect(der::SEQUENCE)?.contents);
        let mut scope = Self::default();
        while !fields.is_empty() {
            let field = fields.any()?;
            match field.tag {
                POINT => {
                    let points = locations(field.contents)?;
                    scope.points = Some(points.into_iter().map(<[u8]>::to_vec).collect());
                }
                ONLY_USERS => scope.only_users = field.contents != [0],
                ONLY_AUTHORITIES => scope.only_authorities = field.contents != [0],
                _ => {}
            }
        }
        Ok(scope)
    }

    fn covers(&self, certificate: &Certificate<'_>) -> bool {
        let excluded =
            if certificate.is_authority() { self.only_users } else { self.only_authorities };
        let Some(points) = &self.points else { return !excluded };
        let named = distribution_points(certificate);
        let is_named =
            |named: Vec<&[u8]>| named.iter().any(|one| points.iter().any(|point| point == one));
        !excluded && named.is_none_or(is_named)
    }
}

/// Serial numbers, sorted, one after the other.
#[derive(Debug)]
struct Serials {
    bytes: Box<[u8]>,
    /// Where each ends.
    ends: Box<[u32]>,
}

impl Serials {
    fn new(mut numbers: Vec<&[u8]>) -> Result<Self, DerError> {
        numbers.sort_unstable();
        numbers.dedup();
        let mut bytes = Vec::with_capacity(numbers.iter().map(|number| number.len()).sum());
        let mut ends = Vec::with_capacity(numbers.len());
        for number in numbers {
            bytes.extend_from_slice(number);
            ends.push(u32::try_from(bytes.len()).map_err(|_| DerError::Length)?);
        }
        Ok(Self { bytes: bytes.into(), ends: ends.into() })
    }

    fn at(&self, place: usize) -> Option<&[u8]> {
        let before = place.checked_sub(1).map_or(Some(&0), |before| self.ends.get(before))?;
        let (from, until) = (usize::try_from(*before), usize::try_from(*self.ends.get(place)?));
        self.bytes.get(from.ok()?..until.ok()?)
    }

    fn has(&self, number: &[u8]) -> bool {
        let (mut from, mut until) = (0, self.ends.len());
        while from < until {
            let middle = from.midpoint(until);
            match self.at(middle).map(|one| one.cmp(number)) {
                Some(std::cmp::Ordering::Less) => from = middle.saturating_add(1),
                Some(std::cmp::Ordering::Greater) => until = middle,
                Some(std::cmp::Ordering::Equal) => return true,
                None => return false,
            }
        }
        false
    }

    fn weight(&self) -> usize {
        self.bytes.len().saturating_add(size_of_val(&*self.ends))
    }
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
        Error::UnsupportedCriticalExtension
        | Error::UnsupportedDeltaCrl
        | Error::UnsupportedIndirectCrl
        | Error::UnsupportedRevocationReasonsPartitioning => AnswerError::CriticalExtension,
        Error::BadDer | Error::TrailingData(_) => AnswerError::Malformed(DerError::Value),
        _ => AnswerError::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_are_listed_are_found() {
        let numbers: Vec<Vec<u8>> = (0u16..999)
            .map(|number| number.to_be_bytes()[usize::from(number < 256)..].to_vec())
            .collect();
        let even = numbers.iter().step_by(2).rev().chain([&numbers[0]]).map(Vec::as_slice);
        let serials = Serials::new(even.collect()).unwrap();
        assert_eq!(serials.ends.len(), 500, "none twice");
        for (place, number) in numbers.iter().enumerate() {
            assert_eq!(serials.has(number), place % 2 == 0, "{number:?}");
        }
        assert!(!serials.has(&[]) && !serials.has(&[0, 0]) && !serials.has(&[255; 3]));
        let none = Serials::new(Vec::new()).unwrap();
        assert!(!none.has(&[1]) && !none.has(&[]));
    }
}
