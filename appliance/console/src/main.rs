//! `weir`: the console. A login and a command line on the serial line (and, later, as SSH shell),
//! and single commands for scripts.
//!
//! For: reading commands by one grammar, asking the agent, showing answers in 80 columns. Not for:
//! deciding what a role may do (the agent does), and not for any state of its own. Fails by saying
//! what was wrong; on the serial line an agent that is away is waited for.
#![forbid(unsafe_code)]

mod agent;
mod capture;
mod command;
mod editor;
mod grammar;
mod render;
mod shell;
mod terminal;
mod text;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use weir_api::paths;

#[derive(Parser)]
#[command(name = "weir", version, about = "Weir's console")]
struct Arguments {
    /// The agent's console socket.
    #[arg(long, value_name = "PATH", default_value = paths::CONSOLE_SOCKET)]
    socket: PathBuf,
    /// Runs one command, prints its answer and ends. Questions are answered with yes.
    #[arg(short, long, value_name = "COMMAND")]
    command: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Some(line) => command::run_one(&arguments.socket, line),
        None if io::stdin().is_terminal() => shell::interactive(&arguments.socket),
        None => {
            Err(anyhow::anyhow!("standard input is no terminal; for scripts there is -c COMMAND"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
