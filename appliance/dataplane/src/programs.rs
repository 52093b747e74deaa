//! Loading, pinning and attaching the eBPF programs.
//!
//! For: programs that outlive an engine, and are replaced in one step by the next. Pinned maps are
//! taken on; the rings are new with each engine. Not for: what is in the maps. Fails by naming the
//! step and what the kernel said.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Map, MapData, MapError};
use aya::pin::PinError;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{LinkOrder, RawTracePoint, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::layout::pins_name;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weir.bpf.o"));
static BLOCK_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/block.bpf.o"));

/// Filter priority and handle with clsact: fixed, so that the next engine replaces the program.
const CLSACT: (u16, u32) = (1, 1);

/// How often a program is loaded before it is given up: the verifier stops (EAGAIN) where a signal waits
/// for the calling thread, whatever the program.
const LOADS: usize = 5;

/// How often it is looked whether the rings' pin of another engine, which is there only while that one
/// loads, is gone; then it is that of an engine that died.
const PINNED_BY_ANOTHER: usize = 50;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// tcx where the kernel has it (6.6 and later), else clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{path}: {error}")]
    PinDirectory { path: PathBuf, error: io::Error },
    #[error("eBPF programs: {}", chain(.0))]
    Load(#[from] aya::EbpfError),
    #[error("eBPF program {name}: {}", chain(.error))]
    Program { name: &'static str, error: aya::programs::ProgramError },
    #[error("eBPF object: no {0} in it")]
    Missing(&'static str),
    #[error("{path}: {}", chain(.error))]
    Pinned { path: PathBuf, error: MapError },
    #[error("eBPF programs: another engine started at the same moment")]
    RingsOfAnother,
    #[error("as many engines live as there is room for: {}", crate::layout::ENGINES)]
    TooManyEngines,
    #[error("interface {interface}: {what}")]
    Attach { interface: String, what: String },
}

/// Table sizes and the like, by map name.
pub type Sizes<'a> = [(&'a str, u32)];

/// The name of the map of rings.
pub const RING_TABLE: &str = "held_rings";

/// The rings of one engine.
pub struct RingTable<'a> {
    pub count: u32,
    pub map: &'a OwnedFd,
}

/// Loads the programs of the engine with that number; pinned maps below `pins` are taken on,
/// missing ones are made.
pub fn load(
    pins: &Path,
    instance: u32,
    sizes: &Sizes<'_>,
    rings: &RingTable<'_>,
) -> Result<Ebpf, ProgramError> {
    let layout = layout_directory_at(pins)?;
    let mut loader = EbpfLoader::new();
    loader.btf(None).map_pin_path(&layout).allow_unsupported_maps();
    let size_of =
        |table| sizes.iter().find(|(name, _)| *name == table).map_or(0, |(_, size)| *size);
    let (half_open, flows) = (size_of("half_open"), size_of("flows"));
    for (name, value) in [
        ("INSTANCE", &instance),
        ("rings_in_use", &rings.count),
        ("half_open_entries", &half_open),
        ("flow_entries", &flows),
    ] {
        loader.set_global(name, value, true);
    }
    for (name, size) in sizes {
        loader.set_max_entries(name, *size);
    }
    let mut ebpf = load_with_rings(&mut loader, &layout.join(RING_TABLE), rings.map)?;
    for name in ["port_ingress", "engine_ingress", "engine_query", "classify_probe"] {
        load_program(&mut ebpf, name)?;
    }
    for name in [STATE_COMMAND, COUNT_COMMAND] {
        let program = ebpf.program_mut(name).ok_or(ProgramError::Missing(name))?;
        <&mut RawTracePoint>::try_from(program)
            .and_then(|program| load_again(|| program.load()))
            .map_err(|error| ProgramError::Program { name, error })?;
    }
    Ok(ebpf)
}

/// The rings' map is pinned for as long as the loader needs it, which takes it on as it is. Fails where
/// another engine, that starts at the same moment, put its own there.
fn load_with_rings(
    loader: &mut EbpfLoader<'_>,
    pin: &Path,
    map: &OwnedFd,
) -> Result<Ebpf, ProgramError> {
    let failed = |error| ProgramError::Pinned { path: pin.to_owned(), error };
    let map = map.try_clone().map_err(MapError::IoError).map_err(failed)?;
    let own = MapData::from_fd(map).map_err(failed)?;
    let name = Some(RING_TABLE.to_owned());
    pin_rings(&own, pin).map_err(|error| failed(MapError::PinError { name, error }))?;
    let loaded = loader.load(OBJECT);
    let _ = fs::remove_file(pin);
    let ebpf = loaded?;
    let taken_on = match ebpf.map(RING_TABLE) {
        Some(Map::Unsupported(map)) => map.info().map_err(failed)?.id(),
        _ => return Err(ProgramError::Missing(RING_TABLE)),
    };
    if taken_on != own.info().map_err(failed)?.id() {
        return Err(ProgramError::RingsOfAnother);
    }
    Ok(ebpf)
}

fn pin_rings(rings: &MapData, pin: &Path) -> Result<(), PinError> {
    for _ in 0..PINNED_BY_ANOTHER {
        match rings.pin(pin) {
            Err(PinError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            done => return done,
        }
    }
    // Of an engine that died while it loaded.
    let _ = fs::remove_file(pin);
    rings.pin(pin)
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<(), ProgramError> {
    let program = program(ebpf, name)?;
    load_again(|| program.load()).map_err(|error| ProgramError::Program { name, error })
}

fn load_again(
    mut load: impl FnMut() -> Result<(), aya::programs::ProgramError>,
) -> Result<(), aya::programs::ProgramError> {
    for _ in 1..LOADS {
        match load() {
            Err(aya::programs::ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            done => return done,
        }
    }
    load()
}

/// The program that changes flows' states; nothing attaches it.
pub const STATE_COMMAND: &str = "state_command";
/// The program that changes counts of clients' flows; likewise.
pub const COUNT_COMMAND: &str = "count_command";

/// A descriptor of a program.
pub fn descriptor(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, ProgramError> {
    let program = ebpf.program(name).ok_or(ProgramError::Missing(name))?;
    let fd = program.fd().map_err(|error| ProgramError::Program { name, error })?;
    fd.as_fd().try_clone_to_owned().map_err(|error| ProgramError::Program {
        name,
        error: aya::programs::ProgramError::IOError(error),
    })
}

/// Puts a program that drops everything on a port of the calling thread's namespace, until the first
/// engine attaches its own in its place. Where an engine's is there already, that one stays.
pub fn attach_block(interface: &str, pins: &Path, how: Attach) -> Result<(), ProgramError> {
    let layout = layout_directory_at(pins)?;
    let pin = layout.join(format!("link-{interface}"));
    if pin.exists() {
        return Ok(());
    }
    let mut ebpf = EbpfLoader::new().btf(None).load(BLOCK_OBJECT)?;
    let name = "block_all";
    load_program(&mut ebpf, name)?;
    attach(&mut ebpf, name, interface, pins, how)?;
    // The engine, which is no root, replaces the link.
    let given = fs::metadata(pins).and_then(|owner| {
        let (user, group) = (Some(owner.uid()), Some(owner.gid()));
        std::os::unix::fs::chown(&layout, user, group)?;
        if pin.exists() { std::os::unix::fs::chown(&pin, user, group) } else { Ok(()) }
    });
    given.map_err(|error| ProgramError::PinDirectory { path: pin, error })
}

/// Attaches a program to the ingress of an interface of the calling thread's namespace, in place of
/// the one an engine before left there.
pub fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    interface: &str,
    pins: &Path,
    how: Attach,
) -> Result<(), ProgramError> {
    let failed = |what: String| ProgramError::Attach { interface: interface.to_owned(), what };
    let program = program(ebpf, name)?;
    let pin = pins.join(pins_name()).join(format!("link-{interface}"));
    if how != Attach::Clsact {
        match attach_tcx(program, interface, &pin) {
            Ok(()) => return Ok(()),
            Err(error) if how == Attach::Tcx => return Err(failed(format!("tcx: {error}"))),
            Err(error) => tracing::info!(%error, interface, "no tcx, attaching with clsact"),
        }
    }
    attach_clsact(program, interface).map_err(|error| failed(format!("clsact: {error}")))
}

fn attach_tcx(program: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<(), String> {
    if let Ok(pinned) = PinnedLink::from_pin(pin) {
        let adopted = SchedClassifierLink::try_from(FdLink::from(pinned))
            .map_err(|error| chain(&error))
            .and_then(|link| program.attach_to_link(link).map_err(|error| chain(&error)));
        match adopted {
            Ok(id) => {
                let link = program.take_link(id).map_err(|error| chain(&error))?;
                // The pin keeps it attached.
                drop(FdLink::try_from(link));
                return Ok(());
            }
            // Its interface is gone; there is a new one of the same name.
            Err(error) => tracing::debug!(error, interface, "pinned link is of no use"),
        }
        fs::remove_file(pin).map_err(|error| error.to_string())?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map_err(|error| chain(&error))?;
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    let link = FdLink::try_from(link).map_err(|error| chain(&error))?;
    link.pin(pin).map_err(|error| chain(&error))?;
    Ok(())
}

fn attach_clsact(program: &mut SchedClassifier, interface: &str) -> Result<(), String> {
    match qdisc_add_clsact(interface) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error.to_string()),
        _ => {}
    }
    let (priority, handle) = CLSACT;
    // Replaces the filter where there is one.
    let replaced =
        SchedClassifierLink::attached(interface, TcAttachType::Ingress, priority, handle)
            .map_err(|error| error.to_string())
            .and_then(|link| program.attach_to_link(link).map_err(|error| chain(&error)));
    let id = match replaced {
        Ok(id) => id,
        Err(_) => program
            .attach_with_options(
                interface,
                TcAttachType::Ingress,
                TcAttachOptions::Netlink(NlOptions { priority, handle }),
            )
            .map_err(|error| chain(&error))?,
    };
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    // Dropped, it would detach the program: the filter must outlive the engine.
    std::mem::forget(link);
    Ok(())
}

fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::Missing(name))?
        .try_into()
        .map_err(|error| ProgramError::Program { name, error })
}

pub fn layout_directory_at(pins: &Path) -> Result<PathBuf, ProgramError> {
    layout_directory(pins)
        .map_err(|error| ProgramError::PinDirectory { path: pins.to_owned(), error })
}

/// The directory of this layout's pins, on a bpf file system (mounted here where there is none);
/// what another layout pinned is removed, and so detached.
fn layout_directory(pins: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(pins)?;
    if statfs(pins)?.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), pins, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
            io::Error::new(
                io::Error::from(error).kind(),
                format!("not a bpf file system, and mounting one fails: {error}"),
            )
        })?;
    }
    let own = pins_name();
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        if entry.file_name() != own.as_str()
            && entry.file_name().to_string_lossy().starts_with("layout-")
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let layout = pins.join(own);
    fs::create_dir_all(&layout)?;
    Ok(layout)
}

/// An error with what it came from: aya's own messages leave the cause out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
