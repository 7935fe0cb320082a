//! Addresses, routes and neighbours, as `rtnetlink(7)` tells of them.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use nix::errno::Errno;
use nix::libc::{
    AF_BRIDGE, AF_INET, IFA_ADDRESS, IFA_BROADCAST, IFA_LOCAL, NDA_DST, NDA_LLADDR, NTF_MASTER,
    NUD_NOARP, RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_OIF,
    RTM_DELNEIGH, RTM_GETADDR, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWNEIGH, RTM_NEWROUTE, RTN_LOCAL,
    RTN_UNICAST, RTPROT_BOOT,
};

use crate::kernel::netlink::{Answer, Error, Netlink, Request};
use crate::request::address::{Cidr, Mac};

/// A route: `struct rtmsg` (`linux/rtnetlink.h`) and attributes.
pub type Route = Answer<12>;

const INET: u8 = AF_INET as u8;
const BRIDGE: u8 = AF_BRIDGE as u8;

/// The flag of an entry that stays with its port (`linux/neighbour.h`).
const NTF_STICKY: u8 = 0x40;

/// `struct ifaddrmsg` (`linux/if_addr.h`): of an address of the interface `index`, or of them all.
fn ifaddrmsg(prefix: u8, index: u32) -> [u8; 8] {
    let [i, n, d, x] = index.to_ne_bytes();
    [INET, prefix, 0, 0, i, n, d, x]
}

/// `struct rtmsg` (`linux/rtnetlink.h`): of a route to a subnet with a prefix of this length.
fn rtmsg(prefix: u8, table: u8, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    [INET, prefix, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

/// `struct ndmsg` (`linux/neighbour.h`).
fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let ([i, n, d, x], [s, t]) = (index.to_ne_bytes(), state.to_ne_bytes());
    [family, 0, 0, 0, i, n, d, x, s, t, flags, 0]
}

/// The request, with its flags, to give the interface `index` an address, as `ip address replace`
/// does. Having it already is success.
pub fn address(index: u32, address: Cidr) -> (Request, u16) {
    let request = Request::new(RTM_NEWADDR, &ifaddrmsg(address.prefix, index))
        .bytes(IFA_LOCAL, &address.ip.octets())
        .bytes(IFA_ADDRESS, &address.ip.octets())
        .bytes(IFA_BROADCAST, &address.broadcast().octets());
    (request, NLM_F_CREATE | NLM_F_REPLACE)
}

/// The IPv4 addresses of the interface `index`; none if there is no such interface.
///
/// # Errors
/// [`Error`].
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Cidr>, Error> {
    let request = Request::new(RTM_GETADDR, &ifaddrmsg(0, index));
    let answers: Vec<Answer<8>> = match netlink.dump(&request) {
        // It was deleted a moment ago.
        Err(error) if error.is(Errno::ENODEV) => Vec::new(),
        other => other?,
    };
    let read = |answer: Answer<8>| {
        let [_, prefix, _, _, interface @ ..] = answer.header;
        let ip = answer.ipv4(IFA_LOCAL)?;
        Cidr::new(ip, prefix).filter(|_| u32::from_ne_bytes(interface) == index)
    };
    Ok(answers.into_iter().filter_map(read).collect())
}

/// The request, with its flags, to add a default route through the interface `index`, as
/// `ip route add default` does.
pub fn default_route(index: u32, gateway: Ipv4Addr) -> (Request, u16) {
    let structure = rtmsg(0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST);
    let request = Request::new(RTM_NEWROUTE, &structure)
        .bytes(RTA_GATEWAY, &gateway.octets())
        .number(RTA_OIF, index);
    (request, NLM_F_CREATE | NLM_F_EXCL)
}

/// Whether there is this very default route.
///
/// # Errors
/// [`Error`].
pub fn has_default_route(
    netlink: &mut Netlink,
    index: u32,
    gateway: Ipv4Addr,
) -> Result<bool, Error> {
    Ok(routes(netlink, RT_TABLE_MAIN)?.iter().any(|route| {
        let [_, prefix, ..] = route.header;
        prefix == 0
            && route.ipv4(RTA_GATEWAY) == Some(gateway)
            && route.number(RTA_OIF) == Some(index)
    }))
}

/// All routes of a table, of every table if it is 0.
///
/// # Errors
/// [`Error`].
pub fn routes(netlink: &mut Netlink, table: u8) -> Result<Vec<Route>, Error> {
    netlink.dump(&Request::new(RTM_GETROUTE, &rtmsg(0, table, 0, 0, 0)))
}

/// The addresses that are the host's own, in ranges, as the kernel's routing has them.
///
/// # Errors
/// [`Error`].
pub fn local_addresses(netlink: &mut Netlink) -> Result<Vec<Cidr>, Error> {
    let local = |route: Route| match route.header {
        [_, prefix, _, _, _, _, _, RTN_LOCAL, ..] => Cidr::new(route.ipv4(RTA_DST)?, prefix),
        _ => None,
    };
    Ok(routes(netlink, RT_TABLE_LOCAL)?.into_iter().filter_map(local).collect())
}

/// Whether `ip` is an address of the host, as the kernel's routing has it.
///
/// # Errors
/// [`Error`].
pub fn is_local(netlink: &mut Netlink, ip: Ipv4Addr) -> Result<bool, Error> {
    let request = Request::new(RTM_GETROUTE, &rtmsg(32, 0, 0, 0, 0)).bytes(RTA_DST, &ip.octets());
    match netlink.get(request) {
        Ok(Route { header: [_, _, _, _, _, _, _, kind, ..], .. }) => Ok(kind == RTN_LOCAL),
        Err(Error::Kernel(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The request, with its flags, for an entry of a bridge's forwarding table
/// (`bridge fdb replace MAC dev PORT master static sticky`): sticky, so that nobody else moves it to
/// his own port by sending from that address.
pub fn forwarding_entry(port: u32, mac: Mac) -> (Request, u16) {
    let structure = ndmsg(BRIDGE, port, NUD_NOARP, NTF_MASTER | NTF_STICKY);
    let request = Request::new(RTM_NEWNEIGH, &structure).bytes(NDA_LLADDR, &mac.0);
    (request, NLM_F_CREATE | NLM_F_REPLACE)
}

/// Has the kernel forget a neighbour at the interface `index`, and with it the packets that wait for
/// him. That there is none is success.
///
/// # Errors
/// [`Error`].
pub fn forget_neighbour(netlink: &mut Netlink, index: u32, ip: Ipv4Addr) -> Result<(), Error> {
    let request =
        Request::new(RTM_DELNEIGH, &ndmsg(INET, index, 0, 0)).bytes(NDA_DST, &ip.octets());
    match netlink.change(request, 0) {
        // Nor is there one at an interface that is gone.
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENODEV) => Ok(()),
        done => done,
    }
}
