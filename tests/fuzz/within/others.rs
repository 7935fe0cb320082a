//! Other firewalls' rules.
#![allow(missing_docs)]

use super::*;
use crate::kernel::nftables::fuzzing::Seen;

/// A walk through any rules ends. What is known of a set takes nothing but accepts away.
pub fn check(seen: &Seen) {
    let packet = [
        ("meta", 6, b"brg0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("meta", 16, vec![6]),
        ("ct", 0, NEW.to_ne_bytes().to_vec()),
    ];
    for rule in &seen.rules {
        let chain = rule.text(2).unwrap_or_default();
        let may =
            |answer| reaches(&seen.rules, &chain, &packet, &mut |_, _| answer, &Outcome::Accept);
        let told = [Some(false), Some(true)].map(may);
        assert!(may(None) || told == [false; 2]);
    }
}
