//! How a published port is written as elements of the map `ports` and of the set `live`. Each part of a
//! key fills whole registers of four bytes.

use std::net::Ipv4Addr;

use crate::kernel::nftables::Element;
use crate::request::address::IfName;
use crate::request::ports::{Mapping, Protocol};

/// A mapping's key in the map `ports`. The address 0.0.0.0 means every one.
pub fn key(mapping: &Mapping) -> Vec<u8> {
    let ip = mapping.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    [ip, [mapping.protocol.number(), 0, 0, 0], port(mapping.host_port)].concat()
}

/// What a mapping leads to, the container being at `ip`.
pub fn value(ip: Ipv4Addr, mapping: &Mapping) -> Vec<u8> {
    [ip.octets(), port(mapping.container_port)].concat()
}

/// A mapping's element in the map `ports`. `host_end` says whose it is.
pub fn element(ip: Ipv4Addr, mapping: &Mapping, host_end: &IfName) -> Element {
    Element {
        value: value(ip, mapping),
        comment: host_end.to_string(),
        ..Element::key(key(mapping))
    }
}

/// The element of the set `live` that belongs to one of the map `ports`.
pub fn live(element: &Element) -> Element {
    Element::key([element.key.as_slice(), element.value.as_slice()].concat())
}

/// The container's address that an element of either leads to.
pub fn leads_to(element: &Element) -> Option<Ipv4Addr> {
    let target = live(element).key.last_chunk::<8>().copied()?;
    target.first_chunk().copied().map(Ipv4Addr::from)
}

/// The container's address and the mapping of an element of the map `ports`.
pub fn mapping(element: &Element) -> Option<(Ipv4Addr, Mapping)> {
    let [a, b, c, d, number, _, _, _, high, low, _, _] = *element.key.as_slice() else {
        return None;
    };
    let [e, f, g, h, inner_high, inner_low, _, _] = *element.value.as_slice() else { return None };
    let mapping = Mapping {
        host_ip: Some(Ipv4Addr::new(a, b, c, d)).filter(|ip| !ip.is_unspecified()),
        host_port: u16::from_be_bytes([high, low]),
        protocol: Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?,
        container_port: u16::from_be_bytes([inner_high, inner_low]),
    };
    Some((Ipv4Addr::new(e, f, g, h), mapping))
}

fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_written_as_nft_writes_it() {
        let ip = Ipv4Addr::new(10, 10, 10, 2);
        let name: IfName = "ns1000-0".parse().unwrap();
        let mut published =
            Mapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
        assert_eq!(key(&published), [0, 0, 0, 0, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(value(ip, &published), [10, 10, 10, 2, 0, 80, 0, 0]);
        assert_eq!(mapping(&element(ip, &published, &name)), Some((ip, published)));
        published.host_ip = Some(Ipv4Addr::new(192, 0, 2, 1));
        let written = element(ip, &published, &name);
        assert_eq!(mapping(&written), Some((ip, published)));
        assert_eq!((leads_to(&written), leads_to(&live(&written))), (Some(ip), Some(ip)));
        assert_eq!(mapping(&Element::default()), None);
    }
}
