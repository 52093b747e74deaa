//! What endpoints share, and the preparation of one.
//!
//! For: everything about OpenSSL that is set before a handshake's first byte. Not for: the handshake.
//! Fails by OpenSSL's errors.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Instant;

use lru::LruCache;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::PKey;
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions,
    SslSessionCacheMode, SslVerifyMode, SslVersion, StatusType,
};
use openssl::x509::X509;
use weir_api::legacy::{Open, Role};
use weir_policy::suites::{Protocol, Suite};

use crate::bindings::{
    LEGACY_SERVER_CONNECT, NO_ENCRYPT_THEN_MAC, allow_encrypt_then_mac, bind_sessions,
    take_any_certificate,
};
use crate::sessions::{CLIENTS_BOUND, ServerSessions, Shown, TicketKey};

/// The groups to clients; P-224 is not in OpenSSL's own list, and a certificate's curve must be. Of the finite
/// fields those in which a key exchange takes three milliseconds at most: all legs share one thread.
const GROUPS_TO_CLIENTS: &str =
    "X25519MLKEM768:X25519:P-256:P-384:P-521:P-224:X448:ffdhe2048:ffdhe3072:ffdhe4096";
/// The same to servers, with a key share (of TLS 1.3) of X25519 only: OpenSSL keeps the key of a share
/// that is not asked for as long as the session lives, and that of ML-KEM is 8 KiB; and the servers that
/// come here may not like a hello that is longer by another.
const GROUPS_TO_SERVERS: &str =
    "X25519MLKEM768:*X25519:P-256:P-384:P-521:P-224:X448:ffdhe2048:ffdhe3072:ffdhe4096";
/// Lists of suites with a context of their own, about 20 KiB each: policies have few. Past it the least
/// recently used goes, with the last leg that has it.
const LISTS_BOUND: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// What endpoints share: making a context costs as much as a handshake, and a list of suites that is
/// not its context's own costs a leg 1 KiB. Certificates and their keys are not shared: they are
/// wiped with the handshake that needed them.
pub struct Contexts {
    /// With the sessions of all clients, and the key of their tickets.
    to_client: SslContext,
    lists: RefCell<LruCache<(Peer, Vec<u16>), SslContext>>,
    /// The one protocol that a leg to a client accepts.
    alpn: Index<Ssl, Vec<u8>>,
    /// What it staples.
    staple: Index<Ssl, Vec<u8>>,
    ticket_key: TicketKey,
    pub sessions: Rc<ServerSessions>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Peer {
    Server,
    Client,
}

impl Contexts {
    pub fn new() -> Result<Self, ErrorStack> {
        let (alpn, staple) = (Ssl::new_ex_index()?, Ssl::new_ex_index()?);
        let to_client = to_clients(alpn, staple)?.build();
        let ticket_key = TicketKey::first(&to_client, Instant::now())?;
        let lists = RefCell::new(LruCache::new(LISTS_BOUND));
        Ok(Self { to_client, lists, alpn, staple, ticket_key, sessions: Rc::default() })
    }

    /// The context of these suites.
    fn with_suites(&self, peer: Peer, suites: &[u16]) -> Result<SslContext, ErrorStack> {
        let mut lists = self.lists.borrow_mut();
        let key = (peer, suites.to_vec());
        if let Some(known) = lists.get(&key) {
            return Ok(known.clone());
        }
        let mut context = match peer {
            Peer::Server => to_servers()?,
            Peer::Client => to_clients(self.alpn, self.staple)?,
        };
        let (modern, older): (Vec<_>, Vec<_>) = suites
            .iter()
            .filter_map(|id| Suite::by_id(*id))
            .partition(|suite| suite.used_in(Protocol::Tls13));
        let list = |suites: Vec<&Suite>| {
            suites.into_iter().map(|suite| suite.name).collect::<Vec<_>>().join(":")
        };
        context.set_ciphersuites(&list(modern))?;
        if !older.is_empty() {
            context.set_cipher_list(&format!("{}:@SECLEVEL=0", list(older)))?;
        }
        let context = context.build();
        lists.put(key, context.clone());
        Ok(context)
    }

    /// What is to be spoken, before its first byte.
    pub fn prepare(&self, open: &Open) -> Result<Prepared, ErrorStack> {
        let mut ssl = match open.role {
            Role::ToServer { .. } => {
                let context = self.with_suites(Peer::Server, &open.suites)?;
                Ssl::new(&context)?
            }
            Role::ToClient { .. } => {
                // Sessions and tickets stay those of the first context.
                let mut ssl = Ssl::new(&self.to_client)?;
                let context = self.with_suites(Peer::Client, &open.suites)?;
                ssl.set_ssl_context(&context)?;
                ssl
            }
        };
        ssl.set_min_proto_version(version(open.versions.0))?;
        ssl.set_max_proto_version(version(open.versions.1))?;
        if open.encrypt_then_mac {
            allow_encrypt_then_mac(&mut ssl);
        }
        let now = Instant::now();
        let mut resuming = None;
        match &open.role {
            Role::ToServer { server_name, alpn, session } => {
                ssl.set_connect_state();
                ssl.set_status_type(StatusType::OCSP)?;
                if let Some((session, shown)) = self.sessions.get(session, now) {
                    // SAFETY: of the contexts of such legs none keeps sessions, so a session is no
                    // context's own; they differ by their suites only, which OpenSSL compares.
                    unsafe { ssl.set_session(&session)? };
                    resuming = Some(shown);
                }
                if let Some(name) = server_name {
                    ssl.set_hostname(name)?;
                }
                let offered: Vec<u8> = alpn
                    .iter()
                    .filter_map(|name| Some((u8::try_from(name.len()).ok()?, name)))
                    .flat_map(|(length, name)| std::iter::once(length).chain(name.iter().copied()))
                    .collect();
                if !offered.is_empty() {
                    ssl.set_alpn_protos(&offered)?;
                }
            }
            Role::ToClient { chain, key, alpn, staple, session } => {
                ssl.set_accept_state();
                self.ticket_key.renew_in_time(&self.to_client, now)?;
                bind_sessions(&mut ssl, session)?;
                let mut chain = chain.iter();
                if let Some(leaf) = chain.next() {
                    ssl.set_certificate(X509::from_der(leaf)?.as_ref())?;
                }
                for certificate in chain {
                    ssl.add_chain_cert(X509::from_der(certificate)?)?;
                }
                ssl.set_private_key(PKey::private_key_from_pkcs8(key)?.as_ref())?;
                if let Some(accepted) = alpn {
                    ssl.set_ex_data(self.alpn, accepted.clone());
                }
                if let Some(response) = staple {
                    ssl.set_ex_data(self.staple, response.clone());
                }
            }
        }
        Ok(Prepared { ssl, resuming })
    }
}

pub struct Prepared {
    pub ssl: Ssl,
    /// What the server showed when the session began that is asked for again.
    pub resuming: Option<Rc<Shown>>,
}

fn to_servers() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = context()?;
    context.set_groups_list(GROUPS_TO_SERVERS)?;
    // Servers of old do not know secure renegotiation (RFC 5746); we never renegotiate.
    context.set_options(SslOptions::from_bits_retain(LEGACY_SERVER_CONNECT));
    Ok(context)
}

fn to_clients(
    alpn: Index<Ssl, Vec<u8>>,
    staple: Index<Ssl, Vec<u8>>,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = context()?;
    context.set_groups_list(GROUPS_TO_CLIENTS)?;
    context.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    context.set_session_cache_mode(SslSessionCacheMode::SERVER);
    context.set_session_cache_size(CLIENTS_BOUND);
    context.set_alpn_select_callback(move |ssl, offered| {
        let accepted = ssl.ex_data(alpn).ok_or(AlpnError::NOACK)?;
        names(offered).find(|name| name == accepted).ok_or(AlpnError::NOACK)
    });
    context.set_status_callback(move |ssl| match ssl.ex_data::<Vec<u8>>(staple).cloned() {
        Some(response) => ssl.set_ocsp_status(&response).map(|()| true),
        None => Ok(false),
    })?;
    Ok(context)
}

fn context() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls())?;
    // Both are needed: the level alone leaves the signatures of TLS 1.1 and older out.
    context.set_security_level(0);
    context.set_cipher_list("ALL:@SECLEVEL=0")?;
    context.set_min_proto_version(Some(SslVersion::SSL3))?;
    context.set_verify(SslVerifyMode::NONE);
    take_any_certificate(&mut context);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_num_tickets(0)?;
    context.set_mode(
        SslMode::RELEASE_BUFFERS
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER,
    );
    context.clear_options(SslOptions::all());
    context.set_options(
        SslOptions::NO_COMPRESSION
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::from_bits_retain(NO_ENCRYPT_THEN_MAC),
    );
    Ok(context)
}

fn version(code: u16) -> Option<SslVersion> {
    Some(match code {
        0x0300 => SslVersion::SSL3,
        0x0301 => SslVersion::TLS1,
        0x0302 => SslVersion::TLS1_1,
        0x0303 => SslVersion::TLS1_2,
        _ => SslVersion::TLS1_3,
    })
}

/// The names of a list of RFC 7301 section 3.1.
fn names(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = list.split_first()?;
        let (name, rest) = rest.split_at_checked(length.into())?;
        list = rest;
        Some(name)
    })
}
