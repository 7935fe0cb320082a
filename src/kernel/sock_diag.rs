//! The sockets of the host's programs, `sock_diag(7)`. To publish a port at which a program waits would
//! take its traffic away.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NetlinkSerializable;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::kernel::answer::Answer;
use crate::kernel::netlink::{Netlink, Result};
use crate::request::ports::{Mapping, Protocol};

/// Families of sockets.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// States of sockets, as bits (`net/tcp_states.h`). One of UDP that waits for any client is closed.
const ESTABLISHED: u32 = 1 << 1;
const CLOSE: u32 = 1 << 7;
pub const LISTEN: u32 = 1 << 10;

/// The question for sockets in these states: `struct inet_diag_req_v2` (`linux/inet_diag.h`). Its other
/// fields stay zero: at any address, without extensions.
#[derive(Clone)]
struct Question {
    family: u8,
    protocol: u8,
    /// A bit each.
    states: u32,
}

impl NetlinkSerializable for Question {
    /// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
    fn message_type(&self) -> u16 {
        20
    }

    fn buffer_len(&self) -> usize {
        56
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let [a, b, c, d] = self.states.to_ne_bytes();
        let fields = [self.family, self.protocol, 0, 0, a, b, c, d];
        buffer.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    }
}

/// An answer about a socket: `struct inet_diag_msg` and attributes.
type Socket = Answer<72>;

/// Where a program has a socket: an address, `None` for every address, and a port.
type Place = (Option<Ipv4Addr>, u16);

/// Some places.
#[derive(Debug)]
pub struct Places(pub Vec<Place>);

impl Places {
    /// Where programs of the host wait for any client.
    pub fn listening(protocol: Protocol) -> Result<Places> {
        let states = if protocol == Protocol::Tcp { LISTEN } else { CLOSE };
        read(&mut Netlink::connect(NETLINK_SOCK_DIAG, 0)?, protocol, states)
    }

    /// Where programs of the host have a socket of UDP: for any client, or for one peer.
    pub fn of_udp() -> Result<Places> {
        read(&mut Netlink::connect(NETLINK_SOCK_DIAG, 0)?, Protocol::Udp, CLOSE | ESTABLISHED)
    }

    /// Whether one of them is where `mapping` would be published.
    pub fn hold(&self, mapping: &Mapping) -> bool {
        self.0.iter().any(|(ip, port)| {
            *port == mapping.host_port
                && (ip.is_none() || mapping.host_ip.is_none() || *ip == mapping.host_ip)
        })
    }
}

/// Asks the kernel for the sockets in these states.
pub fn read(netlink: &mut Netlink, protocol: Protocol, states: u32) -> Result<Places> {
    let mut places = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let sockets = netlink.ask_all(Question { family, protocol: protocol.number(), states })?;
        places.extend(sockets.iter().filter_map(place));
    }
    Ok(Places(places))
}

/// Where this socket is; `None` if no IPv4 packet gets there.
fn place(socket: &Socket) -> Option<Place> {
    let [family, _, _, _, high, low, _, _, address @ ..] = &socket.header;
    let ip = match *family {
        AF_INET => Ipv4Addr::from(*address.first_chunk()?),
        AF_INET6 => match Ipv6Addr::from(*address.first_chunk()?) {
            // Unless INET_DIAG_SKV6ONLY says that it takes nothing of IPv4.
            Ipv6Addr::UNSPECIFIED if socket.get(11) != Some(&[1]) => Ipv4Addr::UNSPECIFIED,
            ip => ip.to_ipv4_mapped()?,
        },
        _ => return None,
    };
    Some((Some(ip).filter(|ip| !ip.is_unspecified()), u16::from_be_bytes([*high, *low])))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};

    use super::*;

    /// The answer about a socket of this family, at port 8080 of this address.
    fn socket(family: u8, address: &[u8], attributes: &[u8]) -> Socket {
        let mut bytes = vec![0; 72];
        bytes[0] = family;
        bytes[4..6].copy_from_slice(&8080_u16.to_be_bytes());
        bytes[8..8 + address.len()].copy_from_slice(address);
        bytes.extend(attributes);
        Socket::deserialize(&NetlinkHeader::default(), &bytes).unwrap()
    }

    #[test]
    fn a_place_is_where_ipv4_packets_get_to() {
        let place =
            |family, address: &[u8], attributes: &[u8]| place(&socket(family, address, attributes));
        let localhost = Some(Ipv4Addr::LOCALHOST);
        assert_eq!(place(AF_INET, &[127, 0, 0, 1], &[]), Some((localhost, 8080)));
        assert_eq!(place(AF_INET, &[0; 4], &[]), Some((None, 8080)));
        assert_eq!(place(AF_INET6, &[0; 16], &[]), Some((None, 8080)));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        assert_eq!(place(AF_INET6, &mapped, &[]), Some((localhost, 8080)));
        assert_eq!(place(AF_INET6, &Ipv6Addr::LOCALHOST.octets(), &[]), None);
        let only: Vec<u8> = [5_u16.to_ne_bytes(), 11_u16.to_ne_bytes(), [1, 0], [0, 0]].concat();
        assert_eq!(place(AF_INET6, &[0; 16], &only), None);
    }
}
