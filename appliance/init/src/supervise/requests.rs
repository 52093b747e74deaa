//! What is asked of the supervisor over init's socket: its status, wishes, services killed or replaced.
//!
//! Not for: the socket and who may ask ([`super::control`]). Each request gets its answer at once;
//! what cannot be done is refused, in words.

use nix::sys::signal::Signal;
use weir_api::init::{FromInit, ToInit};

use super::predecessor::{self, Predecessor};
use super::{Supervisor, Wish};

impl Supervisor {
    pub(super) fn control(&mut self) -> Option<Wish> {
        let mut control = self.control.take()?;
        let mut wish = None;
        for (client, request) in control.requests() {
            let answer = match request {
                ToInit::Status => {
                    let mut status = control.machine();
                    status.services = self.statuses();
                    FromInit::Status(status)
                }
                ToInit::Reboot => {
                    wish = Some(Wish::Reboot);
                    FromInit::Going
                }
                ToInit::PowerOff => {
                    wish = Some(Wish::PowerOff);
                    FromInit::Going
                }
                ToInit::KillService { name } => self.kill(&name),
                ToInit::ReplaceService { name } => self.replace(&name),
            };
            control.answer(client, &answer);
        }
        self.control = Some(control);
        wish
    }

    fn kill(&mut self, name: &str) -> FromInit {
        match self.services.iter().find(|s| s.service.name == name) {
            Some(supervised) if supervised.pid.is_some() => {
                tracing::warn!(service = name, "killed on request");
                supervised.signal(Signal::SIGKILL);
                FromInit::Going
            }
            Some(_) => FromInit::Refused(format!("service {name} does not run")),
            None => self.no_service(name),
        }
    }

    /// Starts a successor beside the running process, which then ends by itself.
    fn replace(&mut self, name: &str) -> FromInit {
        let now = self.clock.now();
        let Some(supervised) = self.services.iter_mut().find(|s| s.service.name == name) else {
            return self.no_service(name);
        };
        let Some(drain_time) = supervised.service.drain_time() else {
            return FromInit::Refused(format!("service {name} cannot have a successor beside it"));
        };
        if supervised.predecessors.len() >= predecessor::MOST {
            return FromInit::Refused(format!(
                "{} processes of service {name} are still ending; try again later",
                predecessor::MOST
            ));
        }
        if !supervised.lifecycle.hand_over(now) {
            return FromInit::Refused(format!("service {name} is not ready"));
        }
        if let (Some(pid), Some(notify)) = (supervised.pid.take(), supervised.notify.take()) {
            tracing::warn!(service = name, pid = pid.as_raw(), "replaced on request");
            let watchdog = supervised.service.watchdog();
            supervised.predecessors.push(Predecessor::new(pid, notify, now, drain_time, watchdog));
            supervised.replaced += 1;
        }
        FromInit::Going
    }

    fn no_service(&self, name: &str) -> FromInit {
        let names: Vec<&str> = self.services.iter().map(|s| s.service.name.as_str()).collect();
        FromInit::Refused(format!("there is no service {name}; services are: {}", names.join(", ")))
    }
}
