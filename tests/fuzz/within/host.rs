//! Answers about the host: its flows, its sockets, its routes and addresses.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::Ipv4Addr;

use nix::libc::{RTM_NEWADDR, RTM_NEWROUTE};

use super::one_line;
use crate::kernel::netlink::fuzzing::kernel;
use crate::kernel::{conntrack, route, sock_diag};
use crate::network::overlap;
use crate::request::address::Cidr;
use crate::request::ports::{Mapping, Protocol};

/// Flows and sockets: the first byte says which.
pub fn sockets(bytes: &[u8]) {
    const FLOW: u16 = 1 << 8;
    const SOCKET: u16 = 20;
    let Some((what, rest)) = bytes.split_first() else { return };
    let ip = Ipv4Addr::new(10, 10, 10, 2);
    let error = if what & 1 == 0 {
        let Some(mut kernel) = kernel(FLOW, rest) else { return };
        let host_ip = (what & 2 != 0).then_some(Ipv4Addr::LOCALHOST);
        let mapping =
            Mapping { host_port: 53, container_port: 53, protocol: Protocol::Udp, host_ip };
        let own =
            conntrack::Own { addresses: &["127.0.0.0/8".parse().unwrap()], in_use: what & 4 != 0 };
        conntrack::leading_elsewhere(&mut kernel.netlink, &mapping, ip, &own)
            .and_then(|flows| conntrack::forget(&mut kernel.netlink, flows))
            .err()
    } else {
        let Some(mut kernel) = kernel(SOCKET, rest) else { return };
        let states = sock_diag::waiting(Protocol::Tcp);
        let places = sock_diag::read(&mut kernel.netlink, Protocol::Tcp, states);
        // "Everywhere" is one way to say it only.
        assert!(places.iter().flatten().all(|(ip, _)| ip.is_none_or(|ip| !ip.is_unspecified())));
        places.err()
    };
    error.map(|error| one_line(error, bytes.len()));
}

/// Routes and addresses: the first byte says which. Whatever they say, they can be compared.
pub fn routes(bytes: &[u8]) {
    let Some((what, rest)) = bytes.split_first() else { return };
    let own: Cidr = "10.10.10.1/24".parse().unwrap();
    if what & 1 == 0 {
        let Some(mut kernel) = kernel(RTM_NEWROUTE, rest) else { return };
        let routes = route::routes(&mut kernel.netlink, 0);
        for (to, _) in routes.iter().flatten().filter_map(overlap::destination) {
            sound(to);
            assert_eq!(to.overlaps(own), own.overlaps(to));
        }
        routes.err().map(|error| one_line(error, bytes.len()));
    } else {
        let Some(mut kernel) = kernel(RTM_NEWADDR, rest) else { return };
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
