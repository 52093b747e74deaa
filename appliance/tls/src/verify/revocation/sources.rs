//! Where a certificate says that its issuer, and whether it is revoked, can be asked for.
//!
//! The URLs are whatever who made the certificate wrote: bounded here in number and length, and read
//! into a type by whom they are for. Cannot fail: what is malformed names nothing.

use crate::certificate::Certificate;
use crate::der::{self, DerError, Reader};

/// URLs of each kind that are told; what comes after is ignored.
pub const SOURCES_BOUND: usize = 2;
/// URIs that are looked at in one list of names, or one certificate's points: each of a certificate's is
/// compared with each of a list's. A list with more is malformed; of a certificate the others are ignored.
const LOCATIONS: usize = 16;
/// Longest URL that is told.
const LONGEST: usize = 1024;

/// id-pe-authorityInfoAccess, id-ce-cRLDistributionPoints.
const AUTHORITY_INFORMATION_ACCESS: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x01];
const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 0x1f];
/// id-ad-ocsp, id-ad-caIssuers.
const OCSP: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01];
const CA_ISSUERS: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x02];

/// URLs by HTTP, at most [`SOURCES_BOUND`] of each kind, in the certificate's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Where its issuer's certificate is.
    pub issuers: Vec<String>,
    pub responders: Vec<String>,
    pub lists: Vec<String>,
}

impl Sources {
    pub fn of(der: &[u8]) -> Self {
        Certificate::parse(der).map(|certificate| Self::named_by(&certificate)).unwrap_or_default()
    }

    pub(in crate::verify) fn named_by(certificate: &Certificate<'_>) -> Self {
        let mut sources = Self::default();
        if let Some(extension) = certificate.extension(AUTHORITY_INFORMATION_ACCESS) {
            // What stands before a malformed one counts.
            let _ = sources.read_access(extension.value);
        }
        for url in distribution_points(certificate).unwrap_or_default() {
            add(&mut sources.lists, url);
        }
        sources
    }

    fn read_access(&mut self, value: &[u8]) -> Result<(), DerError> {
        let mut outer = Reader(value);
        let mut list = Reader(outer.expect(der::SEQUENCE)?.contents);
        while !list.is_empty() {
            let mut description = Reader(list.expect(der::SEQUENCE)?.contents);
            let method = description.expect(der::OBJECT_IDENTIFIER)?.contents;
            let location = description.any()?;
            let kind = match method {
                OCSP => &mut self.responders,
                CA_ISSUERS => &mut self.issuers,
                _ => continue,
            };
            if location.tag == URI {
                add(kind, location.contents);
            }
        }
        Ok(())
    }
}

/// URIs, of any kind, where the certificate says that its list is. `None`: it does not say. What stands
/// before what is malformed counts.
pub(super) fn distribution_points<'a>(certificate: &Certificate<'a>) -> Option<Vec<&'a [u8]>> {
    let extension = certificate.extension(CRL_DISTRIBUTION_POINTS)?;
    let mut urls = Vec::new();
    let _ = read_points(extension.value, &mut urls);
    Some(urls)
}

/// Points for some reasons only, or of lists that another authority signs, are left out.
fn read_points<'a>(value: &'a [u8], urls: &mut Vec<&'a [u8]>) -> Result<(), DerError> {
    let mut outer = Reader(value);
    let mut list = Reader(outer.expect(der::SEQUENCE)?.contents);
    while !list.is_empty() {
        let mut point = Reader(list.expect(der::SEQUENCE)?.contents);
        let Some(name) = point.optional(der::context_constructed(0))? else { continue };
        if point.is_empty() {
            let room = LOCATIONS.saturating_sub(urls.len());
            urls.extend(locations(name.contents)?.into_iter().take(room));
        }
    }
    Ok(())
}

/// URIs among the full names of a DistributionPointName.
pub(super) fn locations(name: &[u8]) -> Result<Vec<&[u8]>, DerError> {
    let mut urls = Vec::new();
    let Some(full) = Reader(name).optional(der::context_constructed(0))? else { return Ok(urls) };
    let mut names = Reader(full.contents);
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag == URI {
            if urls.len() == LOCATIONS {
                return Err(DerError::Length);
            }
            urls.push(name.contents);
        }
    }
    Ok(urls)
}

/// GeneralName's uniformResourceIdentifier.
const URI: u8 = der::context(6);

fn add(urls: &mut Vec<String>, url: &[u8]) {
    let scheme = url.get(..7).unwrap_or_default();
    let is_http = scheme.eq_ignore_ascii_case(b"http://");
    let is_text = url.iter().all(u8::is_ascii_graphic);
    if is_http && is_text && url.len() <= LONGEST && urls.len() < SOURCES_BOUND {
        urls.extend(String::from_utf8(url.to_vec()));
    }
}
