//! Debian's Chromium as a client: one browser for many pages (`tests/lab/peers/chromium_peer.py`).
//!
//! For: what a browser takes of forged certificates, and how it comes to a server whose QUIC is blocked.
//! A database of NSS in its home says what it
//! trusts besides its own list. Fails in its own words
//! (`net::ERR_...`). Not for: choosing versions and suites; its own choice is what users have.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use super::Conversation;
use super::client::nss_database;
use crate::ends::Ends;

/// Ended when dropped.
pub struct Chromium(Conversation);

/// A page that it took.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// `h2`, `http/1.1`, `h3`, ...
    pub protocol: String,
    /// Of the certificate that it was shown.
    pub issuer: String,
}

impl Chromium {
    /// In the client's namespace, trusting the lab's authorities as its user would say; all names are
    /// at `server`.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(ends: &Ends, server: IpAddr, switches: &[&str]) -> Result<Self> {
        let home = ends.run.path("chromium");
        let database = home.join(".pki/nssdb");
        if !database.exists() {
            std::fs::create_dir_all(&database)?;
            nss_database(&ends.certificates, &format!("sql:{}", database.display()))?;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/chromium_peer.py");
        // Debian's own.
        let mut command = ends.client.command("/usr/bin/python3");
        command.arg(script).arg(&home).arg(server.to_string()).args(switches);
        Ok(Self(Conversation::start(&mut command, &ends.run.path("chromium.log"))?))
    }

    /// Goes to an `https` address.
    ///
    /// # Errors
    /// What the browser says instead of the page.
    pub fn visit(&mut self, address: &str) -> Result<Page> {
        self.0.say(&format!("{address}\n"))?;
        let answer = self.0.answer()?;
        let told = answer.strip_prefix("ok ").map(|told| told.splitn(2, ' ').collect::<Vec<_>>());
        let [protocol, issuer] = told.as_deref().unwrap_or_default() else { anyhow::bail!(answer) };
        ensure!(!issuer.is_empty(), "no issuer");
        Ok(Page { protocol: (*protocol).to_owned(), issuer: (*issuer).to_owned() })
    }
}
