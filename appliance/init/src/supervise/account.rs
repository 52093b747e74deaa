//! /etc/passwd and /etc/group, as far as services need them.
//!
//! For: names to numbers without a C library's name service. Not for: passwords. Fails by `None`
//! for a name that is not there; a line that is no entry is passed over, as the C library does.

use nix::unistd::{Gid, Uid};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: Uid,
    pub gid: Gid,
}

/// Read once: the files are on the verified root.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<(String, Account, String)>,
    groups: Vec<(String, Gid)>,
}

impl Accounts {
    /// Files that cannot be read count as empty.
    pub fn of_this_machine() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    pub fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_entry).collect(),
        }
    }

    pub fn user(&self, name: &str) -> Option<Account> {
        self.users.iter().find(|(user, ..)| user == name).map(|(_, account, _)| *account)
    }

    /// Home directory.
    pub fn home(&self, name: &str) -> Option<&str> {
        self.users.iter().find(|(user, ..)| user == name).map(|(_, _, home)| home.as_str())
    }

    pub fn group(&self, name: &str) -> Option<Gid> {
        self.groups.iter().find(|(group, _)| group == name).map(|(_, gid)| *gid)
    }
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn user(line: &str) -> Option<(String, Account, String)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = Uid::from_raw(fields.nth(1)?.parse().ok()?);
    let gid = Gid::from_raw(fields.next()?.parse().ok()?);
    let home = fields.nth(1).unwrap_or("/");
    Some((name.to_owned(), Account { uid, gid }, home.to_owned()))
}

/// `name:password:gid:members` (group(5)).
fn group_entry(line: &str) -> Option<(String, Gid)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((name.to_owned(), Gid::from_raw(fields.nth(1)?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers_and_odd_lines_are_passed_over() {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/sh\n\n:x:1:1\nbad:x:one:1::/:\nweir-agent:x:101:102::/data/agent:/bin/false",
            "root:x:0:\nsystemd-journal:x:190:weir-agent\nnope",
        );
        let expected = Account { uid: Uid::from_raw(101), gid: Gid::from_raw(102) };
        assert_eq!(accounts.user("weir-agent"), Some(expected));
        assert_eq!(accounts.home("weir-agent"), Some("/data/agent"));
        assert_eq!(accounts.user("bad"), None);
        assert_eq!(accounts.user(""), None);
        assert_eq!(accounts.group("systemd-journal"), Some(Gid::from_raw(190)));
        assert_eq!(accounts.group("nope"), None);
    }
}
