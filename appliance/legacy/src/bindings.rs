//! What OpenSSL has and its bindings do not.
//!
//! For: a few calls, each made safe here. Not for: the message call-back, which is with what it
//! fills. Fails as the bindings do, by OpenSSL's errors.

use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};

use foreign_types_shared::ForeignTypeRef as _;
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslContextRef, SslRef, SslSessionRef};
use weir_api::legacy::BINDING;

/// `SSL_OP_NO_ENCRYPT_THEN_MAC`.
pub const NO_ENCRYPT_THEN_MAC: u64 = 1 << 19;
/// `SSL_OP_LEGACY_SERVER_CONNECT`.
pub const LEGACY_SERVER_CONNECT: u64 = 1 << 2;
/// A ticket key: its name, and the keys of HMAC and AES.
pub const TICKET_KEY: usize = 16 + 32 + 32;

/// `SSL_CTRL_SET_TLSEXT_TICKET_KEYS`.
const SET_TICKET_KEYS: c_int = 59;

type VerifyCallback = unsafe extern "C" fn(*mut openssl_sys::X509_STORE_CTX, *mut c_void) -> c_int;

unsafe extern "C" {
    // `openssl/ssl.h`.
    fn SSL_certs_clear(ssl: *mut openssl_sys::SSL);
    fn SSL_CTX_set_cert_verify_callback(
        context: *mut openssl_sys::SSL_CTX,
        callback: Option<VerifyCallback>,
        argument: *mut c_void,
    );
    fn SSL_clear_options(ssl: *mut openssl_sys::SSL, options: u64) -> u64;
    fn SSL_set_session_id_context(
        ssl: *mut openssl_sys::SSL,
        context: *const c_uchar,
        length: c_uint,
    ) -> c_int;
    fn SSL_SESSION_is_resumable(session: *const openssl_sys::SSL_SESSION) -> c_int;
}

/// Has RFC 7366 offered and agreed on: contexts have it off.
pub fn allow_encrypt_then_mac(ssl: &mut SslRef) {
    // SAFETY: a live SSL, and a call that changes nothing but its options.
    unsafe { SSL_clear_options(ssl.as_ptr(), NO_ENCRYPT_THEN_MAC) };
}

/// Frees its certificate and private key, which nothing needs after the handshake.
pub fn forget_certificate(ssl: &SslRef) {
    // SAFETY: a live SSL; what is shared is counted.
    unsafe { SSL_certs_clear(ssl.as_ptr()) };
}

/// Takes every certificate of a peer, without a look at it: OpenSSL would look for a path to issuers
/// that it does not have, and keep what it found.
pub fn take_any_certificate(context: &mut SslContextBuilder) {
    unsafe extern "C" fn take(_: *mut openssl_sys::X509_STORE_CTX, _: *mut c_void) -> c_int {
        1
    }
    // SAFETY: a live context, and a call-back that uses neither of its arguments.
    unsafe {
        SSL_CTX_set_cert_verify_callback(context.as_ptr(), Some(take), std::ptr::null_mut());
    }
}

/// Frees the chain that the server showed, but for its leaf, which the session has another reference
/// of: parsed, each is three to six times as long as it was, for as long as the session lives.
pub fn forget_peer_chain(ssl: &SslRef) {
    // SAFETY: a live SSL; the stack, where there is one, is its session's own, and so is the reference
    // of each certificate in it. Nothing borrows from it: the bindings lend it with `ssl` borrowed.
    unsafe {
        let chain = openssl_sys::SSL_get_peer_cert_chain(ssl.as_ptr());
        while !chain.is_null() {
            let certificate = openssl_sys::OPENSSL_sk_pop(chain.cast());
            if certificate.is_null() {
                break;
            }
            openssl_sys::X509_free(certificate.cast());
        }
    }
}

/// Only sessions that were made under the same binding are resumed. Without one a server may resume
/// whatever its context has made.
pub fn bind_sessions(ssl: &mut SslRef, binding: &[u8; BINDING]) -> Result<(), ErrorStack> {
    const LENGTH: c_uint = 32; // the most that OpenSSL takes
    const { assert!(BINDING == LENGTH as usize) };
    // SAFETY: a live SSL; so many bytes are read, and copied.
    match unsafe { SSL_set_session_id_context(ssl.as_ptr(), binding.as_ptr(), LENGTH) } {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// It has an identifier or a ticket, and no fatal alert ended a connection that used it.
pub fn is_resumable(session: &SslSessionRef) -> bool {
    // SAFETY: a live session, which is only read.
    unsafe { SSL_SESSION_is_resumable(session.as_ptr()) == 1 }
}

/// Replaces the key that tickets are encrypted with; those of the old are not taken any more.
pub fn set_ticket_key(
    context: &SslContextRef,
    key: &mut [u8; TICKET_KEY],
) -> Result<(), ErrorStack> {
    const LENGTH: c_long = 80;
    const { assert!(TICKET_KEY == LENGTH as usize) };
    // SAFETY: a live context of this thread's; so many bytes are read, and copied.
    let set = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            context.as_ptr(),
            SET_TICKET_KEYS,
            LENGTH,
            key.as_mut_ptr().cast(),
        )
    };
    if set == 1 { Ok(()) } else { Err(ErrorStack::get()) }
}
