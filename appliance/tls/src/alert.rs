//! TLS alerts (RFC 8446 section 6) as a value that both stacks and both legs share.
//!
//! For: naming an alert, choosing the nearest one for the other leg, and the bytes of a fatal alert
//! for a client whose handshake has not been answered yet. Not for: alerts inside a session, which
//! only its stack can write ([`crate::TlsLeg::fatal_alert`]).

use std::fmt;

/// An alert's description, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alert(pub u8);

impl Alert {
    pub const CLOSE_NOTIFY: Self = Self(0);
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    pub const BAD_RECORD_MAC: Self = Self(20);
    pub const RECORD_OVERFLOW: Self = Self(22);
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    pub const BAD_CERTIFICATE: Self = Self(42);
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    pub const UNKNOWN_CA: Self = Self(48);
    pub const ACCESS_DENIED: Self = Self(49);
    pub const DECODE_ERROR: Self = Self(50);
    pub const DECRYPT_ERROR: Self = Self(51);
    pub const PROTOCOL_VERSION: Self = Self(70);
    pub const INSUFFICIENT_SECURITY: Self = Self(71);
    pub const INTERNAL_ERROR: Self = Self(80);
    pub const USER_CANCELED: Self = Self(90);
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// The nearest alert for the other leg's peer, when a peer sent this one on its leg.
    ///
    /// What speaks of the session as such is passed on. What speaks of bytes that Weir itself wrote
    /// on this leg would accuse the other peer of something it did not do: `internal_error`.
    pub fn for_other_side(self) -> Self {
        match self {
            Self::CLOSE_NOTIFY
            | Self::HANDSHAKE_FAILURE
            | Self::ACCESS_DENIED
            | Self::PROTOCOL_VERSION
            | Self::INSUFFICIENT_SECURITY
            | Self::USER_CANCELED
            | Self::UNRECOGNIZED_NAME
            | Self::NO_APPLICATION_PROTOCOL => self,
            // The server wants a client certificate, which Weir cannot forward (SPEC T10).
            Self::CERTIFICATE_REQUIRED => Self::HANDSHAKE_FAILURE,
            _ => Self::INTERNAL_ERROR,
        }
    }

    /// A client that does not believe the certificate it was shown says one of these.
    pub fn rejects_certificate(self) -> bool {
        // bad, unsupported, revoked, expired, unknown; unknown authority.
        matches!(self.0, 42..=46 | 48)
    }

    /// The peer found no version or suite in common, as far as its alert tells: `handshake_failure` stands for
    /// groups and signatures too.
    pub fn tells_incompatible(self) -> bool {
        matches!(
            self,
            Self::HANDSHAKE_FAILURE | Self::PROTOCOL_VERSION | Self::INSUFFICIENT_SECURITY
        )
    }

    /// A fatal alert as one unencrypted record (RFC 8446 section 5.1): valid towards a client as
    /// long as no ServerHello was sent to it.
    pub fn fatal_record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self.0]
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of IANA's registry "TLS Alerts".
        f.write_str(match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            21 => "decryption_failed",
            22 => "record_overflow",
            30 => "decompression_failure",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            60 => "export_restriction",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            111 => "certificate_unobtainable",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            114 => "bad_certificate_hash_value",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            121 => "ech_required",
            other => return write!(f, "alert {other}"),
        })
    }
}
