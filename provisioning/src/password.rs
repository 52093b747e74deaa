//! The form of sha-crypt password hashes (crypt(5): `$5$` and `$6$`). Not for verifying them.

/// Fewest and most rounds: fewer are weak, more keep a login waiting for minutes.
const ROUNDS: std::ops::RangeInclusive<u32> = 1000..=1_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HashError {
    #[error(
        "is not a SHA-256 or SHA-512 password hash ($5$... or $6$...); give what \
         `openssl passwd -6` prints"
    )]
    Scheme,
    #[error(
        "is a damaged password hash ({0}); give what `openssl passwd -6` prints, whole and in \
         single quotes"
    )]
    Damaged(&'static str),
    #[error("has {0} rounds; 1000 to 1000000 are accepted")]
    Rounds(u32),
}

/// Whether a text is a whole hash that logins can be checked against.
pub(crate) fn check(text: &str) -> Result<(), HashError> {
    let (length, rest) = if let Some(rest) = text.strip_prefix("$5$") {
        (43, rest)
    } else if let Some(rest) = text.strip_prefix("$6$") {
        (86, rest)
    } else {
        return Err(HashError::Scheme);
    };
    let rest = match rest.strip_prefix("rounds=") {
        None => rest,
        Some(rest) => {
            let (rounds, rest) =
                rest.split_once('$').ok_or(HashError::Damaged("it ends after its rounds"))?;
            let rounds = rounds
                .parse::<u32>()
                .map_err(|_| HashError::Damaged("its rounds are not a number"))?;
            if !ROUNDS.contains(&rounds) {
                return Err(HashError::Rounds(rounds));
            }
            rest
        }
    };
    let (salt, hash) = rest.split_once('$').ok_or(HashError::Damaged("it ends after its salt"))?;
    let base64 =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'));
    if !(1..=16).contains(&salt.len()) || !base64(salt) {
        return Err(HashError::Damaged("its salt is not 1 to 16 characters of ./0-9A-Za-z"));
    }
    if hash.len() != length || !base64(hash) {
        return Err(HashError::Damaged("its last part has the wrong length or characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // As `openssl passwd -6 -salt weirsalt x` prints it.
    const SHA_512: &str = "$6$weirsalt$mo7udwn3aAfBFaHB8rQcH/uT74TOUXIWx7LuD5jWxJOVmy2hEBIL44Et1a9tI0RBF69OYWvNOTmTifopO4IoL.";

    #[test]
    fn whole_hashes_pass_and_cut_ones_do_not() {
        assert_eq!(check(SHA_512), Ok(()));
        assert_eq!(check(&SHA_512.replace("$6$", "$6$rounds=5000$")), Ok(()));
        for length in 3..SHA_512.len() {
            assert!(matches!(check(&SHA_512[..length]), Err(HashError::Damaged(_))), "{length}");
        }
        assert_eq!(check("$1$abc$xyz"), Err(HashError::Scheme));
        assert_eq!(check("secret"), Err(HashError::Scheme));
        let slow = SHA_512.replace("$6$", "$6$rounds=999999999$");
        assert_eq!(check(&slow), Err(HashError::Rounds(999_999_999)));
    }
}
