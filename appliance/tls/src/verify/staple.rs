//! What a server staples of its own certificate: an OCSP response (RFC 6960 section 4.2).
//!
//! For: seeing that a certificate is revoked. Not for: believing that one is not, for which its
//! signature counts ([`super::revocation::judge_ocsp`]). The response's signature is not verified, and need not be: it came inside a
//! handshake that the certificate's own key signed, and nobody else says of that key that it must
//! not be trusted. Cannot fail: what is no such response says nothing.

use std::time::Duration;

use rustls_pki_types::UnixTime;

use super::revocation::ocsp::{Basic, REVOKED};
use crate::certificate::Certificate;

/// Longest response that is read and passed on; a longer one is as if there were none.
pub const STAPLE_BOUND: usize = 16 << 10;

/// Longest response that is kept with a session that may be resumed; of one with a longer one none is.
pub const KEPT_STAPLE_BOUND: usize = 4 << 10;
/// How long sessions with a server are resumed after the handshake that they began with, whatever tickets
/// followed: then the server shows again what its certificate is by now, and what it staples.
pub const RESUMED_FOR: Duration = Duration::from_secs(7200);

/// How long a session may be resumed whose server showed this: no longer than its certificate is valid, and
/// its staple, which goes with the session. Nothing of either is believed by that: they only shorten.
pub fn resumed_for(leaf: &[u8], staple: Option<&[u8]>, now: UnixTime) -> Duration {
    let Ok(leaf) = Certificate::parse(leaf) else { return RESUMED_FOR };
    let next = staple.and_then(|staple| next_staple(leaf.serial, staple));
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let until = next.unwrap_or(i64::MAX).min(leaf.validity.not_after);
    // 0 where that is over.
    let seconds = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
    RESUMED_FOR.min(Duration::from_secs(seconds))
}

/// Until when the response holds for the certificate of this serial number, where it says so.
fn next_staple(serial: &[u8], response: &[u8]) -> Option<i64> {
    let basic = Basic::parse(response).ok()?;
    let mut singles = basic.singles().map_while(Result::ok);
    singles.find(|single| single.serial == serial)?.next
}

/// Whether the response says of this certificate that it is revoked.
pub fn says_revoked(leaf: &[u8], response: &[u8]) -> bool {
    if response.is_empty() || response.len() > STAPLE_BOUND {
        return false;
    }
    Certificate::parse(leaf).is_ok_and(|leaf| is_revoked(leaf.serial, response))
}

fn is_revoked(serial: &[u8], response: &[u8]) -> bool {
    let Ok(basic) = Basic::parse(response) else { return false };
    let mut singles = basic.singles().map_while(Result::ok);
    singles.any(|single| single.serial == serial && single.status == REVOKED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der;

    /// An OCSP response about the certificate of serial number 5, with this status element.
    fn response(status: &[u8]) -> Vec<u8> {
        response_until(status, None)
    }

    /// With this as its nextUpdate.
    fn response_until(status: &[u8], next: Option<&[u8]>) -> Vec<u8> {
        let identifier = der::element(
            der::SEQUENCE,
            &[
                &der::element(der::SEQUENCE, &[&[6, 1, 0x2a]]),
                &der::element(der::OCTET_STRING, &[&[1; 20]]),
                &der::element(der::OCTET_STRING, &[&[2; 20]]),
                &der::element(der::INTEGER, &[&[5]]),
            ],
        );
        let time = der::element(der::GENERALIZED_TIME, &[b"20260101000000Z"]);
        let next = next.map_or(Vec::new(), |next| {
            let next = der::element(der::GENERALIZED_TIME, &[next]);
            der::element(der::context_constructed(0), &[&next])
        });
        let answer = der::element(der::SEQUENCE, &[&identifier, status, &time, &next]);
        let answers = der::element(der::SEQUENCE, &[&answer]);
        let responder = der::element(der::context_constructed(2), &[&[4, 0]]);
        let data = der::element(der::SEQUENCE, &[&responder, &time, &answers]);
        let algorithm = der::element(der::SEQUENCE, &[]);
        let signature = der::element(der::BIT_STRING, &[&[0, 1, 2, 3]]);
        let basic = der::element(der::SEQUENCE, &[&data, &algorithm, &signature]);
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
        assert!(is_revoked(&[5], &revoked));
        assert!(!is_revoked(&[6], &revoked));
        assert!(!is_revoked(&[5], &response(&[0x80, 0])));
        assert!(!is_revoked(&[5], &response(&[0x82, 0])));
        // tryLater.
        assert!(!is_revoked(&[5], &[0x30, 3, 0x0a, 1, 3]));
    }

    #[test]
    fn staple_says_until_when_it_holds_of_its_own_certificate_only() {
        let staple = response_until(&[0x80, 0], Some(b"20260102000000Z"));
        assert_eq!(next_staple(&[5], &staple), Some(1_767_312_000));
        assert_eq!(next_staple(&[6], &staple), None);
        assert_eq!(next_staple(&[5], &response(&[0x80, 0])), None);
    }

    #[test]
    fn no_prefix_of_a_response_says_anything() {
        let revoked = response(&[0xa1, 0]);
        for length in 0..revoked.len() {
            assert!(!is_revoked(&[5], &revoked[..length]), "{length}");
        }
    }
}
