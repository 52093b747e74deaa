//! The first message on a leg's socket: what the leg may negotiate, and which end it is.

use std::fmt;

use zeroize::Zeroizing;

use super::Invalid;
use super::codec::{Reader, Writer, text};

/// Bytes of what a session is bound to: a SHA-256.
pub const BINDING: usize = 32;

/// What a leg may negotiate, and its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Code points, weakest and strongest.
    pub versions: (u16, u16),
    /// Code points, in order of preference.
    pub suites: Vec<u16>,
    /// RFC 7366 is offered to a server, and agreed on with a client that offers it.
    pub encrypt_then_mac: bool,
    pub role: Role,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Role {
    /// To a server. Its certificate is accepted, whatever it is: the engine judges it.
    ToServer {
        server_name: Option<String>,
        /// Offered, in order.
        alpn: Vec<Vec<u8>>,
        /// A session that was kept under the same is resumed.
        session: [u8; BINDING],
    },
    /// To a client.
    ToClient {
        /// Leaf first, DER.
        chain: Vec<Vec<u8>>,
        /// The leaf's key, PKCS#8.
        key: Zeroizing<Vec<u8>>,
        /// The one protocol that is accepted.
        alpn: Option<Vec<u8>>,
        /// The OCSP response for a client that asks for one.
        staple: Option<Vec<u8>>,
        /// Only sessions that were made under the same are resumed.
        session: [u8; BINDING],
    },
}

impl fmt::Debug for Role {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ToServer { server_name, .. } => write!(f, "ToServer({server_name:?})"),
            Self::ToClient { chain, .. } => write!(f, "ToClient({} certificates)", chain.len()),
        }
    }
}

impl Open {
    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.u16(self.versions.0);
        writer.u16(self.versions.1);
        writer.list(&self.suites, |writer, suite| writer.u16(*suite));
        writer.raw(&[u8::from(self.encrypt_then_mac)]);
        match &self.role {
            Role::ToServer { server_name, alpn, session } => {
                writer.raw(&[0]);
                writer.optional(server_name.as_ref().map(String::as_bytes));
                writer.list(alpn, |writer, name| writer.bytes(name));
                writer.raw(session);
            }
            Role::ToClient { chain, key, alpn, staple, session } => {
                writer.raw(&[1]);
                writer.list(chain, |writer, certificate| writer.bytes(certificate));
                writer.bytes(key);
                writer.optional(alpn.as_deref());
                writer.optional(staple.as_deref());
                writer.raw(session);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            versions: (reader.u16()?, reader.u16()?),
            suites: reader.list(Reader::u16)?,
            encrypt_then_mac: reader.flag()?,
            role: match reader.u8()? {
                0 => Role::ToServer {
                    server_name: reader.optional()?.map(text).transpose()?,
                    alpn: reader.list(|reader| reader.bytes().map(<[u8]>::to_vec))?,
                    session: reader.array()?,
                },
                1 => Role::ToClient {
                    chain: reader.list(|reader| reader.bytes().map(<[u8]>::to_vec))?,
                    key: Zeroizing::new(reader.bytes()?.to_vec()),
                    alpn: reader.optional()?.map(<[u8]>::to_vec),
                    staple: reader.optional()?.map(<[u8]>::to_vec),
                    session: reader.array()?,
                },
                _ => return Err(Invalid::Value),
            },
        })
    }
}
