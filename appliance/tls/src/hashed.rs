//! A server's certificate and its SHA-256, by which the caches of verification and of forging know it:
//! hashed once for a session. Cannot fail.

use aws_lc_rs::digest::{SHA256, digest};

/// The one is always the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed<'a> {
    der: &'a [u8],
    sha256: [u8; 32],
}

impl<'a> Hashed<'a> {
    pub fn new(der: &'a [u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        Self { der, sha256 }
    }

    pub fn der(&self) -> &'a [u8] {
        self.der
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

impl<'a> From<&'a [u8]> for Hashed<'a> {
    fn from(der: &'a [u8]) -> Self {
        Self::new(der)
    }
}
