//! Everything TLS that the engine needs, without a socket and without a clock of its own.
//!
//! For: telling what a client's first bytes are ([`hello`]; by QUIC, [`quic`]), the two legs of a decrypted session
//! behind one trait ([`leg`]) and their modern stack ([`modern`]), choosing a server's certificate
//! by name ([`server_certificates`]), judging a server's certificate ([`verify`]) and forging its
//! copy ([`forge`]). Not for: policy (the order of judgement is `weir_policy::judge`), sockets,
//! threads, files. Fails by typed errors; no byte of a peer can make it panic, and every buffer and
//! cache has a bound written beside it.
#![forbid(unsafe_code)]

pub mod alert;
mod certificate;
mod der;
pub mod forge;
mod hashed;
pub mod hello;
pub mod key;
pub mod leg;
pub mod modern;
pub mod names;
pub mod quic;
pub mod server_certificates;
mod sharded;
pub mod verify;

pub use alert::Alert;
pub use certificate::{Names, SerialNumber};
pub use der::DerError;
pub use forge::{ForgeError, Forger, ForgerError, LeafKeys, LeafKind, Signer};
pub use hashed::Hashed;
pub use hello::{ClientHello, HelloError, LegacyBounds, Peek, peek};
pub use key::{KeyError, KeyKind, LegKey};
pub use leg::{Fault, InProgress, LegError, Negotiated, PlainState, TlsLeg};
pub use modern::{ModernStack, Shares, modern_could};
pub use server_certificates::ServerCertificates;
pub use sharded::ShardedCache;
pub use verify::{Action, Intermediates, Judged, TrustAnchors, Verdict, says_revoked};
