//! What of the boot needs supervision, in order.
//!
//! For: journald; provisioning; management port and segments, so that the wire is whole before
//! anything that could fail for long; agent and engine; console. Not for: how each is done. Each
//! is a step of its own: what fails or panics in it is a warning. What is between the steps (which
//! NICs there are, which segments they make) has no substitute: a panic there fails the boot.

use std::path::Path;
use std::time::Duration;

use weir_api::init::{BootPlan, MachineStatus, PlannedSegment};
use weir_api::paths;

use super::ports::{self, Nic};
use super::{Readiness, Warnings, services_ready, step, waiting_step};
use super::{identity, machine, mounts, services, slot};
use crate::operator;
use crate::supervise::account::Accounts;
use crate::supervise::{Control, Service, Supervisor, Wish};

/// journald's own socket; it is there when journald is.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const JOURNAL_APPEARS: Duration = Duration::from_secs(10);
/// After this the appliance counts as up without what is not ready.
const SERVICES_READY: Duration = Duration::from_secs(60);

/// Starts everything, in order. An `Err` is a wish that came in the meantime.
pub fn boot(
    supervisor: &mut Supervisor,
    machine: MachineStatus,
    accounts: &Accounts,
    readiness: &mut Readiness,
    warnings: &mut Warnings,
) -> Result<(), Wish> {
    step(warnings, "directories", |warnings| mounts::directories(accounts, warnings));
    waiting_step(warnings, "journal", |warnings| start_journal(supervisor, warnings))?;
    let nics = ports::in_order();
    waiting_step(warnings, "provisioning", |warnings| provision(supervisor, warnings))?;
    let plan = step(warnings, "plan", plan).unwrap_or_default();
    waiting_step(warnings, "management port", |warnings| {
        configure_host(supervisor, &plan, nics.first(), warnings)
    })?;
    let planned = planned_segments(&plan, &nics);
    for segment in &planned {
        waiting_step(warnings, &format!("segment {}", segment.id.0), |warnings| {
            join(supervisor, segment, &nics, warnings)
        })?;
    }
    if !planned.is_empty() {
        step(warnings, "links", |_| supervisor.add(services::links()));
    }
    step(warnings, "status", |warnings| {
        serve_status(supervisor, machine, &nics, &planned, accounts, warnings);
    });
    waiting_step(warnings, "services", |warnings| {
        start_services(supervisor, &plan, readiness, warnings)
    })?;
    step(warnings, "console", |_| supervisor.add(services::console()));
    Ok(())
}

fn start_journal(supervisor: &mut Supervisor, warnings: &mut Warnings) -> Result<(), Wish> {
    supervisor.add(services::journal());
    let journal = |_: &Supervisor| Path::new(JOURNAL_SOCKET).exists();
    if !wait(supervisor, JOURNAL_APPEARS, journal)? {
        warnings.add("the journal does not start; the appliance goes on without it");
    }
    Ok(())
}

fn provision(supervisor: &mut Supervisor, warnings: &mut Warnings) -> Result<(), Wish> {
    if !one_shot(supervisor, services::provision())? {
        warnings.add("provisioning failed; segments only bridge");
    }
    Ok(())
}

/// Its name and its management port.
fn configure_host(
    supervisor: &mut Supervisor,
    plan: &BootPlan,
    nic: Option<&Nic>,
    warnings: &mut Warnings,
) -> Result<(), Wish> {
    identity::set_hostname(plan.hostname.as_deref(), warnings);
    if !one_shot(supervisor, services::management(nic))? {
        warnings.add("the management port is not configured");
    }
    Ok(())
}

/// Opens the socket on which the agent asks how the machine is.
fn serve_status(
    supervisor: &mut Supervisor,
    mut machine: MachineStatus,
    nics: &[Nic],
    planned: &[PlannedSegment],
    accounts: &Accounts,
    warnings: &mut Warnings,
) {
    machine.warnings = warnings.0.clone();
    let ports = ports::Watched::new(nics, planned, warnings);
    let agent = accounts.user(services::AGENT_USER).map(|account| account.uid);
    let status = Box::new(move || machine::now(&machine, &ports));
    match Control::bind(Path::new(paths::INIT_SOCKET), agent.into_iter().collect(), status) {
        Ok(control) => supervisor.serve(control),
        Err(error) => warnings.add(format!("{}: {error}", paths::INIT_SOCKET)),
    }
}

/// What is not ready in time is waited for by the main loop.
fn start_services(
    supervisor: &mut Supervisor,
    plan: &BootPlan,
    readiness: &mut Readiness,
    warnings: &mut Warnings,
) -> Result<(), Wish> {
    supervisor.add(services::agent());
    supervisor.add(services::engine(plan.flow_table));
    supervisor.add(services::capture());
    if wait(supervisor, SERVICES_READY, services_ready)? {
        readiness.look(true, slot::mark_good);
    } else {
        warnings.add("not all services are ready");
    }
    Ok(())
}

fn wait(
    supervisor: &mut Supervisor,
    limit: Duration,
    condition: impl Fn(&Supervisor) -> bool,
) -> Result<bool, Wish> {
    supervisor.turn_until(limit, condition)
}

/// Runs it to its end; whether it succeeded. Its own time limit ends it.
fn one_shot(supervisor: &mut Supervisor, service: Service) -> Result<bool, Wish> {
    let name = service.name.clone();
    let limit = service.time_limit() + Duration::from_secs(10);
    supervisor.add(service);
    wait(supervisor, limit, |supervisor| supervisor.ended(&name).is_some())?;
    Ok(supervisor.ended(&name).is_some_and(|exit| exit.is_success()))
}

/// What provisioning left; else the built-in plan.
fn plan(warnings: &mut Warnings) -> BootPlan {
    match std::fs::read(paths::BOOT_PLAN) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warnings.add(format!("{}: {error}; segments only bridge", paths::BOOT_PLAN));
            BootPlan::default()
        }),
        Err(_) => BootPlan::default(),
    }
}

/// SPEC L2: the first NIC is the management port, then come 1A, 1B, 2A, 2B, ...
fn planned_segments(plan: &BootPlan, nics: &[Nic]) -> Vec<PlannedSegment> {
    if !plan.segments.is_empty() {
        return plan.segments.clone();
    }
    let pairs = nics.len().saturating_sub(1) / 2;
    (1..=u16::try_from(pairs).unwrap_or(u16::MAX))
        .map(|number| PlannedSegment {
            id: weir_policy::snapshot::SegmentId(number),
            name: number.to_string(),
            layer2_fallback: Default::default(),
            link_down_synchronisation: Default::default(),
            wait_time: Default::default(),
            mtu: None,
        })
        .collect()
}

fn join(
    supervisor: &mut Supervisor,
    segment: &PlannedSegment,
    nics: &[Nic],
    warnings: &mut Warnings,
) -> Result<(), Wish> {
    let id = segment.id;
    let Some([a, b]) = ports::of_segment(nics, id) else {
        warnings.add(format!(
            "segment {} needs {} NICs, this machine has {}",
            id.0,
            u32::from(id.0) * 2 + 1,
            nics.len()
        ));
        return Ok(());
    };
    if one_shot(supervisor, services::segment(segment, [&a.name, &b.name]))? {
        operator::say(&format!("segment {0} bridges {0}A and {0}B", id.0));
    } else {
        warnings.add(format!("segment {} does not bridge", id.0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nics(count: usize) -> Vec<Nic> {
        (0..count).map(|n| Nic { name: format!("eth{n}"), ..Nic::default() }).collect()
    }

    #[test]
    fn without_a_plan_each_pair_after_the_first_nic_is_a_segment() {
        for (count, expected) in [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
            let planned = planned_segments(&BootPlan::default(), &nics(count));
            assert_eq!(planned.len(), expected, "{count} NICs");
            for (segment, number) in planned.iter().zip(1..) {
                assert_eq!(segment.id.0, number);
                assert!(ports::of_segment(&nics(count), segment.id).is_some());
            }
        }
    }

    #[test]
    fn a_plan_that_names_segments_is_the_plan() {
        let two = PlannedSegment {
            id: weir_policy::snapshot::SegmentId(2),
            name: "dmz".into(),
            layer2_fallback: Default::default(),
            link_down_synchronisation: Default::default(),
            wait_time: Default::default(),
            mtu: None,
        };
        let plan = BootPlan { segments: vec![two.clone()], ..BootPlan::default() };
        assert_eq!(planned_segments(&plan, &nics(9)), [two]);
    }
}
