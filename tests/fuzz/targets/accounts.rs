//! Accounts: a name comes from a line of its own, and what follows that line changes nothing.
#![no_main]

use netsetgo::fuzzing::accounts::{in_group, name_of, uid_of};
use netsetgo::fuzzing::texts;

netsetgo_fuzz::target!(check);

fn check(bytes: &[u8]) {
    let Some([name, user, passwd, group]) = texts(bytes) else { return };
    if let Some(uid) = uid_of(name, passwd) {
        assert!(!name.contains([':', '\n']), "{name:?}");
        assert!(passwd.lines().any(|line| line.split(':').next() == Some(name)));
        assert!(name_of(uid, passwd).is_some());
        assert_eq!(uid_of(name, &format!("{passwd}\n{name}:x:7:")), Some(uid));
    }
    for uid in [0, 1000] {
        let Some(found) = name_of(uid, passwd) else { continue };
        assert_eq!(name_of(uid, &format!("{passwd}\nother:x:{uid}:")), Some(found));
    }
    assert!(!in_group(name, &[], "", group));
    assert!(!in_group(name, &[], "a,b", group));
    if in_group(name, &[7], user, group) {
        assert!(group.lines().any(|line| line.split(':').next() == Some(name)));
        assert!(in_group(name, &[7, 8], user, &format!("{group}\n{name}:x:9:")));
    }
}
