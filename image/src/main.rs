//! `weir-image`: the command line of the image builder.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weir_image::{build, packages};

#[derive(Parser)]
#[command(name = "weir-image", about = "Builds the appliance's disk image", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the qcow2 disk and, in boot/ beside it, what a direct kernel boot needs
    Build(Build),
}

#[derive(clap::Args)]
struct Build {
    /// Directory with the static binaries weir-init, weir-agent, weir-engine, weir-legacy,
    /// weir-capture and weir
    #[arg(long)]
    binaries: PathBuf,
    /// Directory whose files are laid over the root file system
    #[arg(long)]
    overlay: PathBuf,
    /// Directory that keeps unpacked Debian packages from one build to the next
    #[arg(long)]
    cache: PathBuf,
    /// The disk to write
    #[arg(long)]
    output: PathBuf,
    /// Debian's meta package of the kernel
    #[arg(long, default_value = packages::KERNEL)]
    kernel_package: String,
    /// More arguments for the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
}

fn main() -> ExitCode {
    let Command::Build(build) = Arguments::parse().command;
    let request = build::Request {
        binaries: build.binaries,
        overlay: build.overlay,
        cache: build.cache,
        output: build.output,
        kernel_package: build.kernel_package,
        append: build.append,
    };
    match build::run(&request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
