//! Flows that the kernel remembers, `conntrack(8)`. One of UDP lasts for as long as the client goes on
//! sending, so a client of a port that leads elsewhere now, or nowhere until now, would never get there.
//!
//! To be forgotten they are read first; then whoever asks for it sees that this is his to do; and then
//! those that were read are deleted, each by its id. So a run that is stopped in between deletes
//! nothing of anybody else's. To read them takes the kernel a walk over its whole table, some
//! milliseconds, so this is done for published UDP ports only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_netfilter::conntrack::{ConntrackMessage, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use nix::errno::Errno;

use crate::kernel::netlink::{Answer, Error, Netlink, attributes, nested};
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

/// Flows, each with the address of the container that it belongs to, and the request that deletes it.
/// The request names its tuple and its id, which no other flow ever has.
#[derive(Debug, Default)]
pub struct Flows(Vec<(Ipv4Addr, NetfilterMessage)>);

impl Flows {
    /// The flows of each container.
    pub fn by_container(self) -> BTreeMap<Ipv4Addr, Flows> {
        let mut all = BTreeMap::<_, Flows>::new();
        for (ip, request) in self.0 {
            all.entry(ip).or_default().0.push((ip, request));
        }
        all
    }
}

/// What of the host decides which flows a published port would have got.
#[derive(Debug)]
pub struct Own<'a> {
    /// The addresses that are its own, in ranges.
    pub addresses: &'a [Cidr],
    /// Whether one of its programs has a socket at the port.
    pub in_use: bool,
}

/// The flows to where `mapping` is published that lead elsewhere than to there, at the address `ip`.
///
/// # Errors
/// [`Error`].
pub fn leading_elsewhere(
    netlink: &mut Netlink,
    mapping: &Mapping,
    ip: Ipv4Addr,
    own: &Own,
) -> Result<Flows, Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(flows_to(mapping))?;
    let is_one = |flow: &&Answer<4>| {
        let end =
            |tuple, address, port| flow.get(tuple).and_then(|tuple| end(tuple, address, port));
        let Some(sent_to) = end(TUPLE_ORIGINAL, IP_V4_DST, PROTO_DST_PORT) else { return false };
        let Some(leads_to) = end(TUPLE_REPLY, IP_V4_SRC, PROTO_SRC_PORT) else { return false };
        let elsewhere = if leads_to == sent_to {
            // To the host itself, where nobody hears it, or a program that it is not to be taken from.
            !own.in_use
        } else {
            // Somebody may have it lead to another port of the host's, and that is his to do.
            leads_to.0 != sent_to.0 && leads_to != (ip, mapping.container_port)
        };
        // What is for others than the host is no published port's.
        elsewhere
            && own.addresses.iter().any(|range| range.contains(sent_to.0))
            && mapping.host_ip.is_none_or(|ip| ip == sent_to.0)
    };
    Ok(Flows(flows.iter().filter(is_one).filter_map(|flow| Some((ip, deletion(flow)?))).collect()))
}

/// The flows of containers whose address `is_meant` says is meant: those that the container began, and
/// those that lead to it.
pub fn of_containers(
    netlink: &mut Netlink,
    is_meant: impl Fn(Ipv4Addr) -> bool,
) -> Result<Flows, Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(message(GET, Vec::new()))?;
    let container = |flow: &Answer<4>| {
        let source = |tuple| address(flow.get(tuple)?, IP_V4_SRC);
        [TUPLE_ORIGINAL, TUPLE_REPLY].into_iter().filter_map(source).find(|ip| is_meant(*ip))
    };
    let flow = |flow: &Answer<4>| Some((container(flow)?, deletion(flow)?));
    Ok(Flows(flows.iter().filter_map(flow).collect()))
}

/// Has the kernel forget these flows, and no other that may be like one of them by now.
///
/// # Errors
/// [`Error`].
pub fn forget(netlink: &mut Netlink, flows: Flows) -> Result<(), Error> {
    for (_, request) in flows.0 {
        match netlink.change((request, 0)) {
            // It has ended by itself.
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

/// A request about flows. It has plain attributes since those of the library that it does not know
/// lose the flag that they are nested, and the kernel refuses such a filter.
fn message(message_type: u8, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    NetfilterMessage::new(header, ConntrackMessage::Other { message_type, attributes })
}

/// One end of a flow as a tuple has it: the address and the port of these kinds.
fn end(tuple: &[u8], ip: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let port = nested_value(tuple, TUPLE_PROTO, port)?;
    Some((address(tuple, ip)?, u16::from_be_bytes(*port.first_chunk()?)))
}

fn address(tuple: &[u8], kind: u16) -> Option<Ipv4Addr> {
    nested_value(tuple, TUPLE_IP, kind)?.first_chunk().copied().map(Ipv4Addr::from)
}

fn nested_value(bytes: &[u8], outer: u16, inner: u16) -> Option<Vec<u8>> {
    let of = |bytes: &[u8], kind| attributes(bytes).into_iter().find(|(own, _)| *own == kind);
    let (_, nest) = of(bytes, outer)?;
    of(&nest, inner).map(|(_, value)| value)
}
