//! The untrusted CA (SPEC T7): made at first boot, kept in the agent's state directory.
//!
//! Not for: signing anything; the engine forges. Fails softly to a CA that lives in memory until
//! the agent ends, with a warning.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use weir_policy::snapshot::CertifiedKey;
use zeroize::Zeroizing;

const FILE: &str = "untrusted-ca.json";

/// The CA, and a warning where it could not be kept or read.
pub fn load_or_make(state: &Path) -> anyhow::Result<(CertifiedKey, Option<String>)> {
    let file = state.join(FILE);
    let unreadable = match read(&file) {
        Ok(authority) => return Ok((authority, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("{}: {error}; a new untrusted CA is made", file.display())),
    };
    let authority = make()?;
    let warning = match keep(state, &authority) {
        Ok(()) => unreadable,
        Err(error) => Some(format!(
            "the untrusted CA lives in memory until the agent ends: {}: {error}",
            state.display()
        )),
    };
    Ok((authority, warning))
}

fn make() -> anyhow::Result<CertifiedKey> {
    weir_pki::generate_untrusted_authority().context("make the untrusted CA")
}

fn read(file: &Path) -> io::Result<CertifiedKey> {
    let text = Zeroizing::new(fs::read(file)?);
    Ok(serde_json::from_slice(&text)?)
}

/// Whole or not at all: a file beside it, then a rename.
fn keep(state: &Path, authority: &CertifiedKey) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let text = Zeroizing::new(serde_json::to_vec(authority)?);
    let new = state.join(format!("{FILE}.new"));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, state.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn authority_is_made_once_and_kept_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("agent");
        let (made, warning) = load_or_make(&state).unwrap();
        assert_eq!(warning, None);
        let (kept, warning) = load_or_make(&state).unwrap();
        assert_eq!(warning, None);
        assert_eq!(made, kept);
        let mode = fs::metadata(state.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn authority_that_cannot_be_kept_is_used_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let file_in_the_way = directory.path().join("agent");
        fs::write(&file_in_the_way, "").unwrap();
        let (_, warning) = load_or_make(&file_in_the_way).unwrap();
        assert!(warning.unwrap().contains("lives in memory"));
    }

    #[test]
    fn broken_file_is_replaced_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        let (made, warning) = load_or_make(directory.path()).unwrap();
        assert!(warning.unwrap().contains("a new untrusted CA is made"));
        assert_eq!(load_or_make(directory.path()).unwrap(), (made, None));
    }
}
