//! A kernel that says what the fuzzer wants.
#![allow(unsafe_code, missing_docs, clippy::unwrap_used)]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use netlink_packet_core::Emitable;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use std::os::fd::AsRawFd;

use super::*;
use crate::fuzzing::pieces;
use crate::kernel::answer::Attributes;

/// `NLMSG_DONE` (`linux/netlink.h`).
const DONE: u16 = 3;
/// The length of a message's header.
const HEADER: usize = 16;

/// A client, and the other end of its socket.
pub struct Kernel {
    pub netlink: Netlink,
    _end: OwnedFd,
}

/// The kernel's services: how far the type of an answer is below that of its question.
pub const ROUTING: u16 = 2;
pub const NETFILTER: u16 = 1;
pub const SOCK_DIAG: u16 = 0;

/// A client of a service whose answers are `bytes`. The first byte says how: the pieces of the rest come
/// as they are, header and all; or each is an object of the type `answer` in a sound frame, for the
/// fuzzer to get to what is in it.
pub fn kernel(service: u16, answer: u16, bytes: &[u8]) -> Option<Kernel> {
    let (how, rest) = bytes.split_first()?;
    let said: Vec<Vec<u8>> = match how & 1 {
        0 => pieces(rest).into_iter().map(<[u8]>::to_vec).collect(),
        _ => framed(answer, &pieces(rest)),
    };
    // Not blocking: a question after the last answer is an error.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (own, end) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).unwrap();
    for datagram in said {
        // More than the socket has room for is not said.
        let _ = send(end.as_raw_fd(), &datagram, MsgFlags::empty());
    }
    // SAFETY: the descriptor is a socket, and nothing else owns it.
    let socket = unsafe { Socket::from_raw_fd(own.into_raw_fd()) };
    let netlink =
        Netlink { socket, answers_below: service, sequence: 0, buffer: Vec::with_capacity(REPLY) };
    Some(Kernel { netlink, _end: end })
}

/// Each of `objects` as an answer to the first question, and the end of the list.
fn framed(answer: u16, objects: &[&[u8]]) -> Vec<Vec<u8>> {
    let message = |kind: u16, body: &[u8]| {
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(HEADER + body.len()).unwrap();
        header.message_type = kind;
        header.flags = NLM_F_MULTIPART;
        header.sequence_number = 1;
        let mut bytes = vec![0; HEADER];
        header.emit(&mut bytes);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    };
    let all = objects.iter().map(|object| message(answer, object)).collect::<Vec<_>>().concat();
    vec![all, message(DONE, &[0; 4])]
}

/// Sees that attributes are parts of what they were read from, in their order, and none is made up.
pub fn are_parts(bytes: &[u8]) {
    let mut rest = bytes;
    for (kind, value) in Attributes(bytes).iter() {
        let (header, others) = rest.split_at(4);
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        assert_eq!(kind, u16::from_ne_bytes([header[2], header[3]]) & 0x3fff);
        assert_eq!(Some(value), others.get(..length - 4));
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
}
