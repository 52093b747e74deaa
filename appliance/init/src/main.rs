//! PID 1 of the appliance, in both of its stages, and its supervision on its own for the lab.
//!
//! For: everything between the kernel and running services, and the way back down. Not for: what
//! the services do. How it fails: in the initramfs it says why on the console and reboots, so that
//! the boot loader's count of tries leads to the other slot; afterwards it says what is missing and
//! goes on with what is there, because a segment that only bridges is better than none. It never
//! exits and never panics out of a stage.

mod supervise;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("supervise") => supervise::lab::run(arguments),
        _ => Err(anyhow::anyhow!(
            "weir-init is PID 1 of the appliance; elsewhere: weir-init supervise --services FILE"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-init: {error:#}");
            ExitCode::FAILURE
        }
    }
}
