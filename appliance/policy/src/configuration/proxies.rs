//! Server and client proxies: certificates that fit (SPEC T6, P3, P4).

use std::collections::HashSet;

use super::MAX_CERTIFICATES;
use super::check::{Check, path};
use super::suites::Keys;
use crate::document::{ClientProxySection, KeyPairSection, Ports, ServerProxySection, networks};
use crate::layers::child;
use crate::material::{CertifiedKeyError, IdentifiedKey};
use crate::secret::SecretBytes;
use crate::snapshot::{
    CertifiedKey, ClientProxy, LEARNT_BYPASS_TIME, MINIMUM_RSA_KEY_LENGTH, PortRange, Revocation,
    RevocationUnknown, ServerProxy,
};
use crate::suites::Allowed;

impl Check<'_> {
    /// The proxies, and their certificates' descriptions.
    pub(super) fn server_proxies(
        &mut self,
        sections: &[ServerProxySection],
    ) -> (Vec<ServerProxy>, Vec<Vec<String>>) {
        let count = sections.iter().map(|section| section.certificates.len()).sum::<usize>();
        if count > MAX_CERTIFICATES {
            let message = format!(
                "have {count} certificates together; at most {MAX_CERTIFICATES} are allowed"
            );
            self.error(&["server-proxies".to_owned()], message);
            return (Vec::new(), Vec::new());
        }
        let proxies = sections.iter().enumerate().map(|(index, section)| {
            let at = path(["server-proxies"], index);
            if section.destinations.is_empty() {
                let message = "is empty; name the servers' addresses (0.0.0.0/0 for any)";
                self.error(&child(&at, "destinations"), message);
            }
            self.ports(&at, &section.detection_ports);
            let allowed = self.allowed(
                &at,
                Keys {
                    protocols: section.protocols.as_deref(),
                    suites: section.suites.as_deref(),
                    suites_off: &section.suites_off,
                },
            );
            let certificates = self.server_certificates(&at, section, &allowed);
            let descriptions = certificates.iter().map(|key| self.describe(key)).collect();
            let proxy = ServerProxy {
                name: section.name.0.clone(),
                destinations: networks(&section.destinations),
                detection_ports: ranges(&section.detection_ports),
                service: section.service,
                certificates,
                reset_server_on_block: section.reset_server_on_block,
                logging: section.logging,
                downgrade_http2: section.downgrade_http2,
                allowed,
                on_client_certificate_request: section.on_client_certificate_request,
                learnt_bypass_time: self.learnt_bypass_time(&at, section.learnt_bypass_time),
            };
            (proxy, descriptions)
        });
        proxies.collect::<Vec<_>>().into_iter().unzip()
    }

    /// Duplicates are dropped; all RSA or all ECDSA (SPEC T6), and each of use with what is allowed.
    fn server_certificates(
        &mut self,
        at: &[String],
        section: &ServerProxySection,
        allowed: &Allowed,
    ) -> Vec<CertifiedKey> {
        let at = child(at, "certificates");
        if section.certificates.is_empty() {
            self.error(&at, "is empty; at least one certificate with its key is expected");
        }
        let mut leaves = HashSet::new();
        let mut keys = Vec::<IdentifiedKey>::new();
        for (index, pair) in section.certificates.iter().enumerate() {
            let at = child(&at, index);
            let Some(key) = self.key_pair(&at, pair) else { continue };
            if let Some(first) = keys.first()
                && first.algorithm.is_rsa() != key.algorithm.is_rsa()
            {
                let name = |rsa| if rsa { "RSA" } else { "ECDSA" };
                let message = format!(
                    "is an {} certificate, the first of this server proxy is {}; a server proxy \
                     uses one kind, make a second server proxy for the other",
                    name(key.algorithm.is_rsa()),
                    name(first.algorithm.is_rsa()),
                );
                self.error(&child(&at, "certificate"), message);
            }
            self.serves(&child(&at, "certificate"), allowed, key.algorithm);
            if leaves.insert(key.certified.chain.first().cloned()) {
                keys.push(key);
            }
        }
        keys.into_iter().map(|key| key.certified).collect()
    }

    /// The proxies, and their signing certificates' descriptions.
    pub(super) fn client_proxies(
        &mut self,
        sections: &[ClientProxySection],
    ) -> (Vec<ClientProxy>, Vec<String>) {
        let proxies = sections.iter().enumerate().map(|(index, section)| {
            let at = path(["client-proxies"], index);
            self.ports(&at, &section.detection_ports);
            let signing_certificate = self.signing_certificate(&at, section);
            let description = self.describe(&signing_certificate);
            let allowed = self.allowed(
                &at,
                Keys {
                    protocols: section.protocols.as_deref(),
                    suites: section.suites.as_deref(),
                    suites_off: &section.suites_off,
                },
            );
            self.serves_rsa(&at, &allowed);
            let proxy = ClientProxy {
                name: section.name.0.clone(),
                detection_ports: ranges(&section.detection_ports),
                service: section.service,
                signing_certificate,
                block_invalid_certificates: section.block_invalid_certificates,
                block_expired_certificates: section.block_expired_certificates,
                reset_client_on_block: section.reset_client_on_block,
                logging: section.logging,
                downgrade_http2: section.downgrade_http2,
                on_encrypted_client_hello: section.on_encrypted_client_hello,
                on_client_certificate_request: section.on_client_certificate_request,
                on_pinned_client: section.on_pinned_client,
                learnt_bypass_time: self.learnt_bypass_time(&at, section.learnt_bypass_time),
                revocation: section.revocation,
                revocation_unknown: self.revocation_unknown(&at, section),
                minimum_rsa_key_length: self.minimum_rsa_key_length(&at, section),
                allowed,
            };
            (proxy, description)
        });
        proxies.collect::<Vec<_>>().into_iter().unzip()
    }

    /// 512 bits are broken by anybody, and 16384 are more than any stack verifies.
    fn minimum_rsa_key_length(&mut self, at: &[String], section: &ClientProxySection) -> u16 {
        let length = section.minimum_rsa_key_length.unwrap_or(MINIMUM_RSA_KEY_LENGTH);
        if !(512..=16384).contains(&length) {
            let message = format!("is {length}; 512 to 16384 (bits) is expected, like 2048");
            self.error(&child(at, "minimum-rsa-key-length"), message);
        }
        length
    }

    fn learnt_bypass_time(&mut self, at: &[String], time: Option<u32>) -> u32 {
        let time = time.unwrap_or(LEARNT_BYPASS_TIME);
        if !(60..=604_800).contains(&time) {
            let message = format!("is {time}; 60 to 604800 (seconds) is expected");
            self.error(&child(at, "learnt-bypass-time"), message);
        }
        time
    }

    /// Of certificates whose authority is not asked, most are unknown.
    fn revocation_unknown(
        &mut self,
        at: &[String],
        section: &ClientProxySection,
    ) -> RevocationUnknown {
        let unknown = section.revocation_unknown;
        if unknown != RevocationUnknown::Accept && section.revocation == Revocation::Stapled {
            let message = format!(
                "is {} while revocation is stapled: few servers staple; set revocation: fetched, or \
                 revocation-unknown: accept",
                unknown.word()
            );
            self.error(&child(at, "revocation-unknown"), message);
        }
        unknown
    }

    fn signing_certificate(&mut self, at: &[String], section: &ClientProxySection) -> CertifiedKey {
        let at = child(at, "signing-certificate");
        let Some(key) = self.key_pair(&at, &section.signing_certificate) else {
            // Never used: an error was noted.
            return CertifiedKey { chain: Vec::new(), key: SecretBytes::new(Vec::new()) };
        };
        if !key.is_authority {
            let message = "is not the certificate of an authority that may sign others (basic \
                           constraints CA:TRUE, key usage keyCertSign); give a CA certificate";
            self.error(&child(&at, "certificate"), message);
        }
        if !key.algorithm.signs() {
            let message = "has a key on a curve that this device does not sign with; give a CA with \
                           an RSA key or an ECDSA key on P-256 or P-384";
            self.error(&child(&at, "certificate"), message);
        }
        key.certified
    }

    fn key_pair(&mut self, at: &[String], pair: &KeyPairSection) -> Option<IdentifiedKey> {
        let (certificate_at, key_at) = (child(at, "certificate"), child(at, "key"));
        let certificate = self.pem(&certificate_at, &pair.certificate);
        let key = self.pem(&key_at, &pair.key);
        let certified = self.material.certificates.certified_key(&certificate?, &key?);
        match certified {
            Ok(key) => Some(key),
            Err(CertifiedKeyError::Certificate(message)) => {
                self.error(&certificate_at, message);
                None
            }
            Err(CertifiedKeyError::Key(message)) => {
                self.error(&key_at, message);
                None
            }
        }
    }

    fn ports(&mut self, at: &[String], ports: &[Ports]) {
        if ports.is_empty() {
            let message = "is empty; name at least one port, like 443";
            self.error(&child(at, "detection-ports"), message);
        }
    }

    fn describe(&self, key: &CertifiedKey) -> String {
        let describe = |leaf: &Vec<u8>| self.material.certificates.describe(leaf);
        key.chain.first().map(describe).unwrap_or_default()
    }
}

fn ranges(ports: &[Ports]) -> Vec<PortRange> {
    ports.iter().map(|ports| ports.0).collect()
}
