//! The verdict on a chain, and what it means (SPEC T7, T8).

use std::fmt;

use super::staple::says_revoked;
use crate::forge::Signer;

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Failure {
    /// The leaf's notAfter has passed.
    Expired = 1,
    /// The leaf's notBefore has not come.
    NotYetValid = 1 << 1,
    /// The leaf is within its dates, but every path has an intermediate that is not.
    IntermediateDates = 1 << 2,
    /// No path to a trust anchor.
    Untrusted = 1 << 3,
    NameMismatch = 1 << 4,
    /// A leaf, or an intermediate of its path, with an RSA key shorter than the proxy's minimum.
    WeakKey = 1 << 5,
    /// A leaf signed with MD5 or SHA-1, or, where no path was found, an intermediate so signed.
    WeakSignature = 1 << 6,
    /// A path exists but breaks a constraint: names, path length, usage, a critical extension.
    Constraint = 1 << 7,
    /// Not a certificate, or none at all.
    Malformed = 1 << 8,
    /// The server itself showed that its certificate is revoked, or its authority did.
    Revoked = 1 << 9,
    /// Policy wants to know whether the certificate is revoked, and nobody says so.
    RevocationUnknown = 1 << 10,
}

/// All failures of a chain; none: it verifies. Prints as `verified`, or the failures in words.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Verdict(u16);

/// What becomes of a session whose server showed the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The client is shown a forged certificate by this signer.
    Forge(Signer),
    /// The option "block invalid certificates" applies.
    BlockInvalid,
    /// The option "block expired certificates" applies.
    BlockExpired,
}

impl Failure {
    /// In the order they are told.
    pub const ALL: [Self; 11] = [
        Self::Expired,
        Self::NotYetValid,
        Self::IntermediateDates,
        Self::Untrusted,
        Self::NameMismatch,
        Self::WeakKey,
        Self::WeakSignature,
        Self::Constraint,
        Self::Malformed,
        Self::Revoked,
        Self::RevocationUnknown,
    ];
}

impl Verdict {
    /// With what the server stapled of its leaf, where it did.
    #[must_use]
    pub fn with_staple(mut self, leaf: &[u8], response: Option<&[u8]>) -> Self {
        let revoked = response.is_some_and(|response| says_revoked(leaf, response));
        self.add_if(revoked, Failure::Revoked);
        self
    }

    /// And this.
    #[must_use]
    pub fn with(mut self, failure: Failure) -> Self {
        self.add(failure);
        self
    }

    /// The chain verifies.
    pub fn is_verified(&self) -> bool {
        self.0 == 0
    }

    pub fn has(&self, failure: Failure) -> bool {
        self.0 & failure as u16 != 0
    }

    /// The option "block expired certificates" is about these (SPEC T8): the leaf's own dates.
    pub fn is_outside_dates(&self) -> bool {
        self.has(Failure::Expired) || self.has(Failure::NotYetValid)
    }

    /// The option "block invalid certificates" is about these (SPEC T8): everything but the leaf's
    /// own dates.
    pub fn is_invalid(&self) -> bool {
        self.0 & !(Failure::Expired as u16 | Failure::NotYetValid as u16) != 0
    }

    /// Who signs the forged certificate (SPEC T7). The leaf's dates are copied, so the client warns
    /// of them by itself under the trusted signer; of anything else only the untrusted one warns.
    pub fn signer(&self) -> Signer {
        if self.is_invalid() { Signer::Untrusted } else { Signer::Trusted }
    }

    /// A certificate that is both invalid and out of its dates is blocked by either option, as
    /// invalid first.
    pub fn action(&self, block_invalid: bool, block_expired: bool) -> Action {
        if self.is_invalid() && block_invalid {
            Action::BlockInvalid
        } else if self.is_outside_dates() && block_expired {
            Action::BlockExpired
        } else {
            Action::Forge(self.signer())
        }
    }

    /// In the order of [`Failure::ALL`].
    pub fn failures(&self) -> impl Iterator<Item = Failure> + use<> {
        let verdict = *self;
        Failure::ALL.into_iter().filter(move |failure| verdict.has(*failure))
    }

    /// Equal for equal verdicts only.
    pub fn bits(self) -> u16 {
        self.0
    }

    pub(super) fn add(&mut self, failure: Failure) {
        self.0 |= failure as u16;
    }

    pub(super) fn add_if(&mut self, condition: bool, failure: Failure) {
        if condition {
            self.add(failure);
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        Self(failure as u16)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not yet valid",
            Self::IntermediateDates => "intermediate expired or not yet valid",
            Self::Untrusted => "untrusted",
            Self::NameMismatch => "name mismatch",
            Self::WeakKey => "weak key",
            Self::WeakSignature => "weak signature",
            Self::Constraint => "constraint violated",
            Self::Malformed => "malformed",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation unknown",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_verified() {
            return f.write_str("verified");
        }
        for (index, failure) in self.failures().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            failure.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verdict({self})")
    }
}
