//! A fatal alert that ends a session in good order, for which rustls has no call.
//!
//! For: telling one leg's peer what the other leg's peer said. Of its owner's will rustls ends a
//! session by close_notify alone. Inside [`closing_with`] the leg's encrypter ([`super::suites`])
//! encrypts the alert in the close_notify's place. Cannot fail.

use std::cell::Cell;

use crate::alert::Alert;

/// RFC 8446 section 6.
const FATAL: u8 = 2;

thread_local! {
    static CLOSING: Cell<Option<Alert>> = const { Cell::new(None) };
}

/// Runs `act`, in which a connection sends its close_notify: its peer gets this alert instead.
pub(super) fn closing_with<T>(alert: Alert, act: impl FnOnce() -> T) -> T {
    CLOSING.set(Some(alert));
    let done = act();
    CLOSING.set(None);
    done
}

/// The payload of the alert that goes out in the place of the one that rustls sends now, if any.
pub(super) fn due() -> Option<[u8; 2]> {
    CLOSING.get().map(|alert| [FATAL, alert.0])
}
