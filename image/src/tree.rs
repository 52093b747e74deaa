//! A directory that becomes a file system: writes into it with permissions that do not hang on the
//! builder's umask.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

pub struct Tree {
    top: PathBuf,
}

impl Tree {
    /// Makes the directory.
    pub fn create(top: &Path) -> anyhow::Result<Tree> {
        fs::create_dir(top).with_context(|| top.display().to_string())?;
        let tree = Tree { top: top.to_owned() };
        tree.permissions("", 0o755)?;
        Ok(tree)
    }

    pub fn path(&self) -> &Path {
        &self.top
    }

    /// A directory and those above it; `path` is absolute in the image.
    pub fn directory(&self, path: &str) -> anyhow::Result<()> {
        let mut made = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            made.push('/');
            made.push_str(part);
            if !self.at(&made).is_dir() {
                fs::create_dir(self.at(&made)).with_context(|| made.clone())?;
                self.permissions(&made, 0o755)?;
            }
        }
        Ok(())
    }

    pub fn file(&self, path: &str, permissions: u32, content: &[u8]) -> anyhow::Result<()> {
        self.directory(path.rsplit_once('/').unwrap_or_default().0)?;
        fs::write(self.at(path), content).with_context(|| path.to_owned())?;
        self.permissions(path, permissions)
    }

    pub fn copy(&self, from: &Path, path: &str, permissions: u32) -> anyhow::Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.file(path, permissions, &content)
    }

    pub fn link(&self, path: &str, target: &str) -> anyhow::Result<()> {
        self.directory(path.rsplit_once('/').unwrap_or_default().0)?;
        symlink(target, self.at(path)).with_context(|| path.to_owned())
    }

    /// Lays another directory over this one. Of permissions only "may be executed" is kept, as in
    /// git.
    pub fn lay_over(&self, overlay: &Path) -> anyhow::Result<usize> {
        self.lay_over_below(overlay, "")
    }

    fn lay_over_below(&self, overlay: &Path, below: &str) -> anyhow::Result<usize> {
        let mut count = 0;
        let entries = fs::read_dir(overlay).with_context(|| overlay.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{name:?}: not UTF-8"))?;
            let path = format!("{below}/{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.directory(&path)?;
                count += self.lay_over_below(&entry.path(), &path)?;
                continue;
            }
            if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.link(&path, &target.to_string_lossy())?;
            } else {
                let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
                self.copy(&entry.path(), &path, if executable { 0o755 } else { 0o644 })?;
            }
            count += 1;
        }
        Ok(count)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.join(path.trim_start_matches('/'))
    }

    fn permissions(&self, path: &str, mode: u32) -> anyhow::Result<()> {
        Ok(fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_keeps_links_and_what_may_be_executed_only() {
        let directory = tempfile::tempdir().unwrap();
        let overlay = Tree::create(&directory.path().join("overlay")).unwrap();
        overlay.file("/etc/secret", 0o600, b"text").unwrap();
        overlay.file("/usr/bin/tool", 0o711, b"#!").unwrap();
        overlay.link("/etc/machine-id", "/run/machine-id").unwrap();
        let tree = Tree::create(&directory.path().join("tree")).unwrap();
        assert_eq!(tree.lay_over(overlay.path()).unwrap(), 3);
        let mode = |path| fs::metadata(tree.at(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("/etc"), 0o755);
        assert_eq!(mode("/etc/secret"), 0o644);
        assert_eq!(mode("/usr/bin/tool"), 0o755);
        assert_eq!(
            fs::read_link(tree.at("/etc/machine-id")).unwrap(),
            Path::new("/run/machine-id")
        );
    }
}
