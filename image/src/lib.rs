//! Builds the appliance's disk image, `dist/weir.qcow2`, without root and without loop devices.
//!
//! For: developers and CI. Not for: building the binaries that go in (`ci/image` does), starting
//! the image (`tests/lab`, which takes kernel, modules and initramfs of its other machines from
//! here). Fails with one line that names the phase and the tool, and leaves the old image where it
//! was.
#![forbid(unsafe_code)]

mod boot;
pub mod build;
mod cpio;
mod disk;
mod elf;
pub mod initrd;
pub mod modules;
pub mod packages;
mod root;
mod tool;
mod tree;
mod verity;
