//! Whether a session is not to be decrypted by its server's certificate, as a compiled policy knows it
//! (SPEC T5).
//!
//! For: asking what was decided before, and learning it. Not for: deciding ([`crate::session`]), and keeping
//! ([`crate::exceptions`]). Cannot fail.

use std::time::Instant;

use weir_policy::ServerAt;
use weir_policy::snapshot::{DecidedBy, DecryptionPolicy};
use weir_tls::hello::{ClientHello, address_sent};

use super::FlowPolicy;

impl FlowPolicy<'_> {
    /// Where the server's certificate decides whether a session is with a domain not to decrypt
    /// (SPEC T5): what it decided before. It does where policy says so, and wherever the client gave no
    /// name whose word could be taken. A server of another name than an excepted one is none,
    /// whatever its certificate.
    pub fn excepted(&self, hello: &ClientHello, server: ServerAt) -> Excepted<'_> {
        self.excepted_under(hello.server_name.as_deref(), server)
    }

    /// The same of a session whose client would send this name.
    pub fn excepted_under(&self, name: Option<&str>, server: ServerAt) -> Excepted<'_> {
        let name = domain_asked(name);
        let decides = |policy: &DecryptionPolicy| match name {
            Some(name) => policy.decided_by == DecidedBy::ServerCertificate && policy.excepts(name),
            None => !policy.domains_not_to_decrypt.is_empty(),
        };
        match self.decryption.zip(self.deciding) {
            Some((policy, deciding)) if decides(policy) => {
                match self.exceptions.known(deciding, server, name, Instant::now()) {
                    Some(true) => Excepted::Yes,
                    Some(false) => Excepted::No,
                    None => Excepted::AskServer(policy),
                }
            }
            _ => Excepted::No,
        }
    }

    pub fn learn_exception(&self, hello: &ClientHello, server: ServerAt, excepted: bool) {
        let name = domain_asked(hello.server_name.as_deref());
        if let Some(deciding) = self.deciding {
            self.exceptions.learn(deciding, server, name, excepted, Instant::now());
        }
    }
}

/// The domain that a client asks for by this server name; `None` also where that is an address, which it
/// should not be (RFC 6066 section 3), and which says no more than where the client connects to.
pub fn domain_asked(server_name: Option<&str>) -> Option<&str> {
    server_name.filter(|name| address_sent(name).is_none())
}

/// Whether a session is not to be decrypted, by its server's certificate.
pub enum Excepted<'a> {
    Yes,
    No,
    /// It is by the client's word, or the client gave none.
    AskServer(&'a DecryptionPolicy),
}
