//! The bridge, brought about by requests that can each be repeated: a hundred first runs at once
//! need no lock, and what one left half-made the next completes. It is never deleted, as somebody
//! else may be joining it at any moment.

use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoBridgePort, InfoData,
    InfoPortData, InfoPortKind, LinkAttribute, LinkInfo,
};
use nix::errno::Errno;

use super::lease::Lease;
use super::{Host, overlap};
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::route;
use crate::report::error::{Error, Failed, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::Grant;

/// Which of the link-local group addresses 01:80:c2:00:00:0x are forwarded like any others: those
/// that a bridge can be told of (`BR_GROUPFWD_RESTRICTED`, `net/bridge/br_private.h`), and those
/// that one port of it can (all but :01, which is never delivered). A frame to one that is not
/// forwarded reaches the host as from the port itself, past the bridge and its filters: a router
/// advertisement to :02 was seen to take the host's default route.
const BRIDGE_GROUP_FWD_MASK: u16 = 0xfff8;
const PORT_GROUP_FWD_MASK: u16 = 0xfffd;

/// The bridge as it is found, before anything is changed.
#[derive(Debug)]
pub struct Found {
    link: Option<Link>,
    addressed: bool,
}

impl Found {
    /// The MTU that host ends will have: the bridge's, or the one that it will get, in bytes.
    pub fn mtu(&self, grant: &Grant) -> u32 {
        self.link.as_ref().filter(|link| link.up).map_or(grant.mtu, |link| link.mtu)
    }

    /// Whether it is as it should be.
    pub fn is_ready(&self) -> bool {
        self.addressed && self.link.as_ref().is_some_and(|link| link.up)
    }

    /// The bridge's index, if there is one.
    pub fn index(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.index)
    }
}

/// Looks at the bridge that `grant` names, and checks that it can be used or made. Nothing is
/// changed.
///
/// # Errors
/// [`Failed::NotABridge`], [`Failed::BridgeAddress`], [`Failed::Overlap`], [`Failed::Netlink`].
pub fn find(host: &mut Host, grant: &Grant) -> Result<Found> {
    let link = host.link(By::Name(&grant.bridge))?;
    if let Some(link) = &link {
        check_kind(link, grant)?;
    }
    let addressed = match &link {
        Some(link) => has_address(host, link.index, grant)?,
        None => false,
    };
    if !addressed {
        overlap::refuse(host, grant)?;
    }
    Ok(Found { link, addressed })
}

/// Makes the bridge, or completes it, where it is not as it should be. A bridge that is up has been
/// set up to the end, by this program or by an administrator, and keeps what it has.
///
/// # Errors
/// As [`find`], since others may be at the same bridge, and [`Failed::BridgeGone`].
pub fn ensure(host: &mut Host, grant: &Grant, found: Found) -> Result<Link> {
    if found.is_ready()
        && let Some(link) = found.link
    {
        return Ok(link);
    }
    create(host, grant)?;
    let gone = || Failed::BridgeGone(grant.bridge.clone());
    let Found { link: Some(link), addressed } = find(host, grant)? else {
        return Err(gone().into());
    };
    complete(host, grant, &link, addressed).map_err(|error| or_gone(host, grant, &link, error))?;
    match find(host, grant)? {
        Found { link: Some(link), addressed: true } => Ok(link),
        _ => Err(gone().into()),
    }
}

/// What `error` means, if it says no more than that a request failed: where `bridge` is gone, that is
/// the reason.
pub fn or_gone(host: &mut Host, grant: &Grant, bridge: &Link, error: Error) -> Error {
    let may_come_of_it =
        matches!(error, Error::Failed(Failed::Netlink(..) | Failed::Sysctl(..) | Failed::File(..)));
    match may_come_of_it.then(|| host.link(By::Index(bridge.index))) {
        Some(Ok(None)) => Failed::BridgeGone(grant.bridge.clone()).into(),
        _ => error,
    }
}

/// Completes the bridge `link`, which may have its address already.
fn complete(host: &mut Host, grant: &Grant, link: &Link, addressed: bool) -> Result<()> {
    if !link.up {
        settle(host, grant, link)?;
    }
    if !addressed {
        let address = route::address(link.index, grant.address);
        host.privileged(|netlink| netlink.change(address))?
            .map_err(Failed::netlink("adding the bridge's address"))?;
    }
    // Up last: it says that everything before has been done.
    host.privileged(|netlink| netlink.change(link::set_up(link.index)))?
        .map_err(Failed::netlink("setting the bridge up"))
}

fn check_kind(link: &Link, grant: &Grant) -> Result<()> {
    match link.kind {
        Some(Kind::Bridge) => Ok(()),
        _ => Err(Failed::NotABridge(grant.bridge.clone()).into()),
    }
}

/// Whether the interface `index` has the bridge's address; that it has others only is an error.
fn has_address(host: &mut Host, index: u32, grant: &Grant) -> Result<bool> {
    let addresses = addresses(&mut host.netlink, index)?;
    match addresses.contains(&grant.address) {
        false if !addresses.is_empty() => {
            Err(Failed::BridgeAddress(grant.bridge.clone(), grant.address).into())
        }
        found => Ok(found),
    }
}

/// The IPv4 addresses of the interface `index`; none if there is no such interface.
///
/// # Errors
/// [`Failed::Netlink`].
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Cidr>> {
    route::addresses(netlink, index).map_err(Failed::netlink("reading the bridge's addresses"))
}

fn create(host: &mut Host, grant: &Grant) -> Result<()> {
    let mut attributes = vec![
        LinkAttribute::IfName(grant.bridge.to_string()),
        LinkAttribute::Mtu(passing_mtu(grant.mtu)),
    ];
    attributes.extend(settings(grant));
    let bridge = link::message(0, attributes);
    match host.privileged(|netlink| link::create(netlink, bridge))? {
        Err(error) if error.is(Errno::EEXIST) => Ok(()),
        done => Ok(done.map_err(Failed::netlink("creating the bridge"))?),
    }
}

/// What a bridge of ours is like.
fn settings(grant: &Grant) -> [LinkAttribute; 2] {
    let no_learning = BridgeBooleanOptionFlags::NoLinkLocalLearn;
    let data = vec![
        // A few thousand joins from one container would switch it off for all.
        InfoBridge::MulticastSnooping(false),
        InfoBridge::GroupFwdMask(BRIDGE_GROUP_FWD_MASK),
        InfoBridge::MultiBoolOpt(BridgeBooleanOptions { value: no_learning, mask: no_learning }),
    ];
    [
        // Set, or it would change with the ports.
        LinkAttribute::Address(Mac::of(grant.address.ip).0.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(Kind::Bridge),
            LinkInfo::Data(InfoData::Bridge(data)),
        ]),
    ]
}

/// The MTU that the bridge is born with: another than it will have. Only a change pins it
/// (`br_change_mtu`, `net/bridge/br_device.c`), and what is not pinned follows the lowest port's.
fn passing_mtu(mtu: u32) -> u32 {
    if mtu > 68 { mtu - 1 } else { mtu + 1 }
}

/// Sets all that a bridge of ours has, before it is up; some of it cannot be set at its creation.
fn settle(host: &mut Host, grant: &Grant, link: &Link) -> Result<()> {
    let mtu = link::change(By::Index(link.index), vec![LinkAttribute::Mtu(grant.mtu)]);
    // First, as with a lower one than IPv6's the kernel has no IPv6 settings of the bridge.
    host.privileged(|netlink| netlink.change(mtu))?
        .map_err(Failed::netlink("setting the bridge's MTU"))?;
    let bridge = By::Index(link.index);
    let has_ipv6 = host
        .privileged(|netlink| link::change_without_ipv6(netlink, bridge, &settings(grant), &[]))?
        .map_err(Failed::netlink("setting the bridge up"))?;
    if has_ipv6 { refuse_router_advertisements(host, &link.name) } else { Ok(()) }
}

/// A forged router advertisement from a container would take the host's default route.
fn refuse_router_advertisements(host: &mut Host, bridge: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra");
    Ok(host.set_switch(&path, "0")?.map_err(|error| Failed::File(path.into(), error))?)
}

/// Makes `lease`, whose own bridge is gone, a port of this one: a closed one, like one that was just
/// made, by its group and with the bridge's MTU for the same reasons. Whoever deletes a bridge leaves
/// its ports open, so this one is closed first, in a message of its own: one that fails keeps none that
/// comes with it from being carried out.
///
/// # Errors
/// [`Failed::BridgeFull`], [`Failed::Netlink`].
pub fn put_back(host: &mut Host, lease: &Lease, bridge: &Link) -> Result<()> {
    host.privileged(|netlink| {
        netlink.change(link::set_group_down(lease.group)?)?;
        let join = vec![LinkAttribute::Mtu(bridge.mtu), LinkAttribute::Controller(bridge.index)];
        netlink.change(link::change_group(lease.group, join)?)
    })?
    .map_err(|error| match bridge.name.parse() {
        Ok(name) if error.is(Errno::EXFULL) => Failed::BridgeFull(name).into(),
        _ => Failed::Netlink("putting the wire back to the bridge", error).into(),
    })
}

/// Gives the port of the bridge that `lease` is all that it has to have before frames may pass: it is
/// born closed (down), since what keeps frames from going past the bridge cannot be set at its birth,
/// and since nothing that an earlier lessee left may get there.
/// The container's address gets a static entry in the bridge's forwarding table: learnt ones are
/// forgotten in time, and what has none is sent to nobody. It goes with the port, and whoever has the
/// index has the address.
///
/// `reflects`: see [`reflect`]. `alias` is what the host's links show beside it.
///
/// # Errors
/// [`Failed::LeaseLost`], [`Failed::Netlink`].
pub fn settle_port(
    host: &mut Host,
    lease: &Lease,
    reflects: bool,
    alias: Option<&str>,
) -> Result<()> {
    // By its name, which is its owner's for ever, where its index may be another's by now.
    let mut settings = vec![
        InfoBridgePort::GroupFwdMask(PORT_GROUP_FWD_MASK),
        // What is for a container that is gone is not for all the others to hear.
        InfoBridgePort::UnicastFlood(false),
        // Its one address has an entry, and no others are for it to fill the bridge's table with.
        InfoBridgePort::Learning(false),
    ];
    if reflects {
        settings.push(InfoBridgePort::HairpinMode(true));
    }
    let mut attributes = vec![port(settings)];
    attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
    let name = By::Name(&lease.host_end);
    let entry = route::forwarding_entry(lease.index, Mac::of(lease.address.ip));
    host.privileged(|netlink| link::change_without_ipv6(netlink, name, &attributes, &[entry]))?
        .map(drop)
        .map_err(not_opened)
}

/// Opens that port: frames pass from here on. By its group, which is no other link's; and by itself, as
/// it must not be done if [`settle_port`] fails.
///
/// # Errors
/// [`Failed::Netlink`].
pub fn open_port(host: &mut Host, lease: &Lease) -> Result<()> {
    host.privileged(|netlink| netlink.change(link::set_group_up(lease.group)?))?.map_err(not_opened)
}

fn not_opened(error: netlink::Error) -> Error {
    match error.is(Errno::ENODEV) {
        true => Failed::LeaseLost.into(),
        false => Failed::Netlink("opening the bridge's port", error).into(),
    }
}

/// Lets frames go back out of the port that they came from: where bridged frames pass the firewall
/// (`net.bridge.bridge-nf-call-iptables`), a container reaches a port of its own by the host's
/// address only so.
///
/// # Errors
/// [`Failed::Netlink`].
pub fn reflect(host: &mut Host, name: &IfName) -> Result<()> {
    let hairpin = link::change(By::Name(name), vec![port(vec![InfoBridgePort::HairpinMode(true)])]);
    host.privileged(|netlink| netlink.change(hairpin))?
        .map_err(Failed::netlink("setting the bridge's port"))
}

/// Settings of a port of a bridge.
fn port(settings: Vec<InfoBridgePort>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ])
}
