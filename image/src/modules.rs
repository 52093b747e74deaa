//! Which kernel modules go in: those of an allow-list with all they depend on, and depmod's files
//! cut down to them.
//!
//! For: `modules.dep` and `modules.alias` in the formats depmod writes (modules.dep(5)), with paths
//! relative to `/lib/modules/VERSION`, which `weir-init` reads for cold plug and on demand. Modules
//! are stored decompressed: their signature is inside and stays valid.
//!
//! Nothing in the image runs modprobe, so what depmod keeps as soft dependencies (a module asks the
//! kernel for `crypto-crc32c` by alias) is written into `modules.dep` as dependencies; only those
//! bound to a CPU feature are not, as they do not load everywhere: cold plug brings them.
//!
//! Fails on a name in a list that the kernel does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::tool::{run, tool};

/// Functional and driver modules of the initramfs.
pub const INITRD_LIST: &str = include_str!("../modules/initrd.list");
/// Modules of the root file system, besides those of the initramfs.
pub const ROOT_LIST: &str = include_str!("../modules/root.list");

/// depmod's tables of one kernel, read whole.
pub struct Modules {
    /// `/lib/modules/VERSION` of the unpacked package.
    directory: PathBuf,
    /// Name -> path relative to `directory`, as in modules.dep.
    paths: BTreeMap<String, String>,
    /// Name -> names it needs, as in modules.dep (all of them, the nearest first).
    needs: BTreeMap<String, Vec<String>>,
    /// Alias pattern and name, in modules.alias' order.
    aliases: Vec<(String, String)>,
    /// Name -> names or aliases to be loaded before it.
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
}

/// A chosen set with its dependencies.
pub struct Selection {
    names: BTreeSet<String>,
}

/// A selection unpacked: file names relative to `/lib/modules/VERSION`, and their contents.
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl Modules {
    /// Reads what depmod left in `/lib/modules/VERSION` of an unpacked kernel package.
    pub fn read(directory: &Path) -> anyhow::Result<Modules> {
        let text = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let tables = Tables {
            dep: &text("modules.dep")?,
            alias: &text("modules.alias")?,
            softdep: &text("modules.softdep")?,
            builtin: &text("modules.builtin")?,
        };
        Ok(Modules::parse(directory, &tables))
    }

    fn parse(directory: &Path, tables: &Tables<'_>) -> Modules {
        let mut modules = Modules {
            directory: directory.to_owned(),
            paths: BTreeMap::new(),
            needs: BTreeMap::new(),
            aliases: Vec::new(),
            soft: BTreeMap::new(),
            builtin: tables.builtin.lines().map(name_of).collect(),
        };
        for (path, needs) in tables.dep.lines().filter_map(|line| line.split_once(':')) {
            modules.paths.insert(name_of(path), path.to_owned());
            modules.needs.insert(name_of(path), needs.split_whitespace().map(name_of).collect());
        }
        for line in tables.alias.lines() {
            if let ["alias", pattern, name] = line.split_whitespace().collect::<Vec<_>>()[..] {
                modules.aliases.push((pattern.to_owned(), name.to_owned()));
            }
        }
        for line in tables.softdep.lines() {
            let mut words = line.split_whitespace();
            if let (Some("softdep"), Some(name)) = (words.next(), words.next()) {
                let before = words.skip_while(|word| *word != "pre:").skip(1);
                let before = before.take_while(|word| *word != "post:").map(str::to_owned);
                modules.soft.entry(canonical(name)).or_default().extend(before);
            }
        }
        modules
    }

    /// The modules named in the lists (a name a word, `#` starts a comment) and all they need.
    /// A name that is built into the kernel asks for nothing.
    pub fn select(&self, lists: &[&str]) -> anyhow::Result<Selection> {
        let words = lists.iter().flat_map(|list| list.lines()).flat_map(|line| {
            line.split('#').next().unwrap_or_default().split_whitespace().map(canonical)
        });
        let mut names = BTreeSet::new();
        let mut queue: Vec<String> = Vec::new();
        for name in words {
            if self.paths.contains_key(&name) {
                queue.push(name);
            } else if !self.builtin.contains(&name) {
                anyhow::bail!("module {name} of image/modules/*.list: not in this kernel");
            }
        }
        while let Some(name) = queue.pop() {
            queue.extend(self.needs.get(&name).into_iter().flatten().cloned());
            let soft = self.soft_needs(&name);
            if names.insert(name) {
                queue.extend(soft);
            }
        }
        Ok(Selection { names })
    }

    /// What a module's soft dependencies stand for; names and aliases that no module has are left
    /// out, as modprobe does.
    fn soft_needs(&self, name: &str) -> Vec<String> {
        let wanted = self.soft.get(name).into_iter().flatten();
        let mut names: Vec<String> = wanted
            .flat_map(|want| {
                let by_name = Some(canonical(want)).filter(|name| self.paths.contains_key(name));
                let by_alias = self.aliases.iter().filter(move |(alias, _)| alias == want);
                by_name.into_iter().chain(by_alias.map(|(_, name)| name.clone()))
            })
            .collect();
        names.dedup();
        names
    }

    fn bound_to_cpu(&self, name: &str) -> bool {
        self.aliases.iter().any(|(alias, module)| module == name && alias.starts_with("cpu:"))
    }

    /// The selected modules, decompressed, with the tables that name them.
    pub fn unpack(&self, selection: &Selection) -> anyhow::Result<Files> {
        let mut files = BTreeMap::new();
        for path in selection.names.iter().filter_map(|name| self.paths.get(name)) {
            let source = self.directory.join(path);
            let content = if path.ends_with(".xz") {
                run(tool("xz").args(["-dc"]).arg(&source))?
            } else {
                fs::read(&source).with_context(|| source.display().to_string())?
            };
            files.insert(stored(path).to_owned(), content);
        }
        files.insert("modules.dep".into(), self.dep_table(selection).into_bytes());
        files.insert("modules.alias".into(), self.alias_table(selection).into_bytes());
        let builtin = fs::read(self.directory.join("modules.builtin"))?;
        files.insert("modules.builtin".into(), builtin);
        Ok(Files(files))
    }

    fn dep_table(&self, selection: &Selection) -> String {
        let mut table = String::new();
        for name in &selection.names {
            let Some(path) = self.paths.get(name) else { continue };
            table.push_str(stored(path));
            table.push(':');
            for need in self.load_order(name).iter().rev() {
                if let Some(path) = self.paths.get(need) {
                    table.push(' ');
                    table.push_str(stored(path));
                }
            }
            table.push('\n');
        }
        table
    }

    /// All that goes before `name`, what is to be loaded first coming first. modules.dep lists it
    /// the other way round.
    fn load_order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        self.visit(name, &mut order, &mut BTreeSet::new());
        order.pop();
        order
    }

    fn visit(&self, name: &str, order: &mut Vec<String>, seen: &mut BTreeSet<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for soft in self.soft_needs(name).iter().filter(|soft| !self.bound_to_cpu(soft)) {
            self.visit(soft, order, seen);
        }
        for need in self.needs.get(name).into_iter().flatten().rev() {
            self.visit(need, order, seen);
        }
        order.push(name.to_owned());
    }

    fn alias_table(&self, selection: &Selection) -> String {
        let kept = self.aliases.iter().filter(|(_, name)| selection.names.contains(name));
        kept.map(|(alias, name)| format!("alias {alias} {name}\n")).collect()
    }
}

impl Selection {
    pub fn count(&self) -> usize {
        self.names.len()
    }
}

struct Tables<'a> {
    dep: &'a str,
    alias: &'a str,
    softdep: &'a str,
    builtin: &'a str,
}

/// `kernel/net/bridge/bridge.ko.xz` -> `bridge`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    canonical(file.split(".ko").next().unwrap_or(file))
}

/// File names may have `-` where the module's name has `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn stored(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: Tables<'_> = Tables {
        dep: "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz\n\
              kernel/fs/jbd2/jbd2.ko.xz:\n\
              kernel/fs/mbcache.ko.xz:\n\
              kernel/crypto/crc32c_generic.ko.xz:\n\
              kernel/arch/x86/crypto/crc32c-intel.ko.xz:\n\
              kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n\
              kernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko.xz\n\
              kernel/net/llc/llc.ko.xz:\n\
              kernel/net/unused.ko.xz:\n",
        alias: "# Aliases extracted from modules themselves.\n\
                alias rtnl-link-bridge bridge\n\
                alias fs-ext4 ext4\n\
                alias crypto-crc32c crc32c_intel\n\
                alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c_intel\n\
                alias crypto-crc32c crc32c_generic\n\
                alias net-unused unused\n",
        softdep: "# Soft dependencies extracted from modules themselves.\n\
                  softdep ext4 pre: crypto-crc32c\n",
        builtin: "kernel/net/packet/af_packet.ko\n",
    };

    fn modules() -> Modules {
        Modules::parse(Path::new("/nowhere"), &TABLES)
    }

    #[test]
    fn selection_has_all_that_its_modules_need() {
        let selection = modules().select(&["ext4 # the data partition\n", "bridge\n"]).unwrap();
        let names: Vec<&str> = selection.names.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            ["bridge", "crc32c_generic", "crc32c_intel", "ext4", "jbd2", "llc", "mbcache", "stp"]
        );
    }

    #[test]
    fn dependency_table_names_kept_files_and_loads_from_its_end() {
        let modules = modules();
        let table = modules.dep_table(&modules.select(&["bridge"]).unwrap());
        assert_eq!(
            table,
            "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
             kernel/net/llc/llc.ko:\n\
             kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n"
        );
    }

    #[test]
    fn soft_dependencies_become_dependencies_unless_they_need_a_cpu_feature() {
        let modules = modules();
        let table = modules.dep_table(&modules.select(&["ext4"]).unwrap());
        let line = table.lines().find(|line| line.starts_with("kernel/fs/ext4")).unwrap();
        assert_eq!(
            line,
            "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko \
             kernel/crypto/crc32c_generic.ko"
        );
    }

    #[test]
    fn alias_table_is_cut_down_to_the_selection() {
        let modules = modules();
        let table = modules.alias_table(&modules.select(&["bridge"]).unwrap());
        assert_eq!(table, "alias rtnl-link-bridge bridge\n");
    }

    #[test]
    fn built_in_names_ask_for_nothing_and_unknown_names_are_errors() {
        assert_eq!(modules().select(&["af_packet"]).unwrap().count(), 0);
        let error = modules().select(&["no-such"]).err().unwrap().to_string();
        assert!(error.contains("no_such"), "{error}");
    }
}
