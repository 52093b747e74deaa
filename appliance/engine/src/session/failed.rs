//! What ends a session before it is relayed, and whom it is told: the ends, the record, the counters, and
//! what is learnt for the next one.
//!
//! Not for: deciding that it ends. A client that has not been answered is told in clear; one that does not
//! take that at once is reset, as every stream that nobody ends otherwise.

use std::io;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tracing::debug;
use weir_api::engine::{End, FailureCause, SessionRecord};
use weir_policy::Place;
use weir_policy::outcome::Blocked;
use weir_tls::{Alert, Fault, LegError, Verdict};

use crate::closing::{has_spoken, unacknowledged};
use crate::compiled::{FlowPolicy, Proxy};
use crate::counters::{Totals, increment};
use crate::learnt::Rejection;
use crate::leg::{Leg, LegFault, reset_on_close};
use crate::record::failure;
use crate::stacks::ServerFailed;

/// A stream that has room by then is known to.
const SEEN_WRITABLE: Duration = Duration::from_secs(1);

/// Tells the client, the record and the counters of a failed handshake with the server.
pub(super) fn server_failed(
    failed: &ServerFailed,
    client: &TcpStream,
    (flow, place): (&FlowPolicy<'_>, Place),
    record: &mut SessionRecord,
    totals: &Totals,
) -> Blocked {
    let ServerFailed { fault, asked, stream, unshared, .. } = failed;
    debug!(session = record.id, %fault, "handshake with the server failed");
    record.failure = Some(failure(End::Server, *asked, fault));
    if *asked {
        increment(&totals.client_certificates_requested);
        learn_request((flow, place), record);
        refuse(client, stream.as_ref(), flow, nearest_alert(fault));
        Blocked::ClientCertificateRequested
    } else {
        increment(&totals.server_handshake_failures);
        // Nobody's policy: the client is told what happened, whatever is reset on block.
        send_alert(client, nearest_alert(fault));
        match record.failure.as_ref().map(|failure| failure.cause) {
            Some(cause) if *unshared => why_blocked(cause, fault),
            _ => Blocked::ServerHandshakeFailed,
        }
    }
}

/// What is known of a server that has refused all hellos of ours, where its client offers more.
fn why_blocked(cause: FailureCause, fault: &LegFault) -> Blocked {
    match (cause, fault) {
        // For want of a suite, of a name that it serves, of anything else (RFC 8446 section 6.2).
        (
            FailureCause::Incompatible,
            LegFault::Tls(LegError::AlertReceived(Alert::HANDSHAKE_FAILURE)),
        ) => Blocked::ServerRefused,
        (FailureCause::Incompatible | FailureCause::GroupOrSignature, _) => Blocked::NothingShared,
        _ => Blocked::ServerHandshakeFailed,
    }
}

/// Policy blocks a session whose client has not been answered. The ends are reset as the proxy's options
/// say (SPEC T8); where they say no, the client gets this alert, and either an orderly end.
pub(super) fn refuse(
    client: &TcpStream,
    server: Option<&TcpStream>,
    flow: &FlowPolicy<'_>,
    alert: Alert,
) {
    let resets = flow.proxy.resets_on_block();
    if !resets.client {
        send_alert(client, alert);
    }
    if let (Some(server), false) = (server, resets.server) {
        reset_on_close(server, false);
    }
}

/// Tells the client, the record and the counters of a leg to it that cannot be had.
pub(super) fn client_leg_not_made(
    error: LegError,
    client: &TcpStream,
    record: &mut SessionRecord,
    totals: &Totals,
) -> Blocked {
    debug!(session = record.id, %error, "client leg not made");
    increment(&totals.client_handshake_failures);
    record.failure = Some(failure(End::Client, false, &error.into()));
    send_alert(client, Alert::INTERNAL_ERROR);
    Blocked::ClientHandshakeFailed
}

/// The client names a server that the proxy does not have, nor could by the letter (RFC 6066 section 3).
pub(super) async fn name_not_served(
    client: &TcpStream,
    record: &mut SessionRecord,
    totals: &Totals,
) -> Blocked {
    increment(&totals.client_handshake_failures);
    let alert = Alert::UNRECOGNIZED_NAME;
    let refused = LegError::Refused { fault: Fault::Misbehaved, alert };
    record.failure = Some(failure(End::Client, false, &refused.into()));
    // The runtime has not asked yet whether a stream takes anything that has just been made.
    let _ = tokio::time::timeout(SEEN_WRITABLE, client.writable()).await;
    send_alert(client, alert);
    Blocked::ClientHandshakeFailed
}

/// The client does not believe the certificate it was shown. Twice so, its next session may be left
/// alone.
pub(super) fn certificate_rejected(
    (flow, place): (&FlowPolicy<'_>, Place),
    record: &SessionRecord,
    verdict: Verdict,
    rejection: Rejection,
    totals: &Totals,
) {
    let Proxy::Client { proxy, .. } = flow.proxy else { return };
    increment(&totals.forged_certificates_rejected);
    // Of any other verdict clients are meant to be warned.
    if verdict.is_verified() {
        let (client, name) = (record.client.ip(), record.server_name.as_deref());
        let server = place.server(record.server);
        flow.learnt.rejected(proxy, client, server, name, rejection, Instant::now());
    }
}

/// The client believes the certificate that it was shown.
pub(crate) fn certificate_accepted(
    (flow, place): (&FlowPolicy<'_>, Place),
    record: &SessionRecord,
) {
    let Proxy::Client { proxy, .. } = flow.proxy else { return };
    let (client, name) = (record.client.ip(), record.server_name.as_deref());
    flow.learnt.accepted(proxy, client, place.server(record.server), name, Instant::now());
}

/// The next session with this server may be left alone (SPEC T10): where its proxy says so.
pub(super) fn learn_request((flow, place): (&FlowPolicy<'_>, Place), record: &SessionRecord) {
    let name = record.server_name.as_deref();
    flow.learnt.client_certificate_requested(
        flow.proxy.refusals(),
        place.server(record.server),
        name,
        Instant::now(),
    );
}

/// The same where the server may have asked for one: it left after it was refused a renegotiation.
pub(super) fn suspect_request((flow, place): (&FlowPolicy<'_>, Place), record: &SessionRecord) {
    let name = record.server_name.as_deref();
    flow.learnt.client_certificate_suspected(
        flow.proxy.refusals(),
        place.server(record.server),
        name,
        Instant::now(),
    );
}

/// The client said so, or left instead of finishing its handshake: when it had got all of ours. One that
/// resets need not have acknowledged that before; of one that had closed, and is reset by what we say then,
/// the kernel tells another error.
pub(super) fn rejects_certificate(fault: &LegFault, client: &Leg) -> Option<Rejection> {
    let stream = &client.stream;
    match fault {
        LegFault::Tls(LegError::AlertReceived(alert)) => {
            alert.rejects_certificate().then_some(Rejection::Told)
        }
        LegFault::Closed => (!unacknowledged(stream)).then_some(Rejection::Left),
        LegFault::Tcp(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            (client.unsent() == 0 && has_spoken(stream)).then_some(Rejection::Left)
        }
        _ => None,
    }
}

/// The alert that tells a client best why its server could not be reached.
fn nearest_alert(fault: &LegFault) -> Alert {
    match fault {
        LegFault::Tls(error) => error.alert_for_other_side(),
        LegFault::Tcp(_) | LegFault::Closed | LegFault::Slow | LegFault::Mute => {
            Alert::INTERNAL_ERROR
        }
    }
}

/// A fatal alert in clear, as a server sends it before any key is agreed (RFC 8446, section 6),
/// then an orderly close.
fn send_alert(client: &TcpStream, alert: Alert) {
    if client.try_write(&alert.fatal_record()).is_ok() {
        reset_on_close(client, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What policy blocks there is told as it is known, and no more.
    #[test]
    fn only_what_a_server_said_or_chose_is_told_of_what_it_shares() {
        let blocked = |error: LegError| {
            let fault = LegFault::from(error);
            why_blocked(failure(End::Server, false, &fault).cause, &fault)
        };
        let told = |alert| blocked(LegError::AlertReceived(alert));
        let chose = |fault| blocked(LegError::Refused { fault, alert: Alert::HANDSHAKE_FAILURE });
        assert_eq!(told(Alert::HANDSHAKE_FAILURE), Blocked::ServerRefused);
        assert_eq!(told(Alert::PROTOCOL_VERSION), Blocked::NothingShared);
        assert_eq!(told(Alert::INSUFFICIENT_SECURITY), Blocked::NothingShared);
        assert_eq!(chose(Fault::Incompatible), Blocked::NothingShared);
        assert_eq!(chose(Fault::NoGroupOrSignature), Blocked::NothingShared);
        assert_eq!(told(Alert::INTERNAL_ERROR), Blocked::ServerHandshakeFailed);
        assert_eq!(chose(Fault::Misbehaved), Blocked::ServerHandshakeFailed);
    }
}
