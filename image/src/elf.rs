//! Which shared objects a program needs: reads the dynamic section of 64-bit little-endian ELF
//! files, as the loader would, and searches the unpacked packages for them.
//!
//! Source: System V ABI, gABI chapter 5. Objects opened by name at run time (dlopen) are not seen.
//! Fails where a file is no such ELF file or an object is in none of the packages.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

const PROGRAM_LOAD: u32 = 1;
const PROGRAM_DYNAMIC: u32 = 2;
const PROGRAM_INTERPRETER: u32 = 3;
const DYNAMIC_NEEDED: u64 = 1;
const DYNAMIC_STRINGS: u64 = 5;
const DYNAMIC_RUNPATH: u64 = 29;

/// Where Debian's loader looks when nothing else is said.
const DEFAULT_PATHS: [&str; 2] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];

/// What one file asks of the loader.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub interpreter: Option<String>,
    pub libraries: Vec<String>,
    /// Directories searched before the default ones.
    pub run_path: Vec<String>,
}

/// All shared objects that `programs` (absolute paths in the image) need, the loader included:
/// absolute path in the image -> file on this machine. `packages` are unpacked package trees.
pub fn closure(
    programs: &[&str],
    packages: &[PathBuf],
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut queue: VecDeque<PathBuf> = VecDeque::new();
    for program in programs {
        let file = packages.iter().find_map(|tree| in_tree(tree, program));
        queue.push_back(file.with_context(|| format!("{program}: in none of the packages"))?);
    }
    while let Some(file) = queue.pop_front() {
        let needs = Needs::of(&fs::read(&file)?).with_context(|| file.display().to_string())?;
        let interpreter = needs.interpreter.as_deref().and_then(|path| path.rsplit('/').next());
        for library in needs.libraries.iter().map(String::as_str).chain(interpreter) {
            let run_path = needs.run_path.iter().map(String::as_str);
            let candidate = run_path.chain(DEFAULT_PATHS).find_map(|directory| {
                let path = format!("{directory}/{library}");
                packages.iter().find_map(|tree| in_tree(tree, &path)).map(|file| (path, file))
            });
            let Some((path, source)) = candidate else {
                bail!(
                    "{} needs {library}, which is in none of the packages: \
                     add the one that holds it to image/packages.list",
                    file.display()
                );
            };
            if found.insert(path, source.clone()).is_none() {
                queue.push_back(source);
            }
        }
    }
    Ok(found)
}

fn in_tree(tree: &Path, path: &str) -> Option<PathBuf> {
    let file = tree.join(path.trim_start_matches('/'));
    file.is_file().then_some(file)
}

impl Needs {
    pub fn of(elf: &[u8]) -> anyhow::Result<Needs> {
        if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
            bail!("not a 64-bit little-endian ELF file");
        }
        let headers = program_headers(elf)?;
        let mut needs = Needs::default();
        if let Some(header) = headers.iter().find(|header| header.kind == PROGRAM_INTERPRETER) {
            needs.interpreter = Some(text(elf, header.offset)?);
        }
        let Some(dynamic) = headers.iter().find(|header| header.kind == PROGRAM_DYNAMIC) else {
            return Ok(needs); // static
        };
        let mut entries = Vec::new();
        for at in (dynamic.offset..dynamic.offset.saturating_add(dynamic.size)).step_by(16) {
            entries.push((number(elf, at, 8)?, number(elf, at.saturating_add(8), 8)?));
        }
        let entry = |tag| entries.iter().find(|entry| entry.0 == tag).map(|entry| entry.1);
        let strings = entry(DYNAMIC_STRINGS).context("no string table")?;
        let load = headers
            .iter()
            .filter(|header| header.kind == PROGRAM_LOAD)
            .find(|header| strings.checked_sub(header.address).is_some_and(|at| at < header.size))
            .context("the string table is in no segment")?;
        let strings = load.offset.saturating_add(strings - load.address);
        for (_, name) in entries.iter().filter(|entry| entry.0 == DYNAMIC_NEEDED) {
            needs.libraries.push(text(elf, strings.saturating_add(*name))?);
        }
        if let Some(run_path) = entry(DYNAMIC_RUNPATH) {
            let run_path = text(elf, strings.saturating_add(run_path))?;
            needs.run_path = run_path.split(':').map(str::to_owned).collect();
        }
        Ok(needs)
    }
}

struct ProgramHeader {
    kind: u32,
    /// In the file.
    offset: u64,
    /// In memory.
    address: u64,
    /// In the file.
    size: u64,
}

fn program_headers(elf: &[u8]) -> anyhow::Result<Vec<ProgramHeader>> {
    let start = number(elf, 0x20, 8)?;
    let size = number(elf, 0x36, 2)?;
    let count = number(elf, 0x38, 2)?;
    (0..count)
        .map(|index| {
            let at = start.saturating_add(index * size);
            Ok(ProgramHeader {
                kind: number(elf, at, 4)? as u32,
                offset: number(elf, at.saturating_add(8), 8)?,
                address: number(elf, at.saturating_add(16), 8)?,
                size: number(elf, at.saturating_add(32), 8)?,
            })
        })
        .collect()
}

fn number(elf: &[u8], at: u64, width: usize) -> anyhow::Result<u64> {
    let at = usize::try_from(at)?;
    let bytes = elf.get(at..at.saturating_add(width)).context("cut off")?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn text(elf: &[u8], at: u64) -> anyhow::Result<String> {
    let bytes = elf.get(usize::try_from(at)?..).context("cut off")?;
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8(bytes.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{run, tool};

    #[test]
    fn reads_what_the_linker_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let program = linked(directory.path());
        let needs = Needs::of(&fs::read(program).unwrap()).unwrap();
        assert_eq!(needs.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(needs.libraries, ["libone.so.1", "libc.so.6"]);
        assert_eq!(needs.run_path, ["/usr/lib/own", "/elsewhere"]);
    }

    #[test]
    fn closure_follows_libraries_of_libraries_through_their_run_path() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        let (own, default) = (tree.join("usr/lib/own"), tree.join("lib/x86_64-linux-gnu"));
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(&default).unwrap();
        fs::copy(linked(directory.path()), tree.join("usr/bin/program")).unwrap();
        fs::copy(directory.path().join("libone.so.1"), own.join("libone.so.1")).unwrap();
        fs::copy(directory.path().join("libtwo.so.1"), default.join("libtwo.so.1")).unwrap();
        for library in ["libc.so.6", "ld-linux-x86-64.so.2"] {
            let here = Path::new("/lib/x86_64-linux-gnu").join(library);
            fs::copy(here, default.join(library)).unwrap();
        }
        let trees = [directory.path().join("empty"), tree];
        let found = closure(&["/usr/bin/program"], &trees).unwrap();
        let paths: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib/x86_64-linux-gnu/libtwo.so.1",
                "/usr/lib/own/libone.so.1",
            ]
        );
        fs::remove_file(default.join("libtwo.so.1")).unwrap();
        let error = closure(&["/usr/bin/program"], &trees).unwrap_err().to_string();
        assert!(error.contains("libtwo.so.1") && error.contains("packages.list"), "{error}");
    }

    #[test]
    fn other_files_and_cut_off_files_are_errors() {
        assert!(Needs::of(b"#!/bin/sh\n").is_err());
        let directory = tempfile::tempdir().unwrap();
        let whole = fs::read(linked(directory.path())).unwrap();
        let start = number(&whole, 0x20, 8).unwrap() as usize;
        for length in [6, 0x30, start + 20, 0x400] {
            assert!(Needs::of(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    /// A program that needs libone.so.1, which needs libtwo.so.1.
    fn linked(directory: &Path) -> PathBuf {
        fs::write(directory.join("two.c"), "int two(void){return 2;}").unwrap();
        fs::write(directory.join("one.c"), "int two(void);int one(void){return two();}").unwrap();
        fs::write(directory.join("main.c"), "int one(void);int main(void){return one();}").unwrap();
        let compile = |arguments: &str| {
            run(tool("cc").current_dir(directory).args(arguments.split(' '))).unwrap();
        };
        compile("-shared -fPIC -Wl,-soname,libtwo.so.1 -o libtwo.so.1 two.c");
        compile("-shared -fPIC -Wl,-soname,libone.so.1 -o libone.so.1 one.c libtwo.so.1");
        compile(
            "-Wl,--no-as-needed,--allow-shlib-undefined,--enable-new-dtags,\
             -rpath,/usr/lib/own:/elsewhere -o program main.c libone.so.1",
        );
        directory.join("program")
    }
}
