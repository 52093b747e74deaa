//! Nothing is generated. A build script must be there for its dependency, `openssl-src`, to be built
//! with the features that `openssl-sys` then finds on.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
