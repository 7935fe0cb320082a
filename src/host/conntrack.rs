//! Flows that the kernel remembers, `conntrack(8)`. One of UDP lasts for as long as the client goes on
//! sending, so a client of a port that leads elsewhere now would never get there.
//!
//! To be forgotten they are read first; then whoever asks for it sees that this is his to do; and then
//! those that were read are deleted, each by its id. So a run that is stopped in between deletes
//! nothing of anybody else's. To read them takes the kernel a walk over its whole table, some
//! milliseconds, so this is done for published UDP ports only.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use nix::libc::AF_INET;

use crate::netlink::{Answer, Error, Netlink, Request, attributes};
use crate::ports::Mapping;

/// Types of messages: the subsystem (`NFNL_SUBSYS_CTNETLINK`), and what is asked of it
/// (`linux/netfilter/nfnetlink_conntrack.h`).
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;

/// Attributes of the same file.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
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
const BY_PROTO_NUM: u32 = 1 << 3;
const BY_DST_PORT: u32 = 1 << 5;

const NESTED: u16 = 1 << 15;

/// What a request begins with: `struct nfgenmsg`, of which only the family counts.
const NFGENMSG: [u8; 4] = [AF_INET as u8, 0, 0, 0];

/// Flows, each with what means it for ever: of an answer, the tuple and the id.
#[derive(Debug)]
pub(super) struct Flows(Vec<Request>);

/// The flows to where `mapping` is published that lead to another address than `ip`.
///
/// # Errors
/// [`Error`].
pub(super) fn leading_elsewhere(
    netlink: &mut Netlink,
    mapping: &Mapping,
    ip: Ipv4Addr,
) -> Result<Flows, Error> {
    let flows: Vec<Answer<4>> = netlink.ask_all(|| flows_to(mapping), NEW)?;
    let is_one = |flow: &&Answer<4>| {
        let part = |tuple, kind| flow.get(tuple).and_then(|tuple| address(tuple, kind));
        let sent_to = part(TUPLE_ORIGINAL, IP_V4_DST);
        let leads_to = part(TUPLE_REPLY, IP_V4_SRC);
        // What is not translated goes to the host itself.
        leads_to != Some(ip)
            && leads_to != sent_to
            && (mapping.host_ip.is_none() || sent_to == mapping.host_ip)
    };
    Ok(Flows(flows.iter().filter(is_one).filter_map(deletion).collect()))
}

/// Has the kernel forget these flows, and no other that may be like one of them by now.
///
/// # Errors
/// [`Error`].
pub(super) fn forget(netlink: &mut Netlink, flows: Flows) -> Result<(), Error> {
    for request in flows.0 {
        match netlink.change(request, 0) {
            // It has ended by itself.
            Err(error) if error.is(Errno::ENOENT) => {}
            done => done?,
        }
    }
    Ok(())
}

/// The request to delete a flow.
fn deletion(flow: &Answer<4>) -> Option<Request> {
    let (tuple, id) = (flow.get(TUPLE_ORIGINAL)?, flow.get(ID)?);
    Some(Request::new(DELETE, &NFGENMSG).bytes(TUPLE_ORIGINAL | NESTED, tuple).bytes(ID, id))
}

/// The question for the flows to a port of the host's. The filter says what of a tuple counts: a dump
/// is of all flows that agree in that.
fn flows_to(mapping: &Mapping) -> Request {
    Request::new(GET, &NFGENMSG)
        .nest(TUPLE_ORIGINAL | NESTED, |tuple| {
            tuple.nest(TUPLE_PROTO | NESTED, |protocol| {
                protocol
                    .byte(PROTO_NUM, mapping.protocol.number())
                    .bytes(PROTO_DST_PORT, &mapping.host_port.to_be_bytes())
            })
        })
        .nest(FILTER | NESTED, |filter| {
            filter
                .number(FILTER_ORIGINAL_FLAGS, BY_PROTO_NUM | BY_DST_PORT)
                .number(FILTER_REPLY_FLAGS, 0)
        })
}

/// An address of a tuple.
fn address(tuple: &[u8], which: u16) -> Option<Ipv4Addr> {
    let (_, addresses) = attributes(tuple).into_iter().find(|(kind, _)| *kind == TUPLE_IP)?;
    let (_, address) = attributes(&addresses).into_iter().find(|(kind, _)| *kind == which)?;
    address.first_chunk().copied().map(Ipv4Addr::from)
}
