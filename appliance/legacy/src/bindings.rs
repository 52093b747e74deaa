//! What OpenSSL has and its bindings do not.
//!
//! For: a few calls, each made safe here. Not for: the message call-back, which is with what it
//! fills. Fails as the bindings do, by OpenSSL's errors.

use std::ffi::{c_int, c_long, c_uchar, c_uint, c_void};
use std::ptr;

use foreign_types_shared::{ForeignType as _, ForeignTypeRef as _};
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
    // `openssl/asn1t.h` and `openssl/x509.h`. A type's description, which is opaque here.
    fn ASN1_item_d2i(
        value: *mut *mut c_void,
        bytes: *mut *const c_uchar,
        length: c_long,
        description: *const c_void,
    ) -> *mut c_void;
    fn X509_it() -> *const c_void;
}

/// The shortest certificate that OpenSSL parses: version 1, no names, no key and no signature.
/// commonName stands where an algorithm's identifier does, since OpenSSL knows it (it needs no object of
/// its own then) and has no decoder of keys for it.
#[rustfmt::skip]
const EMPTY_CERTIFICATE: &[u8] = &[
    0x30, 70,
        0x30, 58,
            0x02, 1, 1, // serial number
            0x30, 5, 0x06, 3, 0x55, 0x04, 0x03, // algorithm of the signature
            0x30, 0, // issuer
            0x30, 30, // validity
                0x17, 13, b'7', b'0', b'0', b'1', b'0', b'1', b'0', b'0', b'0', b'0', b'0', b'0', b'Z',
                0x17, 13, b'7', b'0', b'0', b'1', b'0', b'1', b'0', b'0', b'0', b'0', b'0', b'0', b'Z',
            0x30, 0, // subject
            0x30, 10, 0x30, 5, 0x06, 3, 0x55, 0x04, 0x03, 0x03, 1, 0, // key
        0x30, 5, 0x06, 3, 0x55, 0x04, 0x03, 0x03, 1, 0, // signature
];

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
        SSL_CTX_set_cert_verify_callback(context.as_ptr(), Some(take), ptr::null_mut());
    }
}

/// Frees what the server showed, for which nothing needs it after the handshake: parsed, a certificate is
/// three to six times as long as it was, for as long as the session lives, and longer where that is kept.
pub fn forget_peer_certificates(ssl: &SslRef) {
    forget_peer_chain(ssl);
    // Of a session that was resumed it is empty already.
    if !ssl.session_reused() {
        empty_peer_certificate(ssl);
    }
}

/// All but the leaf, which the session has another reference of.
fn forget_peer_chain(ssl: &SslRef) {
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

/// OpenSSL has no call by which a session loses its peer's certificate. But it parses another into the
/// place of one, and frees what that consisted of: its key, names, extensions and its bytes.
fn empty_peer_certificate(ssl: &SslRef) {
    let Some(certificate) = ssl.peer_certificate() else { return };
    const LENGTH: c_long = 72;
    const { assert!(EMPTY_CERTIFICATE.len() == LENGTH as usize) };
    let mut value = certificate.as_ptr().cast::<c_void>();
    let mut bytes = EMPTY_CERTIFICATE.as_ptr();
    // SAFETY: a live certificate, which only this thread knows, and of whose parts nobody holds any: the
    // bindings lend them with it borrowed, and it is not until here. So many bytes are read, and copied.
    let parsed = unsafe { ASN1_item_d2i(&raw mut value, &raw mut bytes, LENGTH, X509_it()) };
    if parsed.is_null() {
        // For want of memory only. The call has given our reference back; the session has its own.
        std::mem::forget(certificate);
        // What it left among this thread's errors would be taken for one of the next call's.
        drop(ErrorStack::get());
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
