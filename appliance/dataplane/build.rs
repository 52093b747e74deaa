//! Compiles the eBPF programs with clang and makes the list of their counters.
//!
//! Needs clang and libbpf's headers (ci/setup installs them); `CLANG` names another compiler.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    for object in ["weir", "block", "stray"] {
        let status = Command::new(&clang)
            .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"])
            .args(["-I/usr/include/x86_64-linux-gnu", "-c", &format!("bpf/{object}.bpf.c"), "-o"])
            .arg(out.join(format!("{object}.bpf.o")))
            .status()
            .map_err(|error| format!("{clang}: {error}; ci/setup installs it"))?;
        if !status.success() {
            return Err(format!("{clang} did not compile bpf/{object}.bpf.c").into());
        }
    }

    let names: Vec<String> = fs::read_to_string("bpf/counters.h")?
        .lines()
        .filter_map(|line| line.strip_prefix("COUNTER(")?.split_once(',').map(|(name, _)| name))
        .map(|name| format!("{name:?}"))
        .collect();
    let list = out.join("counters.rs");
    // Never written over in place: copies of a target directory may share the file by hard links.
    if list.exists() {
        fs::remove_file(&list)?;
    }
    fs::write(list, format!("&[{}]", names.join(", ")))?;
    Ok(())
}
