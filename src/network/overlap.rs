//! Whether the bridge's subnet would take away addresses that the host reaches by another interface.

use nix::libc::{RTA_DST, RTA_MULTIPATH, RTA_OIF};

use super::Host;
use crate::kernel::link::By;
use crate::kernel::route::{self, Route};
use crate::report::error::{Failed, Result};
use crate::request::address::Cidr;
use crate::request::policy::Grant;

/// The id of a nexthop object, of which there can be several (`linux/rtnetlink.h`).
const RTA_NH_ID: u16 = 30;

const ALL_TABLES: u8 = 0;

/// Refuses the subnet of `grant` if a route of another interface than its bridge overlaps it: the more
/// specific of the two routes would hide the other.
pub fn refuse(host: &mut Host, grant: &Grant) -> Result<()> {
    let routes = route::routes(&mut host.netlink, ALL_TABLES)
        .map_err(Failed::netlink("reading the routes"))?;
    let overlapping: Vec<_> = routes
        .iter()
        .filter_map(destination)
        .filter(|(destination, _)| destination.overlaps(grant.address))
        .collect();
    if overlapping.is_empty() {
        return Ok(());
    }
    // Looked up after the routes: another run may have made the bridge, and its route, meanwhile.
    let bridge = host.link(By::Name(&grant.bridge))?.map(|link| link.index);
    match overlapping.iter().find(|(_, interface)| interface.is_none() || *interface != bridge) {
        Some((other, _)) => Err(Failed::Overlap(grant.address, *other).into()),
        None => Ok(()),
    }
}

/// The destination of a route and the index of its interface, `None` if it has several. A route with a
/// prefix of 0 or 1 counts as none: it is a default route, or one half of a VPN's. So does a route
/// without an interface (blackhole, unreachable).
pub fn destination(route: &Route) -> Option<(Cidr, Option<u32>)> {
    let [_, prefix, ..] = route.header;
    let ip = route.ipv4(RTA_DST)?;
    let several = || [RTA_MULTIPATH, RTA_NH_ID].iter().any(|kind| route.get(*kind).is_some());
    let interface = route.number(RTA_OIF);
    let destination = Cidr::new(ip, prefix)?;
    (prefix > 1 && (interface.is_some() || several())).then_some((destination, interface))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};

    use super::*;

    #[test]
    fn a_route_that_cannot_be_leads_nowhere() {
        let destination = |prefix: u8| {
            let mut bytes = vec![0; 12];
            bytes[1] = prefix;
            for (kind, value) in [(RTA_DST, [10, 0, 0, 0]), (RTA_OIF, 7_u32.to_ne_bytes())] {
                bytes.extend([8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat());
                bytes.extend(value);
            }
            let route = Route::deserialize(&NetlinkHeader::default(), &bytes).unwrap();
            super::destination(&route).map(|(to, _)| to.to_string())
        };
        assert_eq!(destination(8).as_deref(), Some("10.0.0.0/8"));
        for prefix in [0, 1, 33, 255] {
            assert_eq!(destination(prefix), None, "{prefix}");
        }
    }
}
