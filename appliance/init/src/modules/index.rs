//! depmod(8)'s text files: `modules.dep` and `modules.alias`.
//!
//! For: from a name or alias to files in the order of loading. No I/O. Lines that do not parse are
//! passed over: an index is as good as its lines.

use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Index {
    /// By module name: its file and those it needs, in the order of loading.
    orders: HashMap<String, Vec<String>>,
    /// Pattern and module name, in the order of the file.
    aliases: Vec<(String, String)>,
}

impl Index {
    pub fn parse(dependencies: &str, aliases: &str) -> Self {
        Self {
            orders: dependencies.lines().filter_map(order).collect(),
            aliases: aliases.lines().filter_map(alias).collect(),
        }
    }

    /// Orders of loading, one for each module that `name` means: itself, or all it is an alias of.
    pub fn resolve(&self, name: &str) -> Vec<&[String]> {
        if let Some(order) = self.orders.get(&canonical(name)) {
            return vec![order];
        }
        let mut modules: Vec<&str> = Vec::new();
        for (pattern, module) in &self.aliases {
            if !modules.contains(&module.as_str()) && matches_alias(pattern, name) {
                modules.push(module);
            }
        }
        modules.iter().filter_map(|module| self.orders.get(*module)).map(Vec::as_slice).collect()
    }
}

/// `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko`: what is needed first
/// stands last.
fn order(line: &str) -> Option<(String, Vec<String>)> {
    let (file, needed) = line.split_once(':')?;
    let base = file.rsplit('/').next()?;
    let name = canonical(base.split_once(".ko")?.0);
    let order = needed
        .split_whitespace()
        .rev()
        .chain(std::iter::once(file.trim()))
        .map(str::to_owned)
        .collect();
    Some((name, order))
}

/// `alias PATTERN MODULE`.
fn alias(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    (words.next()? == "alias").then_some(())?;
    Some((words.next()?.to_owned(), canonical(words.next()?)))
}

/// Files say `dm-verity`, the kernel says `dm_verity`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// fnmatch(3) with `-` and `_` alike, as modprobe has it.
fn matches_alias(pattern: &str, name: &str) -> bool {
    let same = |b: u8| if b == b'-' { b'_' } else { b };
    glob(pattern.as_bytes(), &name.bytes().map(same).collect::<Vec<_>>())
}

/// `*`, `?`, `[a-z]`, `[!a-z]`; goes back to the last star at a mismatch, so its time is bounded
/// by the product of the lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(at), name.get(position)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((at + 1, position));
                at += 1;
                continue;
            }
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'['), Some(&byte)) => class(pattern.get(at..).unwrap_or_default(), byte),
            (Some(b'-'), Some(b'_')) => Some(1),
            (Some(expected), Some(byte)) if expected == byte => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(length), _) => {
                at += length;
                position += 1;
            }
            (None, Some((after, from))) if from < name.len() => {
                star = Some((after, from + 1));
                (at, position) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Length of the class at the beginning of `pattern` where `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut body = pattern.get(1..end)?;
    let negated = matches!(body.first(), Some(b'!' | b'^'));
    if negated {
        body = body.get(1..)?;
    }
    let mut inside = false;
    while let Some((&first, rest)) = body.split_first() {
        if let [b'-', last, after @ ..] = rest {
            inside |= (first..=*last).contains(&byte);
            body = after;
        } else {
            inside |= first == byte;
            body = rest;
        }
    }
    (inside != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/ext4/ext4.ko: kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n\
        kernel/drivers/md/dm-verity.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
        kernel/drivers/md/dm-mod.ko.xz:\n\
        virtio_net.ko: net_failover.ko failover.ko\n\
        not a line\n";
    const ALIASES: &str = "# comment\n\
        alias fs-ext4 ext4\nalias fs-ext3 ext4\n\
        alias virtio:d00000001v* virtio_net\n\
        alias cpu:type:x86,ven*fam*mod*:feature:*0099* dm_mod\n\
        alias crypto-crc32c-* ext4\nalias broken\n";

    fn resolve(name: &str) -> Vec<Vec<String>> {
        let index = Index::parse(DEPENDENCIES, ALIASES);
        index.resolve(name).into_iter().map(<[String]>::to_vec).collect()
    }

    #[test]
    fn what_is_needed_is_loaded_first() {
        assert_eq!(
            resolve("ext4"),
            [[
                "kernel/lib/crc16.ko",
                "kernel/fs/jbd2/jbd2.ko",
                "kernel/fs/mbcache.ko",
                "kernel/fs/ext4/ext4.ko"
            ]]
        );
    }

    #[test]
    fn dashes_and_underscores_are_alike() {
        assert_eq!(resolve("dm_verity"), resolve("dm-verity"));
        assert_eq!(resolve("dm-verity").len(), 1);
    }

    #[test]
    fn aliases_find_their_modules() {
        assert_eq!(resolve("fs-ext3"), resolve("ext4"));
        assert_eq!(resolve("virtio:d00000001v00001AF4"), resolve("virtio_net"));
        assert_eq!(
            resolve("cpu:type:x86,ven0000fam0006mod0055:feature:,0001,0099,00A0"),
            resolve("dm_mod")
        );
        assert_eq!(resolve("crypto-crc32c-generic"), resolve("ext4"));
        assert!(resolve("virtio:d00000002v00001AF4").is_empty());
        assert!(resolve("").is_empty());
    }

    #[test]
    fn patterns_match_as_fnmatch_does() {
        for (pattern, name, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a[0-9]c", "a5c", true),
            ("a[!0-9]c", "a5c", false),
            ("a[xyz]", "ay", true),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("a[", "a[", false),
            ("pci:v00001AF4d*sv*", "pci:v00001AF4d00001000sv1", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
