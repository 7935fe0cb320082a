//! DNAT of others.
#![allow(missing_docs)]

use super::*;
use crate::kernel::nftables::fuzzing::Seen;
use crate::request::ports::Protocol;

/// Any rules are judged. A rule that takes a port of some addresses takes it of all of them together.
pub fn check(seen: &Seen) {
    let to =
        Mapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    let addresses = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1)];
    for rule in &seen.rules {
        only_port(rule);
        for answer in [None, Some(false), Some(true)] {
            let takes = |addresses: &[Ipv4Addr]| {
                takes(rule, &seen.rules, &to, addresses, &mut |_, _| answer)
            };
            assert_eq!(takes(&addresses), addresses.iter().any(|ip| takes(&[*ip])));
        }
    }
}
