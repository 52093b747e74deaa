//! What this machine is, and what follows from it (SPEC L3).
//!
//! For: slot, root, firmware, kernel, processors, memory, RDRAND, and the mode. Not for: changing
//! any of it. What cannot be read counts as not there.

use std::fs;
use std::os::unix::fs::MetadataExt;

use weir_api::init::{MachineStatus, Mode};

use super::Warnings;
use super::ports::Watched;
use crate::command_line::CommandLine;

/// TLS inspection needs so many.
const VCPUS: u32 = 2;
/// 4 GiB, as the kernel reports them: it keeps some for itself before it counts.
const MEMORY_MIB: u64 = 3584;
/// As stage 1 calls the verified root.
const VERIFIED_ROOT: &str = "weir-root";

pub fn examine(warnings: &mut Warnings) -> MachineStatus {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let vcpus = processors.lines().filter(|line| line.starts_with("processor")).count();
    let vcpus = u32::try_from(vcpus).unwrap_or(u32::MAX);
    let memory_mib = memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let rdrand = has_flag(&processors, "rdrand");
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let slot = match CommandLine::parse(&command_line) {
        Ok(parsed) => Some(parsed.slot.to_string()),
        Err(error) => {
            warnings.add(error.to_string());
            None
        }
    };
    let verified_root = verified_root();
    if !verified_root {
        warnings.add("the root file system is not verified");
    }
    if !rdrand {
        warnings.add("the processor has no RDRAND; randomness comes from fewer sources");
    }
    let (mode, why) = mode(vcpus, memory_mib);
    if let Some(why) = why {
        warnings.add(why);
    }
    MachineStatus {
        slot,
        verified_root,
        firmware: if fs::exists("/sys/firmware/efi").unwrap_or(false) { "UEFI" } else { "BIOS" }
            .to_owned(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        mode,
        rdrand,
        vcpus,
        memory_mib,
        ..MachineStatus::default()
    }
}

/// The line that opens the boot.
pub fn summary(machine: &MachineStatus) -> String {
    format!(
        "slot {}, root {}, kernel {}, {}, mode {} ({} vCPU, {} MiB)",
        machine.slot.as_deref().unwrap_or("unknown"),
        if machine.verified_root { "verified" } else { "not verified" },
        machine.kernel,
        machine.firmware,
        match machine.mode {
            Mode::Performance => "performance",
            Mode::Normal => "normal",
        },
        machine.vcpus,
        machine.memory_mib
    )
}

/// What changes is read anew; services are the supervisor's to add.
pub fn now(machine: &MachineStatus, ports: &Watched) -> MachineStatus {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split('.').next().and_then(|text| text.parse().ok());
    MachineStatus {
        uptime: seconds.unwrap_or_default(),
        ports: ports.statuses(),
        ..machine.clone()
    }
}

fn mode(vcpus: u32, memory_mib: u64) -> (Mode, Option<String>) {
    if vcpus >= VCPUS && memory_mib >= MEMORY_MIB {
        return (Mode::Performance, None);
    }
    let why = format!(
        "mode normal, TLS inspection is off: it needs {VCPUS} vCPUs and 4096 MiB, \
         this machine has {vcpus} and {memory_mib}"
    );
    (Mode::Normal, Some(why))
}

/// `MemTotal:  4030300 kB`.
fn memory_mib(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

fn has_flag(processors: &str, flag: &str) -> bool {
    processors
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|word| word == flag))
}

/// Whether / lies on the device that stage 1 mapped.
fn verified_root() -> bool {
    let Ok(root) = fs::metadata("/") else { return false };
    let device =
        format!("{}:{}", nix::sys::stat::major(root.dev()), nix::sys::stat::minor(root.dev()));
    fs::read_to_string(format!("/sys/dev/block/{device}/dm/name"))
        .is_ok_and(|name| name.trim() == VERIFIED_ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn performance_needs_two_processors_and_four_gibibytes() {
        assert_eq!(mode(2, 3936), (Mode::Performance, None));
        for (vcpus, memory) in [(1, 8000), (2, 2000), (0, 0)] {
            let (mode, why) = mode(vcpus, memory);
            assert_eq!(mode, Mode::Normal);
            assert!(why.unwrap().contains(&format!("has {vcpus} and {memory}")));
        }
    }

    #[test]
    fn figures_are_read_from_the_kernels_files() {
        assert_eq!(memory_mib("MemFree: 1 kB\nMemTotal:        4030464 kB\n"), 3936);
        assert_eq!(memory_mib("nothing"), 0);
        assert!(has_flag("flags\t\t: fpu rdrand aes\n", "rdrand"));
        assert!(!has_flag("flags\t\t: fpu rdrand2\nbugs: rdrand\n", "rdrand"));
    }
}
