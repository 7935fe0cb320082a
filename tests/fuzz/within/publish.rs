//! Published ports, as they are in the firewall's maps.
#![allow(missing_docs)]

use super::*;
use crate::kernel::nftables::fuzzing::Seen;

/// The map that a look is about.
pub fn map(bytes: &[u8]) -> &'static Set {
    if bytes.len() % 2 == 0 { &PORTS } else { &PORTS_AT }
}

/// What is published reads the same when it is written again.
pub fn check(seen: &Seen) {
    for element in &seen.elements {
        live_of(element);
        let Some((ip, read)) = mapping(element) else { continue };
        let written = Element {
            key: key(&read),
            value: value(ip, read.container_port),
            ..Element::default()
        };
        assert_eq!(mapping(&written), Some((ip, read)));
        assert_eq!(written.key.len(), element.key.len());
        assert_eq!(address(&element.value), Some(ip));
    }
}
