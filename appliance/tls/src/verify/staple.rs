//! What a server staples of its own certificate: an OCSP response (RFC 6960 section 4.2).
//!
//! For: seeing that a certificate is revoked. Not for: believing that one is not, and not for
//! fetching anything. The response's signature is not verified, and need not be: it came inside a
//! handshake that the certificate's own key signed, and nobody else says of that key that it must
//! not be trusted. Cannot fail: what is no such response says nothing.

use crate::certificate::Certificate;
use crate::der::{self, DerError, Reader};

/// Longest response that is read and passed on; a longer one is as if there were none.
pub const STAPLE_BOUND: usize = 16 << 10;

/// Whether the response says of this certificate that it is revoked.
pub fn says_revoked(leaf: &[u8], response: &[u8]) -> bool {
    if response.is_empty() || response.len() > STAPLE_BOUND {
        return false;
    }
    Certificate::parse(leaf).and_then(|leaf| is_revoked(leaf.serial, response)).unwrap_or_default()
}

fn is_revoked(serial: &[u8], response: &[u8]) -> Result<bool, DerError> {
    /// id-pkix-ocsp-basic.
    const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
    let mut outer = Reader(response);
    let mut fields = Reader(outer.expect(der::SEQUENCE)?.contents);
    let successful = fields.expect(der::ENUMERATED)?.contents == [0];
    if !successful {
        return Ok(false);
    }
    let mut bytes = Reader(fields.expect(der::context_constructed(0))?.contents);
    let mut bytes = Reader(bytes.expect(der::SEQUENCE)?.contents);
    if bytes.expect(der::OBJECT_IDENTIFIER)?.contents != BASIC {
        return Ok(false);
    }
    let mut basic = Reader(bytes.expect(der::OCTET_STRING)?.contents);
    let mut basic = Reader(basic.expect(der::SEQUENCE)?.contents);
    let mut data = Reader(basic.expect(der::SEQUENCE)?.contents);
    data.optional(der::context_constructed(0))?;
    data.any()?; // who answers: by name or by key
    data.expect(der::GENERALIZED_TIME)?;
    let mut answers = Reader(data.expect(der::SEQUENCE)?.contents);
    while !answers.is_empty() {
        let mut answer = Reader(answers.expect(der::SEQUENCE)?.contents);
        let mut asked = Reader(answer.expect(der::SEQUENCE)?.contents);
        asked.expect(der::SEQUENCE)?;
        asked.expect(der::OCTET_STRING)?;
        asked.expect(der::OCTET_STRING)?;
        let of_leaf = asked.expect(der::INTEGER)?.contents == serial;
        // good [0], revoked [1], unknown [2].
        if of_leaf && answer.any()?.tag == der::context_constructed(1) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An OCSP response about the certificate of serial number 5, with this status element.
    fn response(status: &[u8]) -> Vec<u8> {
        let identifier = der::element(
            der::SEQUENCE,
            &[
                &der::element(der::SEQUENCE, &[]),
                &der::element(der::OCTET_STRING, &[&[1; 20]]),
                &der::element(der::OCTET_STRING, &[&[2; 20]]),
                &der::element(der::INTEGER, &[&[5]]),
            ],
        );
        let time = der::element(der::GENERALIZED_TIME, &[b"20260101000000Z"]);
        let answer = der::element(der::SEQUENCE, &[&identifier, status, &time]);
        let answers = der::element(der::SEQUENCE, &[&answer]);
        let responder = der::element(der::context_constructed(2), &[&[4, 0]]);
        let data = der::element(der::SEQUENCE, &[&responder, &time, &answers]);
        let basic = der::element(der::SEQUENCE, &[&data]);
        let name = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
        let bytes = der::element(
            der::SEQUENCE,
            &[
                &der::element(der::OBJECT_IDENTIFIER, &[&name]),
                &der::element(der::OCTET_STRING, &[&basic]),
            ],
        );
        let successful = der::element(der::ENUMERATED, &[&[0]]);
        let bytes = der::element(der::context_constructed(0), &[&bytes]);
        der::element(der::SEQUENCE, &[&successful, &bytes])
    }

    #[test]
    fn only_a_revoked_status_of_the_same_serial_number_says_revoked() {
        let revoked = response(&[0xa1, 0]);
        assert_eq!(is_revoked(&[5], &revoked), Ok(true));
        assert_eq!(is_revoked(&[6], &revoked), Ok(false));
        assert_eq!(is_revoked(&[5], &response(&[0x80, 0])), Ok(false));
        assert_eq!(is_revoked(&[5], &response(&[0x82, 0])), Ok(false));
        // tryLater.
        assert_eq!(is_revoked(&[5], &[0x30, 3, 0x0a, 1, 3]), Ok(false));
    }

    #[test]
    fn no_prefix_of_a_response_says_anything() {
        let revoked = response(&[0xa1, 0]);
        for length in 0..revoked.len() {
            assert_ne!(is_revoked(&[5], &revoked[..length]), Ok(true), "{length}");
        }
    }
}
