//! What a role may ask (SPEC L5).
//!
//! For: every request, before anything is done for it. Not for: who has which role
//! ([`crate::accounts`]). Fails by a refusal in words, which say the role that is needed.

use weir_api::capture::ToCapture;
use weir_api::console::{Request, Role};

/// Without a role: greeting and login only.
pub(super) fn authorise(role: Option<Role>, request: &Request) -> Result<(), String> {
    let least = match request {
        Request::Greeting | Request::Login { .. } => return Ok(()),
        Request::Version
        | Request::Health
        | Request::Segments
        | Request::VirtualSegments
        | Request::Capture(ToCapture::List)
        | Request::TlsInspection
        | Request::Ciphers
        | Request::HighAvailability
        | Request::Sessions { .. }
        | Request::LiveSessions { .. }
        | Request::ShowLearnt
        | Request::TlsInspectionLog { .. }
        | Request::Events { .. }
        | Request::Log { .. }
        | Request::ShowQuarantine
        | Request::TrafficFilters
        | Request::InspectionBypass
        | Request::Reputation { .. }
        | Request::Configuration => Role::Viewer,
        Request::Quarantine { .. } | Request::ReleaseHost(_) | Request::Explain(_) => {
            Role::Operator
        }
        // Who talks to whom is not for everybody.
        Request::Capture(_)
        | Request::ForceFallback(_)
        | Request::ForgetLearnt
        | Request::ForgetLearntOf(_)
        | Request::Reboot
        | Request::PowerOff
        | Request::KillEngine
        | Request::RestartEngine
        | Request::RestartPorts(_)
        | Request::ClearSessions => Role::Administrator,
    };
    match role {
        None => Err("log in first".into()),
        Some(Role::Viewer) if least > Role::Viewer => {
            Err("the console is read-only: no user was provisioned".into())
        }
        Some(role) if role < least => {
            let word = |role: Role| format!("{role:?}").to_lowercase();
            Err(format!("this needs the role {}; yours is {}", word(least), word(role)))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use weir_policy::SecretBytes;
    use weir_policy::snapshot::SegmentId;

    use super::*;

    #[test]
    fn without_a_login_only_greeting_and_login_are_answered() {
        let login = Request::Login { user: String::new(), password: SecretBytes::new(vec![]) };
        assert!(authorise(None, &Request::Greeting).is_ok());
        assert!(authorise(None, &login).is_ok());
        assert!(authorise(None, &Request::Version).is_err());
        assert!(authorise(None, &Request::Reboot).is_err());
    }

    #[test]
    fn orders_need_an_administrator() {
        for request in [
            Request::Reboot,
            Request::PowerOff,
            Request::KillEngine,
            Request::RestartEngine,
            Request::ClearSessions,
            Request::RestartPorts(SegmentId(1)),
            Request::Capture(ToCapture::Stop("1A".into())),
            Request::ForceFallback(true),
            Request::ForceFallback(false),
            Request::ForgetLearnt,
        ] {
            assert!(authorise(Some(Role::Viewer), &request).is_err(), "{request:?}");
            assert!(authorise(Some(Role::Operator), &request).is_err(), "{request:?}");
            assert!(authorise(Some(Role::Administrator), &request).is_ok(), "{request:?}");
            assert!(authorise(Some(Role::Superuser), &request).is_ok(), "{request:?}");
        }
    }

    #[test]
    fn an_operator_quarantines_and_releases_and_a_read_only_console_does_not() {
        let host = std::net::IpAddr::from([192, 0, 2, 1]);
        for request in [Request::Quarantine { host, minutes: None }, Request::ReleaseHost(host)] {
            assert!(authorise(Some(Role::Viewer), &request).is_err(), "{request:?}");
            assert!(authorise(Some(Role::Operator), &request).is_ok(), "{request:?}");
        }
        assert!(authorise(Some(Role::Viewer), &Request::ShowQuarantine).is_ok());
    }

    #[test]
    fn showing_needs_no_more_than_a_read_only_console() {
        assert!(authorise(Some(Role::Viewer), &Request::Configuration).is_ok());
        assert!(authorise(Some(Role::Operator), &Request::Log { limit: 1 }).is_ok());
    }
}
