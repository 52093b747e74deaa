//! The machine's name and its identifier.
//!
//! For: hostname and /run/machine-id (machine-id(5), to which the image's /etc/machine-id points),
//! the latter kept on the data partition. Fails with a warning.

use std::fs;
use std::path::Path;

use super::Warnings;

const KEPT: &str = "/data/machine-id";
const CURRENT: &str = "/run/machine-id";
const DEFAULT_HOSTNAME: &str = "weir";
/// Linux's bound (HOST_NAME_MAX).
const LONGEST_HOSTNAME: usize = 64;

pub fn settle(warnings: &mut Warnings) {
    set_hostname(None, warnings);
    let kept = fs::read_to_string(KEPT).ok().filter(|text| is_machine_id(text.trim()));
    let identifier = match kept {
        Some(text) => text.trim().to_owned(),
        None => match new_machine_id() {
            Ok(identifier) => {
                if let Err(error) = fs::write(KEPT, format!("{identifier}\n")) {
                    warnings.add(format!("{KEPT}: {error}"));
                }
                identifier
            }
            Err(error) => {
                warnings.add(format!("machine identifier: {error}"));
                return;
            }
        },
    };
    if let Err(error) = fs::write(CURRENT, format!("{identifier}\n")) {
        warnings.add(format!("{CURRENT}: {error}"));
    }
}

/// `None`: the default.
pub fn set_hostname(name: Option<&str>, warnings: &mut Warnings) {
    let name = name.unwrap_or(DEFAULT_HOSTNAME);
    if !is_hostname(name) {
        warnings.add(format!("{name:?} is no hostname"));
        return;
    }
    if let Err(error) = nix::unistd::sethostname(name) {
        warnings.add(format!("hostname {name}: {error}"));
    }
}

/// Letters, digits, hyphens and dots.
fn is_hostname(name: &str) -> bool {
    (1..=LONGEST_HOSTNAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

/// 32 hexadecimal digits, not all zero.
fn is_machine_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b != b'0')
}

/// The kernel's random UUID is just what machine-id(5) wants.
fn new_machine_id() -> std::io::Result<String> {
    let uuid = fs::read_to_string(Path::new("/proc/sys/kernel/random/uuid"))?;
    Ok(uuid.trim().replace('-', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_machine_id_is_one() {
        assert!(is_machine_id(&new_machine_id().unwrap()));
    }

    #[test]
    fn what_is_no_machine_id_or_hostname_is_refused() {
        assert!(!is_machine_id(&"0".repeat(32)));
        assert!(!is_machine_id("abc"));
        assert!(is_hostname("weir-1.example"));
        assert!(!is_hostname(""));
        assert!(!is_hostname("a b"));
        assert!(!is_hostname(&"a".repeat(65)));
    }
}
