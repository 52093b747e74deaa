//! Texts of a seed in, typed provisioning or located errors out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use weir_provisioning::{Provisioned, Role, Seed, find_seed, parse};
use zeroize::Zeroizing;

// As `openssl passwd -6 -salt weirsalt x` prints it.
const HASH: &str = "$6$weirsalt$mo7udwn3aAfBFaHB8rQcH/uT74TOUXIWx7LuD5jWxJOVmy2hEBIL44Et1a9tI0RBF69OYWvNOTmTifopO4IoL.";

fn seed(meta_data: &str, user_data: &str, network_config: &str) -> Seed {
    let text = |text: &str| Some(Zeroizing::new(text.as_bytes().to_vec()));
    Seed {
        origin: "test".to_owned(),
        meta_data: text(meta_data),
        user_data: text(user_data),
        network_config: text(network_config),
        unsupported: Vec::new(),
    }
}

fn warnings(provisioned: &Provisioned) -> Vec<String> {
    provisioned.warnings.iter().map(ToString::to_string).collect()
}

fn user_data(text: &str) -> Provisioned {
    parse(&seed("", &format!("#cloud-config\n{text}"), "")).unwrap()
}

#[test]
fn whole_seed_is_read() {
    let user_data = format!(
        "#cloud-config\nhostname: weir-2\nusers:\n  - name: admin\n    passwd: '{HASH}'\n  \
         - {{ name: watch, weir-role: operator, hashed_passwd: '{HASH}' }}\n  - name: nobody\n\
         weir:\n  segments: [ {{ id: 1 }} ]\n"
    );
    let network = "network:\n  version: 2\n  ethernets:\n    mgmt:\n      addresses: \
                   [192.0.2.10/24, '2001:db8::a/64']\n      routes: [ { to: 0.0.0.0/0, via: \
                   192.0.2.1 } ]\n      nameservers: { addresses: [192.0.2.53, '2001:db8::53'] }\n      \
                   dhcp4: false\n";
    let found =
        parse(&seed("instance-id: 7\nlocal-hostname: other\n", &user_data, network)).unwrap();
    assert_eq!(found.hostname.as_deref(), Some("weir-2"));
    assert_eq!(found.instance_id.as_deref(), Some("7"));
    let users = found.users.iter().map(|user| {
        (user.name.as_str(), user.role, user.hash.as_ref().map(|hash| hash.expose().to_vec()))
    });
    let hash = Some(HASH.as_bytes().to_vec());
    assert_eq!(
        users.collect::<Vec<_>>(),
        [
            ("admin", Role::Administrator, hash.clone()),
            ("watch", Role::Operator, hash),
            ("nobody", Role::Administrator, None),
        ]
    );
    let management = found.management.as_ref().unwrap();
    assert_eq!(management.addresses[0].to_string(), "192.0.2.10/24");
    assert_eq!(management.gateway.unwrap().to_string(), "192.0.2.1");
    assert_eq!(management.name_servers.len(), 2);
    assert_eq!(warnings(&found), [""; 0]);

    let layer = found.weir.as_ref().unwrap().layer();
    assert_eq!((layer.name, layer.section), ("user-data", Some("weir")));
    assert_eq!(layer.text, user_data);
    let again = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
    assert_eq!(found, again);
    assert!(!format!("{found:?}").contains("weirsalt"));
}

#[test]
fn hostname_of_meta_data_holds_where_user_data_has_none() {
    let found = parse(&seed("local-hostname: weir-3\n", "#cloud-config\n", "")).unwrap();
    assert_eq!(found.hostname.as_deref(), Some("weir-3"));
    assert_eq!(
        user_data("fqdn: weir-4.example.org\n").hostname.as_deref(),
        Some("weir-4.example.org")
    );
    assert!(user_data("").weir.is_none());
}

#[test]
fn what_is_not_supported_is_named_with_its_line() {
    let found =
        user_data("runcmd: [ls]\nwier: {}\nusers:\n  - default\n  - { name: a, shell: /bin/sh }\n");
    assert_eq!(
        warnings(&found),
        [
            "user-data:2: runcmd: is not supported; it is ignored",
            "user-data:3: wier: is not supported; it is ignored; did you mean \"weir\"?",
            "user-data:5: users[0]: there is no default user; it is ignored",
            "user-data:6: users[1].shell: is not supported; it is ignored",
        ]
    );
    let network = "version: 2\nrenderer: networkd\nethernets:\n  one: { addresses: [192.0.2.1/24], \
                   dhcp4: true, mtu: 9000 }\n  two: {}\n";
    let found = parse(&seed("dsmode: local\n", "#cloud-config\n", network)).unwrap();
    let found = warnings(&found);
    assert_eq!(found[0], "meta-data:1: dsmode: is not supported; it is ignored");
    assert_eq!(found[1], "network-config:2: renderer: is not supported; it is ignored");
    assert!(found[2].starts_with("network-config:5: ethernets.two: is ignored"), "{found:?}");
    assert!(found[3].starts_with("network-config:4: ethernets.one.dhcp4: DHCP is not supported"));
    assert_eq!(found[4], "network-config:4: ethernets.one.mtu: is not supported; it is ignored");
    assert_eq!(found.len(), 5);
}

#[test]
fn locked_user_keeps_no_password() {
    let found =
        user_data(&format!("users: [ {{ name: a, lock_passwd: true, passwd: '{HASH}' }} ]\n"));
    assert_eq!(found.users[0].hash, None);
    assert!(warnings(&found)[0].contains("cannot log in by password"));
}

#[test]
fn errors_of_all_three_texts_are_told_together() {
    let errors = parse(&seed("local-hostname: _\n", "hostname: x\n", "version: 1\n")).unwrap_err();
    let files = errors.iter().map(|error| error.file.as_str()).collect::<Vec<_>>();
    assert_eq!(files, ["meta-data", "user-data", "network-config"]);
    let mut broken = seed("", "", "");
    broken.user_data = Some(Zeroizing::new(b"#cloud-config\nhostname: \xff\n".to_vec()));
    let errors = parse(&broken).unwrap_err();
    assert!(errors[0].to_string().starts_with("user-data:2: is not UTF-8 text"), "{errors:?}");
}

#[test]
fn wrong_texts_are_refused_with_file_line_and_remedy() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fails");
    let mut count = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().find_map(|line| line.strip_prefix("# expect: ")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let seed = match &name {
            name if name.starts_with("user-data") => seed("", &text, ""),
            name if name.starts_with("meta-data") => seed(&text, "#cloud-config\n", ""),
            _ => seed("", "#cloud-config\n", &text),
        };
        let errors = parse(&seed).unwrap_err();
        assert_eq!(errors.len(), 1, "{name}: {errors:#?}");
        let found = errors[0].to_string();
        assert!(found.starts_with(expected), "{name}:\n{found}\n{expected}");
        assert!(!found.contains("SECRET"), "{found}");
        count += 1;
    }
    assert!(count >= 18, "only {count} texts");
}

#[test]
fn directory_is_read_as_a_seed() {
    let directory = tempfile::tempdir().unwrap();
    let error = find_seed(Some(directory.path())).unwrap_err().to_string();
    assert!(error.contains("holds none of user-data, meta-data and network-config"), "{error}");
    fs::write(directory.path().join("user-data"), "#cloud-config\nhostname: weir-5\n").unwrap();
    fs::write(directory.path().join("vendor-data"), "#cloud-config\n").unwrap();
    let seed = find_seed(Some(directory.path())).unwrap().unwrap();
    let found = parse(&seed).unwrap();
    assert_eq!(found.hostname.as_deref(), Some("weir-5"));
    assert_eq!(warnings(&found), ["vendor-data: is not supported; it is ignored"]);
    fs::write(directory.path().join("user-data"), vec![b' '; (4 << 20) + 1]).unwrap();
    let error = find_seed(Some(directory.path())).unwrap_err().to_string();
    assert!(error.contains("user-data: has more than 4194304 bytes"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(
        any in any::<Vec<u8>>(),
        yaml in "([a-z]{0,3}[:\\-\\[\\]{},\"'|>&*!#%@ \\n]{1,3}){0,40}",
        key in prop::sample::select(vec![
            "users", "hostname", "weir", "version", "ethernets", "network", "instance-id",
        ]),
    ) {
        let text = format!("#cloud-config\n{key}: {yaml}");
        let mut seed = seed(&text, &text, &text);
        let _ = parse(&seed);
        seed.network_config = Some(Zeroizing::new(format!("version: 2\nethernets:\n  a: {yaml}").into_bytes()));
        seed.meta_data = Some(Zeroizing::new(any));
        let _ = parse(&seed);
    }
}
