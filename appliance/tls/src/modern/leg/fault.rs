//! What rustls refused, in the leg's own terms.
//!
//! For: sessions' records, and the alert that the other side of a session gets. An error that no
//! peer can cause is internal.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::alert::Alert;
use crate::leg::{Fault, LegError};

/// Which of our errors, and the alert that rustls has queued for it.
pub(super) fn explain(error: &Error) -> LegError {
    let refused = |fault, alert| LegError::Refused { fault, alert };
    match error {
        Error::AlertReceived(alert) => LegError::AlertReceived(Alert((*alert).into())),
        Error::InvalidMessage(message) => {
            refused(Fault::Malformed, Alert(AlertDescription::from(*message).into()))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            refused(Fault::Misbehaved, Alert::UNEXPECTED_MESSAGE)
        }
        Error::DecryptError => refused(Fault::Undecryptable, Alert::BAD_RECORD_MAC),
        Error::PeerSentOversizedRecord => refused(Fault::OversizedRecord, Alert::RECORD_OVERFLOW),
        Error::PeerIncompatible(what) => {
            let fault = if is_group_or_signature(what) {
                Fault::NoGroupOrSignature
            } else {
                Fault::Incompatible
            };
            refused(fault, Alert::HANDSHAKE_FAILURE)
        }
        Error::PeerMisbehaved(_) => refused(Fault::Misbehaved, Alert::ILLEGAL_PARAMETER),
        Error::NoCertificatesPresented => refused(Fault::Misbehaved, Alert::DECODE_ERROR),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            refused(Fault::BadSignature, Alert::DECRYPT_ERROR)
        }
        Error::InvalidCertificate(_) => refused(Fault::BadSignature, Alert::BAD_CERTIFICATE),
        Error::NoApplicationProtocol => {
            refused(Fault::NoApplicationProtocol, Alert::NO_APPLICATION_PROTOCOL)
        }
        other => LegError::Internal(other.to_string()),
    }
}

fn is_group_or_signature(what: &PeerIncompatible) -> bool {
    matches!(
        what,
        PeerIncompatible::EcPointsExtensionRequired
            | PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoEcPointFormatsInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::UncompressedEcPointsRequired
    )
}
