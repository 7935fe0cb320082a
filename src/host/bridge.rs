//! The bridge, brought about by requests that can each be repeated: a hundred first runs at once
//! need no lock, and what one left half-made the next completes. It is never deleted, as somebody
//! else may be joining it at any moment.

use std::fs;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use nix::errno::Errno;
use nix::libc::{RTM_GETADDR, RTM_NEWNEIGH};

use super::lease::Lease;
use super::{Host, overlap};
use crate::address::{Cidr, IfName, Mac};
use crate::container::add_address;
use crate::error::{Failed, Result};
use crate::link::{self, By, Kind, Link};
use crate::netlink::{Answer, Netlink};
use crate::policy::Grant;

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
/// As [`find`], since others may be at the same bridge.
pub fn ensure(host: &mut Host, grant: &Grant, found: Found) -> Result<Link> {
    if found.is_ready()
        && let Some(link) = found.link
    {
        return Ok(link);
    }
    create(host, grant)?;
    let Found { link: Some(link), addressed } = find(host, grant)? else {
        return Err(Failed::Contended.into());
    };
    if !link.up {
        settle(host, grant, &link)?;
    }
    if !addressed {
        host.privileged(|netlink| add_address(netlink, link.index, grant.address))?
            .map_err(Failed::netlink("adding the bridge's address"))?;
    }
    // Up last: it says that everything before has been done.
    host.privileged(|netlink| link::set_up(netlink, By::Index(link.index)))?
        .map_err(Failed::netlink("setting the bridge up"))?;
    match find(host, grant)? {
        Found { link: Some(link), addressed: true } => Ok(link),
        _ => Err(Failed::Contended.into()),
    }
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
    const IFA_LOCAL: u16 = 2;
    let mut request = AddressMessage::default();
    request.header.family = AddressFamily::Inet;
    request.header.index = index;
    // `struct ifaddrmsg` (`linux/if_addr.h`)
    let answers: Vec<Answer<8>> = match netlink.dump(RTM_GETADDR, &request) {
        // It was deleted a moment ago.
        Err(error) if error.is(Errno::ENODEV) => Vec::new(),
        other => other.map_err(Failed::netlink("reading the bridge's addresses"))?,
    };
    let read = |answer: Answer<8>| {
        let [_, prefix, _, _, interface @ ..] = answer.header;
        let ip = answer.ipv4(IFA_LOCAL)?;
        (u32::from_ne_bytes(interface) == index).then_some(Cidr { ip, prefix })
    };
    Ok(answers.into_iter().filter_map(read).collect())
}

fn create(host: &mut Host, grant: &Grant) -> Result<()> {
    let mut request = LinkMessage::default();
    request.attributes = settings(grant);
    request.attributes.push(link::name_attribute(&grant.bridge));
    request.attributes.push(LinkAttribute::Mtu(passing_mtu(grant.mtu)));
    match host.privileged(|netlink| link::create(netlink, request))? {
        Err(error) if error.is(Errno::EEXIST) => Ok(()),
        done => Ok(done.map_err(Failed::netlink("creating the bridge"))?),
    }
}

/// What a bridge of ours is like.
fn settings(grant: &Grant) -> Vec<LinkAttribute> {
    let options = vec![
        // A few thousand joins from one container would switch it off for all.
        InfoBridge::MulticastSnooping(false),
        InfoBridge::GroupFwdMask(BRIDGE_GROUP_FWD_MASK),
        InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
            value: BridgeBooleanOptionFlags::NoLinkLocalLearn,
            mask: BridgeBooleanOptionFlags::NoLinkLocalLearn,
        }),
    ];
    let kind = LinkInfo::Kind(InfoKind::Bridge);
    vec![
        // Set, or it would change with the ports.
        link::mac_attribute(Mac::of(grant.address.ip)),
        LinkAttribute::LinkInfo(vec![kind, LinkInfo::Data(InfoData::Bridge(options))]),
    ]
}

/// The MTU that the bridge is born with: another than it will have. Only a change pins it
/// (`br_change_mtu`, `net/bridge/br_device.c`), and what is not pinned follows the lowest port's.
fn passing_mtu(mtu: u32) -> u32 {
    if mtu > 68 { mtu - 1 } else { mtu + 1 }
}

/// Sets all that a bridge of ours has, before it is up; some of it cannot be set at its creation.
fn settle(host: &mut Host, grant: &Grant, link: &Link) -> Result<()> {
    let index = By::Index(link.index);
    let mtu = LinkAttribute::Mtu(grant.mtu);
    // First, as with a lower one than IPv6's the kernel has no IPv6 settings of the bridge.
    host.privileged(|netlink| link::change(netlink, index, vec![mtu]))?
        .map_err(Failed::netlink("setting the bridge's MTU"))?;
    let has_ipv6 = host
        .privileged(|netlink| link::change_without_ipv6(netlink, index, &settings(grant)))?
        .map_err(Failed::netlink("setting the bridge up"))?;
    if has_ipv6 { refuse_router_advertisements(host, &link.name) } else { Ok(()) }
}

/// A forged router advertisement from a container would take the host's default route.
fn refuse_router_advertisements(host: &mut Host, bridge: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra");
    // Whoever has CAP_NET_ADMIN may write it (net_ctl_permissions, net/sysctl_net.c).
    let _raised = host.privilege.raise(caps::Capability::CAP_NET_ADMIN)?;
    Ok(fs::write(&path, "0").map_err(|error| Failed::File(path.into(), error))?)
}

/// Opens the port of the bridge that `lease` is: frames pass from here on. It is born closed (down),
/// since what keeps frames from going past the bridge cannot be set at its birth, and since nothing
/// that an earlier lessee left may get there. So it is opened by its group, which is no other link's.
///
/// `reflects`: see [`reflect`]. `alias` is what the host's links show beside it.
///
/// # Errors
/// [`Failed::LeaseLost`], [`Failed::Netlink`].
pub fn open_port(
    host: &mut Host,
    lease: &Lease,
    reflects: bool,
    alias: Option<&str>,
) -> Result<()> {
    let mut settings = vec![
        InfoBridgePort::GroupFwdMask(PORT_GROUP_FWD_MASK),
        // What is for a container that is gone is not for all the others to hear.
        InfoBridgePort::UnicastFlood(false),
    ];
    if reflects {
        settings.push(InfoBridgePort::HairpinMode(true));
    }
    let mut attributes = vec![of_port(settings)];
    attributes.extend(alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
    host.privileged(|netlink| {
        // By its name, which is its owner's for ever, where its index may be another's by now.
        link::change_without_ipv6(netlink, By::Name(&lease.host_end), &attributes)?;
        netlink.change(RTM_NEWNEIGH, forwarding_entry(lease), NLM_F_CREATE | NLM_F_REPLACE)?;
        link::set_group_up(netlink, lease.group)
    })?
    .map_err(|error| match error.is(Errno::ENODEV) {
        true => Failed::LeaseLost.into(),
        false => Failed::Netlink("opening the bridge's port", error).into(),
    })
}

/// Where the bridge sends what is for the container's address: learnt entries are forgotten in time,
/// and what has none is sent to nobody (`bridge fdb add MAC dev PORT master static`). It goes with the
/// port. Whoever has the index has the address.
fn forwarding_entry(lease: &Lease) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header.family = AddressFamily::Bridge;
    entry.header.ifindex = lease.index;
    entry.header.state = NeighbourState::Noarp;
    // Sticky: nobody else moves it to his own port by sending from that address.
    entry.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    let mac = Mac::of(lease.address.ip).0.to_vec();
    entry.attributes.push(NeighbourAttribute::LinkLayerAddress(mac));
    entry
}

/// Lets frames go back out of the port that they came from: where bridged frames pass the firewall
/// (`net.bridge.bridge-nf-call-iptables`), a container reaches a port of its own by the host's
/// address only so.
///
/// # Errors
/// [`Failed::Netlink`].
pub fn reflect(host: &mut Host, port: &IfName) -> Result<()> {
    let settings = vec![of_port(vec![InfoBridgePort::HairpinMode(true)])];
    host.privileged(|netlink| link::change(netlink, By::Name(port), settings))?
        .map_err(Failed::netlink("setting the bridge's port"))
}

/// The attribute that changes a port of a bridge.
fn of_port(settings: Vec<InfoBridgePort>) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(settings)),
    ])
}
