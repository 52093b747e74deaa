//! Network namespaces of this machine: made, entered, removed.
//!
//! Not for: Weir's own namespaces, which `weir_dataplane::segment` makes.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::process::succeed;

/// A namespace under /run/netns; removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace, its loopback up, without IPv6 (whose own chatter would be in captures).
    pub fn create(name: String) -> Result<Self> {
        let namespace = Self::create_with_ipv6(name)?;
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6=1")?;
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6=1")?;
        Ok(namespace)
    }

    /// The same with IPv6 as the kernel has it.
    pub fn create_with_ipv6(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `program` in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// `ip -n NAME ARGUMENTS`.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", self.name.as_str()], arguments].concat())
    }

    pub fn sysctl(&self, setting: &str) -> Result<()> {
        succeed(self.command("sysctl").args(["-qw", setting])).map(drop)
    }

    /// To enter it from a thread that does not have the namespace itself.
    pub fn handle(&self) -> Handle {
        Handle(self.name.clone())
    }

    /// As [`Handle::enter`].
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.handle().enter(inside)
    }
}

/// A namespace's name.
#[derive(Clone, Debug)]
pub struct Handle(String);

impl Handle {
    /// Runs `inside` on a thread of its own in the namespace: sockets made there stay in it.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(&self.0);
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    let file =
                        File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                    setns(file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("entering {}", path.display()))?;
                    inside()
                })
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} panicked", self.0))?
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// `ip ARGUMENTS`.
pub fn ip(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("ip").args(arguments)).map(drop)
}
