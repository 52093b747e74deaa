//! Which of a server proxy's certificates a client is shown (SPEC T6).
//!
//! For: server inspection, where the server's own keys are on the device. Not for: forged
//! certificates. Keys are loaded once; fails, when made, on the first pair that cannot be used.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use thiserror::Error;
use weir_policy::snapshot::CertifiedKey;

use crate::certificate::Certificate;
use crate::key::{KeyError, LegKey};

/// Certificates of one server proxy, by name. As many as the policy has (at most 1000 a device).
#[derive(Clone, Debug)]
pub struct ServerCertificates {
    default: Arc<LegKey>,
    /// Lower case, no trailing dot.
    exact: HashMap<String, Arc<LegKey>>,
    /// What follows `*.`; the asterisk is one label (RFC 9525 section 6.3).
    wildcard: HashMap<String, Arc<LegKey>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServerCertificatesError {
    #[error("no certificate")]
    Empty,
    #[error("certificate {index}: {error}")]
    Key { index: usize, error: KeyError },
}

impl ServerCertificates {
    /// The first pair is the default; a certificate that is there twice counts once; of several
    /// for one name the first wins.
    ///
    /// # Errors
    /// Where there is none, and where one cannot be used; see [`KeyError`].
    pub fn new(pairs: &[CertifiedKey]) -> Result<Self, ServerCertificatesError> {
        let mut seen = HashSet::new();
        let mut default = None;
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for (index, pair) in pairs.iter().enumerate() {
            let failed = |error| ServerCertificatesError::Key { index, error };
            let leaf = pair.chain.first().ok_or(failed(KeyError::NoCertificate))?;
            if !seen.insert(leaf) {
                continue;
            }
            let key = Arc::new(LegKey::new(pair).map_err(failed)?);
            let certificate = Certificate::parse(leaf)
                .map_err(|error| failed(KeyError::Certificate { index: 0, error }))?;
            for name in certificate.dns_names() {
                let name = normalised(&name);
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_insert(key.clone()),
                    None => exact.entry(name).or_insert(key.clone()),
                };
            }
            default.get_or_insert(key);
        }
        let default = default.ok_or(ServerCertificatesError::Empty)?;
        Ok(Self { default, exact, wildcard })
    }

    /// Whether one is of this name, exactly or by a wildcard.
    pub fn serve(&self, server_name: &str) -> bool {
        self.of(server_name).is_some()
    }

    /// The certificate for a server name as the client sent it: exact, wildcard, default.
    pub fn choose(&self, server_name: Option<&str>) -> &Arc<LegKey> {
        server_name.and_then(|name| self.of(name)).unwrap_or(&self.default)
    }

    fn of(&self, server_name: &str) -> Option<&Arc<LegKey>> {
        let name = normalised(server_name);
        self.exact.get(&name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent) }
        })
    }
}

fn normalised(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
