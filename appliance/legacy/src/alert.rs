//! A fatal alert of the caller's choice inside a session.
//!
//! OpenSSL has no public call for it: by itself it sends alerts for its own errors, and close_notify.
//! The function that both go through is in the static library; which library that is, is asserted at
//! the worker's start ([`crate::library`]). Not for: handshakes. Cannot fail: an alert that OpenSSL
//! does not send, the peer does without.

use std::ffi::c_int;

use foreign_types_shared::ForeignTypeRef as _;
use openssl::ssl::SslRef;

const FATAL: c_int = 2;

unsafe extern "C" {
    /// `ssl/ssl_local.h`. Its first argument is an `SSL_CONNECTION`, as which every `SSL` of a TLS
    /// method (not QUIC) begins and ends.
    fn ssl3_send_alert(ssl: *mut openssl_sys::SSL, level: c_int, description: c_int) -> c_int;
}

/// The record is in the output of `ssl` when this returns.
pub fn send_fatal_alert(ssl: &SslRef, alert: u8) {
    // SAFETY: `ssl` is a live SSL of `TLS_method`, on which no other call is under way; the function
    // writes one record to its BIO. A description that the version does not have, it maps to one
    // that it has, or sends nothing.
    unsafe { ssl3_send_alert(ssl.as_ptr(), FATAL, alert.into()) };
}
