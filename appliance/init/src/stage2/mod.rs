//! Stage 2, from the verified root: from mounts to running services, and down again.
//!
//! For: the order of boot and shutdown. Not for: how each step is done (its own module). Nothing
//! here stops the boot: a step that fails leaves a warning on the console and in the machine's
//! status, and the next one goes on with what is there. A panic costs the step it happened in, so
//! that the segments come up whatever else fails; only one between the steps reboots, because it
//! may have left the wire dead.
//!
//! Order: mounts, modules, clock, identity, machine checks; then what needs supervision
//! (boot.rs).

mod boot;
mod clock;
mod identity;
mod machine;
mod management;
mod mounts;
mod ports;
mod segments;
mod services;
mod settings;
mod slot;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use weir_api::init::MachineStatus;

pub use management::configure as configure_management;
pub use segments::create as create_segment;
pub use services::AGENT_USER;

use crate::modules::{self, Modules};
use crate::operator;
use crate::reboot::{End, end};
use crate::supervise::account::Accounts;
use crate::supervise::{Supervisor, Wish};

/// Notification sockets.
const RUNTIME_DIRECTORY: &str = "/run/init";
/// For the operator to read why, before a boot that failed is tried again.
const BEFORE_REBOOT: Duration = Duration::from_secs(10);
/// Panics of the main loop that are survived; more, and the machine reboots.
const PANICS_SURVIVED: u32 = 100;

pub fn run() -> ! {
    let mut warnings = Warnings::default();
    let machine = prepare(&mut warnings);
    let accounts = Accounts::of_this_machine();
    let directory = PathBuf::from(RUNTIME_DIRECTORY);
    let supervisor =
        Supervisor::new(directory, accounts.clone(), Box::new(|line: &str| operator::say(line)));
    let how = match supervisor {
        Ok(mut supervisor) => supervise(&mut supervisor, machine, &accounts, warnings),
        Err(error) => {
            operator::say(&format!("cannot supervise: {error}; rebooting in 10 s"));
            std::thread::sleep(BEFORE_REBOOT);
            End::Reboot
        }
    };
    finish(how)
}

/// What an operator should know; each is said once on the console and kept for the status.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Warnings {
    fn add(&mut self, warning: impl Into<String>) {
        let warning = warning.into();
        tracing::warn!("{warning}");
        operator::warn(&warning);
        self.0.push(warning);
    }
}

/// Runs a step; where it panics, that is a warning and `None`.
fn step<T>(
    warnings: &mut Warnings,
    what: &str,
    action: impl FnOnce(&mut Warnings) -> T,
) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| action(warnings))) {
        Ok(result) => Some(result),
        Err(_) => {
            warnings.add(format!("{what}: internal error"));
            None
        }
    }
}

/// Runs a step that waits for services. A wish that came in the meantime is the error, and ends
/// the boot; a panic does not.
fn waiting_step<T>(
    warnings: &mut Warnings,
    what: &str,
    action: impl FnOnce(&mut Warnings) -> Result<T, Wish>,
) -> Result<Option<T>, Wish> {
    step(warnings, what, action).transpose()
}

/// All that needs no service.
fn prepare(warnings: &mut Warnings) -> MachineStatus {
    step(warnings, "mounts", mounts::basic);
    step(warnings, "kernel log", |_| crate::kernel_log::begin());
    step(warnings, "settings", |_| settings::apply());
    step(warnings, "modules", load_modules);
    step(warnings, "data", mounts::data);
    step(warnings, "clock", clock::check);
    step(warnings, "identity", identity::settle);
    let machine = step(warnings, "machine checks", machine::examine).unwrap_or_default();
    operator::say(&machine::summary(&machine));
    machine
}

fn load_modules(warnings: &mut Warnings) {
    match Modules::of_running_kernel() {
        Ok(mut modules) => {
            if let Err(error) = modules::answer_the_kernel("/sbin/weir-init") {
                warnings.add(format!("modules on demand: {error}"));
            }
            modules.cold_plug();
        }
        Err(error) => warnings.add(error.to_string()),
    }
}

fn supervise(
    supervisor: &mut Supervisor,
    machine: MachineStatus,
    accounts: &Accounts,
    mut warnings: Warnings,
) -> End {
    let mut readiness = Readiness::of(&machine);
    let booted = step(&mut warnings, "boot", |warnings| {
        boot::boot(supervisor, machine, accounts, &mut readiness, warnings)
    });
    let wish = match booted {
        Some(Ok(())) => main_loop(supervisor, &mut readiness),
        Some(Err(wish)) => wish,
        None => {
            operator::say("the boot failed; rebooting in 10 s");
            std::thread::sleep(BEFORE_REBOOT);
            Wish::Reboot
        }
    };
    let how = match wish {
        Wish::Reboot => End::Reboot,
        Wish::PowerOff | Wish::Stop => End::PowerOff,
    };
    operator::say(match how {
        End::Reboot => "rebooting",
        End::PowerOff => "shutting down",
    });
    // A panic here must not keep the machine from ending.
    let _ = catch_unwind(AssertUnwindSafe(|| supervisor.stop()));
    how
}

/// Supervises until somebody wants the end.
fn main_loop(supervisor: &mut Supervisor, readiness: &mut Readiness) -> Wish {
    let mut panics = 0;
    loop {
        let turned = catch_unwind(AssertUnwindSafe(|| {
            let wish = supervisor.turn();
            readiness.look(services_ready(supervisor), slot::mark_good);
            wish
        }));
        match turned {
            Ok(None) => {}
            Ok(Some(wish)) => return wish,
            Err(_) if panics < PANICS_SURVIVED => panics += 1,
            Err(_) => return Wish::Reboot,
        }
    }
}

/// Whether agent and engine have been ready together: the boot went well, however late.
struct Readiness {
    /// A slot whose root nobody verified is not marked good.
    root_verified: bool,
    /// Said and marked, which is done once.
    marked: bool,
}

impl Readiness {
    fn of(machine: &MachineStatus) -> Self {
        Self { root_verified: machine.verified_root, marked: false }
    }

    /// `mark` marks the running slot good.
    fn look(&mut self, ready: bool, mark: impl FnOnce()) {
        if !ready || self.marked {
            return;
        }
        self.marked = true;
        if self.root_verified {
            mark();
        }
        operator::say("ready");
    }
}

fn services_ready(supervisor: &Supervisor) -> bool {
    supervisor.is_ready("agent") && supervisor.is_ready("engine")
}

/// Ends what services left behind, then the machine.
fn finish(how: End) -> ! {
    let _ = catch_unwind(|| {
        for (signal, patience) in [(Signal::SIGTERM, 20), (Signal::SIGKILL, 20)] {
            // All processes but this one.
            if kill(Pid::from_raw(-1), signal).is_err() {
                break;
            }
            let mut left = true;
            for _ in 0..patience {
                while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                    if status == WaitStatus::StillAlive {
                        break;
                    }
                }
                left = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)).is_ok();
                if !left {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            if !left {
                break;
            }
        }
        clock::keep();
        mounts::release();
    });
    end(how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_costs_its_step_only() {
        let mut warnings = Warnings::default();
        let result = step(&mut warnings, "test", |_| -> u8 { panic!("expected by the test") });
        assert_eq!(result, None);
        assert_eq!(warnings.0, ["test: internal error"]);
    }

    #[test]
    fn a_wish_ends_the_boot_and_a_panic_does_not() {
        let mut warnings = Warnings::default();
        let panics = |_: &mut Warnings| -> Result<(), Wish> { panic!("expected by the test") };
        assert_eq!(waiting_step(&mut warnings, "journal", panics), Ok(None));
        assert_eq!(waiting_step(&mut warnings, "segment 1", |_| Ok(7)), Ok(Some(7)));
        let reboot = |_: &mut Warnings| -> Result<(), Wish> { Err(Wish::Reboot) };
        assert_eq!(waiting_step(&mut warnings, "segment 2", reboot), Err(Wish::Reboot));
        assert_eq!(warnings.0, ["journal: internal error"]);
    }

    #[test]
    fn a_slot_is_marked_good_once_however_late_it_becomes_ready() {
        let machine = MachineStatus { verified_root: true, ..MachineStatus::default() };
        let mut readiness = Readiness::of(&machine);
        let marks = std::cell::Cell::new(0);
        for (ready, expected) in [(false, 0), (false, 0), (true, 1), (false, 1), (true, 1)] {
            readiness.look(ready, || marks.set(marks.get() + 1));
            assert_eq!(marks.get(), expected);
        }
    }

    #[test]
    fn a_slot_whose_root_is_not_verified_is_never_marked_good() {
        let mut readiness = Readiness::of(&MachineStatus::default());
        readiness.look(true, || panic!("marked"));
    }
}
