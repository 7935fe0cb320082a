//! How a mapping is written in the firewall's maps and sets: each part of a key fills whole registers
//! of four bytes.

use std::net::Ipv4Addr;

use crate::firewall::{LIVE, LIVE_AT, PORTS, PORTS_AT};
use crate::kernel::nftables::{Element, Set};
use crate::request::ports::{Mapping, Protocol};

/// The map that a mapping is in, and the set of its connections.
pub fn sets(mapping: &Mapping) -> (&'static Set, &'static Set) {
    if mapping.host_ip.is_some() { (&PORTS_AT, &LIVE_AT) } else { (&PORTS, &LIVE) }
}

/// A mapping's key in its map.
pub fn key(mapping: &Mapping) -> Vec<u8> {
    let mut key = protocol(mapping.protocol);
    key.extend(mapping.host_ip.iter().flat_map(Ipv4Addr::octets));
    key.extend(port(mapping.host_port));
    key
}

/// Whether a key of [`PORTS_AT`] has protocol and port of this mapping.
pub fn is_port_of(key: &[u8], mapping: &Mapping) -> bool {
    key.starts_with(&protocol(mapping.protocol)) && key.ends_with(&port(mapping.host_port))
}

/// What a map's element leads to.
pub fn value(ip: Ipv4Addr, container_port: u16) -> Vec<u8> {
    [ip.octets(), port(container_port)].concat()
}

/// The key in the set of connections that belongs to a map's element.
pub fn live_of(element: &Element) -> Vec<u8> {
    [element.key.as_slice(), element.value.as_slice()].concat()
}

/// The address that an element of a map, or one of a set of connections, leads to.
pub fn led_to(element: &Element) -> Option<Ipv4Addr> {
    live_of(element).last_chunk::<8>().and_then(|value| address(value))
}

/// A protocol's number, filled up to a register.
fn protocol(protocol: Protocol) -> Vec<u8> {
    vec![protocol.number(), 0, 0, 0]
}

/// A port, filled up to a register.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The container's address and the mapping that a map's element stands for.
pub fn mapping(element: &Element) -> Option<(Ipv4Addr, Mapping)> {
    let number = *element.key.first()?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == number)?;
    let (host_ip, host_port) = match element.key.get(4..)? {
        [high, low, _, _] => (None, [*high, *low]),
        [a, b, c, d, high, low, _, _] => (Some([*a, *b, *c, *d].into()), [*high, *low]),
        _ => return None,
    };
    let [a, b, c, d, high, low, _, _] = *element.value.as_slice() else { return None };
    let mapping = Mapping {
        host_port: u16::from_be_bytes(host_port),
        container_port: u16::from_be_bytes([high, low]),
        protocol,
        host_ip,
    };
    Some(([a, b, c, d].into(), mapping))
}

/// The address that a mark or value begins with.
pub fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk().copied().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_written_as_nft_writes_it() {
        let mut mapping =
            Mapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        assert_eq!(key(&mapping), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value(Ipv4Addr::new(10, 10, 10, 2), 80), [10, 10, 10, 2, 0, 80, 0, 0]);
        let ip = Ipv4Addr::new(10, 10, 10, 2);
        let element = |mapping: &Mapping| Element {
            key: key(mapping),
            value: value(ip, mapping.container_port),
            ..Element::default()
        };
        assert_eq!(super::mapping(&element(&mapping)), Some((ip, mapping)));
        mapping.host_ip = Some(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(super::mapping(&element(&mapping)), Some((ip, mapping)));
        assert_eq!(super::mapping(&Element::default()), None);
        let key = key(&mapping);
        assert_eq!(key, [6, 0, 0, 0, 192, 0, 2, 1, 0x1f, 0x90, 0, 0]);
        assert!(is_port_of(&key, &mapping));
        assert!(!is_port_of(&key, &Mapping { protocol: Protocol::Udp, ..mapping }));
        assert!(!is_port_of(&key, &Mapping { host_port: 8081, ..mapping }));
    }
}
