//! The machine's NICs: their order, and how they are doing.
//!
//! For: SPEC L2's order (first NIC management, then 1A, 1B, 2A, 2B, ...) and the status of ports.
//! Not for: configuring them. A NIC whose state cannot be asked for counts as without a link.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use weir_api::init::{PlannedSegment, PortStatus};
use weir_api::paths;
use weir_policy::snapshot::SegmentId;

use super::Warnings;

pub const MANAGEMENT: &str = "mgmt";

#[derive(Clone, Debug, Default)]
pub struct Nic {
    /// As the kernel named it.
    pub name: String,
    pub driver: String,
    pub mac: String,
    /// In /sys/devices.
    pub device: PathBuf,
}

/// All NICs with a device behind them, by PCI address from the root of the tree on: the order of
/// the slots, whatever driver was first.
pub fn in_order() -> Vec<Nic> {
    let mut nics: Vec<Nic> = std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| nic(&entry.path()))
        .collect();
    nics.sort_by_cached_key(|nic| (pci_addresses(&nic.device), nic.name.clone()));
    nics
}

/// NICs of a segment: A, then B.
pub fn of_segment(nics: &[Nic], id: SegmentId) -> Option<[&Nic; 2]> {
    let b = usize::from(id.0).checked_mul(2)?;
    let a = b.checked_sub(1)?;
    Some([nics.get(a)?, nics.get(b)?])
}

fn nic(path: &Path) -> Option<Nic> {
    let device = path.join("device").canonicalize().ok()?;
    let driver = path.join("device/driver").canonicalize().ok().unwrap_or_default();
    Some(Nic {
        name: path.file_name()?.to_str()?.to_owned(),
        driver: driver.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        mac: std::fs::read_to_string(path.join("address")).unwrap_or_default().trim().to_owned(),
        device,
    })
}

/// (domain, bus, device, function), a bridge before what is behind it.
fn pci_addresses(device: &Path) -> Vec<(u32, u32, u32, u32)> {
    device.iter().filter_map(|part| pci_address(part.to_str()?)).collect()
}

/// `0000:00:1f.2`.
fn pci_address(text: &str) -> Option<(u32, u32, u32, u32)> {
    let (slot, function) = text.split_once('.')?;
    let mut parts = slot.split(':');
    let mut next = || u32::from_str_radix(parts.next()?, 16).ok();
    let address = (next()?, next()?, next()?, u32::from_str_radix(function, 16).ok()?);
    parts.next().is_none().then_some(address)
}

/// Ports by their names in the appliance, with a socket in the namespace of each kind.
pub struct Watched {
    management: Option<(PortStatus, OwnedFd)>,
    ports: Vec<PortStatus>,
    /// A socket sees the interfaces of the namespace it was made in.
    wire: Option<OwnedFd>,
}

impl Watched {
    pub fn new(nics: &[Nic], segments: &[PlannedSegment], warnings: &mut Warnings) -> Self {
        let status = |nic: &Nic, port: String| PortStatus {
            port,
            driver: nic.driver.clone(),
            mac: nic.mac.clone(),
            link: false,
        };
        let ports: Vec<PortStatus> = segments
            .iter()
            .filter_map(|segment| Some((segment.id, of_segment(nics, segment.id)?)))
            .flat_map(|(id, [a, b])| {
                [status(a, format!("{}A", id.0)), status(b, format!("{}B", id.0))]
            })
            .collect();
        let wire = if ports.is_empty() { None } else { wire_socket(warnings) };
        let management = nics
            .first()
            .and_then(|nic| Some((status(nic, MANAGEMENT.to_owned()), interface_socket().ok()?)));
        Self { management, ports, wire }
    }

    /// With the links as they are now.
    pub fn statuses(&self) -> Vec<PortStatus> {
        let management = self.management.iter().map(|(port, socket)| (port, Some(socket)));
        let ports = self.ports.iter().map(|port| (port, self.wire.as_ref()));
        management
            .chain(ports)
            .map(|(port, socket)| PortStatus {
                link: socket.is_some_and(|socket| has_link(socket, &port.port)),
                ..port.clone()
            })
            .collect()
    }
}

fn interface_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// Made by a short-lived thread, so that this one stays in its namespace.
fn wire_socket(warnings: &mut Warnings) -> Option<OwnedFd> {
    let made = std::thread::spawn(|| -> std::io::Result<OwnedFd> {
        let namespace = File::open(Path::new(paths::NETNS).join(paths::WIRE_NAMESPACE))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(interface_socket()?)
    });
    match made.join() {
        Ok(Ok(socket)) => Some(socket),
        Ok(Err(error)) => {
            warnings.add(format!("links of the ports: {error}"));
            None
        }
        Err(_) => None,
    }
}

/// Up with a carrier (`IFF_RUNNING`, netdevice(7)).
fn has_link(socket: &OwnedFd, interface: &str) -> bool {
    // SAFETY: all zero is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name.iter_mut().take(room).zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the request is the structure SIOCGIFFLAGS reads and writes, and outlives the call.
    // nix has no wrapper for it; netlink would take a socket of its own for each question.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &mut request) };
    if result < 0 {
        return false;
    }
    // SAFETY: SIOCGIFFLAGS has filled in this field of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    i32::from(flags) & libc::IFF_RUNNING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_are_ordered_by_slot_not_by_text() {
        let mut devices = [
            "/sys/devices/pci0000:00/0000:00:10.0/virtio4",
            "/sys/devices/pci0000:00/0000:00:03.0/virtio9",
            "/sys/devices/pci0000:00/0000:00:1c.0/0000:03:00.0",
            "/sys/devices/pci0000:00/0000:00:0a.1/virtio1",
        ]
        .map(PathBuf::from);
        devices.sort_by_key(|device| pci_addresses(device));
        let order: Vec<_> = devices.iter().map(|device| pci_addresses(device)).collect();
        assert_eq!(
            order,
            [
                vec![(0, 0, 3, 0)],
                vec![(0, 0, 10, 1)],
                vec![(0, 0, 16, 0)],
                vec![(0, 0, 28, 0), (0, 3, 0, 0)],
            ]
        );
    }

    #[test]
    fn a_segment_has_the_nics_after_those_before_it() {
        let nics: Vec<Nic> =
            (0..5).map(|n| Nic { name: n.to_string(), ..Nic::default() }).collect();
        let names =
            |id| of_segment(&nics, SegmentId(id)).map(|[a, b]| (a.name.clone(), b.name.clone()));
        assert_eq!(names(1), Some(("1".into(), "2".into())));
        assert_eq!(names(2), Some(("3".into(), "4".into())));
        assert_eq!(names(3), None);
        assert_eq!(names(0), None);
    }

    #[test]
    fn the_loopback_of_this_machine_runs_and_a_missing_interface_does_not() {
        let socket = interface_socket().unwrap();
        assert!(!has_link(&socket, "weir-none0"));
        assert!(!has_link(&socket, "a-name-far-longer-than-an-interface-may-have"));
    }
}
