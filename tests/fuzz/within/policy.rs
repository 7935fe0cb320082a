//! The policy.
#![allow(missing_docs, clippy::unwrap_used)]

use super::*;
use crate::fuzzing::{one_line, texts};

/// A policy, and the accounts of somebody: what does not read is told with its place; what reads keeps
/// its bounds, and says the same with a comment added, and nothing with a key that is unknown.
pub fn check(bytes: &[u8]) {
    let Some([passwd, group, text]) = texts(bytes) else { return };
    let path = Path::new("/p");
    let policy = match Policy::parse(text, path) {
        Ok(policy) => policy,
        Err(error) => {
            if let crate::error::Error::Failed(Failed::Policy { line, column, .. }) = &error {
                assert!((1..=text.matches('\n').count() + 1).contains(line), "{error}");
                assert!((1..=text.chars().count() + 1).contains(column), "{error}");
            }
            return one_line(error, text.len());
        }
    };
    assert!((LEAST_MTU..=65535).contains(&policy.network.mtu));
    for entry in &policy.allow {
        assert!(entry.links <= MOST_LINKS);
        for granted in &entry.publish {
            assert!(!granted.contains(0) && !(granted.contains(1023) && granted.contains(1024)));
            assert_eq!(granted.to_string().parse().as_ref(), Ok(granted));
        }
    }
    let again = Policy::parse(&format!("{text}\n# comment"), path).unwrap();
    assert_eq!(format!("{policy:?}"), format!("{again:?}"));
    for unknown in ["[[allow]]\nuid = 1\nlink = 1", "[[allow]]\nuid = 1\nuser = \"a\"", "[allows]"]
    {
        assert!(Policy::parse(&format!("{text}\n{unknown}"), path).is_err(), "{unknown}");
    }
    may(&policy, passwd, group);
}

/// Who is allowed something is so by the entry that names him.
fn may(policy: &Policy, passwd: &str, group: &str) {
    let accounts =
        Accounts { gids: vec![100, 1100], passwd: passwd.to_owned(), group: group.to_owned() };
    for uid in [1, 1000, u32::MAX] {
        let Some(entry) = policy.entry(&Caller::for_test(uid), &accounts) else { continue };
        match &entry.who {
            Who::Uid(own) => assert_eq!(*own, uid),
            Who::User(name) => assert_eq!(accounts::uid_of(name, passwd), Some(uid)),
            Who::Group(_) => assert!(accounts::name_of(uid, passwd).is_some()),
        }
    }
}
