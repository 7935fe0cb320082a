//! Other firewalls' rules.
#![allow(missing_docs, clippy::unwrap_used)]

use super::*;
use crate::kernel::nftables::fuzzing::Seen;
use crate::request::policy::{HostAccess, Isolation};

/// A rule is about the bridge whatever stands around what says so.
pub fn check(seen: &Seen) {
    let grant = Grant {
        bridge: "brg0".parse().unwrap(),
        address: "10.10.10.1/24".parse().unwrap(),
        mtu: 1500,
        nat: true,
        dns: None,
        isolation: Isolation::User,
        host_access: HostAccess::Published,
        uid: 1000,
        links: 1,
        publish: None,
    };
    for rule in &seen.rules {
        is_about(&rule.expressions, &grant, Some(7));
        assert!(is_about(&[&rule.expressions[..], b"brg0\0"].concat(), &grant, None));
    }
}
