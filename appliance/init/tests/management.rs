//! The management port in a network namespace of the test's own. Needs root; without it the test
//! fails.

use std::fs;
use std::process::Command;

use weir_api::init::{BootPlan, Management};

#[test]
fn the_first_nic_becomes_the_management_port_with_its_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let plan = BootPlan {
        management: Some(Management {
            addresses: vec!["192.0.2.10/24".into(), "2001:db8::10/64".into()],
            gateway: Some("192.0.2.1".parse().unwrap()),
            name_servers: vec!["192.0.2.53".parse().unwrap()],
        }),
        ..BootPlan::default()
    };
    fs::write(directory.path().join("plan"), serde_json::to_vec(&plan).unwrap()).unwrap();
    let script = format!(
        "set -e; cd {}; ip link add eth9 type veth peer name peer9; ip link set peer9 up
         {} management plan resolv eth9
         ip -o address show; echo; ip route show; ip -o link show mgmt",
        directory.path().display(),
        env!("CARGO_BIN_EXE_weir-init"),
    );
    // The namespace ends with the shell.
    let output = Command::new("unshare").args(["--net", "sh", "-c", &script]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "mgmt    inet 192.0.2.10/24",
        "mgmt    inet6 2001:db8::10/64",
        "lo    inet 127.0.0.1/8",
        "default via 192.0.2.1 dev mgmt",
        "LOWER_UP",
    ] {
        assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
    }
    let resolv = fs::read_to_string(directory.path().join("resolv")).unwrap();
    assert_eq!(resolv, "nameserver 192.0.2.53\n");
}
