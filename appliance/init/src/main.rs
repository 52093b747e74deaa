//! PID 1 of the appliance, in both of its stages, and its supervision on its own for the lab.
//!
//! For: everything between the kernel and running services, and the way back down. Not for: what
//! the services do. How it fails: in the initramfs it says why on the console and reboots, so that
//! the boot loader's count of tries leads to the other slot; afterwards it says what is missing and
//! goes on with what is there, because a segment that only bridges is better than none. It never
//! exits and never panics out of a stage.

mod command_line;
mod kernel_log;
mod links;
mod modules;
mod operator;
mod partition;
mod reboot;
mod stage1;
mod stage2;
mod supervise;

use std::process::ExitCode;

const USAGE: &str = "weir-init is PID 1 of the appliance; elsewhere: \
                     weir-init supervise --services FILE.json [--runtime-directory DIR] \
                     [--control-socket PATH]";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    if std::process::id() == 1 {
        std::panic::set_hook(Box::new(|panic| operator::say(&format!("internal error: {panic}"))));
        // The kernel runs the initramfs's program as /init, and stage 1 the root's as /sbin/...
        if program == "/init" { stage1::run() } else { stage2::run() }
    }
    let mut arguments = arguments.peekable();
    match arguments.next().as_deref() {
        Some("supervise") => told(supervise::lab::run(arguments)),
        Some("links") => told(links::run(arguments)),
        // Children of PID 1: they say on the console what went wrong, as it would.
        Some("management") => on_console("management", stage2::configure_management(arguments)),
        Some("segment") => {
            let name = format!("segment {}", arguments.peek().map_or("", String::as_str));
            on_console(&name, stage2::create_segment(arguments))
        }
        // The kernel's request for a module: `-q -- ALIAS`.
        Some("-q") => match modules::answer(arguments.filter(|word| word != "--")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => told(Err(anyhow::anyhow!(USAGE))),
    }
}

fn told(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn on_console(what: &str, result: anyhow::Result<()>) -> ExitCode {
    if let Err(error) = &result {
        operator::warn(&format!("{what}: {error:#}"));
    }
    told(result)
}
