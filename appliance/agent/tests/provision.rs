//! `weir-agent provision` from a seed's directory: all of it is left, or none and the reasons.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;
use weir_api::init::BootPlan;
use weir_policy::snapshot::{Layer2Fallback, SegmentId};

const META_DATA: &str = "instance-id: one\nlocal-hostname: edge\n";

const USER_DATA: &str = "\
#cloud-config
users:
  - name: admin
    passwd: $6$weirsalt$nyE.LoOsxBhP2tG/5l3OXExTeFfmEtRILOES5mYd.rcA3Mlwmg2m0PxGZnxzjztxLDVol9vOZDoHrSxqYt0wJ/
    lock_passwd: false
weir:
  segments:
    - { id: 1, name: dmz, layer-2-fallback: block-all, mtu: 9000 }
  filters:
    - name: web
      rules: |
        # attacks
        drop http any any -> any any (msg:\"attack\"; content:\"evil\"; sid:7; rev:1;)
  profiles: [ { name: default, filters: [web] } ]
  device: { flow-table: 2048 }
";

const NETWORK_CONFIG: &str = "\
version: 2
ethernets:
  mgmt:
    addresses: [192.0.2.10/24]
    gateway4: 192.0.2.1
    nameservers: { addresses: [192.0.2.53] }
";

#[test]
fn valid_seed_leaves_the_plan_and_what_the_agent_needs() {
    let seed = Seed::new(USER_DATA);
    let output = seed.provision();
    assert!(output.status.success(), "{}", text(&output));
    let plan: BootPlan =
        serde_json::from_slice(&fs::read(seed.left("boot-plan.json")).unwrap()).unwrap();
    assert_eq!(plan.hostname.as_deref(), Some("edge"));
    assert_eq!(plan.management.unwrap().addresses, ["192.0.2.10/24"]);
    assert_eq!(plan.segments.len(), 1);
    assert_eq!(plan.segments[0].id, SegmentId(1));
    assert_eq!(plan.segments[0].layer2_fallback, Layer2Fallback::BlockAll);
    assert_eq!(plan.segments[0].mtu, Some(9000));
    assert_eq!(plan.flow_table, Some(2048));
    let provisioned = fs::metadata(seed.left("agent/provisioned.json")).unwrap();
    assert_eq!(provisioned.permissions().mode() & 0o777, 0o600);
    assert!(!seed.left("agent/provisioning-errors").exists());
}

#[test]
fn wrong_port_is_named_with_line_and_remedy_and_nothing_is_left() {
    let seed = Seed::new(USER_DATA);
    assert!(seed.provision().status.success());
    let wrong = USER_DATA.replace("id: 1, name: dmz", "id: one, name: dmz");
    fs::write(seed.directory.path().join("seed/user-data"), wrong).unwrap();
    let output = seed.provision();
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("weir: user-data:8: weir.segments[0].id: "), "{said}");
    assert_eq!(seed.console(), said, "console and standard error tell the same");
    let errors = fs::read_to_string(seed.left("agent/provisioning-errors")).unwrap();
    assert!(errors.starts_with("user-data:8: "), "{errors}");
    assert!(!seed.left("boot-plan.json").exists(), "the old plan is still there");
    assert!(!seed.left("agent/provisioned.json").exists());
}

#[test]
fn wrong_rule_is_named_with_its_own_line() {
    let seed = Seed::new(&USER_DATA.replace("content:", "pcre:"));
    let output = seed.provision();
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("user-data:13: "), "{said}");
    assert!(said.contains("pcre"), "{said}");
}

#[test]
fn what_is_not_supported_is_named_in_a_warning() {
    let seed = Seed::new(&format!("{USER_DATA}packages: [vim]\n"));
    let output = seed.provision();
    assert!(output.status.success());
    assert!(text(&output).contains("weir: warning: user-data:16: packages"), "{}", text(&output));
}

struct Seed {
    directory: TempDir,
}

impl Seed {
    fn new(user_data: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let seed = directory.path().join("seed");
        fs::create_dir(&seed).unwrap();
        fs::write(seed.join("meta-data"), META_DATA).unwrap();
        fs::write(seed.join("user-data"), user_data).unwrap();
        fs::write(seed.join("network-config"), NETWORK_CONFIG).unwrap();
        Self { directory }
    }

    fn provision(&self) -> Output {
        let at = |name: &str| self.directory.path().join(name);
        fs::write(at("console"), "").unwrap();
        Command::new(env!("CARGO_BIN_EXE_weir-agent"))
            .arg("provision")
            .args(["--seed".as_ref(), at("seed").as_os_str()])
            .args(["--run-directory".as_ref(), at("run").as_os_str()])
            .args(["--console".as_ref(), at("console").as_os_str()])
            .output()
            .unwrap()
    }

    fn left(&self, name: &str) -> PathBuf {
        self.directory.path().join("run").join(name)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.path().join("console")).unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
