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
use crate::netlink::{self, Error, Netlink, attributes};

/// What this program wants to know of an interface.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, if it is a virtual one.
    pub kind: Option<Kind>,
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
    /// The group that it is in.
    pub group: u32,
}

/// `linux/if.h`
const IFF_UP: u32 = 1;

/// An answer about a link: `struct ifinfomsg` (`linux/rtnetlink.h`) and attributes.
type Answer = netlink::Answer<16>;

impl From<Answer> for Link {
    fn from(answer: Answer) -> Link {
        // `linux/if_link.h`
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_MTU: u16 = 4;
        const IFLA_LINK: u16 = 5;
        const IFLA_MASTER: u16 = 10;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_IFALIAS: u16 = 20;
        const IFLA_GROUP: u16 = 27;
        const IFLA_LINK_NETNSID: u16 = 37;
        const IFLA_INFO_KIND: u16 = 1;
        let [_, _, _, _, i, n, d, x, f, l, a, g, ..] = answer.header;
        let info = answer.get(IFLA_LINKINFO).map(attributes).unwrap_or_default();
        let kind = info.into_iter().find(|(kind, _)| *kind == IFLA_INFO_KIND);
        Link {
            index: u32::from_ne_bytes([i, n, d, x]),
            up: u32::from_ne_bytes([f, l, a, g]) & IFF_UP != 0,
            name: answer.text(IFLA_IFNAME).unwrap_or_default(),
            kind: kind.map(|(_, name)| Kind::from(name.as_slice())),
            mac: answer.get(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac),
            mtu: answer.number(IFLA_MTU).unwrap_or_default(),
            master: answer.number(IFLA_MASTER),
            peer: answer.number(IFLA_LINK),
            peer_namespace: answer.number(IFLA_LINK_NETNSID).map(u32::cast_signed),
            alias: answer.text(IFLA_IFALIAS),
            group: answer.number(IFLA_GROUP).unwrap_or_default(),
        }
    }
}

/// A kind of virtual interface, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge,
    /// One end of a virtual wire.
    Veth,
    /// Any other.
    Other,
}

impl From<&[u8]> for Kind {
    fn from(name: &[u8]) -> Kind {
        match name.strip_suffix(&[0]).unwrap_or(name) {
            b"bridge" => Kind::Bridge,
            b"veth" => Kind::Veth,
            _ => Kind::Other,
        }
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
        Ok(answer) => Ok(Some(Link::from(answer))),
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
    let inside = Link::from(netlink.get(RTM_GETLINK, request).ok()?);
    (inside.peer == Some(link.index)).then_some(inside.name)
}

/// The id by which this network namespace knows another one, if it does (`RTM_GETNSID`,
/// `rtnetlink(7)`).
///
/// # Errors
/// [`Error`].
pub fn namespace_id(netlink: &mut Netlink, of: NsidAttribute) -> Result<Option<i32>, Error> {
    const NETNSA_NSID: u16 = 1;
    let mut request = NsidMessage::default();
    request.attributes.push(of);
    // `struct rtgenmsg`, which is a byte, and filled up.
    let answer: netlink::Answer<4> = netlink.get(RTM_GETNSID, request)?;
    Ok(answer.number(NETNSA_NSID).map(u32::cast_signed).filter(|id| *id >= 0))
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

/// Sets every interface of a group up; that there is none is success (`rtnl_group_changelink`,
/// `net/core/rtnetlink.c`).
///
/// # Errors
/// [`Error`].
pub fn set_group_up(netlink: &mut Netlink, group: u32) -> Result<(), Error> {
    // Which every link is in that nobody has put into another.
    if group == 0 {
        return Err(Error::Kernel(Errno::EINVAL));
    }
    let mut request = LinkMessage::default();
    request.header.flags = LinkFlags::Up;
    request.header.change_mask = LinkFlags::Up;
    request.attributes.push(LinkAttribute::Group(group));
    netlink.change(RTM_NEWLINK, request, 0)
}

/// Deletes every interface of a group, and with each its peer (`rtnl_group_dellink`).
///
/// # Errors
/// [`Error::Kernel`] with ENODEV when there is none.
pub fn delete_group(netlink: &mut Netlink, group: u32) -> Result<(), Error> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::Group(group));
    netlink.change(RTM_DELLINK, request, 0)
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
