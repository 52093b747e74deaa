//! What endpoints share, and the preparation of one.
//!
//! For: everything about OpenSSL that is set before a handshake's first byte. Not for: the handshake.
//! Fails by OpenSSL's errors.

use std::rc::Rc;
use std::time::Instant;

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
};
use crate::sessions::{CLIENTS_BOUND, ServerSessions, TicketKey};

/// The groups of both roles; P-224 is not in OpenSSL's own list, and a certificate's curve must be.
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384:P-521:P-224";

/// What all endpoints share: making a context costs as much as a handshake.
pub struct Contexts {
    to_server: SslContext,
    to_client: SslContext,
    /// The one protocol that a leg to a client accepts.
    alpn: Index<Ssl, Vec<u8>>,
    /// What it staples.
    staple: Index<Ssl, Vec<u8>>,
    ticket_key: TicketKey,
    pub sessions: Rc<ServerSessions>,
}

impl Contexts {
    pub fn new() -> Result<Self, ErrorStack> {
        let (alpn, staple) = (Ssl::new_ex_index()?, Ssl::new_ex_index()?);
        let mut to_server = context()?;
        // Servers of old do not know secure renegotiation (RFC 5746); we never renegotiate.
        to_server.set_options(SslOptions::from_bits_retain(LEGACY_SERVER_CONNECT));
        let mut to_client = context()?;
        to_client.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
        to_client.set_session_cache_mode(SslSessionCacheMode::SERVER);
        to_client.set_session_cache_size(CLIENTS_BOUND);
        to_client.set_alpn_select_callback(move |ssl, offered| {
            let accepted = ssl.ex_data(alpn).ok_or(AlpnError::NOACK)?;
            names(offered).find(|name| name == accepted).ok_or(AlpnError::NOACK)
        });
        to_client.set_status_callback(move |ssl| {
            match ssl.ex_data::<Vec<u8>>(staple).cloned() {
                Some(response) => ssl.set_ocsp_status(&response).map(|()| true),
                None => Ok(false),
            }
        })?;
        let (to_server, to_client) = (to_server.build(), to_client.build());
        let ticket_key = TicketKey::first(&to_client, Instant::now())?;
        Ok(Self { to_server, to_client, alpn, staple, ticket_key, sessions: Rc::default() })
    }

    /// What is to be spoken, before its first byte.
    pub fn prepare(&self, open: &Open) -> Result<Ssl, ErrorStack> {
        let context = match open.role {
            Role::ToServer { .. } => &self.to_server,
            Role::ToClient { .. } => &self.to_client,
        };
        let mut ssl = Ssl::new(context)?;
        ssl.set_min_proto_version(version(open.versions.0))?;
        ssl.set_max_proto_version(version(open.versions.1))?;
        let suites = || open.suites.iter().filter_map(|id| Suite::by_id(*id));
        let (modern, older): (Vec<_>, Vec<_>) = suites()
            .map(|suite| (suite, suite.name))
            .partition(|(suite, _)| suite.used_in(Protocol::Tls13));
        let list = |suites: Vec<(&Suite, &'static str)>| {
            suites.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(":")
        };
        ssl.set_ciphersuites(&list(modern))?;
        if !older.is_empty() {
            ssl.set_cipher_list(&format!("{}:@SECLEVEL=0", list(older)))?;
        }
        if open.encrypt_then_mac {
            allow_encrypt_then_mac(&mut ssl);
        }
        let now = Instant::now();
        match &open.role {
            Role::ToServer { server_name, alpn, session } => {
                ssl.set_connect_state();
                ssl.set_status_type(StatusType::OCSP)?;
                if let Some(session) = self.sessions.get(session, now) {
                    // SAFETY: only legs to servers put sessions there, and these have this one context.
                    unsafe { ssl.set_session(&session)? };
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
        Ok(ssl)
    }
}

fn context() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls())?;
    // Both are needed: the level alone leaves the signatures of TLS 1.1 and older out.
    context.set_security_level(0);
    context.set_cipher_list("ALL:@SECLEVEL=0")?;
    context.set_min_proto_version(Some(SslVersion::SSL3))?;
    context.set_groups_list(GROUPS)?;
    context.set_verify(SslVerifyMode::NONE);
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
