//! `show health`.

use weir_api::console::{Health, HighAvailability, InspectionOff};
use weir_api::init::{MachineStatus, Mode, PortStatus, ServiceState, ServiceStatus};

use crate::text::{duration, field, fold, moment};

pub fn health(health: &Health) -> String {
    let mut text = String::new();
    match &health.machine {
        Some(status) => text += &machine(status),
        None => text += &field("Machine", "unknown: there is no init to ask"),
    }
    let engine = if health.engine_connected { "connected" } else { "not connected" };
    text += &field("Engine", &format!("{engine}; connected {} times", health.engine_starts));
    text += &field("Policy generation", &health.generation.to_string());
    text += &field("State", &health.availability);
    if let Some(off) = &health.inspection_off {
        text += &field("Inspection off", &inspection_off(off));
    }
    text += &field("Forced fallback", if health.fallback_forced { "yes" } else { "no" });
    if health.warnings.is_empty() {
        text += &field("Warnings", "none");
    }
    for warning in &health.warnings {
        text += &field("Warning", warning);
    }
    text
}

/// Since when, and what crosses.
pub fn inspection_off(off: &InspectionOff) -> String {
    format!("since {}: {}", moment(off.since), off.crosses)
}

/// `show high-availability`.
pub fn high_availability(state: &HighAvailability) -> String {
    let mut text = field("State", &state.state);
    text += &field("Forced fallback", if state.fallback_forced { "yes" } else { "no" });
    if state.draining_engines > 0 {
        text += &field("Draining engines", &state.draining_engines.to_string());
    }
    for segment in &state.segments {
        let [a, b] = &segment.ports;
        text += &fold("", &format!("Segment {} (ports {a} and {b})", segment.name));
        text += &field("  State", &segment.state);
        text += &field("  Layer-2 fallback", &segment.layer2_fallback);
        text += &field("  Link-down sync", &segment.link_down_synchronisation);
        if !segment.links.is_empty() {
            text += &field("  Links", &segment.links);
        }
    }
    text
}

fn machine(status: &MachineStatus) -> String {
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let mode = match status.mode {
        Mode::Performance => "performance",
        Mode::Normal => "normal (TLS inspection is off)",
    };
    let mut text = field("Mode", mode);
    text += &field("vCPUs", &status.vcpus.to_string());
    text += &field("Memory", &format!("{} MiB", status.memory_mib));
    text += &field("Firmware", &status.firmware);
    text += &field("Verified root", yes_no(status.verified_root));
    text += &field("RDRAND", yes_no(status.rdrand));
    text += &field("Uptime", &duration(status.uptime));
    text += &status.services.iter().map(service).collect::<String>();
    text += &status.ports.iter().map(port).collect::<String>();
    text
}

fn service(service: &ServiceStatus) -> String {
    let state = match service.state {
        ServiceState::Running => "running",
        ServiceState::BackingOff => "waiting for its next start",
        ServiceState::Done => "done",
    };
    let mut value = format!("{}: {state}, {} restarts", service.name, service.restarts);
    if let Some(exit) = &service.last_exit {
        value += &format!(", last: {exit}");
    }
    field("Service", &value)
}

fn port(port: &PortStatus) -> String {
    let link = if port.link { "up" } else { "down" };
    fold(
        &format!("{:<24}", "Port"),
        &format!("{}: link {link}, {}, {}", port.port, port.mac, port.driver),
    )
}

#[cfg(test)]
mod tests {
    use weir_api::console::SegmentAvailability;

    use super::*;
    use crate::text::WIDTH;

    fn example(text: &str) -> Health {
        Health {
            machine: Some(MachineStatus {
                firmware: text.into(),
                mode: Mode::Performance,
                vcpus: 2,
                memory_mib: 3936,
                uptime: 61,
                services: vec![ServiceStatus {
                    name: text.into(),
                    state: ServiceState::Running,
                    restarts: 1,
                    last_exit: Some(text.into()),
                }],
                ports: vec![PortStatus {
                    port: text.into(),
                    driver: text.into(),
                    mac: text.into(),
                    link: true,
                }],
                ..MachineStatus::default()
            }),
            engine_connected: true,
            engine_starts: 2,
            generation: 3,
            fallback_forced: false,
            availability: text.into(),
            inspection_off: Some(InspectionOff { since: 1_700_000_000_000, crosses: text.into() }),
            warnings: vec![text.into()],
        }
    }

    #[test]
    fn health_shows_machine_services_ports_and_warnings() {
        let expected = "\
Mode                    performance
vCPUs                   2
Memory                  3936 MiB
Firmware                x
Verified root           no
RDRAND                  no
Uptime                  00:01:01
Service                 x: running, 1 restarts, last: x
Port                    x: link up, x, x
Engine                  connected; connected 2 times
Policy generation       3
State                   x
Inspection off          since 2023-11-14 22:13:20: x
Forced fallback         no
Warning                 x
";
        assert_eq!(health(&example("x")), expected);
    }

    #[test]
    fn high_availability_shows_each_segment_and_fits() {
        let example = |text: &str| HighAvailability {
            state: text.into(),
            fallback_forced: true,
            draining_engines: 1,
            segments: vec![SegmentAvailability {
                name: text.into(),
                ports: ["1A".into(), "1B".into()],
                layer2_fallback: text.into(),
                state: text.into(),
                link_down_synchronisation: text.into(),
                links: text.into(),
            }],
        };
        let expected = "\
State                   x
Forced fallback         yes
Draining engines        1
Segment x (ports 1A and 1B)
  State                 x
  Layer-2 fallback      x
  Link-down sync        x
  Links                 x
";
        assert_eq!(high_availability(&example("x")), expected);
        for line in high_availability(&example(&"long\x07".repeat(50))).lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn health_fits_with_the_longest_values() {
        for line in health(&example(&"long\x07".repeat(50))).lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
