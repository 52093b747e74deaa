//! Protocol versions and suites of a proxy (SPEC T1, T2, P4, P9).

use super::check::Check;
use crate::document::{Text, Version};
use crate::error::shown;
use crate::layers::child;
use crate::material::KeyAlgorithm;
use crate::suites::{Allowed, Authentication, Protocol, Suite, TABLE};

/// What a proxy's section says about them.
pub(super) struct Keys<'a> {
    pub(super) protocols: Option<&'a [Version]>,
    /// Instead of those that are on by default.
    pub(super) suites: Option<&'a [Text]>,
    /// Taken away from those.
    pub(super) suites_off: &'a [Text],
}

impl Check<'_> {
    /// Suites that this device does not support are ignored, with a warning where they were named;
    /// it is an error if none is left (SPEC P9).
    pub(super) fn allowed(&mut self, at: &[String], keys: Keys<'_>) -> Allowed {
        let mut allowed = Allowed::default();
        if let Some(protocols) = keys.protocols
            && let Some(range) = self.range(&child(at, "protocols"), protocols)
        {
            (allowed.weakest, allowed.strongest) = range;
        }
        let before = self.error_count();
        if let Some(names) = keys.suites {
            allowed.suites = self.named(&child(at, "suites"), names);
        }
        let off = self.named(&child(at, "suites-off"), keys.suites_off);
        // What is left says nothing where a name that was meant is not among it.
        let misnamed = self.error_count() > before;
        allowed.suites.retain(|id| !off.contains(id));
        if keys.suites.is_some_and(<[_]>::is_empty) {
            let message = "is empty; name at least one suite, like \
                           TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
            self.error(&child(at, "suites"), message);
        } else if !misnamed && !allowed.usable().any(Suite::supported) {
            let message = format!(
                "leaves no suite that this device supports in {} to {}; `show tls-inspection \
                 ciphers` lists them",
                allowed.weakest, allowed.strongest
            );
            let key = match (keys.suites, keys.protocols) {
                (Some(_), _) => "suites",
                (None, Some(_)) if keys.suites_off.is_empty() => "protocols",
                (None, _) => "suites-off",
            };
            self.error(&child(at, key), message);
        }
        allowed
    }

    /// SPEC P4: a client proxy needs at least one suite that a server with an RSA key can use.
    pub(super) fn serves_rsa(&mut self, at: &[String], allowed: &Allowed) {
        let supported = || allowed.usable().filter(|suite| suite.supported());
        if supported().next().is_some() && !supported().any(Suite::serves_rsa) {
            let message = "allows no suite for servers with RSA certificates; a client proxy needs \
                           one at least, like TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
            self.error(&child(at, "suites"), message);
        }
    }

    /// A server proxy whose suites its certificate has no use for would decrypt nothing: sessions that
    /// cannot be answered pass by default.
    pub(super) fn serves(&mut self, at: &[String], allowed: &Allowed, key: KeyAlgorithm) {
        let supported = || allowed.usable().filter(|suite| suite.supported());
        if supported().next().is_none() || supported().any(|suite| is_served(suite, allowed, key)) {
            return;
        }
        let Allowed { weakest, strongest, .. } = allowed;
        let versions = if weakest == strongest {
            weakest.to_string()
        } else {
            format!("{weakest} to {strongest}")
        };
        let serves = |suite: &&Suite| suite.supported() && is_served(suite, allowed, key);
        let remedy = match TABLE.iter().find(serves) {
            Some(suite) => format!("allow one that does, like {}", suite.name),
            None => "allow TLS 1.2 as well".to_owned(),
        };
        let message = format!(
            "is {key}, which no suite of this server proxy serves in {versions}; {remedy}, or give \
             another certificate"
        );
        self.error(at, message);
    }

    /// SPEC T1: nothing may be missing between the weakest and the strongest.
    fn range(&mut self, at: &[String], versions: &[Version]) -> Option<(Protocol, Protocol)> {
        let weakest = versions.iter().map(|version| version.0).min();
        let strongest = versions.iter().map(|version| version.0).max();
        let (Some(weakest), Some(strongest)) = (weakest, strongest) else {
            self.error(at, "is empty; name at least one version, like TLS 1.2");
            return None;
        };
        for (index, version) in versions.iter().enumerate() {
            if versions.iter().take(index).any(|earlier| earlier.0 == version.0) {
                let message = format!("names {} again; ignored", version.0);
                self.warning(&child(at, index), message);
            }
        }
        let missing = Protocol::ALL
            .into_iter()
            .filter(|one| (weakest..=strongest).contains(one))
            .find(|one| !versions.iter().any(|version| version.0 == *one));
        if let Some(missing) = missing {
            let message = format!(
                "has {weakest} and {strongest} but not {missing}; versions must be contiguous, add \
                 {missing} or leave out what is below it"
            );
            self.error(at, message);
        }
        Some((weakest, strongest))
    }

    fn named(&mut self, at: &[String], names: &[Text]) -> Vec<u16> {
        let mut found = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let at = child(at, index);
            match Suite::by_name(name.as_str()) {
                Some(suite) if found.contains(&suite.id) => {
                    self.warning(&at, format!("names {} again; ignored", suite.name));
                }
                Some(suite) if suite.supported() => found.push(suite.id),
                // Kept: the configuration may outlive this build.
                Some(suite) => {
                    found.push(suite.id);
                    let message =
                        format!("{} is not supported by this device; ignored", suite.name);
                    self.warning(&at, message);
                }
                None if name.as_str().starts_with("TLS_") => {
                    // Names of suites are alike: a slip of the pen is within two letters.
                    let near =
                        |suite: &&Suite| strsim::osa_distance(name.as_str(), suite.name) <= 2;
                    let suggestion = TABLE.iter().find(near).map_or_else(String::new, |suite| {
                        format!("; did you mean {}?", suite.name)
                    });
                    let message = format!(
                        "{} is not supported by this device; ignored{suggestion}",
                        shown(name.as_str())
                    );
                    self.warning(&at, message);
                }
                None => {
                    let message = format!(
                        "is {}; a suite by its IANA name is expected, like \
                         TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                        shown(name.as_str())
                    );
                    self.error(&at, message);
                }
            }
        }
        found
    }
}

/// Whether a server with such a key can use the suite in some version of these bounds.
fn is_served(suite: &Suite, bounds: &Allowed, key: KeyAlgorithm) -> bool {
    let authenticates = match key {
        KeyAlgorithm::Rsa(_) => suite.serves_rsa(),
        KeyAlgorithm::P224 | KeyAlgorithm::P256 | KeyAlgorithm::P384 | KeyAlgorithm::P521 => {
            suite.authentication != Authentication::Rsa
        }
    };
    // TLS 1.3 has no signature on that curve (RFC 8446 section 4.2.3).
    let strongest = match key {
        KeyAlgorithm::P224 => bounds.strongest.min(Protocol::Tls12),
        _ => bounds.strongest,
    };
    let mut versions = Protocol::ALL.into_iter();
    authenticates
        && versions.any(|one| (bounds.weakest..=strongest).contains(&one) && suite.used_in(one))
}
