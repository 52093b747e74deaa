//! Compiles the eBPF programs with clang and makes the list of their counters.
//!
//! Needs clang and libbpf's headers (ci/setup installs them); `CLANG` names another compiler.

#[path = "build/stack.rs"]
mod stack;

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Most bytes of stack that a program may use with all that it calls: a kernel takes 512, and another
/// version of clang is not to be the one that goes past that.
const MOST_STACK: usize = 480;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=build");
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
        let compiled = fs::read(out.join(format!("{object}.bpf.o")))?;
        let (stack, way) = stack::deepest(&compiled)
            .ok_or_else(|| format!("{object}.bpf.o is no object of clang's"))?;
        if stack > MOST_STACK {
            let way = way.join(", ");
            return Err(format!(
                "bpf/{object}.bpf.c: {stack} bytes of stack, over {MOST_STACK}: {way}"
            )
            .into());
        }
    }

    let list = fs::read_to_string("bpf/counters.h")?;
    let mut counters = Vec::new();
    for line in list.lines().filter(|line| line.starts_with("COUNTER(")) {
        let entry = line.strip_prefix("COUNTER(").and_then(|rest| {
            let (name, meaning) = rest.split_once(", \"")?;
            Some((name, meaning.strip_suffix("\")")?))
        });
        let entry =
            entry.ok_or(format!("bpf/counters.h: not COUNTER(name, \"meaning\"): {line}"))?;
        counters.push(format!("{entry:?}"));
    }
    let written = out.join("counters.rs");
    // Never written over in place: copies of a target directory may share the file by hard links.
    if written.exists() {
        fs::remove_file(&written)?;
    }
    fs::write(written, format!("&[{}]", counters.join(", ")))?;
    Ok(())
}
