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

use crate::kernel::answer::{Answer, nested};
use crate::kernel::netlink::{Change, Netlink, Result, found};
use crate::request::address::Cidr;
use crate::request::ports::Mapping;

/// Types of messages (`linux/netfilter/nfnetlink_conntrack.h`).
const GET: u8 = 1;
const DELETE: u8 = 2;

/// Attributes of a flow, and of an end in its tuples (same file).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const FILTER: u16 = 25;
const SOURCE: u16 = 1;
const DESTINATION: u16 = 2;

/// How many flows one message deletes: the kernel's answers have to fit into the socket's buffer.
const AT_ONCE: usize = 100;

/// The requests that delete flows, by the address of the container that they belong to. A request names
/// the tuple of a flow and its id, which no other flow ever has.
pub type Flows = BTreeMap<Ipv4Addr, Vec<Change<NetfilterMessage>>>;

/// The flows to the host port of `mapping` that do not lead to its container port at the address `ip`.
/// `local` is the host's own addresses, in ranges. `in_use`: a program of the host has a socket at the port.
pub fn leading_elsewhere(
    netlink: &mut Netlink,
    mapping: &Mapping,
    ip: Ipv4Addr,
    local: &[Cidr],
    in_use: bool,
) -> Result<Flows> {
    collect(netlink, flows_to(mapping), |flow| {
        let (sent_to, leads_to) =
            (end(flow, TUPLE_ORIGINAL, DESTINATION)?, end(flow, TUPLE_REPLY, SOURCE)?);
        let elsewhere = if leads_to == sent_to {
            // To the host itself: to no program, or to one that keeps it.
            !in_use
        } else {
            // Other rules may have it lead to another port of the host. That is the admin's decision.
            leads_to.0 != sent_to.0 && leads_to != (ip, mapping.container_port)
        };
        // A flow to another machine never met a published port.
        let is_one = elsewhere
            && local.iter().any(|range| range.contains(sent_to.0))
            && mapping.host_ip.is_none_or(|ip| ip == sent_to.0);
        is_one.then_some(ip)
    })
}

/// The flows of containers whose address `is_meant` says is meant: those that the container began, and
/// those that lead to it.
pub fn of_containers(netlink: &mut Netlink, is_meant: impl Fn(Ipv4Addr) -> bool) -> Result<Flows> {
    collect(netlink, message(GET, Vec::new()), |flow| {
        let sources = [TUPLE_ORIGINAL, TUPLE_REPLY].map(|tuple| address(flow, tuple, SOURCE));
        sources.into_iter().flatten().find(|ip| is_meant(*ip))
    })
}

/// The flows that answer `question`, as far as `container` says whose they are.
fn collect(
    netlink: &mut Netlink,
    question: NetfilterMessage,
    container: impl Fn(&Answer<4>) -> Option<Ipv4Addr>,
) -> Result<Flows> {
    let mut all = Flows::new();
    for flow in netlink.ask_all(question)? {
        if let (Some(ip), Some(deletion)) = (container(&flow), deletion(&flow)) {
            all.entry(ip).or_default().push(deletion);
        }
    }
    Ok(all)
}

/// Makes the kernel forget flows, and no later flow between the same ends. Some may have ended meanwhile,
/// which is no error: the kernel forgets the others all the same.
pub fn forget(netlink: &mut Netlink, deletions: &[Change<NetfilterMessage>]) -> Result<()> {
    deletions
        .chunks(AT_ONCE)
        .try_for_each(|some| found(netlink.change_all(some.to_vec())).map(drop))
}

/// The request to delete a flow.
fn deletion(flow: &Answer<4>) -> Option<Change<NetfilterMessage>> {
    let tuple = DefaultNla::new(TUPLE_ORIGINAL | NLA_F_NESTED, flow.get(TUPLE_ORIGINAL)?.to_vec());
    let id = DefaultNla::new(ID, flow.get(ID)?.to_vec());
    Some((message(DELETE, vec![tuple, id]), 0))
}

/// The question for the flows to a port of the host (Linux 5.8). The filter says what of a tuple counts:
/// the dump has the flows that agree in that.
fn flows_to(mapping: &Mapping) -> NetfilterMessage {
    let protocol = Tuple::Proto(vec![
        ProtoTuple::Protocol(mapping.protocol.number().into()),
        ProtoTuple::DestinationPort(mapping.host_port),
    ]);
    // CTA_FILTER_ORIG_FLAGS with CTA_FILTER_F_CTA_PROTO_NUM and _DST_PORT, CTA_FILTER_REPLY_FLAGS.
    let flags = [(1, 1_u32 << 3 | 1 << 5), (2, 0)];
    let filter = flags.map(|(kind, flags)| DefaultNla::new(kind, flags.to_ne_bytes().to_vec()));
    message(GET, vec![nested(TUPLE_ORIGINAL, &[protocol]), nested(FILTER, &filter)])
}

/// A request about flows, with plain attributes: `ConntrackAttribute::Other` drops the flag that
/// an attribute is nested, and the kernel refuses a filter without that flag.
fn message(message_type: u8, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    NetfilterMessage::new(header, ConntrackMessage::Other { message_type, attributes })
}

/// One end of a flow: the address and the port.
fn end(flow: &Answer<4>, tuple: u16, end: u16) -> Option<(Ipv4Addr, u16)> {
    // CTA_TUPLE_PROTO. CTA_PROTO_NUM comes before the ports.
    let port = *flow.nested(tuple).nested(2).get(end + 1)?.first_chunk()?;
    Some((address(flow, tuple, end)?, u16::from_be_bytes(port)))
}

/// The address of one end of a flow.
fn address(flow: &Answer<4>, tuple: u16, end: u16) -> Option<Ipv4Addr> {
    // CTA_TUPLE_IP.
    flow.nested(tuple).nested(1).ipv4(end)
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
        assert_eq!((udp.kind(), udp.nested_flag()), (2, true));
    }
}
