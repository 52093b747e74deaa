//! The cells of the matrix: every protocol version with every suite of `policy::suites`, and the
//! standard that forbids those that cannot be.

use weir_policy::suites::{Bulk, KeyExchange, Mac, Protocol, Suite, TABLE};

#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub version: Protocol,
    pub suite: &'static Suite,
}

/// All of them, in the order of the table.
pub fn cells() -> impl Iterator<Item = Cell> {
    let versions =
        |suite| Protocol::ALL.into_iter().rev().map(move |version| Cell { version, suite });
    TABLE.iter().flat_map(versions)
}

impl Cell {
    /// Why a suite is not used in a version. Written down from the standards, not from the table.
    pub fn forbidden(self) -> Option<&'static str> {
        let Self { version, suite } = self;
        let before_1_2 = version < Protocol::Tls12;
        let of_1_3 = suite.key_exchange == KeyExchange::Negotiated;
        if of_1_3 != (version == Protocol::Tls13) {
            return Some("RFC 8446 section B.4: TLS 1.3 and older versions share no suite");
        }
        match (suite.mac, suite.bulk) {
            (Mac::Gcm, _) if before_1_2 => {
                Some("RFC 5288 section 4, RFC 5289 section 4: GCM is not used before TLS 1.2")
            }
            (Mac::Poly1305, _) if before_1_2 => {
                Some("RFC 7905 section 2: ChaCha20 is not used before TLS 1.2")
            }
            (Mac::Sha256 | Mac::Sha384, Bulk::Aes128Cbc | Bulk::Aes256Cbc) if before_1_2 => {
                Some("RFC 5246 section 1.2, RFC 5289 section 4: SHA-2 is not used before TLS 1.2")
            }
            _ if suite.key_exchange == KeyExchange::Ecdhe && version == Protocol::Ssl30 => {
                Some("RFC 8422 section 4: ECDHE needs extensions, which SSL 3.0 has not")
            }
            _ => None,
        }
    }

    /// RFC 7366 section 2: block ciphers, and by an extension; SSL 3.0 has none.
    pub fn can_encrypt_then_mac(self) -> bool {
        let Self { version, suite } = self;
        let block = [Bulk::Aes128Cbc, Bulk::Aes256Cbc, Bulk::TripleDes].contains(&suite.bulk);
        block && version > Protocol::Ssl30
    }

    /// As it can be told on a line.
    pub fn name(self) -> String {
        format!("{} {}", self.version, self.suite.name)
    }

    /// As the peers are told it.
    pub fn version_code(self) -> String {
        format!("{:04x}", self.version.code())
    }
}
