//! A port of the bridge: the host end of a container's veth pair. It is born closed (down). Some of the
//! settings that keep frames from going past the bridge cannot be made at its birth, and nothing for an
//! earlier holder of the address may get there.

use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
};
use nix::errno::Errno;

use super::Host;
use super::lease::{Lease, slot_name, user_of};
use crate::kernel::link::{self, By};
use crate::kernel::netlink::Netlink;
use crate::kernel::route;
use crate::report::error::{Error, Failed, Result};
use crate::request::address::{IfName, Mac};

/// The link-local group addresses 01:80:c2:00:00:0x that are forwarded like other addresses: all that a
/// port can be told to forward, which is all but :01. See [`super::bridge`].
const GROUP_FWD_MASK: u16 = 0xfffd;

/// Configures the port of `lease` while it is closed.
///
/// The container's address gets a static entry in the bridge's forwarding table: the bridge forgets
/// learnt entries, and sends nothing to an address without one. The entry goes with the port, and the
/// link that has the index has the address.
///
/// `hairpin`: see [`set_hairpin`]. `alias` is what the host shows beside the link.
pub fn configure(host: &mut Host, lease: &Lease, hairpin: bool, alias: Option<&str>) -> Result<()> {
    let changes = |no_ipv6| {
        let mut settings = vec![
            InfoBridgePort::GroupFwdMask(GROUP_FWD_MASK),
            // Frames for a container that is gone are not for all the others to hear.
            InfoBridgePort::UnicastFlood(false),
            // Its one address has an entry. It must not fill the bridge's table with others.
            InfoBridgePort::Learning(false),
        ];
        settings.extend(hairpin.then_some(InfoBridgePort::HairpinMode(true)));
        let mut attributes = vec![port(settings)];
        attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        attributes.extend(no_ipv6);
        // By the name, which only links of this user get: another user's link can have the index by now.
        let port = link::change(By::Name(&lease.host_end), attributes);
        vec![port, route::forwarding_entry(lease.index, Mac::of(lease.address.ip))]
    };
    let change = |netlink: &mut _| link::change_without_ipv6(netlink, changes).map(drop);
    host.change("configuring the bridge port", change).map_err(or_lost)
}

/// Opens the port of `lease`: frames pass from here on. It is meant by its group, which no other link
/// has, and in a message of its own, since it must stay closed if [`configure`] fails.
pub fn open(host: &mut Host, lease: &Lease) -> Result<()> {
    let open = |netlink: &mut Netlink| netlink.change(link::set_group_up(lease.group)?);
    host.change("opening the bridge port", open).map_err(or_lost)
}

/// Deletes the links whose bridge port is still closed, and that users are not granted any more. `granted`
/// says how many links a user may have. So a run that was stopped has nothing left to open.
pub fn delete_closed(host: &mut Host, granted: impl Fn(u32) -> u32) -> Result<()> {
    for link in host.leases()?.iter().filter(|link| !link.up) {
        // Only root gives a link another name, and root is granted every one.
        let Some(uid) = user_of(&link.name).filter(|uid| *uid != 0) else { continue };
        if (0..granted(uid)).all(|slot| slot_name(uid, slot).as_str() != link.name) {
            let delete = |netlink: &mut Netlink| link::delete_group(netlink, link.group);
            host.change("deleting a veth pair", delete)?;
        }
    }
    Ok(())
}

fn or_lost(error: Error) -> Error {
    if error.is(Errno::ENODEV) { Failed::LeaseLost.into() } else { error }
}

/// Lets frames go back out of the port that they came from. Where bridged frames pass the firewall
/// (`net.bridge.bridge-nf-call-iptables`), a container needs this to reach its own published port by the
/// host's address.
pub fn set_hairpin(host: &mut Host, name: &IfName) -> Result<()> {
    let hairpin = link::change(By::Name(name), vec![port(vec![InfoBridgePort::HairpinMode(true)])]);
    host.change("configuring the bridge port", |netlink| netlink.change(hairpin)).map_err(or_lost)
}

/// The attribute with settings of a bridge port.
fn port(settings: Vec<InfoBridgePort>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ])
}
