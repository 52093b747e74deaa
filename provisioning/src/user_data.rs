//! `user-data` in cloud-init's `#cloud-config` form, and `meta-data`: hostname, users, and whether
//! there is a `weir:` section.

use weir_policy::SecretBytes;
use weir_policy::located::{Entry, Node, Resolved};
use zeroize::Zeroizing;

use crate::reader::{File, Findings, Place};
use crate::{Provisioned, Role, User, Weir, password};

/// The key of user-data that is the appliance's configuration document.
pub(crate) const SECTION: &str = "weir";

const KNOWN: &[&str] = &["hostname", "fqdn", "users", SECTION];
const KNOWN_META: &[&str] = &["instance-id", "local-hostname"];
const KNOWN_OF_USER: &[&str] =
    &["name", "passwd", "hashed_passwd", "lock_passwd", "ssh_authorized_keys", "weir-role"];
const HEADER: &str = "#cloud-config";
/// Linux's HOST_NAME_MAX.
const MAX_HOSTNAME: usize = 64;
/// Most users that are read; past it the seed is refused.
const MAX_USERS: usize = 64;

pub(crate) fn meta_data(file: &File<'_>, into: &mut Provisioned, findings: &mut Findings) {
    let Some(root) = findings.tree(*file) else { return };
    for (place, entry) in findings.entries(&Place::root(file.name, &root), &root) {
        if is_null(&entry.value) {
            continue;
        }
        match entry.key.as_str() {
            "instance-id" => {
                into.instance_id =
                    findings.scalar(&place, &entry.value).map(|text| text.to_string());
            }
            "local-hostname" => into.hostname = hostname(&place, entry, findings),
            _ => findings.unsupported(&place, KNOWN_META),
        }
    }
}

pub(crate) fn user_data(file: &File<'_>, into: &mut Provisioned, findings: &mut Findings) {
    let first = file.text.lines().next().unwrap_or_default();
    if first.trim_end() != HEADER {
        let place = Place { file: file.name, line: 1, key: String::new() };
        let message = format!("the first line is not {HEADER}; write exactly that there");
        return findings.error(&place, message);
    }
    let Some(root) = findings.tree(*file) else { return };
    let mut fqdn = None;
    let mut named = None;
    for (place, entry) in findings.entries(&Place::root(file.name, &root), &root) {
        match entry.key.as_str() {
            SECTION => {
                into.weir = Some(Weir { text: Zeroizing::new(file.text.to_owned()) });
            }
            "users" => into.users = users(&place, &entry.value, findings),
            "hostname" => named = hostname(&place, entry, findings),
            "fqdn" => fqdn = hostname(&place, entry, findings),
            _ => findings.unsupported(&place, KNOWN),
        }
    }
    if let Some(name) = named.or(fqdn) {
        into.hostname = Some(name);
    }
}

/// A host name of RFC 1123, section 2.1.
fn hostname(place: &Place, entry: &Entry, findings: &mut Findings) -> Option<String> {
    let text = findings.scalar(place, &entry.value)?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > MAX_HOSTNAME || !text.split('.').all(label) {
        let message = format!(
            "is not a host name; at most {MAX_HOSTNAME} letters, digits, `-` and `.` are \
             expected, like weir-1 or weir-1.example.org"
        );
        findings.error(place, message);
        return None;
    }
    Some(text.to_string())
}

fn users(place: &Place, node: &Node, findings: &mut Findings) -> Vec<User> {
    let items = findings.items(place, node);
    if items.len() > MAX_USERS {
        findings.error(place, format!("are {}; at most {MAX_USERS} are read", items.len()));
        return Vec::new();
    }
    let mut users = Vec::<User>::new();
    for (place, item) in items {
        if item.scalar().is_some_and(|scalar| scalar.text.as_str() == "default") {
            findings.warn(&place, "there is no default user; it is ignored");
            continue;
        }
        let Some(user) = user(&place, item, findings) else { continue };
        if users.iter().any(|other| other.name == user.name) {
            let message = format!("the user {:?} is given twice; keep one", user.name);
            findings.error(&place, message);
        }
        users.push(user);
    }
    users
}

fn user(place: &Place, node: &Node, findings: &mut Findings) -> Option<User> {
    let mut user = User {
        name: String::new(),
        hash: None,
        role: Role::default(),
        ssh_authorized_keys: Vec::new(),
    };
    let mut locked = false;
    let mut named = false;
    for (place, entry) in findings.entries(place, node) {
        let value = &entry.value;
        match entry.key.as_str() {
            "name" => {
                named = true;
                user.name = user_name(&place, value, findings).unwrap_or_default();
            }
            "passwd" | "hashed_passwd" => user.hash = password_hash(&place, value, findings),
            "lock_passwd" => locked = findings.boolean(&place, value).unwrap_or_default(),
            "weir-role" => user.role = role(&place, value, findings).unwrap_or_default(),
            "plain_text_passwd" => findings.error(
                &place,
                "is a password in clear, which stays readable in the datasource; give hashed_passwd \
                 as `openssl passwd -6` prints it",
            ),
            "ssh_authorized_keys" => {
                user.ssh_authorized_keys = ssh_keys(&place, value, findings);
            }
            _ => findings.unsupported(&place, KNOWN_OF_USER),
        }
    }
    if !named {
        findings.error(place, "lacks the key \"name\", which is required");
        return None;
    }
    if locked && user.hash.take().is_some() {
        findings.warn(place, "lock_passwd is true: this user cannot log in by password");
    }
    Some(user)
}

fn user_name(place: &Place, node: &Node, findings: &mut Findings) -> Option<String> {
    let text = findings.scalar(place, node)?;
    let valid = (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
        });
    if !valid {
        findings.error(
            place,
            "is not a user name; 1 to 32 small letters, digits, `_` and `-` are expected, a letter \
             first",
        );
        return None;
    }
    Some(text.to_string())
}

fn password_hash(place: &Place, node: &Node, findings: &mut Findings) -> Option<SecretBytes> {
    let text = findings.scalar(place, node)?;
    match password::check(&text) {
        Ok(()) => Some(SecretBytes::new(text.as_bytes().to_vec())),
        Err(error) => {
            findings.error(place, error.to_string());
            None
        }
    }
}

fn role(place: &Place, node: &Node, findings: &mut Findings) -> Option<Role> {
    let text = findings.scalar(place, node)?;
    match text.as_str() {
        "operator" => Some(Role::Operator),
        "administrator" => Some(Role::Administrator),
        "superuser" => Some(Role::Superuser),
        _ => {
            findings
                .error(place, "is not a role; operator, administrator or superuser is expected");
            None
        }
    }
}

fn ssh_keys(place: &Place, node: &Node, findings: &mut Findings) -> Vec<String> {
    let items = findings.items(place, node);
    if !items.is_empty() {
        findings.warn(place, "are kept, but this version has no SSH: log in on the console");
    }
    let keys = items.into_iter().filter_map(|(place, item)| findings.scalar(&place, item));
    keys.map(|key| key.to_string()).collect()
}

fn is_null(node: &Node) -> bool {
    node.scalar().is_some_and(|scalar| scalar.resolve() == Resolved::Null)
}
