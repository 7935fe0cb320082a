//! Flows that the kernel remembers, `conntrack(8)`. What it remembers of a UDP flow holds for as long
//! as the client goes on sending, so a client of a port that leads elsewhere now would never get
//! there.

use std::net::Ipv4Addr;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_ACK, NetlinkSerializable};

use crate::netlink::{Answer, Error, Netlink, attributes};
use crate::ports::Mapping;

/// Types of messages: the subsystem (`NFNL_SUBSYS_CTNETLINK`), and what is asked of it
/// (`linux/netfilter/nfnetlink_conntrack.h`).
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// Attributes of the same file.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;

/// What of a tuple a dump is filtered by (`CTA_FILTER_F_*`, `net/netfilter/nf_internals.h`, Linux 5.8).
const BY_IP_SRC: u32 = 1 << 0;
const BY_PROTO_NUM: u32 = 1 << 3;
const BY_DST_PORT: u32 = 1 << 5;

const AF_INET: u8 = 2;
const NESTED: u16 = 1 << 15;

/// A request: `struct nfgenmsg` and attributes.
struct Request {
    kind: u16,
    attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some((family, rest)) = buffer.split_first_mut() {
            *family = AF_INET;
            if let Some(attributes) = rest.get_mut(3..) {
                self.attributes.as_slice().emit(attributes);
            }
        }
    }
}

/// Has the kernel forget the flows to where `mapping` is published that lead to another address than
/// `ip`.
///
/// # Errors
/// [`Error`].
pub(super) fn forget_others(
    netlink: &mut Netlink,
    mapping: &Mapping,
    ip: Ipv4Addr,
) -> Result<(), Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(|| flows_to(mapping), NEW)?;
    for flow in flows {
        let part = |tuple, kind| flow.get(tuple).and_then(|tuple| address(tuple, kind));
        let elsewhere = part(TUPLE_REPLY, IP_V4_SRC) != Some(ip);
        let to_this =
            mapping.host_ip.is_none() || part(TUPLE_ORIGINAL, IP_V4_DST) == mapping.host_ip;
        if elsewhere && to_this && is_translated(&flow) {
            let tuple = flow.get(TUPLE_ORIGINAL).unwrap_or_default().to_vec();
            let attributes = vec![DefaultNla::new(TUPLE_ORIGINAL | NESTED, tuple)];
            match netlink.tell(vec![(Request { kind: DELETE, attributes }, NLM_F_ACK)]) {
                // It has ended by itself.
                Err(error) if error.is(nix::errno::Errno::ENOENT) => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Has the kernel forget the flows that begin at `ip`, or late answers would reach whoever has it next
/// (`ctnetlink_flush_conntrack`, `net/netfilter/nf_conntrack_netlink.c`: by a filter since Linux 6.12).
///
/// # Errors
/// [`Error`].
pub(super) fn forget_those_of(netlink: &mut Netlink, ip: Ipv4Addr) -> Result<(), Error> {
    let address = [nest(TUPLE_IP, &[DefaultNla::new(IP_V4_SRC, ip.octets().to_vec())])];
    let attributes = vec![nest(TUPLE_ORIGINAL, &address), filter(BY_IP_SRC)];
    let request = Request { kind: DELETE, attributes };
    netlink.tell(vec![(request, NLM_F_ACK)])
}

/// The question for the flows to a port of the host's.
fn flows_to(mapping: &Mapping) -> Request {
    let port = mapping.host_port.to_be_bytes().to_vec();
    let protocol = [
        DefaultNla::new(PROTO_NUM, vec![mapping.protocol.number()]),
        DefaultNla::new(PROTO_DST_PORT, port),
    ];
    Request {
        kind: GET,
        attributes: vec![
            nest(TUPLE_ORIGINAL, &[nest(TUPLE_PROTO, &protocol)]),
            filter(BY_PROTO_NUM | BY_DST_PORT),
        ],
    }
}

/// What of a tuple counts: a dump and a deletion are about all flows that agree in that.
fn filter(by: u32) -> DefaultNla {
    nest(
        FILTER,
        &[
            DefaultNla::new(FILTER_ORIGINAL_FLAGS, by.to_ne_bytes().to_vec()),
            DefaultNla::new(FILTER_REPLY_FLAGS, vec![0; 4]),
        ],
    )
}

fn nest(kind: u16, inside: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; inside.buffer_len()];
    inside.emit(&mut bytes);
    DefaultNla::new(kind | NESTED, bytes)
}

/// Whether the packets of a flow are sent elsewhere than where the client sends them.
fn is_translated(flow: &Answer<4>) -> bool {
    let part = |tuple, kind| flow.get(tuple).and_then(|tuple| address(tuple, kind));
    part(TUPLE_ORIGINAL, IP_V4_DST) != part(TUPLE_REPLY, IP_V4_SRC)
}

/// An address of a tuple.
fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let (_, addresses) = attributes(tuple).into_iter().find(|(kind, _)| *kind == TUPLE_IP)?;
    let (_, address) = attributes(&addresses).into_iter().find(|(kind, _)| *kind == which)?;
    address.first_chunk().copied().map(Ipv4Addr::from)
}
