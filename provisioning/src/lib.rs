//! Datasources: what the appliance is told at its first boot.
//!
//! For: finding a NoCloud seed (a file system labelled `cidata`, or a directory) and reading its
//! three texts into [`Provisioned`]. Not for: applying any of it, nor the meaning of the `weir:`
//! section (`weir-policy` reads that, from [`Weir::layer`]).
//! Fails by [`SeedError`] where the datasource cannot be read, and by a list of [`LocatedError`]s
//! where it is wrong: then nothing of it is to be applied. What is valid but not supported is
//! named in [`Provisioned::warnings`], never ignored in silence.
#![forbid(unsafe_code)]

mod network;
mod nocloud;
mod password;
mod reader;
mod user_data;
pub mod volume;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weir_policy::{Layer, LocatedError, SecretBytes, Syntax};
use zeroize::Zeroizing;

pub use nocloud::{Seed, SeedError, find_seed};

/// All that a datasource said, parsed whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provisioned {
    /// Of user-data's `hostname` or `fqdn`, else of meta-data's `local-hostname`.
    pub hostname: Option<String>,
    pub instance_id: Option<String>,
    pub users: Vec<User>,
    pub management: Option<Management>,
    /// `None`: user-data has no `weir:` section.
    pub weir: Option<Weir>,
    /// What was understood but is not supported.
    pub warnings: Vec<LocatedError>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    /// sha-crypt (`$5$` or `$6$`); `None`: no login by password.
    pub hash: Option<SecretBytes>,
    pub role: Role,
    pub ssh_authorized_keys: Vec<String>,
}

/// The console's roles that can be provisioned (SPEC L5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Operator,
    #[default]
    Administrator,
    Superuser,
}

/// The management port's static network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Management {
    /// The port's addresses with their prefix; at least one.
    pub addresses: Vec<IpNet>,
    pub gateway: Option<IpAddr>,
    pub name_servers: Vec<IpAddr>,
}

/// The user-data that has a `weir:` section; private keys may be in it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Weir {
    /// The whole user-data, so that lines count as its author counts them.
    text: Zeroizing<String>,
}

impl Weir {
    /// The section as a layer for [`weir_policy::Configuration::load`].
    pub fn layer(&self) -> Layer<'_> {
        Layer {
            name: nocloud::USER_DATA,
            syntax: Syntax::Yaml,
            text: &self.text,
            section: Some(user_data::SECTION),
        }
    }
}

impl std::fmt::Debug for Weir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Weir(not shown)")
    }
}

/// Reads a seed's texts, all of them, before anything of it may be applied.
///
/// # Errors
/// Everything that is wrong, with file and line.
pub fn parse(seed: &Seed) -> Result<Provisioned, Vec<LocatedError>> {
    let mut findings = reader::Findings::default();
    let mut provisioned = Provisioned::default();
    findings.unsupported_files(seed);
    if let Some(text) = findings.text(nocloud::META_DATA, seed.meta_data.as_deref()) {
        user_data::meta_data(&text, &mut provisioned, &mut findings);
    }
    if let Some(text) = findings.text(nocloud::USER_DATA, seed.user_data.as_deref()) {
        user_data::user_data(&text, &mut provisioned, &mut findings);
    }
    if let Some(text) = findings.text(nocloud::NETWORK_CONFIG, seed.network_config.as_deref()) {
        provisioned.management = network::network_config(&text, &mut findings);
    }
    findings.finish(provisioned)
}
