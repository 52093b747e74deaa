//! Labels of images that `xorriso`, `mkfs.vfat` and `mformat` make.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use weir_provisioning::volume::{FileSystem, Volume, identify};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn identified(image: &Path) -> Volume {
    identify(&mut File::open(image).unwrap()).unwrap().expect("a known file system")
}

#[test]
fn iso_label_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (tree, image) = (directory.path().join("tree"), directory.path().join("seed.iso"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("user-data"), "#cloud-config\n").unwrap();
    let (tree, out) = (tree.to_str().unwrap(), image.to_str().unwrap());
    run("xorriso", &["-as", "mkisofs", "-V", "cidata", "-J", "-r", "-o", out, tree]);
    assert_eq!(
        identified(&image),
        Volume { kind: FileSystem::Iso9660, labels: vec!["cidata".to_owned()] }
    );
}

#[test]
fn fat_label_is_read_whatever_made_it() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("seed.img");
    let path = image.to_str().unwrap();
    for (size, bits) in [(2 << 20, "12"), (32 << 20, "16"), (64 << 20, "32")] {
        File::create(&image).unwrap().set_len(size).unwrap();
        run("mkfs.vfat", &["-F", bits, "-n", "CIDATA", path]);
        let found = identified(&image);
        assert_eq!(found.kind, FileSystem::Vfat);
        assert_eq!(found.labels, ["CIDATA", "CIDATA"], "FAT{bits}");
    }
    File::create(&image).unwrap().set_len(2 << 20).unwrap();
    run("mformat", &["-i", path, "-v", "cidata", "::"]);
    let found = identified(&image);
    assert!(found.labels.iter().any(|label| label.eq_ignore_ascii_case("cidata")), "{found:?}");
}

#[test]
fn label_of_the_root_directory_alone_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("seed.img");
    let path = image.to_str().unwrap();
    File::create(&image).unwrap().set_len(2 << 20).unwrap();
    run("mkfs.vfat", &["-F", "12", path]);
    run("mlabel", &["-i", path, "::cidata"]);
    let mut bytes = fs::read(&image).unwrap();
    bytes[0x2b..0x36].copy_from_slice(b"NO NAME    ");
    let found = identify(&mut Cursor::new(bytes)).unwrap().unwrap();
    assert_eq!(found.labels, ["NO NAME", "CIDATA"]);
}

#[test]
fn other_devices_are_not_taken_for_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("data.img");
    File::create(&image).unwrap().set_len(4 << 20).unwrap();
    let identify_file = || identify(&mut File::open(&image).unwrap()).unwrap();
    assert_eq!(identify_file(), None);
    run("mkfs.ext4", &["-q", "-L", "cidata", image.to_str().unwrap()]);
    assert_eq!(identify_file(), None);
    assert_eq!(identify(&mut Cursor::new(b"short")).unwrap(), None);
    // The boot sector of a partitioned disk ends as a FAT's does.
    let mut disk = vec![0u8; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(identify(&mut Cursor::new(disk)).unwrap(), None);
}

proptest! {
    #[test]
    fn no_boot_sector_makes_identifying_panic(
        mut sector in prop::collection::vec(any::<u8>(), 512..2048),
        jump in prop::sample::select(vec![0xebu8, 0xe9]),
        shift in 0u32..8,
        fat32 in any::<bool>(),
    ) {
        sector[0] = jump;
        sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        sector[11..13].copy_from_slice(&[0, 2]);
        sector[13] = 1 << shift;
        sector[14] |= 1;
        sector[16] = 2;
        if fat32 {
            sector[22..24].copy_from_slice(&[0, 0]);
        }
        let _ = identify(&mut Cursor::new(sector)).unwrap();
    }
}
