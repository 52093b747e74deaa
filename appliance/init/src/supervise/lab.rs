//! `weir-init supervise --services FILE`: the appliance's supervision without the appliance.
//!
//! For: the lab and tests. Not for: PID 1. It adopts what its services leave behind, as PID 1
//! does, and stops them in order at SIGTERM or SIGINT. Fails with what is wrong with its file.

use std::path::PathBuf;

use anyhow::{Context, bail};
use weir_api::init::MachineStatus;

use super::account::Accounts;
use super::{Control, Service, Supervisor};

const USAGE: &str = "usage: weir-init supervise --services FILE.json \
                     [--runtime-directory DIR] [--control-socket PATH]";

struct Arguments {
    /// A JSON list of services, in the order of starting.
    services: PathBuf,
    runtime_directory: PathBuf,
    control_socket: Option<PathBuf>,
}

pub fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let arguments = parse(arguments)?;
    let text = std::fs::read_to_string(&arguments.services)
        .with_context(|| arguments.services.display().to_string())?;
    let services: Vec<Service> =
        serde_json::from_str(&text).with_context(|| arguments.services.display().to_string())?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    nix::sys::prctl::set_child_subreaper(true)?;
    let announce = Box::new(|line: &str| println!("weir: {line}"));
    let mut supervisor =
        Supervisor::new(arguments.runtime_directory, Accounts::of_this_machine(), announce)?;
    if let Some(path) = arguments.control_socket {
        let machine = Box::new(MachineStatus::default);
        supervisor.serve(
            Control::bind(&path, vec![nix::unistd::getuid()], machine)
                .with_context(|| path.display().to_string())?,
        );
    }
    for service in services {
        supervisor.add(service);
    }
    while supervisor.turn().is_none() {}
    supervisor.stop();
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut services = None;
    let mut runtime_directory = None;
    let mut control_socket = None;
    while let Some(option) = arguments.next() {
        let target = match option.as_str() {
            "--services" => &mut services,
            "--runtime-directory" => &mut runtime_directory,
            "--control-socket" => &mut control_socket,
            _ => bail!("{option} is not an option; {USAGE}"),
        };
        let value = arguments.next().with_context(|| format!("{option} needs a value; {USAGE}"))?;
        *target = Some(PathBuf::from(value));
    }
    Ok(Arguments {
        services: services.context(USAGE)?,
        runtime_directory: runtime_directory.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("weir-supervise-{}", std::process::id()))
        }),
        control_socket,
    })
}
