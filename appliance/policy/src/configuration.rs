//! A configuration that was read, checked and can be put in force.
//!
//! For: loading the layered document ([`Configuration::load`]), compiling it to a [`Snapshot`],
//! showing it. What refers to something else, or must agree with something else, is checked here
//! (SPEC D3, T6, P2 to P8). Not for: I/O; files and certificates come through [`Material`].
//! Fails by a list of [`LocatedError`]s; nothing of a configuration with an error is usable.

mod check;
mod device;
mod precedence;
mod profiles;
mod proxies;
mod show;
mod suites;

use crate::document::{BUILT_IN, Document};
use crate::error::LocatedError;
use crate::layers::{Layer, Merged, Syntax};
use crate::material::Material;
use crate::snapshot::{CertifiedKey, Segment, Snapshot};
use check::Check;

/// Most segments of a device: NICs that a virtual machine can have, in pairs.
pub const MAX_SEGMENTS: u16 = 16;
/// Most certificates of server proxies, together (SPEC T6).
pub const MAX_CERTIFICATES: usize = 1000;
/// Most domains of one decryption policy (SPEC P5).
pub const MAX_DOMAINS: usize = 4096;
/// The trust store of client policies that name none.
pub const DEFAULT_TRUST_STORE: &str = "default CA package";

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Generation 0, without the untrusted authority.
    snapshot: Snapshot,
    /// Subject and fingerprint of each certificate of each server proxy, in their order.
    server_certificates: Vec<Vec<String>>,
    /// Subject and fingerprint of each client proxy's signing certificate.
    signing_certificates: Vec<String>,
    warnings: Vec<LocatedError>,
}

impl Configuration {
    /// Reads the layers over the built-in defaults; later layers win, lists replace.
    ///
    /// # Errors
    /// All that is wrong, first with the syntax, then with keys and values, then with what they
    /// mean: later stages are looked at when the earlier ones are right. At most
    /// [`crate::layers::MAX_ERRORS`] in one stage.
    pub fn load(layers: &[Layer<'_>], material: Material<'_>) -> Result<Self, Vec<LocatedError>> {
        let built_in =
            Layer { name: "built-in", syntax: Syntax::Toml, text: BUILT_IN, section: None };
        let layers = [&[built_in], layers].concat();
        let merged = Merged::of(&layers)?;
        let document = merged.read::<Document>()?;
        let mut check = Check::new(&merged.places, material);
        let configuration = check.configuration(&document);
        check.finish(configuration)
    }

    /// The policy to put in force, as generation `generation`. `untrusted_authority` signs what
    /// does not verify (SPEC T7).
    pub fn compile(&self, generation: u64, untrusted_authority: Option<CertifiedKey>) -> Snapshot {
        Snapshot { generation, untrusted_authority, ..self.snapshot.clone() }
    }

    /// What was ignored (SPEC P9), as many as errors would be told.
    pub fn warnings(&self) -> &[LocatedError] {
        &self.warnings
    }

    /// The segments to make at boot; empty: one for each pair of NICs after the first.
    pub fn boot_segments(&self) -> &[Segment] {
        &self.snapshot.segments
    }

    /// Entries of the flow table, which is made at boot.
    pub fn boot_flow_table(&self) -> u32 {
        self.snapshot.device.flow_table
    }
}
