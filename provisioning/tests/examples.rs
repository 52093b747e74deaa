//! The examples are ready to use: `make-seed` makes a seed of each, which parses without a warning
//! and whose configuration loads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use weir_pki::Pki;
use weir_policy::material::{Files, Material, UncheckedRules};
use weir_policy::{Configuration, Snapshot};
use weir_provisioning::{Provisioned, find_seed, parse, volume};

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _path: &Path, _bound: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What the seed made of an example says, and its compiled configuration.
fn example(name: &str) -> (Provisioned, Snapshot, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let iso = directory.path().join("seed.iso");
    let made = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/make-seed"))
        .args([name.as_ref(), iso.as_os_str()])
        .env("WEIR_PASSWORD", "correct horse")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let label = volume::identify(&mut File::open(&iso).unwrap()).unwrap().unwrap().labels;
    assert_eq!(label, ["cidata"]);
    let tree = directory.path().join("tree");
    let extracted = Command::new("xorriso")
        .args(["-osirrox", "on", "-indev", iso.to_str().unwrap(), "-extract", "/"])
        .arg(&tree)
        .output()
        .unwrap();
    assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
    let provisioned = parse(&find_seed(Some(&tree)).unwrap().unwrap()).unwrap();
    assert!(provisioned.warnings.is_empty(), "{:?}", provisioned.warnings);
    let material = Material { files: &NoFiles, certificates: &Pki, rules: &UncheckedRules };
    let layer = provisioned.weir.as_ref().unwrap().layer();
    let snapshot = Configuration::load(&[layer], material).unwrap().compile(1, None);
    (provisioned, snapshot, directory)
}

#[test]
fn bridge_example_only_bridges() {
    let (provisioned, snapshot, _kept) = example("bridge");
    assert_eq!(provisioned.hostname.as_deref(), Some("weir-1"));
    assert_eq!(provisioned.management.unwrap().addresses[0].to_string(), "192.0.2.10/24");
    assert!(provisioned.users[0].hash.is_some());
    assert_eq!(snapshot.segments.len(), 1);
    assert!(snapshot.profiles.is_empty());
}

#[test]
fn inspection_example_decrypts_both_ways_with_keys_of_its_own() {
    let (_, snapshot, directory) = example("inspection");
    assert_eq!(snapshot.server_proxies[0].certificates[0].chain.len(), 1);
    let pem = fs::read(directory.path().join("seed.iso.pki/signing-ca.pem")).unwrap();
    let ca = weir_policy::material::Certificates::authorities(&Pki, &pem).unwrap();
    assert_eq!(snapshot.client_proxies[0].signing_certificate.chain, ca);
    assert_eq!(snapshot.filters[0].rules.lines().count(), 2);
    let (_, other, _kept) = example("inspection");
    assert_ne!(other.client_proxies[0].signing_certificate.chain, ca);
}
