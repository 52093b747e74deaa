//! A certificate taken apart (RFC 5280 section 4.1), every part as the raw bytes it came in.
//!
//! For: copying parts into a forged certificate, reading names, dates and the key. Not for:
//! verification of chains, which is webpki's. Certificates of version 1 and with odd contents are
//! read as far as their frame is right; fails by [`DerError`].

use time::{Date, Month, PrimitiveDateTime, Time};

use crate::der::{self, DerError, Element, Reader};

/// Object identifiers' contents.
pub(crate) mod oid {
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const RSA_ENCRYPTION: &[u8] =
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    pub(crate) const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(crate) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
}

#[derive(Clone, Debug)]
pub(crate) struct Certificate<'a> {
    /// The inner signature algorithm's identifier, the object identifier's contents.
    pub(crate) signature_algorithm: &'a [u8],
    /// The serial number's contents.
    pub(crate) serial: &'a [u8],
    /// Raw, a SEQUENCE.
    pub(crate) issuer: &'a [u8],
    pub(crate) validity: Validity<'a>,
    /// Raw, a SEQUENCE.
    pub(crate) subject: &'a [u8],
    /// Raw, a SEQUENCE.
    pub(crate) subject_public_key_info: &'a [u8],
    pub(crate) extensions: Vec<Extension<'a>>,
}

/// What a certificate's issuer signed, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// Raw.
    pub(crate) message: &'a [u8],
    /// AlgorithmIdentifier's contents.
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity<'a> {
    /// Raw, a SEQUENCE.
    pub(crate) raw: &'a [u8],
    /// Seconds since the Unix epoch, both inclusive.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    /// The object identifier's contents.
    pub(crate) id: &'a [u8],
    /// Of the OCTET STRING.
    pub(crate) value: &'a [u8],
    /// The whole extension, a SEQUENCE.
    pub(crate) raw: &'a [u8],
}

/// What a public key is, as far as Weir's rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    /// Bits of the modulus.
    Rsa(usize),
    Other,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut whole = Reader(der);
        let mut certificate = Reader(whole.expect(der::SEQUENCE)?.contents);
        whole.end()?;
        let mut fields = Reader(certificate.expect(der::SEQUENCE)?.contents);
        certificate.expect(der::SEQUENCE)?;
        certificate.expect(der::BIT_STRING)?;
        certificate.end()?;

        fields.optional(der::context_constructed(0))?;
        let serial = fields.expect(der::INTEGER)?.contents;
        let mut algorithm = Reader(fields.expect(der::SEQUENCE)?.contents);
        let signature_algorithm = algorithm.expect(der::OBJECT_IDENTIFIER)?.contents;
        let issuer = fields.expect(der::SEQUENCE)?.raw;
        let validity = Validity::parse(fields.expect(der::SEQUENCE)?)?;
        let subject = fields.expect(der::SEQUENCE)?.raw;
        let subject_public_key_info = fields.expect(der::SEQUENCE)?.raw;
        // issuerUniqueID and subjectUniqueID.
        fields.optional(der::context(1))?;
        fields.optional(der::context(2))?;
        let extensions = match fields.optional(der::context_constructed(3))? {
            Some(element) => Extension::parse_all(element)?,
            None => Vec::new(),
        };
        fields.end()?;
        Ok(Self {
            signature_algorithm,
            serial,
            issuer,
            validity,
            subject,
            subject_public_key_info,
            extensions,
        })
    }

    /// The first extension of this identifier.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<&Extension<'a>> {
        self.extensions.iter().find(|extension| extension.id == id)
    }

    pub(crate) fn public_key(&self) -> Result<PublicKey, DerError> {
        let mut outer = Reader(self.subject_public_key_info);
        let mut info = Reader(outer.expect(der::SEQUENCE)?.contents);
        let mut algorithm = Reader(info.expect(der::SEQUENCE)?.contents);
        if algorithm.expect(der::OBJECT_IDENTIFIER)?.contents != oid::RSA_ENCRYPTION {
            return Ok(PublicKey::Other);
        }
        // RSAPublicKey of RFC 8017 section A.1.1.
        let mut bits = Reader(public_key_bits(self.subject_public_key_info)?);
        let mut key = Reader(bits.expect(der::SEQUENCE)?.contents);
        let mut modulus = key.expect(der::INTEGER)?.contents;
        while let [0, rest @ ..] = modulus {
            modulus = rest;
        }
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        Ok(PublicKey::Rsa(modulus.len() * 8 - unused))
    }

    /// basicConstraints says cA (RFC 5280 section 4.2.1.9).
    pub(crate) fn is_authority(&self) -> bool {
        let Some(extension) = self.extension(oid::BASIC_CONSTRAINTS) else { return false };
        let mut outer = Reader(extension.value);
        let authority = outer
            .expect(der::SEQUENCE)
            .and_then(|constraints| Reader(constraints.contents).optional(der::BOOLEAN));
        matches!(authority, Ok(Some(Element { contents: [0xff], .. })))
    }

    /// keyUsage says cRLSign, or there is none (RFC 5280 section 4.2.1.3).
    pub(crate) fn may_sign_lists(&self) -> bool {
        let Some(extension) = self.extension(oid::KEY_USAGE) else { return true };
        let bits = Reader(extension.value).expect(der::BIT_STRING);
        matches!(bits, Ok(Element { contents: [_, first, ..], .. }) if first & 0x02 != 0)
    }

    /// dNSNames of the subject alternative name; without any, the subject's last common name, which
    /// is what clients of old would have looked at.
    pub(crate) fn dns_names(&self) -> Vec<String> {
        let mut names = self.alternative_names();
        if names.is_empty() {
            names.extend(self.common_name());
        }
        names
    }

    /// DNS names of the subject alternative name alone.
    pub(crate) fn alternative_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        if let Some(extension) = self.extension(oid::SUBJECT_ALTERNATIVE_NAME)
            && let Ok(list) = Reader(extension.value).expect(der::SEQUENCE)
        {
            let mut list = Reader(list.contents);
            while let Ok(name) = list.any() {
                if name.tag == der::context(2) {
                    names.push(text(name.contents));
                }
            }
        }
        names
    }

    /// The subject's last common name.
    pub(crate) fn common_name(&self) -> Option<String> {
        common_name(self.subject)
    }
}

impl<'a> Signed<'a> {
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let mut whole = Reader(der);
        let mut fields = Reader(whole.expect(der::SEQUENCE)?.contents);
        let message = fields.expect(der::SEQUENCE)?.raw;
        let algorithm = fields.expect(der::SEQUENCE)?.contents;
        match fields.expect(der::BIT_STRING)?.contents {
            [0, signature @ ..] => Ok(Self { message, algorithm, signature }),
            _ => Err(DerError::Value),
        }
    }
}

/// The names in a certificate, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The last common name of the subject, and of the issuer.
    pub subject: Option<String>,
    pub issuer: Option<String>,
    /// DNS names of the subject alternative name; without any, the subject's common name.
    pub dns: Vec<String>,
}

impl Names {
    /// `None`: these bytes are no certificate.
    pub fn of(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::parse(der).ok()?;
        Some(Self {
            subject: certificate.common_name(),
            issuer: common_name(certificate.issuer),
            dns: certificate.dns_names(),
        })
    }
}

/// A certificate's serial number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SerialNumber(Vec<u8>);

impl SerialNumber {
    /// Longest that is told: RFC 5280 section 4.1.2.2 allows 20 bytes, and some have more.
    const LONGEST: usize = 64;

    /// `None`: these bytes are no certificate, or its number is longer than any.
    pub fn of(der: &[u8]) -> Option<Self> {
        let serial = Certificate::parse(der).ok()?.serial;
        (serial.len() <= Self::LONGEST).then(|| Self(serial.to_vec()))
    }
}

/// The last common name of a raw Name.
fn common_name(name: &[u8]) -> Option<String> {
    let mut outer = Reader(name);
    let mut name = Reader(outer.expect(der::SEQUENCE).ok()?.contents);
    let mut found = None;
    while let Ok(relative) = name.expect(der::SET) {
        let mut attributes = Reader(relative.contents);
        while let Ok(attribute) = attributes.expect(der::SEQUENCE) {
            let mut attribute = Reader(attribute.contents);
            if attribute.expect(der::OBJECT_IDENTIFIER).ok()?.contents == oid::COMMON_NAME {
                found = Some(text(attribute.any().ok()?.contents));
            }
        }
    }
    found
}

impl<'a> Validity<'a> {
    fn parse(element: Element<'a>) -> Result<Self, DerError> {
        let mut times = Reader(element.contents);
        let not_before = unix_time(times.any()?)?;
        let not_after = unix_time(times.any()?)?;
        times.end()?;
        Ok(Self { raw: element.raw, not_before, not_after })
    }
}

impl<'a> Extension<'a> {
    fn parse_all(element: Element<'a>) -> Result<Vec<Self>, DerError> {
        let mut outer = Reader(element.contents);
        let mut list = Reader(outer.expect(der::SEQUENCE)?.contents);
        outer.end()?;
        let mut extensions = Vec::new();
        while !list.is_empty() {
            let element = list.expect(der::SEQUENCE)?;
            let mut fields = Reader(element.contents);
            let id = fields.expect(der::OBJECT_IDENTIFIER)?.contents;
            fields.optional(der::BOOLEAN)?;
            let value = fields.expect(der::OCTET_STRING)?.contents;
            fields.end()?;
            extensions.push(Self { id, value, raw: element.raw });
        }
        Ok(extensions)
    }
}

/// The key's bits in a raw SubjectPublicKeyInfo, without the leading count of unused ones.
pub(crate) fn public_key_bits(info: &[u8]) -> Result<&[u8], DerError> {
    let mut outer = Reader(info);
    let mut fields = Reader(outer.expect(der::SEQUENCE)?.contents);
    fields.expect(der::SEQUENCE)?;
    match fields.expect(der::BIT_STRING)?.contents {
        [0, bits @ ..] => Ok(bits),
        _ => Err(DerError::Value),
    }
}

/// UTCTime or GeneralizedTime in the forms of RFC 5280 section 4.1.2.5: with seconds, Zulu.
pub(crate) fn unix_time(element: Element<'_>) -> Result<i64, DerError> {
    let (year, rest) = match element.tag {
        der::UTC_TIME => {
            let (year, rest) = number(element.contents, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        der::GENERALIZED_TIME => number(element.contents, 4)?,
        found => return Err(DerError::Tag { expected: der::UTC_TIME, found }),
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    if rest != b"Z" {
        return Err(DerError::Time);
    }
    let small = |value: i32| u8::try_from(value).map_err(|_| DerError::Time);
    let month = Month::try_from(small(month)?).map_err(|_| DerError::Time)?;
    let date = Date::from_calendar_date(year, month, small(day)?).map_err(|_| DerError::Time)?;
    let time =
        Time::from_hms(small(hour)?, small(minute)?, small(second)?).map_err(|_| DerError::Time)?;
    Ok(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

/// `digits` decimal digits; at most four are asked for.
fn number(bytes: &[u8], digits: usize) -> Result<(i32, &[u8]), DerError> {
    let (number, rest) = bytes.split_at_checked(digits).ok_or(DerError::Time)?;
    let mut value = 0;
    for digit in number {
        if !digit.is_ascii_digit() {
            return Err(DerError::Time);
        }
        value = value * 10 + i32::from(digit - b'0');
    }
    Ok((value, rest))
}

/// What is no UTF-8 is told by its bytes: a name that nobody can read is one all the same.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
}
