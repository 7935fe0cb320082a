//! How this network is written as elements of the tables' sets.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::bridged::ICMP;
use super::tables::{FRAGMENTS, OWNED, OWNERS};
use crate::kernel::nftables::{Element, Set};
use crate::network::lease::{ADDRESS_BITS, index_of};
use crate::network::pool::Pool;
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::Grant;
use crate::request::ports::Protocol;

/// The port of name servers (RFC 1035).
const DOMAIN: u16 = 53;

/// The name or kind of an interface as nf_tables compares it: filled up with zeros.
pub fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(IfName::LONGEST + 1, 0);
    bytes
}

/// Of the set `bridges`.
pub fn bridge(name: &IfName) -> Element {
    Element::key(padded(name.as_str()))
}

/// Of the set `within`.
pub fn within(name: &IfName) -> Element {
    Element::key(padded(name.as_str()).repeat(2))
}

/// Of the set `leases`.
pub fn lease(ip: Ipv4Addr) -> Element {
    let index = (index_of(ip) & ADDRESS_BITS).to_ne_bytes();
    Element::key([&index[..], &Mac::of(ip).0, &[0; 2], &ip.octets()].concat())
}

/// Of the map `owners`: the user who has this address, or had it last.
pub fn owner(ip: Ipv4Addr, uid: u32) -> Element {
    Element { value: uid.to_ne_bytes().into(), ..Element::key(ip.octets().into()) }
}

/// Of the set `owned`: the same.
pub fn owned(ip: Ipv4Addr, uid: u32) -> Element {
    Element::key([ip.octets(), uid.to_ne_bytes()].concat())
}

/// Of the map `fragments`: the limit of the user who has this address.
pub fn fragments(ip: Ipv4Addr, uid: u32, rate: u32) -> Element {
    Element { limit: limit(uid, rate), ..Element::key(ip.octets().into()) }
}

/// The name of a user's limit.
pub fn limit(uid: u32, rate: u32) -> String {
    format!("uid{uid}-{rate}")
}

/// The bridge's own address, of root, in the map `owners`, the set `owned` and the map `fragments`. If it
/// is missing from one of them, that was flushed.
pub fn memory(grant: &Grant) -> [(&'static Set<'static>, Vec<u8>); 3] {
    let ip = grant.address.ip;
    [(&OWNERS, owner(ip, 0).key), (&OWNED, owned(ip, 0).key), (&FRAGMENTS, ip.octets().into())]
}

/// Of the set `users`: the names of a user's host ends, whatever their slot.
pub fn user(uid: u32) -> Element {
    let filled = |with: u8| {
        let mut name = format!("ns{uid}-").into_bytes();
        name.resize(IfName::LONGEST + 1, with);
        name.repeat(2)
    };
    Element { last: filled(u8::MAX), ..Element::key(filled(0)) }
}

/// Of the set `name_servers`: what a client asks for. The set has each server once.
pub fn name_servers(grant: &Grant) -> Vec<Element> {
    let [high, low] = DOMAIN.to_be_bytes();
    let servers: BTreeSet<_> = grant.dns.iter().flatten().collect();
    let each = |ip: &Ipv4Addr| {
        let ip = ip.octets();
        Protocol::ALL.map(|protocol| {
            Element::key([[protocol.number(), 0, 0, 0], ip, [high, low, 0, 0]].concat())
        })
    };
    servers.into_iter().flat_map(each).collect()
}

/// Of the set `protocols`: those that NAT can tell from the host's own, and what the policy adds.
pub fn protocols(grant: &Grant) -> Vec<Element> {
    let always = Protocol::ALL.map(Protocol::number).into_iter().chain([ICMP]);
    let all: BTreeSet<u8> =
        always.chain(grant.protocols.iter().map(|other| *other as u8)).collect();
    all.into_iter().map(|number| Element::key(vec![number])).collect()
}

/// Of the set `subnets`.
pub fn subnet(subnet: Cidr) -> Vec<Element> {
    range(subnet.network(), subnet.broadcast())
}

/// Of the set `addresses`: what of a subnet containers can have.
pub fn addresses(pool: Pool) -> Vec<Element> {
    pool.ranges().into_iter().flat_map(|(first, last)| range(first, last)).collect()
}

/// A range: where it begins, and before what it ends.
fn range(first: Ipv4Addr, last: Ipv4Addr) -> Vec<Element> {
    let key = |ip: u32| Element::key(ip.to_be_bytes().into());
    let end = last.to_bits().checked_add(1).map(|next| Element { end: true, ..key(next) });
    [Some(key(first.to_bits())), end].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_a_range_that_ends_before_the_next() {
        let keys = |text: &str| -> Vec<(Vec<u8>, bool)> {
            let elements = subnet(text.parse().unwrap());
            elements.into_iter().map(|element| (element.key, element.end)).collect()
        };
        assert_eq!(
            keys("10.10.10.1/24"),
            [(vec![10, 10, 10, 0], false), (vec![10, 10, 11, 0], true)]
        );
        assert_eq!(keys("255.255.255.1/24"), [(vec![255, 255, 255, 0], false)]);
    }
}
