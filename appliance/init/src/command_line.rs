//! Weir's words on the kernel's command line, written there by the boot loader's slot.cfg.
//!
//! For: `weir.slot=a|b` and `weir.verity=BLOCKS:ROOTHASH:SALT` (or `none`, for development). Not
//! for: the kernel's own words. Fails by saying which word is missing or wrong and what is right.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    pub slot: Slot,
    /// `None`: `weir.verity=none`, the root is not verified.
    pub verity: Option<Verity>,
}

/// The half of the disk that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

/// What dm-verity needs besides the device: hash tree right after the data, SHA-256, 4 KiB blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// Data blocks of 4 KiB.
    pub blocks: u64,
    /// 64 hexadecimal digits.
    pub root_hash: String,
    /// Up to 512 hexadecimal digits (256 bytes, dm-verity's bound).
    pub salt: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("kernel command line has no weir.slot=; it must be a or b")]
    NoSlot,
    #[error("weir.slot={0}: it must be a or b")]
    Slot(String),
    #[error("kernel command line has no weir.verity=; it must be BLOCKS:ROOTHASH:SALT")]
    NoVerity,
    #[error("weir.verity={0}: it must be BLOCKS:ROOTHASH:SALT, the last two hexadecimal")]
    Verity(String),
}

impl CommandLine {
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let word =
            |key: &str| text.split_whitespace().filter_map(|w| w.strip_prefix(key)).next_back();
        let slot = match word("weir.slot=").ok_or(CommandLineError::NoSlot)? {
            "a" => Slot::A,
            "b" => Slot::B,
            other => return Err(CommandLineError::Slot(other.to_owned())),
        };
        let verity = match word("weir.verity=").ok_or(CommandLineError::NoVerity)? {
            "none" => None,
            other => Some(
                Verity::parse(other).ok_or_else(|| CommandLineError::Verity(other.to_owned()))?,
            ),
        };
        Ok(Self { slot, verity })
    }
}

impl Verity {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (blocks, root_hash, salt) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |s: &str| s.len().is_multiple_of(2) && s.bytes().all(|b| b.is_ascii_hexdigit());
        let blocks = blocks.parse().ok().filter(|n| (1..1 << 40).contains(n))?;
        let right = parts.next().is_none()
            && root_hash.len() == 64
            && hex(root_hash)
            && (1..=512).contains(&salt.len())
            && hex(salt);
        right.then(|| Self { blocks, root_hash: root_hash.to_owned(), salt: salt.to_owned() })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn slot_and_verity_are_found_among_other_words() {
        let text = format!("console=ttyS0 quiet weir.slot=b weir.verity=12:{HASH}:abab\n");
        let verity = Verity { blocks: 12, root_hash: HASH.into(), salt: "abab".into() };
        assert_eq!(
            CommandLine::parse(&text),
            Ok(CommandLine { slot: Slot::B, verity: Some(verity) })
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, error) in [
            ("", CommandLineError::NoSlot),
            ("weir.slot=c", CommandLineError::Slot("c".into())),
            ("weir.slot=a", CommandLineError::NoVerity),
            ("weir.slot=a weir.verity=1:ab:cd", CommandLineError::Verity("1:ab:cd".into())),
        ] {
            assert_eq!(CommandLine::parse(text), Err(error), "{text}");
        }
        let zero = format!("weir.slot=a weir.verity=0:{HASH}:ab");
        assert!(matches!(CommandLine::parse(&zero), Err(CommandLineError::Verity(_))));
        let more = format!("weir.slot=a weir.verity=1:{HASH}:ab:1");
        assert!(matches!(CommandLine::parse(&more), Err(CommandLineError::Verity(_))));
    }

    #[test]
    fn an_unverified_root_must_be_asked_for() {
        let line = CommandLine::parse("weir.slot=a weir.verity=none").unwrap();
        assert_eq!(line.verity, None);
    }
}
