//! Network interfaces, as `rtnetlink(7)` tells of them.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use nix::libc::{RTM_DELLINK, RTM_GETLINK, RTM_GETNSID, RTM_NEWLINK, RTM_SETLINK};

use crate::address::{IfName, Mac};
use crate::netlink::{Error, Netlink};

/// What this program wants to know of an interface.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, if it is a virtual one.
    pub kind: Option<InfoKind>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The index of its peer, in the peer's network namespace.
    pub peer: Option<u32>,
    /// The peer's network namespace, by the id that this one knows it by.
    pub peer_namespace: Option<i32>,
    /// What somebody has called it beside its name.
    pub alias: Option<String>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let mut link = Link { index: message.header.index, ..Link::default() };
        link.up = message.header.flags.contains(LinkFlags::Up);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(id),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// Which interface is meant.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// The one with this index.
    Index(u32),
    /// The one with this name, or with this alternative name.
    Name(&'a IfName),
}

/// Looks an interface up; `None` when there is none.
///
/// # Errors
/// [`Error`].
pub fn get(netlink: &mut Netlink, by: By) -> Result<Option<Link>, Error> {
    let mut request = about(by);
    // Counters are of no interest, and most of the work of answering.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    match netlink.get(RTM_GETLINK, request) {
        Ok(message) => Ok(Some(message.into())),
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All interfaces of this kind.
///
/// # Errors
/// [`Error`].
pub fn all(netlink: &mut Netlink, kind: InfoKind) -> Result<Vec<Link>, Error> {
    let mut request = LinkMessage::default();
    request.attributes = vec![
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
    ];
    Ok(netlink.dump(RTM_GETLINK, &request)?.into_iter().map(Link::from).collect())
}

/// The name of the peer of `link` in its own network namespace, if the calling process may look in
/// there (`IFLA_TARGET_NETNSID`: who owns the user namespace may).
pub fn name_inside(netlink: &mut Netlink, link: &Link) -> Option<String> {
    const IFLA_TARGET_NETNSID: u16 = 46;
    let mut request = about(By::Index(link.peer?));
    let namespace = link.peer_namespace?.to_ne_bytes().to_vec();
    request.attributes = vec![
        LinkAttribute::Other(DefaultNla::new(IFLA_TARGET_NETNSID, namespace)),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let inside: Link = netlink.get(RTM_GETLINK, request).ok()?.into();
    (inside.peer == Some(link.index)).then_some(inside.name)
}

/// The id by which this network namespace knows that of the process `pid`, if it does
/// (`RTM_GETNSID`, `rtnetlink(7)`).
pub fn namespace_of(netlink: &mut Netlink, pid: u32) -> Option<i32> {
    let mut request = NsidMessage::default();
    request.attributes.push(NsidAttribute::Pid(pid));
    let answer = netlink.get(RTM_GETNSID, request).ok()?;
    answer.attributes.into_iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if id >= 0 => Some(id),
        _ => None,
    })
}

/// A message about the interface that is meant.
fn about(by: By) -> LinkMessage {
    let mut message = LinkMessage::default();
    match by {
        By::Index(index) => message.header.index = index,
        By::Name(name) => message.attributes.push(name_attribute(name)),
    }
    message
}

/// Changes an interface. A "new link" without a flag to create one changes the one that
/// there is, as "set link" does, and takes data of its kind as well (`rtnl_changelink`,
/// `net/core/rtnetlink.c`).
///
/// # Errors
/// [`Error`].
pub fn change(netlink: &mut Netlink, by: By, attributes: Vec<LinkAttribute>) -> Result<(), Error> {
    let mut request = about(by);
    request.attributes.extend(attributes);
    netlink.change(RTM_NEWLINK, request, 0)
}

/// Changes an interface, and has the kernel give it no IPv6 address of its own accord. Gives whether
/// the kernel has IPv6 at all.
///
/// # Errors
/// [`Error`].
pub fn change_without_ipv6(
    netlink: &mut Netlink,
    by: By,
    attributes: &[LinkAttribute],
) -> Result<bool, Error> {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let no_ipv6 = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]);
    match change(netlink, by, [attributes, &[no_ipv6]].concat()) {
        Err(error) if error.is(Errno::EAFNOSUPPORT) => {
            change(netlink, by, attributes.to_vec()).map(|()| false)
        }
        done => done.map(|()| true),
    }
}

/// Sets an interface up.
///
/// # Errors
/// [`Error`].
pub fn set_up(netlink: &mut Netlink, by: By) -> Result<(), Error> {
    let mut request = about(by);
    request.header.flags = LinkFlags::Up;
    request.header.change_mask = LinkFlags::Up;
    netlink.change(RTM_SETLINK, request, 0)
}

/// Creates the interface that `request` describes.
///
/// # Errors
/// [`Error::Kernel`] with EEXIST when its name or index is taken.
pub fn create(netlink: &mut Netlink, request: LinkMessage) -> Result<(), Error> {
    netlink.change(RTM_NEWLINK, request, NLM_F_CREATE | NLM_F_EXCL)
}

/// Deletes an interface, and with it its peer.
///
/// # Errors
/// [`Error::Kernel`] with ENODEV when there is none.
pub fn delete(netlink: &mut Netlink, by: By) -> Result<(), Error> {
    netlink.change(RTM_DELLINK, about(by), 0)
}

/// The attribute that names an interface.
pub fn name_attribute(name: &IfName) -> LinkAttribute {
    LinkAttribute::IfName(name.as_str().to_owned())
}

/// The attribute that gives an interface its Ethernet address.
pub fn mac_attribute(mac: Mac) -> LinkAttribute {
    LinkAttribute::Address(mac.0.to_vec())
}
