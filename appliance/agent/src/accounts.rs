//! Who may log in on the console.
//!
//! For: checking a password against the provisioned hashes (sha-crypt, `$5$` and `$6$`) with the
//! same work for users that exist and users that do not, and slowing down guessing. Not for: what
//! a role may do (see [`crate::console`]). Fails by saying no.

use std::time::Duration;

use sha_crypt::{PasswordHashRef, PasswordVerifier, ShaCrypt};
use weir_api::console::Role;
use weir_policy::SecretBytes;
use weir_provisioning::Provisioned;

/// Failures in a row before an answer is delayed.
const FREE_FAILURES: u32 = 3;

/// The delay doubles from one second to this.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Checked in place of an unknown user's, of a password that was never kept; nobody is let in by it.
const NOBODY: &str = "$6$weirnobody$vIfcF1qvtjtZfjG./dkNjwmwBTWZ/sEE9s01rHZAa/eNoxHl3ycTBBJo7wGE3A/nX3Alu7Nj.iay/26okzPu./";

#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub hash: SecretBytes,
    pub role: Role,
}

#[derive(Clone, Debug, Default)]
pub struct Accounts(Vec<Account>);

impl Accounts {
    /// Those provisioned users that have a password.
    pub fn provisioned(provisioned: &Provisioned) -> Self {
        let accounts = provisioned.users.iter().filter_map(|user| {
            let hash = user.hash.clone()?;
            let role = match user.role {
                weir_provisioning::Role::Operator => Role::Operator,
                weir_provisioning::Role::Administrator => Role::Administrator,
                weir_provisioning::Role::Superuser => Role::Superuser,
            };
            Some(Account { name: user.name.clone(), hash, role })
        });
        Self(accounts.collect())
    }

    /// False: the console is read-only, since no login can succeed.
    pub fn can_log_in(&self) -> bool {
        !self.0.is_empty()
    }

    /// The role, where user and password are right. Takes as long as the hash asks: call it where
    /// blocking is allowed.
    pub fn verify(&self, user: &str, password: &SecretBytes) -> Option<Role> {
        let account = self.0.iter().find(|account| account.name == user);
        // The first account's hash stands in for an unknown user's: its rounds are the likeliest.
        let stand_in = self.0.first().map_or(NOBODY.as_bytes(), |account| account.hash.expose());
        let hash = account.map_or(stand_in, |account| account.hash.expose());
        let right = verify(hash, password);
        account.filter(|_| right).map(|account| account.role)
    }
}

fn verify(hash: &[u8], password: &SecretBytes) -> bool {
    std::str::from_utf8(hash)
        .ok()
        .and_then(|hash| PasswordHashRef::new(hash).ok())
        .is_some_and(|hash| ShaCrypt::default().verify_password(password.expose(), hash).is_ok())
}

/// Slows down guessing. One for all connections: a console that reconnects gains nothing.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: u32,
}

impl Throttle {
    /// How long the next attempt waits before it is judged.
    pub fn delay(&self) -> Duration {
        match self.failures.checked_sub(FREE_FAILURES) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << over.min(5)).min(LONGEST_DELAY),
        }
    }

    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // openssl passwd -6 -salt weirsalt 'correct horse'
    const SHA512: &str = "$6$weirsalt$nyE.LoOsxBhP2tG/5l3OXExTeFfmEtRILOES5mYd.rcA3Mlwmg2m0PxGZnxzjztxLDVol9vOZDoHrSxqYt0wJ/";
    // openssl passwd -5 -salt weirsalt 'correct horse'
    const SHA256: &str = "$5$weirsalt$Qmb6LbCtbv60zV6O.dQL4I6V0nmE4FMynieMqWEe2D8";

    fn accounts(hash: &str) -> Accounts {
        Accounts(vec![Account {
            name: "admin".into(),
            hash: SecretBytes::new(hash.into()),
            role: Role::Administrator,
        }])
    }

    fn password(text: &str) -> SecretBytes {
        SecretBytes::new(text.into())
    }

    #[test]
    fn passwords_of_both_hash_kinds_are_verified() {
        for hash in [SHA512, SHA256] {
            let accounts = accounts(hash);
            assert_eq!(
                accounts.verify("admin", &password("correct horse")),
                Some(Role::Administrator),
                "{hash}"
            );
            assert_eq!(accounts.verify("admin", &password("correct house")), None, "{hash}");
        }
    }

    #[test]
    fn unknown_users_are_refused_even_with_a_known_password() {
        assert_eq!(accounts(SHA512).verify("root", &password("correct horse")), None);
        assert_eq!(Accounts::default().verify("root", &password("")), None);
    }

    #[test]
    fn stand_in_hash_is_well_formed_so_that_it_costs_what_others_cost() {
        let hash = PasswordHashRef::new(NOBODY).unwrap();
        let error = ShaCrypt::default().verify_password(b"any", hash).unwrap_err();
        assert_eq!(error.to_string(), "invalid password");
    }

    #[test]
    fn a_hash_that_is_none_lets_nobody_in() {
        for hash in ["", "*", "!", "$6$", "$1$abc$def", "$6$salt$"] {
            assert_eq!(accounts(hash).verify("admin", &password("")), None, "{hash}");
        }
    }

    #[test]
    fn guessing_is_slowed_down_up_to_a_bound_and_forgiven_by_success() {
        let mut throttle = Throttle::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            delays.push(throttle.delay().as_secs());
            throttle.failed();
        }
        assert_eq!(delays, [0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30, 30]);
        throttle.succeeded();
        assert_eq!(throttle.delay(), Duration::ZERO);
    }
}
