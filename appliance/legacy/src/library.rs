//! Whether the library that was linked is the one that was meant.
//!
//! For: a build that found another OpenSSL (the system's has no SSL 3.0 and no 3DES), which is seen
//! at the start and not by some user in a year. Fails by [`Wrong`].

use openssl::ssl::{Ssl, SslContext, SslMethod, SslVersion};
use openssl::version;
use thiserror::Error;
use weir_policy::suites::{Protocol, TABLE};

/// The line of versions, in the form of `OPENSSL_VERSION_NUMBER` without patch: the last that has
/// SSL 3.0.
const LINE: i64 = 0x3060_0000;

#[derive(Debug, Error)]
pub enum Wrong {
    #[error("linked is `{0}`; it must be of the line 3.6")]
    Version(&'static str),
    #[error("`{0}` was built without SSL 3.0")]
    NoSsl3(&'static str),
    #[error("`{version}` does not have {suite}")]
    NoSuite { version: &'static str, suite: &'static str },
}

/// Version, SSL 3.0, and each suite of the table.
pub fn check() -> Result<(), Wrong> {
    let linked = version::version();
    if version::number() & 0xfff0_0000 != LINE {
        return Err(Wrong::Version(linked));
    }
    let missing = |_| Wrong::NoSsl3(linked);
    let mut context = SslContext::builder(SslMethod::tls()).map_err(missing)?;
    context.set_security_level(0);
    context.set_min_proto_version(Some(SslVersion::SSL3)).map_err(missing)?;
    context.set_max_proto_version(Some(SslVersion::SSL3)).map_err(missing)?;
    // Set, and kept: a library without SSL 3.0 takes the call and raises the version.
    if context.min_proto_version() != Some(SslVersion::SSL3) {
        return Err(Wrong::NoSsl3(linked));
    }
    let context = context.build();
    for suite in TABLE.iter().filter(|suite| !suite.used_in(Protocol::Tls13)) {
        let no_suite = |_| Wrong::NoSuite { version: linked, suite: suite.name };
        let mut ssl = Ssl::new(&context).map_err(no_suite)?;
        ssl.set_cipher_list(&format!("{}:@SECLEVEL=0", suite.name)).map_err(no_suite)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn linked_library_is_the_one_with_ssl_3_and_weak_suites() {
        super::check().unwrap();
    }
}
