//! What OpenSSL shows of a handshake only message by message: alerts, the request for a client
//! certificate, whether the server's key has signed, group and signature scheme.
//!
//! For: one leg's facts. The messages were checked by OpenSSL, or will be; what is read in them decides
//! nothing, and a message that is cut short is read as far as it goes. Cannot fail.

use std::ffi::{c_int, c_void};

use foreign_types_shared::ForeignTypeRef as _;
use openssl::ssl::SslRef;

const CONTENT_ALERT: c_int = 21;
const CONTENT_HANDSHAKE: c_int = 22;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const HELLO_REQUEST: u8 = 0;
const SERVER_HELLO: u8 = 2;
const SERVER_KEY_EXCHANGE: u8 = 12;
const CERTIFICATE_REQUEST: u8 = 13;
const CERTIFICATE_VERIFY: u8 = 15;
const CLIENT_KEY_EXCHANGE: u8 = 16;
const FINISHED: u8 = 20;
const EXTENSION_KEY_SHARE: u16 = 51;
const NAMED_CURVE: u8 = 3;
const TLS12: c_int = 0x0303;
const SET_MESSAGE_ARGUMENT: c_int = 16;

#[derive(Debug, Default)]
pub struct Observed {
    /// Fatal, or of any level but close_notify.
    pub alert_received: Option<u8>,
    pub alert_sent: Option<u8>,
    pub certificate_requested: bool,
    /// The peer has finished its handshake.
    finished: bool,
    /// After it the server asked for another one; OpenSSL tells it that there is none.
    pub renegotiation_requested: bool,
    /// The server has sent a ServerKeyExchange, which all suites here have it sign.
    pub key_exchange_signed: bool,
    /// And we have gone on from it, as OpenSSL does only where the signature verifies.
    key_exchange_answered: bool,
    /// Code points; 0: none.
    pub group: u16,
    pub signature: u16,
}

type MessageCallback =
    unsafe extern "C" fn(c_int, c_int, c_int, *const c_void, usize, *mut c_void, *mut c_void);

unsafe extern "C" {
    /// `openssl/ssl.h`; the bindings do not have it.
    fn SSL_set_msg_callback(ssl: *mut openssl_sys::SSL, callback: Option<MessageCallback>);
}

/// Has OpenSSL show `observed` all messages of `ssl`.
///
/// # Safety
/// `observed` must be valid, and used by nobody else while OpenSSL runs on `ssl`, until `ssl` is
/// freed.
pub unsafe fn observe(ssl: &SslRef, observed: *mut Observed) {
    let ssl = ssl.as_ptr();
    // SAFETY: `ssl` is a live SSL of the caller's, and the argument is what the callback expects.
    unsafe {
        SSL_set_msg_callback(ssl, Some(on_message));
        openssl_sys::SSL_ctrl(ssl, SET_MESSAGE_ARGUMENT, 0, observed.cast());
    }
}

unsafe extern "C" fn on_message(
    written: c_int,
    version: c_int,
    content: c_int,
    bytes: *const c_void,
    length: usize,
    _: *mut c_void,
    observed: *mut c_void,
) {
    if bytes.is_null() || observed.is_null() {
        return;
    }
    // SAFETY: OpenSSL gives `length` readable bytes for the time of this call, and what `observe` was
    // given, which its caller keeps valid and unused meanwhile.
    let (message, observed) = unsafe {
        (std::slice::from_raw_parts(bytes.cast::<u8>(), length), &mut *observed.cast::<Observed>())
    };
    observed.message(written != 0, version, content, message);
}

impl Observed {
    /// In TLS 1.2 or older: the server's key has signed this handshake, whatever becomes of it.
    pub fn server_has_signed(&self) -> bool {
        self.key_exchange_signed && self.key_exchange_answered
    }

    fn message(&mut self, written: bool, version: c_int, content: c_int, message: &[u8]) {
        match (content, message) {
            (CONTENT_ALERT, &[level, alert, ..])
                if alert != CLOSE_NOTIFY && (level == FATAL || written) =>
            {
                let place = if written { &mut self.alert_sent } else { &mut self.alert_received };
                // A warning (that there is no renegotiation) ends nothing: what comes to it later does.
                if level == FATAL || place.is_none() {
                    *place = Some(alert);
                }
            }
            (CONTENT_HANDSHAKE, &[kind, _, _, _, ref body @ ..]) => match kind {
                SERVER_HELLO => {
                    self.group = key_share(body).unwrap_or(self.group);
                }
                SERVER_KEY_EXCHANGE => {
                    self.key_exchange_signed = !written;
                    if let Some((group, signature)) = server_key_exchange(body) {
                        self.group = group;
                        self.signature = if version == TLS12 { signature } else { 0 };
                    }
                }
                CLIENT_KEY_EXCHANGE if written => self.key_exchange_answered = true,
                CERTIFICATE_REQUEST if !written => self.certificate_requested = true,
                FINISHED if !written => self.finished = true,
                HELLO_REQUEST if !written => self.renegotiation_requested |= self.finished,
                // No client shows a certificate here: it is the server's, of TLS 1.3.
                CERTIFICATE_VERIFY => {
                    self.signature = Reader(body).u16().unwrap_or_default();
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// The group of a ServerHello of TLS 1.3 (RFC 8446 sections 4.1.3 and 4.2.8).
fn key_share(body: &[u8]) -> Option<u16> {
    let mut reader = Reader(body);
    reader.skip(2 + 32)?;
    let session = reader.u8()?;
    reader.skip(usize::from(session) + 2 + 1 + 2)?;
    loop {
        let (kind, length) = (reader.u16()?, reader.u16()?);
        if kind == EXTENSION_KEY_SHARE {
            return reader.u16();
        }
        reader.skip(usize::from(length))?;
    }
}

/// Group, and what stands where TLS 1.2 has the signature scheme (RFC 8422 section 5.4).
fn server_key_exchange(body: &[u8]) -> Option<(u16, u16)> {
    let mut reader = Reader(body);
    if reader.u8()? != NAMED_CURVE {
        return None;
    }
    let group = reader.u16()?;
    let point = reader.u8()?;
    reader.skip(usize::from(point))?;
    Some((group, reader.u16()?))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }

    fn u8(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (&bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_a_session_is_its_fatal_alert_and_no_warning_before_it() {
        const WARNING: u8 = 1;
        const NO_RENEGOTIATION: u8 = 100;
        const UNEXPECTED_MESSAGE: u8 = 10;
        let mut observed = Observed::default();
        let mut written =
            |level, alert| observed.message(true, TLS12, CONTENT_ALERT, &[level, alert]);
        written(WARNING, NO_RENEGOTIATION);
        written(FATAL, UNEXPECTED_MESSAGE);
        written(WARNING, NO_RENEGOTIATION);
        written(WARNING, CLOSE_NOTIFY);
        // Of a peer's warnings none ends anything.
        observed.message(false, TLS12, CONTENT_ALERT, &[WARNING, NO_RENEGOTIATION]);
        assert_eq!(
            (observed.alert_sent, observed.alert_received),
            (Some(UNEXPECTED_MESSAGE), None)
        );
    }
}
