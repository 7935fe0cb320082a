//! Whether a subnet would take addresses away that are reached otherwise now.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::libc::RTM_GETROUTE;

use super::Host;
use crate::address::Cidr;
use crate::error::{Failed, Result};
use crate::link::By;
use crate::policy::Grant;

/// Refuses the subnet of `grant` if a route of another interface than its bridge overlaps it: the
/// bridge's own, more specific one would shadow that.
///
/// # Errors
/// [`Failed::Overlap`], and [`Failed::Netlink`].
pub(super) fn refuse(host: &mut Host, grant: &Grant) -> Result<()> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let routes =
        host.netlink.dump(RTM_GETROUTE, &request).map_err(Failed::netlink("reading the routes"))?;
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

/// Where a route leads to: the destination and the index of its interface, `None` if it has several.
///
/// A default route overlaps everything and means nothing by it, nor do the two halves that VPNs put
/// in its place; a route without an interface (blackhole, unreachable) reaches nobody.
fn destination(route: &RouteMessage) -> Option<(Cidr, Option<u32>)> {
    let prefix = route.header.destination_prefix_length;
    let ip = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })?;
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(Some(*index)),
        RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => Some(None),
        _ => None,
    })?;
    (prefix > 1).then_some((Cidr { ip, prefix }, interface))
}
