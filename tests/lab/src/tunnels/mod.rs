//! Ends whose interfaces are the kernel's own 802.1Q, GRE and IP-in-IP drivers, in a machine of
//! their own on both ports of the appliance.
//!
//! For: what no emulation in a test shows: that a real driver takes what Weir sends, and that Weir
//! takes what a real driver sends. The machine is Debian's kernel with this very program as its
//! init. [`machine`] is the host's side, [`inside`] the machine's, [`case`] what both know.

pub mod case;
pub mod inside;
pub mod machine;
mod modules;
