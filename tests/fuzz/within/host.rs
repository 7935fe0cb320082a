//! Answers about the host: its links, flows, sockets, routes and addresses.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::Ipv4Addr;

use nix::libc::{RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE};

use super::one_line;
use crate::kernel::link::{self, By, Kind, Link, Namespace};
use crate::kernel::netlink::fuzzing::{NETFILTER, ROUTING, SOCK_DIAG, are_parts, kernel};
use crate::kernel::{conntrack, route, sock_diag};
use crate::network::bridge;
use crate::request::address::Cidr;
use crate::request::ports::{Mapping, Protocol};

/// Flows and sockets: the first byte says which.
pub fn sockets(bytes: &[u8]) {
    const FLOW: u16 = 1 << 8;
    const SOCKET: u16 = 20;
    let Some((what, rest)) = bytes.split_first() else { return };
    let ip = Ipv4Addr::new(10, 10, 10, 2);
    let error = if what & 1 == 0 {
        let Some(mut kernel) = kernel(NETFILTER, FLOW, rest) else { return };
        let host_ip = (what & 2 != 0).then_some(Ipv4Addr::LOCALHOST);
        let mapping =
            Mapping { host_port: 53, container_port: 53, protocol: Protocol::Udp, host_ip };
        let (local, in_use) = (["127.0.0.0/8".parse().unwrap()], what & 4 != 0);
        conntrack::leading_elsewhere(&mut kernel.netlink, &mapping, ip, &local, in_use)
            .map(|flows| flows.into_values().flatten().collect::<Vec<_>>())
            .and_then(|flows| conntrack::forget(&mut kernel.netlink, &flows))
            .err()
    } else {
        let Some(mut kernel) = kernel(SOCK_DIAG, SOCKET, rest) else { return };
        let places = sock_diag::read(&mut kernel.netlink, Protocol::Tcp, sock_diag::LISTEN);
        // "Everywhere" is one way to say it only.
        assert!(
            places
                .iter()
                .flat_map(|places| &places.0)
                .all(|(ip, _)| ip.is_none_or(|ip| !ip.is_unspecified()))
        );
        places.err()
    };
    error.map(|error| one_line(error, bytes.len()));
}

/// Links, as the kernel tells of them: each is a link or an error. The first byte says to which question.
pub fn links(bytes: &[u8]) {
    /// `RTM_NEWNSID` (`linux/rtnetlink.h`).
    const RTM_NEWNSID: u16 = 88;
    are_parts(bytes);
    let Some((question, rest)) = bytes.split_first() else { return };
    let answer = if question % 5 == 3 { RTM_NEWNSID } else { RTM_NEWLINK };
    let Some(mut kernel) = kernel(ROUTING, answer, rest) else { return };
    let netlink = &mut kernel.netlink;
    let own = Link { index: 7, peer: Some(2), peer_namespace: Some(3), ..Link::default() };
    let name = "veth1".parse().unwrap();
    let error = match question % 5 {
        0 => link::get(netlink, By::Name(&name)).err(),
        1 => link::all(netlink, Kind::Veth).err(),
        2 => return drop(link::name_inside(netlink, &own)),
        3 => match link::namespace_id(netlink, Namespace::Pid(1)) {
            Ok(id) => return assert!(id.is_none_or(|id| id >= 0)),
            Err(error) => Some(error),
        },
        _ => netlink.change(link::set_up(7)).err(),
    };
    error.map(|error| one_line(error, bytes.len()));
}

/// Routes and addresses: the first byte says which. Whatever they say, they can be compared.
pub fn routes(bytes: &[u8]) {
    let Some((what, rest)) = bytes.split_first() else { return };
    let own: Cidr = "10.10.10.1/24".parse().unwrap();
    if what & 1 == 0 {
        let Some(mut kernel) = kernel(ROUTING, RTM_NEWROUTE, rest) else { return };
        let routes = route::routes(&mut kernel.netlink, 0);
        for (to, _) in routes.iter().flatten().filter_map(bridge::destination) {
            sound(to);
            assert_eq!(to.overlaps(own), own.overlaps(to));
        }
        routes.err().map(|error| one_line(error, bytes.len()));
    } else {
        let Some(mut kernel) = kernel(ROUTING, RTM_NEWADDR, rest) else { return };
        match route::addresses(&mut kernel.netlink, 7) {
            Ok(all) => all.into_iter().for_each(sound),
            Err(error) => one_line(error, bytes.len()),
        }
    }
}

/// The arithmetic holds for whatever has been read.
fn sound(subnet: Cidr) {
    assert!(subnet.prefix <= 32, "{subnet}");
    assert!(subnet.contains(subnet.ip) && subnet.overlaps(subnet));
    assert!(subnet.network() <= subnet.broadcast());
    assert_eq!(subnet.to_string().parse(), Ok(subnet));
}
