//! Gets Debian packages without root: apt downloads them, dpkg-deb unpacks them into a cache that
//! later builds find ready. Nothing is installed on the build host.
//!
//! apt checks the packages against the archive's signatures. Where the host's package lists are
//! missing or older than the archive, lists of our own are fetched into the cache and used instead.
//! Fails where apt's sources do not have a package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::tool::{run, tool};

/// The kernel of a build that asks for no other: the newest of its series.
pub const KERNEL: &str = "linux-image-6.12-amd64";
const LIST: &str = include_str!("../packages.list");

/// Unpacked packages.
pub struct Packages {
    /// The kernel's name for itself, `uname -r`.
    pub kernel_version: String,
    pub kernel: PathBuf,
    /// All but the kernel.
    pub others: Vec<PathBuf>,
}

impl Packages {
    /// `/lib/modules/VERSION` with depmod's tables in it.
    pub fn modules(&self) -> PathBuf {
        self.kernel.join("lib/modules").join(&self.kernel_version)
    }

    pub fn kernel_image(&self) -> PathBuf {
        self.kernel.join(format!("boot/vmlinuz-{}", self.kernel_version))
    }
}

/// Finds what apt would install and returns it unpacked; `say` gets a line for each download.
/// The kernel is the one that the meta package `kernel` depends on.
pub fn fetch(kernel: &str, cache: &Path, say: &dyn Fn(String)) -> anyhow::Result<Packages> {
    fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let cache = fs::canonicalize(cache)?;
    let host = Apt { cache: &cache, own_lists: false };
    fetch_with(&host, kernel, say).or_else(|error| {
        say(format!("{error:#}"));
        say("fetching newer package lists".into());
        let own = Apt { cache: &cache, own_lists: true };
        own.update()?;
        fetch_with(&own, kernel, say)
    })
}

fn fetch_with(apt: &Apt<'_>, kernel: &str, say: &dyn Fn(String)) -> anyhow::Result<Packages> {
    let names: Vec<&str> =
        LIST.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next()).collect();
    let kernel_name = kernel_package(kernel, &apt.show(&[kernel])?)?;
    let mut wanted = apt.show(&[&[kernel_name.as_str()], names.as_slice()].concat())?;
    wanted.sort_by_key(|package| package.name != kernel_name);
    for name in names {
        if !wanted.iter().any(|package| package.name == name) {
            bail!("package {name}: not in apt's sources");
        }
    }
    let kernel_version = kernel_name.trim_start_matches("linux-image-").to_owned();
    apt.unpack_missing(&wanted, &kernel_name, say)?;
    let mut trees = wanted.iter().map(|package| apt.tree(package));
    let kernel = trees.next().context("no kernel package")?;
    Ok(Packages { kernel_version, kernel, others: trees.collect() })
}

/// The kernel package that the meta package stands for.
fn kernel_package(asked: &str, meta: &[Candidate]) -> anyhow::Result<String> {
    let depends = meta.first().map(|package| package.depends.as_str()).unwrap_or_default();
    let name = depends.split([',', ' ']).find(|word| word.starts_with("linux-image-"));
    Ok(name.with_context(|| format!("{asked}: not in apt's sources"))?.to_owned())
}

/// The version of a package that apt would install.
#[derive(Debug, Default, PartialEq, Eq)]
struct Candidate {
    name: String,
    version: String,
    depends: String,
    /// `NAME_VERSION_ARCHITECTURE`, as the archive calls the file.
    stem: String,
}

impl Candidate {
    /// From the stanzas of `apt-cache show`.
    fn parse_all(text: &str) -> Vec<Candidate> {
        let stanzas = text.split("\n\n").filter(|stanza| !stanza.trim().is_empty());
        stanzas
            .map(|stanza| {
                let field = |name: &str| {
                    let line = stanza.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().trim().to_owned()
                };
                let file = field("Filename:");
                let stem = file.rsplit('/').next().unwrap_or_default().trim_end_matches(".deb");
                Candidate {
                    name: field("Package:"),
                    version: field("Version:"),
                    depends: field("Depends:"),
                    stem: stem.to_owned(),
                }
            })
            .filter(|candidate| !candidate.stem.is_empty())
            .collect()
    }
}

struct Apt<'a> {
    cache: &'a Path,
    /// Package lists in the cache instead of the host's.
    own_lists: bool,
}

impl Apt<'_> {
    fn command(&self, name: &str) -> Command {
        let mut command = tool(name);
        let option = |key: &str, directory: &str| {
            let directory = self.cache.join("apt").join(directory);
            format!("{key}={}", directory.display())
        };
        // Another apt run's clean-up would delete archives in a shared cache.
        command.args(["-q", "-o", "APT::Sandbox::User=root"]);
        command.args(["-o", &option("Dir::Cache", "cache")]);
        if self.own_lists {
            command.args(["-o", &option("Dir::State::lists", "lists")]);
        }
        command
    }

    fn update(&self) -> anyhow::Result<()> {
        for directory in ["cache/archives/partial", "lists/partial"] {
            fs::create_dir_all(self.cache.join("apt").join(directory))?;
        }
        run(self.command("apt-get").arg("update"))?;
        Ok(())
    }

    fn show(&self, names: &[&str]) -> anyhow::Result<Vec<Candidate>> {
        fs::create_dir_all(self.cache.join("apt/cache"))?;
        let text = run(self.command("apt-cache").args(["--no-all-versions", "show"]).args(names))?;
        Ok(Candidate::parse_all(&String::from_utf8_lossy(&text)))
    }

    /// Where the package is unpacked. A tree that is there is whole: it gets its name last.
    fn tree(&self, package: &Candidate) -> PathBuf {
        self.cache.join(&package.stem)
    }

    fn unpack_missing(
        &self,
        wanted: &[Candidate],
        kernel_name: &str,
        say: &dyn Fn(String),
    ) -> anyhow::Result<()> {
        let is_missing = |package: &&Candidate| !self.tree(package).is_dir();
        let missing: Vec<&Candidate> = wanted.iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let exact: Vec<String> =
            missing.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        say(format!("downloading {} Debian packages into {}", exact.len(), self.cache.display()));
        let work = tempfile::tempdir_in(self.cache)?;
        run(self.command("apt-get").current_dir(work.path()).arg("download").args(&exact))?;
        for package in missing {
            let version = package.name.strip_prefix("linux-image-");
            let version = version.filter(|_| package.name == kernel_name);
            self.unpack(work.path(), package, version)?;
        }
        Ok(())
    }

    /// A kernel also gets depmod's tables.
    fn unpack(
        &self,
        downloads: &Path,
        package: &Candidate,
        kernel_version: Option<&str>,
    ) -> anyhow::Result<()> {
        let archive = archive_of(downloads, &package.name)?;
        let content = downloads.join(&package.stem);
        run(tool("dpkg-deb").arg("-x").args([&archive, &content]))?;
        if let Some(version) = kernel_version {
            run(tool("depmod").arg("-b").arg(&content).arg(version))?;
        }
        let tree = self.tree(package);
        match fs::rename(&content, &tree) {
            Err(_) if tree.is_dir() => Ok(()), // a build beside this one was quicker
            renamed => renamed.with_context(|| tree.display().to_string()),
        }
    }
}

/// apt names the file `NAME_VERSION_ARCHITECTURE.deb`; a colon in the version is written `%3a`.
fn archive_of(downloads: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let prefix = format!("{name}_");
    for entry in fs::read_dir(downloads)? {
        let entry = entry?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if file.starts_with(&prefix) && file.ends_with(".deb") {
            return Ok(entry.path());
        }
    }
    bail!("apt-get download {name}: no file");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_package_comes_from_the_meta_package() {
        let stanza = "Package: linux-image-6.12-amd64\nVersion: 6.12.117-1~deb12u1\n\
                      Depends: linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)\n\
                      Filename: pool/l/linux-image-6.12-amd64_6.12.117-1~deb12u1_amd64.deb\n\n";
        let candidates = Candidate::parse_all(stanza);
        assert_eq!(candidates[0].stem, "linux-image-6.12-amd64_6.12.117-1~deb12u1_amd64");
        assert_eq!(
            kernel_package(KERNEL, &candidates).unwrap(),
            "linux-image-6.12.117+deb12-amd64"
        );
        assert!(kernel_package(KERNEL, &[]).is_err());
    }

    #[test]
    fn a_stanza_without_a_file_is_installed_but_not_in_the_archive() {
        assert_eq!(Candidate::parse_all("Package: own\nVersion: 1\n\n"), []);
    }
}
