//! Names of users and groups, from `/etc/passwd` and `/etc/group` themselves: a program that holds a
//! capability loads no module of the name service. The policy gives accounts kept elsewhere by number.

use crate::report::error::{Failed, Result, Usage};
use crate::request::address::canonical;
use crate::request::read;

/// The most bytes that are read of a file. The accounts of a large site fit in many times.
const LARGEST: u64 = 16 << 20;

pub const PASSWD: &str = "/etc/passwd";
pub const GROUP: &str = "/etc/group";

pub fn text_of(path: &str) -> Result<String> {
    let bytes = read::open_regular(path).and_then(|file| read::at_most(LARGEST, file));
    let bytes = bytes.map_err(|error| Failed::File(path.into(), error))?;
    // Users write into it what they like (chfn(1)), in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The user id of `name` in the text of a `passwd(5)` file.
pub fn uid_of(name: &str, passwd: &str) -> Option<u32> {
    id(&entries(passwd).find(|entry| entry.first() == Some(&name))?)
}

/// The user of this name, or of this number.
pub fn user(text: &str) -> Result<u32> {
    const UNKNOWN: &str = "no user of that name in /etc/passwd; give the user id";
    match canonical(text) {
        Some(uid) => Ok(uid),
        None => Ok(uid_of(text, &text_of(PASSWD)?)
            .ok_or_else(|| Usage::Value("user", text.to_owned(), UNKNOWN))?),
    }
}

/// The name of the user `uid` in the text of a `passwd(5)` file.
pub fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    entries(passwd).find(|entry| id(entry) == Some(uid))?.first().copied()
}

/// Whether the group `name` of a `group(5)` text is one of `gids`, or lists `user` as a member. The
/// list has members too that were added after their login.
pub fn in_group(name: &str, gids: &[u32], user: &str, group: &str) -> bool {
    entries(group).find(|entry| entry.first() == Some(&name)).is_some_and(|entry| {
        let mut members = entry.get(3).copied().unwrap_or_default().split(',');
        id(&entry).is_some_and(|gid| gids.contains(&gid))
            || members.any(|member| member == user && !user.is_empty())
    })
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn id(entry: &[&str]) -> Option<u32> {
    entry.get(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n+::::::\n";
    const GROUPS: &str = "root:x:0:\nnetdev:x:106:alice,bob\nempty:x:107:\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        assert_eq!(uid_of("alice", USERS), Some(1000));
        assert_eq!(uid_of("ali", USERS), None);
        assert_eq!(uid_of("+", USERS), None);
        assert_eq!(name_of(1000, USERS), Some("alice"));
        assert_eq!(name_of(1001, USERS), None);
    }

    #[test]
    fn a_group_counts_by_the_process_or_by_the_file() {
        assert!(in_group("netdev", &[5, 106], "carol", GROUPS));
        assert!(in_group("netdev", &[], "bob", GROUPS));
        assert!(!in_group("netdev", &[107], "bo", GROUPS));
        assert!(!in_group("empty", &[], "", GROUPS));
        assert!(!in_group("nosuch", &[0, 106, 107], "alice", GROUPS));
    }
}
