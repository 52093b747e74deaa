//! `weir-agent`: provisioning at boot and the agent that holds the configuration afterwards.
//!
//! For: finding and applying the datasource (`provision`), compiling policy and handing it to the
//! engine, keeping the newest sessions and events, answering consoles (`run`). Not for: packets,
//! namespaces and interfaces (init and the engine), and what output looks like (the console).
//! Fails by refusing: a bad configuration leaves the running policy as it is, a bad datasource
//! leaves nothing behind but an error message; the appliance goes on bridging.
#![forbid(unsafe_code)]

mod accounts;
mod authority;
mod capture;
mod configuration;
mod console;
mod engine;
mod fetch;
mod journal;
mod links;
mod live;
mod logging;
mod machine;
mod notify;
mod peers;
mod provision;
mod questions;
mod rules;
mod run;
mod sessions;
mod state;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "weir-agent", version, about = "Weir's configuration agent")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds the NoCloud datasource, parses it whole and leaves the plan for init and the agent.
    Provision(provision::Options),
    /// Serves engine and consoles until it is told to stop.
    Run(run::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Provision(options) => provision::provision(&options),
        Command::Run(options) => match run::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
