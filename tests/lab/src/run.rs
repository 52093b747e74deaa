//! One run of the lab: its directory, the prefix of its namespaces, and the removal of both.
//!
//! For: leaving nothing behind when a run succeeded, and everything worth reading when it did not.
//! Fails where the caller is not root, or the directory cannot be made.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};

/// What every namespace of the lab is called first; then come process id and run.
const PREFIX: &str = "weirlab";
const NETNS: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

static RUNS: AtomicU32 = AtomicU32::new(1);

/// A run. The last owner's drop removes namespaces and pins, and the directory after a success.
pub struct Run {
    id: String,
    directory: PathBuf,
    succeeded: AtomicBool,
}

impl Run {
    /// Makes the directory of a new run, and removes what dead runs left behind.
    pub fn new() -> Result<Arc<Self>> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces and loads eBPF: run it as root"
        );
        remove_leftovers();
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}x{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("{PREFIX}{id}"));
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Arc::new(Self { id, directory, succeeded: AtomicBool::new(false) }))
    }

    /// Prefix of the run's namespaces, such as `weirlab4711x1-`.
    pub fn prefix(&self) -> String {
        format!("{PREFIX}{}-", self.id)
    }

    /// A name for an interface in this machine's own namespace: at most 15 bytes.
    pub fn interface(&self, suffix: char) -> String {
        format!("wl{}{suffix}", self.id)
    }

    /// Where this run's eBPF programs and maps are pinned.
    pub fn pin_directory(&self) -> PathBuf {
        Path::new(BPFFS).join(format!("{PREFIX}{}", self.id))
    }

    /// Entries of the engine's table of held, taken, blocked and watched flows.
    pub fn flows(&self) -> Result<usize> {
        Ok(self.flow_table()?.keys().count())
    }

    /// The ports of both ends of each of them, and its state: STATE_... of `bpf/weir.h`.
    pub fn flow_states(&self) -> Result<Vec<([u16; 2], u8)>> {
        let table = self.flow_table()?;
        let states = table.iter().map(|entry| {
            let ([.., a, b, c, d], [state, ..]) = entry?;
            Ok(([[a, b], [c, d]].map(u16::from_be_bytes), state))
        });
        states.collect()
    }

    /// Of the one layout that this run's engines have. As long as key and value of `bpf/weir.h` are; aya refuses
    /// any other length.
    fn flow_table(&self) -> Result<HashMap<MapData, [u8; 60], [u8; 136]>> {
        let pins = self.pin_directory();
        let layout = entries(&pins).into_iter().find(|name| name.starts_with("layout-"));
        let layout = layout.with_context(|| format!("nothing is pinned in {}", pins.display()))?;
        let map = Map::HashMap(MapData::from_pin(pins.join(layout).join("flows"))?);
        Ok(HashMap::try_from(map)?)
    }

    /// A file of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The run went well: its files are not needed any more.
    pub fn succeeded(&self) {
        self.succeeded.store(true, Ordering::Relaxed);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove_namespaces(&self.prefix());
        let _ = std::fs::remove_dir_all(self.pin_directory());
        let keep = std::env::var_os("WEIR_LAB_KEEP").is_some();
        if self.succeeded.load(Ordering::Relaxed) && !keep {
            let _ = std::fs::remove_dir_all(&self.directory);
        } else {
            eprintln!("lab: logs and captures of this run: {}", self.directory.display());
        }
    }
}

/// Namespaces, pins and directories of this process: for its end by a signal.
pub fn remove_own() {
    let mine = format!("{PREFIX}{}x", std::process::id());
    remove_namespaces(&mine);
    let mut places = vec![PathBuf::from(BPFFS)];
    if std::env::var_os("WEIR_LAB_KEEP").is_none() {
        places.push(std::env::temp_dir());
    }
    for place in places {
        for name in entries(&place).into_iter().filter(|name| name.starts_with(&mine)) {
            let _ = std::fs::remove_dir_all(place.join(name));
        }
    }
}

fn remove_namespaces(prefix: &str) {
    for name in entries(NETNS).into_iter().filter(|name| name.starts_with(prefix)) {
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
}

/// Namespaces and pins of runs whose process is gone (killed, or the machine lost power).
fn remove_leftovers() {
    for name in entries(NETNS).into_iter().filter(|name| owner_is_gone(name)) {
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in entries(BPFFS).into_iter().filter(|name| owner_is_gone(name)) {
        let _ = std::fs::remove_dir_all(Path::new(BPFFS).join(name));
    }
}

fn owner_is_gone(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let Some((pid, _)) = rest.split_once('x') else { return false };
    pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
