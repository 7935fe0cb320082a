//! Network interfaces, as `rtnetlink(7)` tells of them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;
use nix::libc::{
    AF_INET6, IFF_UP, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_EXT_MASK, IFLA_GROUP, IFLA_IFALIAS,
    IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER,
    IFLA_MTU, IFLA_TARGET_NETNSID, RTM_DELLINK, RTM_GETLINK, RTM_GETNSID, RTM_NEWLINK, RTM_SETLINK,
};

use crate::kernel::netlink::{self, Error, Netlink, Request, attributes};
use crate::request::address::{IfName, Mac};

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

/// The flag of a link that is set up (`linux/if.h`).
const UP: u32 = IFF_UP.cast_unsigned();

/// The value of `IFLA_EXT_MASK` that leaves counters out of the answer, which are of no interest and
/// most of the work of answering (`RTEXT_FILTER_SKIP_STATS`, `linux/rtnetlink.h`).
const SKIP_STATS: u32 = 1 << 3;

/// An answer about a link: `struct ifinfomsg` (`linux/rtnetlink.h`) and attributes.
type Answer = netlink::Answer<16>;

impl From<Answer> for Link {
    fn from(answer: Answer) -> Link {
        let [_, _, _, _, i, n, d, x, f, l, a, g, ..] = answer.header;
        let info = answer.get(IFLA_LINKINFO).map(attributes).unwrap_or_default();
        let kind = info.into_iter().find(|(kind, _)| *kind == IFLA_INFO_KIND);
        Link {
            index: u32::from_ne_bytes([i, n, d, x]),
            up: u32::from_ne_bytes([f, l, a, g]) & UP != 0,
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

impl Kind {
    /// Its name, as `ip link` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bridge => "bridge",
            Kind::Veth => "veth",
            Kind::Other => "",
        }
    }
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
    match netlink.get(about(RTM_GETLINK, by).number(IFLA_EXT_MASK, SKIP_STATS)) {
        Ok(answer) => Ok(Some(Link::from(answer))),
        Err(error) if error.is(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All interfaces of this kind.
///
/// # Errors
/// [`Error`].
pub fn all(netlink: &mut Netlink, kind: Kind) -> Result<Vec<Link>, Error> {
    let request = about(RTM_GETLINK, By::Index(0))
        .number(IFLA_EXT_MASK, SKIP_STATS)
        .nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, kind.name()));
    Ok(netlink.dump(&request)?.into_iter().map(Link::from).collect())
}

/// The name of the peer of `link` in its own network namespace, if the calling process may look in
/// there (`IFLA_TARGET_NETNSID`: who owns the user namespace may).
pub fn name_inside(netlink: &mut Netlink, link: &Link) -> Option<String> {
    let request = about(RTM_GETLINK, By::Index(link.peer?))
        .number(IFLA_TARGET_NETNSID, link.peer_namespace?.cast_unsigned())
        .number(IFLA_EXT_MASK, SKIP_STATS);
    let inside = Link::from(netlink.get(request).ok()?);
    (inside.peer == Some(link.index)).then_some(inside.name)
}

/// A network namespace, as one asks for its id.
#[derive(Debug, Clone, Copy)]
pub enum Namespace<'a> {
    /// The one of this descriptor.
    Descriptor(BorrowedFd<'a>),
    /// The one of this process.
    Process(u32),
}

/// The id by which this network namespace knows another one, if it does (`RTM_GETNSID`,
/// `rtnetlink(7)`).
///
/// # Errors
/// [`Error`].
pub fn namespace_id(netlink: &mut Netlink, of: Namespace) -> Result<Option<i32>, Error> {
    // `linux/net_namespace.h`
    const NETNSA_NSID: u16 = 1;
    const NETNSA_PID: u16 = 2;
    const NETNSA_FD: u16 = 3;
    // `struct rtgenmsg`, which is a byte, and filled up.
    let request = Request::new(RTM_GETNSID, &[0; 4]);
    let request = match of {
        Namespace::Descriptor(file) => request.number(NETNSA_FD, file.as_raw_fd().cast_unsigned()),
        Namespace::Process(pid) => request.number(NETNSA_PID, pid),
    };
    let answer: netlink::Answer<4> = netlink.get(request)?;
    Ok(answer.number(NETNSA_NSID).map(u32::cast_signed).filter(|id| *id >= 0))
}

/// `struct ifinfomsg`, of a link with this index, to be set up or left as it is.
pub fn ifinfomsg(index: u32, flags: u32) -> [u8; 16] {
    with_flags(index, flags, flags)
}

/// The same with flags, and which of them are to be changed.
fn with_flags(index: u32, flags: u32, changed: u32) -> [u8; 16] {
    let [i, n, d, x] = index.to_ne_bytes();
    let [f, l, a, g] = flags.to_ne_bytes();
    let [c, h, e, s] = changed.to_ne_bytes();
    // The family and the type are not given.
    [0, 0, 0, 0, i, n, d, x, f, l, a, g, c, h, e, s]
}

/// A request of the type `kind` about the interface that is meant.
fn about(kind: u16, by: By) -> Request {
    match by {
        By::Index(index) => Request::new(kind, &ifinfomsg(index, 0)),
        By::Name(name) => Request::new(kind, &ifinfomsg(0, 0)).text(IFLA_IFNAME, name.as_str()),
    }
}

/// The request to change an interface, to which what is to change is added. A "new link" without a
/// flag to create one changes the one that there is, as "set link" does, and takes data of its kind as
/// well (`rtnl_changelink`, `net/core/rtnetlink.c`).
pub fn change(by: By) -> Request {
    about(RTM_NEWLINK, by)
}

/// The request to set an interface up.
pub fn set_up(index: u32) -> Request {
    Request::new(RTM_SETLINK, &ifinfomsg(index, UP))
}

/// The request to change every interface of a group, to which what is to change is added; that there
/// is none is success (`rtnl_group_changelink`, `net/core/rtnetlink.c`). Group 0 is refused: it is the
/// one that every link is in that nobody has put into another.
///
/// # Errors
/// [`Error::Kernel`] with EINVAL for group 0.
pub fn change_group(group: u32) -> Result<Request, Error> {
    of_group(group, ifinfomsg(0, 0))
}

/// The request to set every interface of a group up, or down; likewise.
///
/// # Errors
/// [`Error::Kernel`] with EINVAL for group 0.
pub fn set_group(group: u32, up: bool) -> Result<Request, Error> {
    of_group(group, with_flags(0, if up { UP } else { 0 }, UP))
}

fn of_group(group: u32, structure: [u8; 16]) -> Result<Request, Error> {
    match group {
        0 => Err(Error::Kernel(Errno::EINVAL)),
        _ => Ok(Request::new(RTM_NEWLINK, &structure).number(IFLA_GROUP, group)),
    }
}

/// Changes an interface, has the kernel give it no IPv6 address of its own accord, and has the other
/// requests fulfilled in the same go. Gives whether the kernel has IPv6 at all.
///
/// # Errors
/// [`Error`].
pub fn change_without_ipv6(
    netlink: &mut Netlink,
    change: Request,
    others: &[(Request, u16)],
) -> Result<bool, Error> {
    // `linux/if_link.h`
    const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
    const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
    let all = |change: Request| [&[(change, 0)], others].concat();
    let no_ipv6 = change.clone().nest(IFLA_AF_SPEC, |families| {
        families.nest(AF_INET6 as u16, |inet6| {
            inet6.byte(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
        })
    });
    match netlink.change_all(all(no_ipv6)) {
        Err(failure) if failure.error.is(Errno::EAFNOSUPPORT) => {
            Ok(netlink.change_all(all(change)).map(|()| false)?)
        }
        done => Ok(done.map(|()| true)?),
    }
}

/// Deletes every interface of a group, and with each its peer (`rtnl_group_dellink`).
///
/// # Errors
/// [`Error::Kernel`] with ENODEV when there is none.
pub fn delete_group(netlink: &mut Netlink, group: u32) -> Result<(), Error> {
    let request = Request::new(RTM_DELLINK, &ifinfomsg(0, 0)).number(IFLA_GROUP, group);
    netlink.change(request, 0)
}

/// Creates the interface that `request` describes.
///
/// # Errors
/// [`Error::Kernel`] with EEXIST when its name or index is taken.
pub fn create(netlink: &mut Netlink, request: Request) -> Result<(), Error> {
    netlink.change(request, NLM_F_CREATE | NLM_F_EXCL)
}

/// Deletes an interface, and with it its peer.
///
/// # Errors
/// [`Error::Kernel`] with ENODEV when there is none.
pub fn delete(netlink: &mut Netlink, by: By) -> Result<(), Error> {
    netlink.change(about(RTM_DELLINK, by), 0)
}
