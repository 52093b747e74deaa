//! The interfaces of the namespace this process is in: their links, and taking them down and up.
//!
//! Fails with what the kernel said.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use futures_util::TryStreamExt;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::{Handle, LinkUnspec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::synchronisation::Port;

/// rtnetlink(7): changes of links.
const RTMGRP_LINK: u32 = 1;

#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// 0: there is no such interface.
    pub index: u32,
    pub port: Port,
}

pub struct Ports {
    handle: Handle,
    events: AsyncFd<OwnedFd>,
}

impl Ports {
    /// Inside a runtime.
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let events = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&events), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        // SAFETY: an `OwnedFd` is the same descriptor, and open, for as long as it lives, which is as
        // long as the `AsyncFd` that owns it. The safe constructors are deprecated for this promise.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?;
        Ok(Self { handle, events })
    }

    /// Waits until something about a link changed; what, is to be asked. Safe to cancel.
    pub async fn changed(&self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [0; 16 << 10];
        loop {
            let fd = std::os::fd::AsRawFd::as_raw_fd(self.events.get_ref());
            match recv(fd, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // Lost events are events too: all links are looked at anyway.
                Ok(_) | Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }

    /// All interfaces by name.
    pub async fn all(&self) -> Result<HashMap<String, Found>, rtnetlink::Error> {
        let mut links = self.handle.link().get().execute();
        let mut found = HashMap::new();
        while let Some(link) = links.try_next().await? {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            let flags = link.header.flags;
            let link_now = flags.contains(LinkFlags::LowerUp);
            let came = link.attributes.iter().any(
                |attribute| matches!(attribute, LinkAttribute::CarrierUpCount(times) if *times > 0),
            );
            let port =
                Port { up: flags.contains(LinkFlags::Up), link: link_now, seen: link_now || came };
            found.extend(name.map(|name| (name, Found { index: link.header.index, port })));
        }
        Ok(found)
    }

    pub async fn set(&self, index: u32, up: bool) -> Result<(), rtnetlink::Error> {
        let link = LinkUnspec::new_with_index(index);
        let link = if up { link.up() } else { link.down() };
        self.handle.link().set(link.build()).execute().await
    }
}
