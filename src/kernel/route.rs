//! Addresses, routes and neighbours, `rtnetlink(7)`.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc::{
    IFA_LOCAL, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTA_DST, RTA_GATEWAY, RTA_OIF, RTN_LOCAL,
};

use crate::kernel::answer::Answer;
use crate::kernel::netlink::{Change, Netlink, Result, found};
use crate::request::address::{Cidr, Mac};

/// A route: `struct rtmsg` (`linux/rtnetlink.h`) and attributes.
pub type Route = Answer<12>;

/// The message about IPv4 addresses of the interface `index`.
fn address_message(index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message
}

/// The request to give the interface `index` an address, as `ip address replace` does. It succeeds if
/// the interface has the address already.
pub fn address(index: u32, address: Cidr) -> Change {
    let mut message = address_message(index);
    message.header.prefix_len = address.prefix;
    message.attributes = vec![
        AddressAttribute::Local(address.ip.into()),
        AddressAttribute::Address(address.ip.into()),
        AddressAttribute::Broadcast(address.broadcast()),
    ];
    (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// The IPv4 addresses of the interface `index`; none if there is no such interface.
pub fn addresses(netlink: &mut Netlink, index: u32) -> Result<Vec<Cidr>> {
    let question = RouteNetlinkMessage::GetAddress(address_message(index));
    let answers = found(netlink.ask_all(question))?.unwrap_or_default();
    let read = |answer: &Answer<8>| {
        let [_, prefix, _, _, interface @ ..] = answer.header;
        let ip = answer.ipv4(IFA_LOCAL)?;
        Cidr::new(ip, prefix).filter(|_| u32::from_ne_bytes(interface) == index)
    };
    Ok(answers.iter().filter_map(read).collect())
}

/// The message about IPv4 routes of a table.
fn route_message(table: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = table;
    message
}

/// The request to add a default route through the interface `index`, as `ip route add default` does.
pub fn default_route(index: u32, gateway: Ipv4Addr) -> Change {
    let mut message = route_message(RT_TABLE_MAIN);
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
    message.attributes = vec![gateway, RouteAttribute::Oif(index)];
    (RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Whether there is this very default route.
pub fn has_default_route(netlink: &mut Netlink, index: u32, gateway: Ipv4Addr) -> Result<bool> {
    Ok(routes(netlink, RT_TABLE_MAIN)?.iter().any(|route| {
        matches!(route.header, [_, 0, ..])
            && route.ipv4(RTA_GATEWAY) == Some(gateway)
            && route.number(RTA_OIF) == Some(index)
    }))
}

/// All routes of a table, of every table if it is 0.
pub fn routes(netlink: &mut Netlink, table: u8) -> Result<Vec<Route>> {
    netlink.ask_all(RouteNetlinkMessage::GetRoute(route_message(table)))
}

/// The host's own addresses, in ranges: by the same table as `fib daddr type local` of `nft(8)`.
pub fn local_addresses(netlink: &mut Netlink) -> Result<Vec<Cidr>> {
    let local = |route: &Route| match route.header {
        [_, prefix, _, _, _, _, _, RTN_LOCAL, ..] => Cidr::new(route.ipv4(RTA_DST)?, prefix),
        _ => None,
    };
    Ok(routes(netlink, RT_TABLE_LOCAL)?.iter().filter_map(local).collect())
}

/// The message about a neighbour at the interface `index`.
fn neighbour(index: u32, attribute: NeighbourAttribute) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.attributes = vec![attribute];
    message
}

/// The request for an entry of a bridge's forwarding table (`bridge fdb replace MAC dev PORT master
/// static sticky`). It is sticky, so that no other container moves it to its own port by sending from
/// that address.
pub fn forwarding_entry(port: u32, mac: Mac) -> Change {
    let mut message = neighbour(port, NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.header.family = AddressFamily::Bridge;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Has the kernel forget a neighbour at the interface `index`, and with it the packets that wait for
/// its Ethernet address. It succeeds if there is no such neighbour or interface.
pub fn forget_neighbour(netlink: &mut Netlink, index: u32, ip: Ipv4Addr) -> Result<()> {
    let message = neighbour(index, NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
    found(netlink.change((RouteNetlinkMessage::DelNeighbour(message), 0))).map(drop)
}
