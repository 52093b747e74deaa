//! Parts of a session's record, made from what its legs tell.

use rustls_pki_types::CertificateDer;
use weir_api::engine::{CertificateRecord, End, FailureCause, FailureRecord, LegRecord};
use weir_policy::suites::Protocol;
use weir_tls::leg::Fault;
use weir_tls::{Alert, LegError, Names, Negotiated};

use crate::leg::LegFault;

/// What a leg negotiated.
pub fn leg_record(negotiated: &Negotiated) -> Option<LegRecord> {
    Some(LegRecord {
        // Stacks negotiate no version that is not in the list.
        version: Protocol::by_code(negotiated.version.0)?,
        suite: negotiated.suite.0,
        group: negotiated.group.as_ref().map(ToString::to_string),
        signature: negotiated.signature.as_ref().map(ToString::to_string),
        alpn: negotiated.alpn_text(),
        resumed: negotiated.resumed,
        legacy: negotiated.legacy,
    })
}

/// Names of the server's certificate, the chain's first, as many and as long as a record keeps.
pub fn certificate_record(chain: &[CertificateDer<'_>]) -> Option<CertificateRecord> {
    let names = Names::of(chain.first()?)?;
    let cut = |name: String| name.chars().take(CertificateRecord::NAME_LENGTH).collect();
    Some(CertificateRecord {
        subject: names.subject.map(cut),
        issuer: names.issuer.map(cut),
        more_names: names.dns.len().saturating_sub(CertificateRecord::NAMES),
        names: names.dns.into_iter().take(CertificateRecord::NAMES).map(cut).collect(),
    })
}

/// Of a handshake with `with`.
pub fn failure(with: End, certificate_requested: bool, fault: &LegFault) -> FailureRecord {
    let cause = match fault {
        _ if certificate_requested => FailureCause::CertificateRequested,
        LegFault::Tcp(_) => FailureCause::Reset,
        LegFault::Closed => FailureCause::Closed,
        LegFault::Slow | LegFault::Mute => FailureCause::TimedOut,
        LegFault::Tls(LegError::AlertReceived(alert)) if alert.tells_incompatible() => {
            FailureCause::Incompatible
        }
        LegFault::Tls(LegError::AlertReceived(Alert::NO_APPLICATION_PROTOCOL)) => {
            FailureCause::ApplicationProtocol
        }
        LegFault::Tls(LegError::AlertReceived(_)) => FailureCause::Alert,
        LegFault::Tls(LegError::Refused { fault, .. }) => match fault {
            Fault::Incompatible => FailureCause::Incompatible,
            Fault::NoGroupOrSignature => FailureCause::GroupOrSignature,
            Fault::NoApplicationProtocol => FailureCause::ApplicationProtocol,
            Fault::BadSignature => FailureCause::Signature,
            Fault::Malformed
            | Fault::Misbehaved
            | Fault::OversizedRecord
            | Fault::Undecryptable => FailureCause::Protocol,
        },
        LegFault::Tls(LegError::NotTls(_)) => FailureCause::Protocol,
        LegFault::Tls(LegError::Overfed | LegError::Internal(_)) => FailureCause::Internal,
    };
    FailureRecord { with, cause, words: fault.to_string() }
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn only_versions_and_suites_are_incompatible() {
        let cause = |error: LegError| failure(End::Server, false, &error.into()).cause;
        let told = |alert| cause(LegError::AlertReceived(alert));
        let refused = |fault| cause(LegError::Refused { fault, alert: Alert::HANDSHAKE_FAILURE });
        assert_eq!(told(Alert::NO_APPLICATION_PROTOCOL), FailureCause::ApplicationProtocol);
        assert_eq!(told(Alert::PROTOCOL_VERSION), FailureCause::Incompatible);
        assert_eq!(told(Alert::HANDSHAKE_FAILURE), FailureCause::Incompatible);
        assert_eq!(refused(Fault::NoApplicationProtocol), FailureCause::ApplicationProtocol);
        assert_eq!(refused(Fault::NoGroupOrSignature), FailureCause::GroupOrSignature);
        assert_eq!(refused(Fault::Incompatible), FailureCause::Incompatible);
        let words = "wrong version number".to_owned();
        assert_eq!(cause(LegError::NotTls(words)), FailureCause::Protocol);
    }

    #[test]
    fn names_are_told_whole_or_by_their_bytes_and_within_bounds() {
        let mut parameters = CertificateParams::default();
        let long = "l".repeat(300);
        for name in ["a\n\u{1b}[2J\".example", "non-UTF-8.example", &long] {
            parameters.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name).unwrap()));
        }
        for number in 0..20 {
            let name = Ia5String::try_from(format!("{number}.example")).unwrap();
            parameters.subject_alt_names.push(SanType::DnsName(name));
        }
        parameters.distinguished_name.push(DnType::CommonName, "c\r\nd");
        let key = KeyPair::generate().unwrap();
        let mut der = parameters.self_signed(&key).unwrap().der().to_vec();
        // Nobody verifies it here.
        let at = der.windows(9).position(|bytes| bytes == b"non-UTF-8").unwrap();
        der[at] = 0xff;
        let record = certificate_record(&[CertificateDer::from(der)]).unwrap();
        assert_eq!(record.subject.as_deref(), Some("c\r\nd"));
        let told = ["a\n\u{1b}[2J\".example", r"\xffon-UTF-8.example", &long[..255]];
        assert_eq!(record.names[..3], told);
        assert_eq!((record.names.len(), record.more_names), (8, 15));
    }
}
