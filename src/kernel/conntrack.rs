//! Flows that the kernel remembers, `conntrack(8)`. A flow of UDP lasts as long as its client goes on
//! sending. So a client of a port that now leads elsewhere, or led nowhere until now, would never get there.
//!
//! To make the kernel forget flows, a run reads them first, then checks that this is its task, and then
//! deletes those that it read, each by its id. So a run that is stopped in between deletes no later flow.
//! To read them, the kernel walks through its whole table, which takes some milliseconds. So this is done
//! only for published UDP ports, and for an address that goes to another user.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::conntrack::{ConntrackMessage, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use nix::errno::Errno;

use crate::kernel::answer::{Answer, nested};
use crate::kernel::netlink::{Error, Netlink};
use crate::request::address::Cidr;
use crate::request::ports::Mapping;

/// Types of messages (`linux/netfilter/nfnetlink_conntrack.h`).
const GET: u8 = 1;
const DELETE: u8 = 2;

/// Attributes of the same file.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;

/// What of a tuple a dump is filtered by (`CTA_FILTER_F_*`, `net/netfilter/nf_internals.h`, Linux 5.8).
const BY_PROTO_NUM: u32 = 1 << 3;
const BY_DST_PORT: u32 = 1 << 5;

/// The requests that delete flows, by the address of the container that they belong to. A request names
/// the tuple of a flow and its id, which no other flow ever has.
pub type Flows = BTreeMap<Ipv4Addr, Vec<NetfilterMessage>>;

/// What of the host decides which flows a published port would have received.
#[derive(Debug)]
pub struct Own<'a> {
    /// The host's own addresses, in ranges.
    pub addresses: &'a [Cidr],
    /// Whether a program of the host has a socket at the port.
    pub in_use: bool,
}

/// The flows to the host port of `mapping` that do not lead to its container port at the address `ip`.
pub fn leading_elsewhere(
    netlink: &mut Netlink,
    mapping: &Mapping,
    ip: Ipv4Addr,
    own: &Own,
) -> Result<Flows, Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(flows_to(mapping))?;
    let is_one = |flow: &Answer<4>| {
        let sent_to = end(flow, TUPLE_ORIGINAL, IP_V4_DST, PROTO_DST_PORT);
        let leads_to = end(flow, TUPLE_REPLY, IP_V4_SRC, PROTO_SRC_PORT);
        let (Some(sent_to), Some(leads_to)) = (sent_to, leads_to) else { return false };
        let elsewhere = if leads_to == sent_to {
            // To the host itself: to no program, or to one that keeps it.
            !own.in_use
        } else {
            // Other rules may have it lead to another port of the host. That is the admin's decision.
            leads_to.0 != sent_to.0 && leads_to != (ip, mapping.container_port)
        };
        // A flow to another machine never met a published port.
        elsewhere
            && own.addresses.iter().any(|range| range.contains(sent_to.0))
            && mapping.host_ip.is_none_or(|ip| ip == sent_to.0)
    };
    Ok(by_container(&flows, |flow| is_one(flow).then_some(ip)))
}

/// The flows of containers whose address `is_meant` says is meant: those that the container began, and
/// those that lead to it.
pub fn of_containers(
    netlink: &mut Netlink,
    is_meant: impl Fn(Ipv4Addr) -> bool,
) -> Result<Flows, Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(message(GET, Vec::new()))?;
    let container = |flow: &Answer<4>| {
        let source = |tuple| address(flow, tuple, IP_V4_SRC);
        [TUPLE_ORIGINAL, TUPLE_REPLY].into_iter().filter_map(source).find(|ip| is_meant(*ip))
    };
    Ok(by_container(&flows, container))
}

fn by_container(flows: &[Answer<4>], container: impl Fn(&Answer<4>) -> Option<Ipv4Addr>) -> Flows {
    let mut all = Flows::new();
    for flow in flows {
        if let (Some(ip), Some(deletion)) = (container(flow), deletion(flow)) {
            all.entry(ip).or_default().push(deletion);
        }
    }
    all
}

/// Makes the kernel forget flows, and no later flow between the same ends.
pub fn forget(netlink: &mut Netlink, deletions: Vec<NetfilterMessage>) -> Result<(), Error> {
    for deletion in deletions {
        match netlink.change((deletion, 0)) {
            // It has ended meanwhile.
            Err(error) if error.is(Errno::ENOENT) => {}
            done => done?,
        }
    }
    Ok(())
}

/// The request to delete a flow.
fn deletion(flow: &Answer<4>) -> Option<NetfilterMessage> {
    let tuple = DefaultNla::new(TUPLE_ORIGINAL | NLA_F_NESTED, flow.get(TUPLE_ORIGINAL)?.to_vec());
    let id = DefaultNla::new(ID, flow.get(ID)?.to_vec());
    Some(message(DELETE, vec![tuple, id]))
}

/// The question for the flows to a port of the host. The filter says what of a tuple counts: the dump
/// has the flows that agree in that.
fn flows_to(mapping: &Mapping) -> NetfilterMessage {
    let protocol = Tuple::Proto(vec![
        ProtoTuple::Protocol(mapping.protocol.number().into()),
        ProtoTuple::DestinationPort(mapping.host_port),
    ]);
    let flags = |kind, flags: u32| DefaultNla::new(kind, flags.to_ne_bytes().to_vec());
    let filter =
        [flags(FILTER_ORIGINAL_FLAGS, BY_PROTO_NUM | BY_DST_PORT), flags(FILTER_REPLY_FLAGS, 0)];
    message(GET, vec![nested(TUPLE_ORIGINAL, &[protocol]), nested(FILTER, &filter)])
}

/// A request about flows, with plain attributes: `ConntrackAttribute::Other` drops the flag that
/// an attribute is nested, and the kernel refuses a filter without that flag.
fn message(message_type: u8, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    NetfilterMessage::new(header, ConntrackMessage::Other { message_type, attributes })
}

/// One end of a flow: the address and the port of these kinds.
fn end(flow: &Answer<4>, tuple: u16, ip: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let protocol = flow.nested(tuple)?.nested(TUPLE_PROTO)?;
    let port = u16::from_be_bytes(*protocol.get(port)?.first_chunk()?);
    Some((address(flow, tuple, ip)?, port))
}

fn address(flow: &Answer<4>, tuple: u16, ip: u16) -> Option<Ipv4Addr> {
    flow.nested(tuple)?.nested(TUPLE_IP)?.ipv4(ip)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkSerializable, NlasIterator};

    use super::*;
    use crate::request::ports::Protocol;

    #[test]
    fn a_filter_says_that_it_is_nested_as_the_kernel_wants_it() {
        let (host_port, container_port, protocol) = (8053, 53, Protocol::Udp);
        let mapping = Mapping { host_port, container_port, protocol, host_ip: None };
        let message = flows_to(&mapping);
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let attributes: Vec<_> = NlasIterator::new(&bytes[4..]).map(Result::unwrap).collect();
        let kinds: Vec<_> = attributes.iter().map(|one| (one.kind(), one.nested_flag())).collect();
        assert_eq!(kinds, [(TUPLE_ORIGINAL, true), (FILTER, true)]);
        let udp = NlasIterator::new(attributes[0].value()).next().unwrap().unwrap();
        assert_eq!((udp.kind(), udp.nested_flag()), (TUPLE_PROTO, true));
    }
}
