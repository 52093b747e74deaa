//! File systems and directories of the running appliance.
//!
//! For: what is mounted and who owns it. Fails with a warning for each that cannot be had; without
//! a data partition state is kept in memory until the next boot.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};

use super::{Warnings, services};
use crate::partition;
use crate::supervise::account::Accounts;

const DATA: &str = "/data";
const DATA_PARTITION: &str = "weir-data";
/// The disk is there already: the root came from it.
const DATA_APPEARS: Duration = Duration::from_secs(3);

/// What stage 1 did not mount.
pub fn basic(warnings: &mut Warnings) {
    umask(Mode::from_bits_truncate(0o022));
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target, flags, data) in [
        (
            "devpts",
            "/dev/pts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "gid=5,mode=620,ptmxmode=666",
        ),
        ("tmpfs", "/dev/shm", hidden, "mode=1777,size=25%"),
        ("tmpfs", "/tmp", hidden, "mode=1777,size=25%"),
        ("cgroup2", "/sys/fs/cgroup", hidden, ""),
        ("bpf", "/sys/fs/bpf", hidden, "mode=0755"),
    ] {
        // Those under / are in the image; the kernel makes those under /sys.
        let _ = std::fs::create_dir(target);
        if let Err(error) = mount(Some(kind), target, Some(kind), flags, Some(data)) {
            warnings.add(format!("mount of {target}: {error}"));
        }
    }
}

pub fn data(warnings: &mut Warnings) {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = match partition::wait(DATA_PARTITION, DATA_APPEARS, || {}) {
        Some(device) => mount(Some(&device), DATA, Some("ext4"), flags, None::<&str>)
            .map_err(|error| format!("{}: {error}", device.display())),
        None => Err(format!("no partition {DATA_PARTITION}")),
    };
    let Err(why) = mounted else { return };
    warnings.add(format!("{why}; state is lost at the next boot"));
    if let Err(error) = mount(Some("tmpfs"), DATA, Some("tmpfs"), flags, Some("mode=0755,size=25%"))
    {
        warnings.add(format!("mount of {DATA}: {error}"));
    }
}

/// A directory that a service needs.
struct Place {
    path: &'static str,
    mode: u32,
    owner: Owner,
}

enum Owner {
    Root,
    /// A user and its group.
    User(&'static str),
    /// root, and this group.
    Group(&'static str),
}

/// Each service's own places.
const PLACES: [Place; 9] = [
    Place { path: "/run/netns", mode: 0o755, owner: Owner::Root },
    // journald's files are read by the group they inherit.
    Place { path: "/run/log", mode: 0o755, owner: Owner::Root },
    Place { path: "/run/log/journal", mode: 0o2755, owner: Owner::Group("systemd-journal") },
    // Written by init and agent: sticky, so that neither removes what is the other's.
    Place { path: "/run/weir", mode: 0o1775, owner: Owner::Group(services::AGENT_USER) },
    Place { path: "/run/weir/agent", mode: 0o700, owner: Owner::User(services::AGENT_USER) },
    Place { path: "/run/weir/capture", mode: 0o755, owner: Owner::User(services::CAPTURE_USER) },
    Place { path: "/data/captures", mode: 0o700, owner: Owner::User(services::CAPTURE_USER) },
    Place { path: "/data/agent", mode: 0o700, owner: Owner::User(services::AGENT_USER) },
    Place { path: "/sys/fs/bpf/weir", mode: 0o700, owner: Owner::User(services::ENGINE_USER) },
];

pub fn directories(accounts: &Accounts, warnings: &mut Warnings) {
    for Place { path, mode, owner } in PLACES {
        let (uid, gid) = match owner {
            Owner::Root => (None, None),
            Owner::User(name) => accounts
                .user(name)
                .map_or((None, None), |account| (Some(account.uid), Some(account.gid))),
            Owner::Group(name) => (None, accounts.group(name)),
        };
        let made = make(Path::new(path), mode)
            .and_then(|()| chown(path, uid.map(|uid| uid.as_raw()), gid.map(|gid| gid.as_raw())));
        if let Err(error) = made {
            warnings.add(format!("{path}: {error}"));
        }
    }
}

fn make(path: &Path, mode: u32) -> std::io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not left to the creation: the umask and an older image may have had it otherwise.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// At the end: what is dirty goes to the disk and its file system is closed.
pub fn release() {
    nix::unistd::sync();
    if umount2(DATA, MntFlags::empty()).is_err() {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let _ = mount(None::<&str>, DATA, None::<&str>, read_only, None::<&str>);
    }
}
