//! Whether a subnet would take addresses away that are reached otherwise now.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use nix::libc::RTM_GETROUTE;

use super::Host;
use crate::address::Cidr;
use crate::error::{Failed, Result};

/// Refuses `subnet` if a route of another interface than `bridge` (an index) overlaps it: the
/// bridge's own, more specific one would shadow that.
///
/// # Errors
/// [`Failed::Overlap`], and [`Failed::Netlink`].
pub(super) fn refuse(host: &mut Host, subnet: Cidr, bridge: Option<u32>) -> Result<()> {
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let routes =
        host.netlink.dump(RTM_GETROUTE, &request).map_err(Failed::netlink("reading the routes"))?;
    let mut others = routes.iter().filter_map(|route| destination_elsewhere(route, bridge));
    match others.find(|other| other.overlaps(subnet)) {
        Some(other) => Err(Failed::Overlap(subnet, format!("the route to {other}")).into()),
        None => Ok(()),
    }
}

/// The destination of a route that leads somewhere else than to `bridge`. A default route overlaps
/// everything and means nothing by it, nor do the two halves that VPNs put in its place; a route
/// without an interface (blackhole, unreachable) reaches nobody.
fn destination_elsewhere(route: &RouteMessage, bridge: Option<u32>) -> Option<Cidr> {
    let prefix = route.header.destination_prefix_length;
    if prefix < 2 {
        return None;
    }
    let mut ip = None;
    let mut elsewhere = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => ip = Some(*destination),
            RouteAttribute::Oif(index) => elsewhere |= Some(*index) != bridge,
            RouteAttribute::MultiPath(_) | RouteAttribute::NhId(_) => elsewhere = true,
            _ => {}
        }
    }
    ip.filter(|_| elsewhere).map(|ip| Cidr { ip, prefix })
}
