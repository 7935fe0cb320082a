//! Other firewalls' rules.
#![allow(missing_docs, clippy::unwrap_used)]

use super::*;
use crate::kernel::nftables::fuzzing::Seen;
use crate::request::policy::{HostAccess, Isolation};

/// A walk through any rules ends, and with a fate.
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
    let packet = first_packet(&grant, Some(7), Some((8, "eth0".parse().unwrap())));
    for answer in [None, Some(false), Some(true)] {
        let mut has = |_: &str, _| answer;
        let chains = BTreeMap::new();
        let mut walk = Walk { rules: &seen.rules, packet: &packet, chains, has: &mut has };
        for rule in &seen.rules {
            let fates = walk.chain(&rule.chain);
            assert!(fates != 0 && fates & CONTINUED == 0, "{fates}");
        }
    }
}
