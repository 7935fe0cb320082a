//! Network interfaces, `rtnetlink(7)`.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
pub use netlink_packet_route::link::InfoKind as Kind;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage,
};
pub use netlink_packet_route::nsid::NsidAttribute as Namespace;
use netlink_packet_route::nsid::NsidMessage;
use nix::errno::Errno;
use nix::libc::{
    IFLA_ADDRESS, IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINK,
    IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU,
};

use crate::kernel::answer;
use crate::kernel::netlink::{Change, Error, Netlink, Result, found};
use crate::privilege::sys;
use crate::request::address::{IfName, Mac};

/// What this program needs to know of an interface.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Its kind, if it is a virtual interface.
    pub kind: Option<Kind>,
    pub mac: Option<Mac>,
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    pub mtu: u32,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The index of its peer, in the peer's network namespace.
    pub peer: Option<u32>,
    /// The id by which this network namespace knows the peer's.
    pub peer_namespace: Option<i32>,
    pub alias: Option<String>,
    pub group: u32,
}

/// An answer about a link: `struct ifinfomsg` (`linux/rtnetlink.h`) and attributes.
type Answer = answer::Answer<16>;

impl From<Answer> for Link {
    fn from(answer: Answer) -> Link {
        let [_, _, _, _, i, n, d, x, f, l, a, g, ..] = answer.header;
        let flags = LinkFlags::from_bits_retain(u32::from_ne_bytes([f, l, a, g]));
        let kind = answer.nested(IFLA_LINKINFO).text(IFLA_INFO_KIND);
        Link {
            index: u32::from_ne_bytes([i, n, d, x]),
            up: flags.contains(LinkFlags::Up),
            name: answer.text(IFLA_IFNAME).unwrap_or_default(),
            kind: kind.map(|name| Kind::from(name.as_str())),
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

#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    Index(u32),
    /// By its name or alternative name.
    Name(&'a IfName),
}

/// The message about an interface. The index 0 is for any, or for a new one.
pub fn message(by: By, mut attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match by {
        By::Index(index) => message.header.index = index,
        By::Name(name) => attributes.insert(0, LinkAttribute::IfName(name.to_string())),
    }
    message.attributes = attributes;
    message
}

/// What makes an interface one of this kind.
pub fn of_kind(kind: Kind, data: InfoData) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

/// Whether there is such an interface. Unlike [`get`] this takes no lock in the kernel, so it costs
/// little and never waits. CAP_NET_ADMIN and CAP_SYS_MODULE must not be in effect.
pub fn exists(netlink: &Netlink, by: By) -> Result<bool> {
    let exists = match by {
        By::Index(index) => sys::interface_exists(&netlink.socket, index),
        By::Name(name) => sys::interface_name_exists(&netlink.socket, name.as_str()),
    };
    exists.map_err(|errno| Error::Kernel(errno, 0))
}

/// The question for an interface, with these attributes. Counters are left out of the answer: this
/// program does not need them, and they are most of the work.
fn question(by: By, mut attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message(by, attributes))
}

/// Looks an interface up; `None` when there is none.
pub fn get(netlink: &mut Netlink, by: By) -> Result<Option<Link>> {
    Ok(found(netlink.ask(question(by, Vec::new())))?.map(Answer::into))
}

/// All interfaces of this kind.
pub fn all(netlink: &mut Netlink, kind: Kind) -> Result<Vec<Link>> {
    let filter = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
    let answers = netlink.ask_all(question(By::Index(0), vec![filter]))?;
    Ok(answers.into_iter().map(Answer::into).collect())
}

/// The name of the peer of `link` in its own network namespace, if the calling process may ask there:
/// the owner of the user namespace may.
pub fn name_inside(netlink: &mut Netlink, link: &Link) -> Option<String> {
    let namespace = LinkAttribute::IfNetnsId(link.peer_namespace?);
    let question = question(By::Index(link.peer?), vec![namespace]);
    let inside = Link::from(netlink.ask(question).ok()?);
    (inside.peer == Some(link.index)).then_some(inside.name)
}

/// The id by which this network namespace knows the one of a descriptor or process, if it does.
pub fn namespace_id(netlink: &mut Netlink, of: Namespace) -> Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.attributes = vec![of];
    let answer: answer::Answer<4> = netlink.ask(RouteNetlinkMessage::GetNsId(question))?;
    // NETNSA_NSID (`linux/net_namespace.h`).
    Ok(answer.number(1).map(u32::cast_signed).filter(|id| *id >= 0))
}

/// The request to change an interface. A "new link" without a flag to create one changes the existing
/// one, as "set link" does, and takes data of its kind as well (`rtnl_changelink`,
/// `net/core/rtnetlink.c`).
pub fn change(by: By, attributes: Vec<LinkAttribute>) -> Change {
    (RouteNetlinkMessage::NewLink(message(by, attributes)), 0)
}

pub fn set_up(index: u32) -> Change {
    (RouteNetlinkMessage::SetLink(up(message(By::Index(index), Vec::new()))), 0)
}

/// The request to set every interface of a group up; it succeeds where there is none
/// (`rtnl_group_changelink`, `net/core/rtnetlink.c`).
pub fn set_group_up(group: u32) -> Result<Change> {
    Ok((RouteNetlinkMessage::NewLink(up(of_group(group)?)), 0))
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// The message about every interface of a group. Group 0 is an error: it has all links that have not
/// been put into another group.
fn of_group(group: u32) -> Result<LinkMessage> {
    match group {
        0 => Err(Error::Kernel(Errno::EINVAL, 0)),
        _ => Ok(message(By::Index(0), vec![LinkAttribute::Group(group)])),
    }
}

/// Makes `changes`, with an attribute that has the kernel give an interface no IPv6 address by itself, or
/// without it if the kernel has no IPv6. Gives whether it has.
pub fn change_without_ipv6(
    netlink: &mut Netlink,
    changes: impl Fn(Option<LinkAttribute>) -> Vec<Change>,
) -> Result<bool> {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let no_ipv6 = LinkAttribute::AfSpecUnspec(vec![inet6]);
    match netlink.change_all(changes(Some(no_ipv6))) {
        Err(error) if error.is(Errno::EAFNOSUPPORT) => {
            netlink.change_all(changes(None)).map(|()| false)
        }
        done => done.map(|()| true),
    }
}

/// Creates the interface that `link` describes. The error is EEXIST if its name or index is taken.
pub fn create(netlink: &mut Netlink, link: LinkMessage) -> Result<()> {
    netlink.change((RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL))
}

/// Deletes an interface, and with it its peer.
pub fn delete(netlink: &mut Netlink, by: By) -> Result<()> {
    netlink.change((RouteNetlinkMessage::DelLink(message(by, Vec::new())), 0))
}

/// Deletes every interface of a group, and with each its peer (`rtnl_group_dellink`).
pub fn delete_group(netlink: &mut Netlink, group: u32) -> Result<()> {
    netlink.change((RouteNetlinkMessage::DelLink(of_group(group)?), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_all_other_links_is_never_meant() {
        assert!(of_group(0).is_err() && of_group(1).is_ok());
    }
}
