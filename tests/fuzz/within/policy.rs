//! The policy.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::fuzzing::{one_line, texts};

/// A policy and the account files. A policy that does not read is an error with its place. One that
/// reads keeps its bounds, and says the same with a comment added. An unknown key is an error.
pub fn check(bytes: &[u8]) {
    let Some([passwd, group, text]) = texts(bytes) else { return };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            if let crate::report::error::Error::Failed(Failed::Policy { line, column, .. }) = &error
            {
                assert!((1..=text.matches('\n').count() + 1).contains(line), "{error}");
                assert!((1..=text.chars().count() + 1).contains(column), "{error}");
            }
            return one_line(error, text.len());
        }
    };
    assert!((LEAST_MTU..=65535).contains(&policy.network.mtu));
    for entry in policy.allow.iter().map(Spanned::get_ref) {
        assert!(entry.links <= MOST_LINKS);
        for granted in &entry.publish {
            let Granted(ports) = granted;
            assert!(!ports.contains(&0) && !(ports.contains(&1023) && ports.contains(&1024)));
            assert_eq!(granted.to_string().parse().as_ref(), Ok(granted));
        }
    }
    let again = Policy::parse(&format!("{text}\n# comment")).unwrap();
    let said = |policy: &Policy| {
        let entries: Vec<_> = policy.allow.iter().map(Spanned::get_ref).collect();
        format!("{:?} {entries:?}", policy.network)
    };
    assert_eq!(said(&policy), said(&again));
    for unknown in ["[[allow]]\nuid = 1\nlink = 1", "[[allow]]\nuid = 1\nuser = \"a\"", "[allows]"]
    {
        assert!(Policy::parse(&format!("{text}\n{unknown}")).is_err(), "{unknown}");
    }
    may(&policy, passwd, group);
}

/// An entry that matches a user names that user.
fn may(policy: &Policy, passwd: &str, group: &str) {
    for uid in [1, 1000, u32::MAX] {
        let Some(entry) = policy.entry(uid, &[100, 1100], passwd, group) else { continue };
        match (entry.uid, &entry.user, &entry.group) {
            (Some(own), None, None) => assert_eq!(own, uid),
            (None, Some(name), None) => assert_eq!(accounts::uid_of(name, passwd), Some(uid)),
            (None, None, Some(_)) => assert!(accounts::name_of(uid, passwd).is_some()),
            other => panic!("{other:?}"),
        }
    }
}
