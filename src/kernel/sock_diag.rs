//! The ports that programs of the host wait at. To publish one of them would take its traffic away.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NetlinkSerializable;

use crate::kernel::netlink::{Answer, Error, Netlink};
use crate::report::error::{Failed, Result};
use crate::request::ports::{Mapping, Protocol};

/// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;

/// Families of sockets, and those of their states in which a program waits for anybody: `TCP_LISTEN`,
/// and `TCP_CLOSE` for UDP; and the one of a UDP socket with one peer (`net/tcp_states.h`).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LISTEN: u32 = 10;
const CLOSE: u32 = 7;
const ESTABLISHED: u32 = 1;

/// A question for the sockets of a family and protocol in these states: `struct inet_diag_req_v2`
/// (`linux/inet_diag.h`), whose other fields stay zero: any addresses, no extensions.
#[derive(Clone)]
struct Question {
    family: u8,
    protocol: u8,
    states: u32,
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        BY_FAMILY
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

/// Whether a socket of IPv6 takes nothing of IPv4 (`INET_DIAG_SKV6ONLY`).
const ONLY_IPV6: u16 = 11;

/// Where a program waits: an address, `None` for every one, and a port.
type Place = (Option<Ipv4Addr>, u16);

/// The places at which programs of the host wait, by protocol, read when they are asked for first.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Option<Places>,
    udp: Option<Places>,
}

/// Some places.
#[derive(Debug)]
pub struct Places(Vec<Place>);

impl Places {
    /// Whether one is where `mapping` would be published.
    pub fn hold(&self, mapping: &Mapping) -> bool {
        self.0.iter().any(|(ip, port)| {
            *port == mapping.host_port
                && (ip.is_none() || mapping.host_ip.is_none() || *ip == mapping.host_ip)
        })
    }
}

impl Listeners {
    /// Whether a program waits where `mapping` would be published.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn hold(&mut self, mapping: &Mapping) -> Result<bool> {
        let known = match mapping.protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        };
        let places = match known {
            Some(places) => places,
            None => known.insert(look(mapping.protocol, waiting(mapping.protocol))?),
        };
        Ok(places.hold(mapping))
    }
}

/// The places at which programs of the host have a socket of UDP: those who wait for anybody, whom
/// [`Listeners`] knows too, and those who talk to one peer.
///
/// # Errors
/// [`Failed::Netlink`].
pub fn udp_sockets() -> Result<Places> {
    look(Protocol::Udp, waiting(Protocol::Udp) | 1 << ESTABLISHED)
}

fn look(protocol: Protocol, states: u32) -> Result<Places> {
    Netlink::open_sock_diag()
        .and_then(|mut netlink| read(&mut netlink, protocol, states))
        .map(Places)
        .map_err(Failed::netlink("looking for programs that wait at a port"))
}

/// The states in which a program waits for anybody, each a bit.
pub fn waiting(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 1 << LISTEN,
        Protocol::Udp => 1 << CLOSE,
    }
}

/// Asks the kernel for the sockets in these states, `sock_diag(7)`.
pub fn read(netlink: &mut Netlink, protocol: Protocol, states: u32) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let question = Question { family, protocol: protocol.number(), states };
        let sockets: Vec<Socket> = netlink.ask_all(question)?;
        places.extend(sockets.iter().filter_map(place));
    }
    Ok(places)
}

/// Where the socket of an answer waits; `None` if no IPv4 packet gets there.
fn place(socket: &Socket) -> Option<Place> {
    let [family, _, _, _, high, low, _, _, address @ ..] = &socket.header;
    let ip = match *family {
        AF_INET => Ipv4Addr::from(*address.first_chunk()?),
        AF_INET6 => match Ipv6Addr::from(*address.first_chunk()?) {
            Ipv6Addr::UNSPECIFIED if socket.get(ONLY_IPV6) != Some(&[1]) => Ipv4Addr::UNSPECIFIED,
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
        let only: Vec<u8> = [5_u16.to_ne_bytes(), ONLY_IPV6.to_ne_bytes(), [1, 0], [0, 0]].concat();
        assert_eq!(place(AF_INET6, &[0; 16], &only), None);
    }
}
