//! Weir between the two ends, in one of two ways with the same interface.

pub mod impair;
pub mod lab;
pub mod machine;
pub mod seed;
pub mod serial;
pub mod tap;

use std::path::PathBuf;

use anyhow::Result;

/// Weir, as its operator reaches it.
pub trait Wire {
    /// A command on the console; what the console prints, without prompt and echo.
    fn console(&mut self, command: &str) -> Result<String>;

    /// Kills the engine with SIGKILL, where supervision starts it again; how, as evidence.
    fn kill_engine(&mut self) -> Result<String>;

    /// Gives the operator the console on this terminal, until Ctrl-] or the console's end.
    fn attach(&mut self) -> Result<()>;

    /// Whether everything still runs, in a line, for error messages.
    fn state(&mut self) -> String;
}

/// The repository this program was built from; `WEIR_REPOSITORY` overrides.
pub fn repository() -> PathBuf {
    match std::env::var_os("WEIR_REPOSITORY") {
        Some(path) => path.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
    }
}

/// QEMU's accelerator and processor: TCG unless `WEIR_TEST_ACCEL` names another accelerator.
pub fn accelerator() -> (String, &'static str) {
    let accelerator = std::env::var("WEIR_TEST_ACCEL").unwrap_or("tcg,thread=multi".to_owned());
    let cpu = if accelerator.starts_with("tcg") { "max" } else { "host" };
    (accelerator, cpu)
}
