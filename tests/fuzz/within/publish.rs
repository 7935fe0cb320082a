//! Published ports, as they are in the firewall's map.
#![allow(missing_docs)]

use super::encode::{key, live, mapping, value};
use super::*;
use crate::kernel::nftables::Set;
use crate::kernel::nftables::fuzzing::Seen;

/// The set that a look is about.
pub fn map(bytes: &[u8]) -> &'static Set<'static> {
    if bytes.len() % 2 == 0 { &PORTS } else { &LIVE }
}

/// What is published reads the same when it is written again.
pub fn check(seen: &Seen) {
    for element in &seen.elements {
        live(element);
        leads_to(element);
        let Some((ip, read)) = mapping(element) else { continue };
        let written = Element { value: value(ip, &read), ..Element::key(key(&read)) };
        assert_eq!(mapping(&written), Some((ip, read)));
        assert_eq!(written.key.len(), element.key.len());
        assert_eq!(leads_to(element), Some(ip));
    }
}
