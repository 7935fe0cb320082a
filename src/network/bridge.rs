//! The bridge. Each request that makes it can be repeated: a hundred first runs at the same time need no
//! lock, and what an interrupted run left half-made the next run completes. This program never deletes
//! it, since another run may add a port to it at any moment.

use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoData, LinkAttribute,
};
use nix::errno::Errno;
use nix::libc::{RTA_DST, RTA_MULTIPATH, RTA_OIF};

use super::Host;
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink::Netlink;
use crate::kernel::route::{self, Route};
use crate::report::error::{Error, Failed, Result};
use crate::request::address::{Cidr, Mac};
use crate::request::policy::Grant;

/// The link-local group addresses 01:80:c2:00:00:0x that are forwarded like other addresses: all that a
/// bridge can be told to forward (`BR_GROUPFWD_RESTRICTED`, `net/bridge/br_private.h`). A frame to another
/// of them reaches the host as if it came from the port itself, past the bridge and its filters: a router
/// advertisement to :02 was seen to take the host's default route.
const GROUP_FWD_MASK: u16 = 0xfff8;

/// The id of a nexthop object, of which there can be several (`linux/rtnetlink.h`).
const RTA_NH_ID: u16 = 30;

const ALL_TABLES: u8 = 0;

/// The bridge as it is found, before anything is changed.
#[derive(Debug)]
pub struct Found {
    pub link: Option<Link>,
    /// Whether it has the address of the policy.
    addressed: bool,
}

impl Found {
    /// The MTU of the host ends: the bridge's, or the one that it will get, in bytes.
    pub fn mtu(&self, grant: &Grant) -> u32 {
        self.link.as_ref().filter(|link| link.up).map_or(grant.mtu, |link| link.mtu)
    }

    /// Whether it is as it should be.
    pub fn is_ready(&self) -> bool {
        self.addressed && self.link.as_ref().is_some_and(|link| link.up)
    }
}

/// Looks at the bridge that `grant` names, and checks that it can be used or made: no other interface has
/// its name, it has no other address, no other route overlaps its subnet. Changes nothing.
pub fn find(host: &mut Host, grant: &Grant) -> Result<Found> {
    let link = host.link(By::Name(&grant.bridge))?;
    let mut addressed = false;
    if let Some(link) = &link {
        if link.kind != Some(Kind::Bridge) {
            return Err(Failed::NotABridge(grant.bridge.clone()).into());
        }
        let addresses = addresses(&mut host.netlink, link.index)?;
        addressed = addresses.contains(&grant.address);
        if !addressed && !addresses.is_empty() {
            return Err(Failed::BridgeAddress(grant.bridge.clone(), grant.address).into());
        }
    }
    if !addressed {
        refuse_overlap(host, grant)?;
    }
    Ok(Found { link, addressed })
}

/// Refuses the subnet of `grant` if a route of another interface than its bridge overlaps it: the more
/// specific of the two routes would hide the other.
fn refuse_overlap(host: &mut Host, grant: &Grant) -> Result<()> {
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

/// Makes the bridge, or completes it. A bridge that is up is complete, by this program or by the admin,
/// and keeps its settings.
pub fn ensure(host: &mut Host, grant: &Grant, found: Found) -> Result<Link> {
    match found {
        Found { link: Some(link), addressed: true } if link.up => return Ok(link),
        _ => create(host, grant)?,
    }
    let gone = || Error::from(Failed::BridgeGone(grant.bridge.clone()));
    // Other runs may be working on the same bridge.
    let Found { link, addressed } = find(host, grant)?;
    let link = link.ok_or_else(gone)?;
    complete(host, grant, &link, addressed).map_err(|error| or_gone(host, grant, &link, error))?;
    match find(host, grant)? {
        Found { link: Some(link), addressed: true } => Ok(link),
        _ => Err(gone()),
    }
}

/// Gives the reason of `error`, if `error` says only that a request failed: [`Failed::BridgeGone`] if
/// `bridge` is gone.
pub fn or_gone(host: &mut Host, grant: &Grant, bridge: &Link, error: Error) -> Error {
    let unclear =
        matches!(error, Error::Failed(Failed::Netlink(..) | Failed::Sysctl(..) | Failed::File(..)));
    match unclear.then(|| host.link(By::Index(bridge.index))) {
        Some(Ok(None)) => Failed::BridgeGone(grant.bridge.clone()).into(),
        _ => error,
    }
}

/// The IPv4 addresses of the bridge `index`; none if there is no such interface.
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Cidr>> {
    route::addresses(netlink, index).map_err(Failed::netlink("reading the bridge's addresses"))
}

fn create(host: &mut Host, grant: &Grant) -> Result<()> {
    // Another MTU than it will have. Only a change pins it (`br_change_mtu`, `net/bridge/br_device.c`);
    // else it follows the lowest MTU of the ports.
    let passing_mtu = if grant.mtu > 68 { grant.mtu - 1 } else { grant.mtu + 1 };
    let mut attributes = vec![LinkAttribute::Mtu(passing_mtu)];
    attributes.extend(settings(grant));
    let bridge = link::message(By::Name(&grant.bridge), attributes);
    host.check_policy()?;
    match host.change("creating the bridge", |netlink| link::create(netlink, bridge)) {
        Err(error) if error.is(Errno::EEXIST) => Ok(()),
        done => done,
    }
}

/// The settings of a bridge of this program.
fn settings(grant: &Grant) -> [LinkAttribute; 2] {
    let no_learning = BridgeBooleanOptionFlags::NoLinkLocalLearn;
    let data = vec![
        // A few thousand joins from one container would switch it off for all.
        InfoBridge::MulticastSnooping(false),
        InfoBridge::GroupFwdMask(GROUP_FWD_MASK),
        InfoBridge::MultiBoolOpt(BridgeBooleanOptions { value: no_learning, mask: no_learning }),
    ];
    [
        // Without it the address would change with the ports.
        LinkAttribute::Address(Mac::of(grant.address.ip).0.to_vec()),
        link::of_kind(Kind::Bridge, InfoData::Bridge(data)),
    ]
}

/// Completes the bridge `link`, which may have its address already.
fn complete(host: &mut Host, grant: &Grant, link: &Link, addressed: bool) -> Result<()> {
    if !link.up {
        configure(host, grant, link)?;
    }
    if !addressed {
        let address = route::address(link.index, grant.address);
        host.change("adding the bridge's address", |netlink| netlink.change(address))?;
    }
    // Up last: it says that everything before is done.
    host.change("setting the bridge up", |netlink| netlink.change(link::set_up(link.index)))
}

/// Configures the bridge while it is down; some settings cannot be made at its creation.
fn configure(host: &mut Host, grant: &Grant, link: &Link) -> Result<()> {
    let bridge = By::Index(link.index);
    let mtu = link::change(bridge, vec![LinkAttribute::Mtu(grant.mtu)]);
    // First: with an MTU below IPv6's the kernel has no IPv6 settings of the bridge.
    host.change("setting the bridge's MTU", |netlink| netlink.change(mtu))?;
    let changes =
        |no_ipv6| vec![link::change(bridge, settings(grant).into_iter().chain(no_ipv6).collect())];
    let change = |netlink: &mut _| link::change_without_ipv6(netlink, changes);
    let has_ipv6 = host.change("configuring the bridge", change)?;
    if has_ipv6 {
        // A forged router advertisement from a container would take the host's default route.
        host.set_switch(&format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name), "0")?;
    }
    Ok(())
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
