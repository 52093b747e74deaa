//! The appliance's services, in the order of starting.
//!
//! For: who runs as whom with what. One place to read it; the descriptions are the same type that
//! the lab's JSON has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use caps::Capability;
use weir_api::init::PlannedSegment;
use weir_api::legacy::MAX_LEGS;
use weir_api::paths;
use weir_policy::snapshot::MOST_SESSIONS;

use super::ports::Nic;
use crate::supervise::{Restart, Service, Stdio};

pub const AGENT_USER: &str = "weir-agent";
pub const ENGINE_USER: &str = "weir-engine";
pub const CAPTURE_USER: &str = "weir-capture";
const CONSOLE_USER: &str = "weir-console";
/// Where the image's /etc/resolv.conf points to.
const RESOLV_CONF: &str = "/run/resolv.conf";
const THIS_PROGRAM: &str = "/sbin/weir-init";

/// Two sockets for each of twice the most sessions, those to the legacy TLS worker, and room for maps,
/// links and pools. The worker inherits it, and takes of it what its legs need.
const ENGINE_FILES: u64 = 2 * 2 * MOST_SESSIONS as u64 + MAX_LEGS as u64 + 16_384;

/// Debian's systemd-journald, alone.
pub fn journal() -> Service {
    Service {
        no_new_privileges: false,
        notifies: true,
        watchdog: Some(60.0),
        ..service("journal", &["/lib/systemd/systemd-journald"], Restart::Always)
    }
}

/// Finds and applies the datasource; prints what is wrong with it on the console itself.
pub fn provision() -> Service {
    Service {
        time_limit: Some(60.0),
        ..service("provision", &["/usr/bin/weir-agent", "provision"], Restart::Never)
    }
}

pub fn management(nic: Option<&Nic>) -> Service {
    let mut command = vec![THIS_PROGRAM, "management", paths::BOOT_PLAN, RESOLV_CONF];
    command.extend(nic.map(|nic| nic.name.as_str()));
    Service { time_limit: Some(30.0), ..service("management", &command, Restart::Never) }
}

pub fn segment(planned: &PlannedSegment, interfaces: [&str; 2]) -> Service {
    let number = planned.id.0.to_string();
    let mtu = planned.mtu.map(|mtu| mtu.to_string());
    let [a, b] = interfaces;
    let mut command = vec![THIS_PROGRAM, "segment", &number, a, b, planned.layer2_fallback.word()];
    command.extend(mtu.as_deref());
    Service {
        time_limit: Some(30.0),
        ..service(&format!("segment-{number}"), &command, Restart::Never)
    }
}

/// Enters the wire namespace as root, and keeps `CAP_NET_ADMIN` only. On its own: links are looked
/// after whatever becomes of the engine.
pub fn links() -> Service {
    Service {
        notifies: true,
        watchdog: Some(10.0),
        ..service("links", &[THIS_PROGRAM, "links"], Restart::Always)
    }
}

pub fn agent() -> Service {
    Service {
        user: Some(AGENT_USER.to_owned()),
        groups: vec!["systemd-journal".to_owned()],
        notifies: true,
        watchdog: Some(30.0),
        ..service("agent", &["/usr/bin/weir-agent", "run"], Restart::Always)
    }
}

/// The short watchdog is what bounds the outage of new inspected flows when it hangs; flows cross
/// meanwhile, because the data plane has a heartbeat of its own. `flow_table`: entries of that; `None`:
/// the engine's own number.
pub fn engine(flow_table: Option<u32>) -> Service {
    let entries = flow_table.map(|entries| entries.to_string());
    let mut command = vec!["/usr/bin/weir-engine"];
    command.extend(entries.iter().flat_map(|entries| ["--flow-table", entries.as_str()]));
    Service {
        user: Some(ENGINE_USER.to_owned()),
        capabilities: vec![
            // Programs and maps; with CAP_PERFMON for their pointers.
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
            // TCP_REPAIR, transparent sockets, links of programs to interfaces.
            Capability::CAP_NET_ADMIN,
            // Packet sockets.
            Capability::CAP_NET_RAW,
            // setns into the engine namespaces.
            Capability::CAP_SYS_ADMIN,
            Capability::CAP_SYS_RESOURCE,
        ],
        notifies: true,
        watchdog: Some(5.0),
        // Longer than `device.health.drain-time` may be: the engine goes by that.
        drain_time: Some(3700.0),
        open_files: Some(ENGINE_FILES),
        ..service("engine", &command, Restart::Always)
    }
}

/// Packet captures: apart from the engine, so that the wire can be looked at when that is dead, and
/// so that what parses anybody's packets holds no keys.
pub fn capture() -> Service {
    Service {
        user: Some(CAPTURE_USER.to_owned()),
        capabilities: vec![
            // Packet sockets; all that it keeps.
            Capability::CAP_NET_RAW,
            // setns into the wire namespace, once, at its start.
            Capability::CAP_SYS_ADMIN,
        ],
        ..service("capture", &["/usr/bin/weir-capture"], Restart::Always)
    }
}

/// A login on the last console of the kernel's list, which is the one it calls /dev/console.
pub fn console() -> Service {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let environment = [("TERM", "vt220"), ("LANG", "C.UTF-8")];
    Service {
        user: Some(CONSOLE_USER.to_owned()),
        stdio: Stdio::Terminal(login_terminal(&active)),
        environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..service("console", &["/usr/bin/weir"], Restart::Session)
    }
}

/// tty0 is whatever virtual terminal is in front, and cannot be logged in on.
fn login_terminal(active: &str) -> PathBuf {
    let name = match active.split_whitespace().next_back() {
        Some("tty0") => "tty1",
        Some(name) => name,
        None => "ttyS0",
    };
    PathBuf::from("/dev").join(name)
}

fn service(name: &str, command: &[&str], restart: Restart) -> Service {
    Service {
        name: name.to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        user: None,
        groups: Vec::new(),
        capabilities: Vec::new(),
        no_new_privileges: true,
        restart,
        notifies: false,
        watchdog: None,
        time_limit: None,
        stop_time: 5.0,
        drain_time: None,
        open_files: None,
        environment: BTreeMap::new(),
        stdio: Stdio::Journal,
    }
}

#[cfg(test)]
mod tests {
    use weir_policy::snapshot::{Layer2Fallback, SegmentId};

    use super::*;

    #[test]
    fn the_login_is_on_the_last_console() {
        assert_eq!(login_terminal("tty0 ttyS0\n"), PathBuf::from("/dev/ttyS0"));
        assert_eq!(login_terminal("ttyS0 tty0\n"), PathBuf::from("/dev/tty1"));
        assert_eq!(login_terminal(""), PathBuf::from("/dev/ttyS0"));
    }

    #[test]
    fn the_engine_is_not_root_and_has_a_short_watchdog() {
        let engine = engine(None);
        assert_eq!(engine.user.as_deref(), Some("weir-engine"));
        assert_eq!(engine.watchdog, Some(5.0));
        assert!(engine.no_new_privileges);
    }

    #[test]
    fn a_segment_is_made_with_its_fallback_and_the_mtu_that_it_was_planned_with() {
        let mut planned = PlannedSegment {
            id: SegmentId(2),
            name: "dmz".into(),
            layer2_fallback: Layer2Fallback::BlockAll,
            link_down_synchronisation: Default::default(),
            wait_time: Default::default(),
            mtu: None,
        };
        let command = |planned: &PlannedSegment| segment(planned, ["eth3", "eth4"]).command;
        let without = [THIS_PROGRAM, "segment", "2", "eth3", "eth4", "block-all"];
        assert_eq!(command(&planned), without);
        planned.mtu = Some(9000);
        assert_eq!(command(&planned), [&without[..], &["9000"]].concat());
    }

    #[test]
    fn the_engine_is_told_the_size_of_its_flow_table() {
        assert_eq!(engine(None).command, ["/usr/bin/weir-engine"]);
        assert_eq!(engine(Some(2048)).command, ["/usr/bin/weir-engine", "--flow-table", "2048"]);
    }
}
