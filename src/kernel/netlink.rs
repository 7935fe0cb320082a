//! A small blocking client of the kernel over netlink: for its routing service, `rtnetlink(7)`, and
//! the others that have a socket of this family.
//!
//! Requests are typed messages of the netlink-packet crates; for answers see [`super::answer`].
//!
//! A socket is connected to the kernel and used with plain `send`, so that no other process can send
//! to it and nothing can be sent elsewhere. Every reply is checked: its sender, its sequence number,
//! its length, its type.

use std::io;
use std::num::NonZero;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NLMSG_NOOP, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_TRUNC;
use thiserror::Error;

use crate::kernel::answer::Answer;

/// Room for one reply. One of a dump has 32 KiB at most (`netlink_dump`, `net/netlink/af_netlink.c`).
/// One about a link is as long as its attributes: the alternative names alone can have 64 KiB. With
/// room for 128 KiB the allocator would map and unmap pages for each socket.
const REPLY: usize = 96 << 10;

const ALIGNMENT: usize = NLMSG_ALIGNTO as usize;

const DUMPS: u32 = 100;

/// A request for a change: a message, and its flags beside `NLM_F_REQUEST`.
pub type Change<M = RouteNetlinkMessage> = (M, u16);

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Error)]
pub enum Error {
    /// The kernel's own answer, and the number of the request, from 0.
    #[error("{0}")]
    Kernel(Errno, usize),
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The reply makes no sense.
    #[error("netlink reply: {0}")]
    Reply(String),
}

impl Error {
    /// Whether this is the kernel's answer `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, Error::Kernel(answer, _) if *answer == errno)
    }

    /// The error number to report where only a number fits.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Kernel(errno, _) => *errno,
            Error::Socket(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            Error::Reply(_) => Errno::EBADMSG,
        }
    }

    /// Which of several requests failed.
    pub fn request(&self) -> usize {
        if let Error::Kernel(_, request) = self { *request } else { 0 }
    }
}

/// A socket to one of the kernel's services in one network namespace.
pub struct Netlink {
    pub(super) socket: Socket,
    /// How far the type of an answer is below the type of its question.
    answers_below: u16,
    sequence: u32,
    /// For replies: kept, since a new one for each would take two system calls.
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket to the routing service in the calling process's network namespace.
    pub fn open() -> Result<Netlink> {
        // RTM_GETLINK is answered by RTM_NEWLINK, and so on.
        let netlink = Netlink::connect(NETLINK_ROUTE, 2)?;
        // Without it the kernel ignores the filter of a dump (Linux 4.20).
        netlink.socket.set_netlink_get_strict_chk(true)?;
        Ok(netlink)
    }

    /// Opens a socket to another service, likewise. The type of an answer is so far below the type of its
    /// question.
    pub fn connect(service: isize, answers_below: u16) -> Result<Netlink> {
        let socket = Socket::new(service)?;
        // Connecting binds the socket as well. The kernel has port 0.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, answers_below, sequence: 0, buffer: Vec::with_capacity(REPLY) })
    }

    /// Asks for one object. That there is none is an error: ENODEV, ENOENT and the like.
    pub fn ask<const H: usize>(&mut self, question: impl NetlinkSerializable) -> Result<Answer<H>> {
        let answer = question.message_type() - self.answers_below;
        let mut objects = self.exchange(vec![(question, 0)], answer)?;
        objects.pop().ok_or_else(|| Error::Reply("empty".to_owned()))
    }

    /// Asks for all objects that the filter of the question lets through. The error is EINTR if they
    /// changed during each of several tries.
    pub fn ask_all<const H: usize>(
        &mut self,
        question: impl NetlinkSerializable + Clone,
    ) -> Result<Vec<Answer<H>>> {
        let answer = question.message_type() - self.answers_below;
        for _ in 0..DUMPS {
            match self.exchange(vec![(question.clone(), NLM_F_DUMP)], answer) {
                Err(error) if error.is(Errno::EINTR) => {}
                done => return done,
            }
        }
        Err(Error::Kernel(Errno::EINTR, 0))
    }

    /// Asks for one change, and waits for the kernel's acknowledgement.
    pub fn change(&mut self, change: Change<impl NetlinkSerializable>) -> Result<()> {
        self.change_all(vec![change])
    }

    /// Asks for several changes together, and waits for the acknowledgement of the last or for the
    /// first error. The kernel still carries out what follows a change that failed, if it can.
    pub fn change_all(&mut self, mut changes: Vec<Change<impl NetlinkSerializable>>) -> Result<()> {
        if let Some((_, flags)) = changes.last_mut() {
            *flags |= NLM_F_ACK;
        }
        self.tell(changes)
    }

    /// Sends changes, one of which has the flag that asks for an acknowledgement, and waits for that
    /// or for the first error.
    pub fn tell(&mut self, changes: Vec<Change<impl NetlinkSerializable>>) -> Result<()> {
        // No object is expected.
        self.exchange::<0>(changes, NLMSG_NOOP).map(drop)
    }

    /// Sends requests with the next sequence numbers, and reads until the kernel has answered. Objects
    /// come in messages of the type `answer`.
    fn exchange<const H: usize>(
        &mut self,
        requests: Vec<Change<impl NetlinkSerializable>>,
        answer: u16,
    ) -> Result<Vec<Answer<H>>> {
        let first = self.sequence.wrapping_add(1);
        self.send(requests)?;
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            let (length, sender) = self.socket.recv_from(&mut self.buffer, MSG_TRUNC)?;
            if sender.port_number() != 0 {
                // Another process has sent it, not the kernel.
                continue;
            }
            if length > self.buffer.len() {
                return Err(Error::Reply("longer than expected".to_owned()));
            }
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Answer<H>>::deserialize(rest)
                    .map_err(|error| Error::Reply(error.to_string()))?;
                let header = message.header;
                let length = (header.length as usize).next_multiple_of(ALIGNMENT);
                rest = rest.get(length..).unwrap_or_default();
                let request = header.sequence_number.wrapping_sub(first);
                if request > self.sequence.wrapping_sub(first) {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                // The kernel's error numbers come negated.
                let code = match message.payload {
                    NetlinkPayload::InnerMessage(object) if header.message_type == answer => {
                        objects.push(object);
                        if header.flags & NLM_F_MULTIPART != 0 {
                            continue;
                        }
                        0
                    }
                    NetlinkPayload::Error(error) => error.code.map_or(0, NonZero::get),
                    // A dump during which something changed may lack an object.
                    NetlinkPayload::Done(done) if interrupted && done.code == 0 => {
                        -(Errno::EINTR as i32)
                    }
                    NetlinkPayload::Done(done) => done.code,
                    _ => return Err(Error::Reply("of another type".to_owned())),
                };
                return match code {
                    0 => Ok(objects),
                    _ => Err(Error::Kernel(Errno::from_raw(code.wrapping_neg()), request as usize)),
                };
            }
        }
    }

    fn send(&mut self, messages: Vec<Change<impl NetlinkSerializable>>) -> Result<()> {
        let mut bytes = Vec::with_capacity(1024);
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let payload = NetlinkPayload::InnerMessage(message);
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let start = bytes.len();
            let end = start + message.buffer_len();
            bytes.resize(end.next_multiple_of(ALIGNMENT), 0);
            message.serialize(bytes.get_mut(start..end).unwrap_or_default());
        }
        match self.socket.send(&bytes, 0)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(Error::Reply("request cut short".to_owned())),
        }
    }
}

/// What a request is about, or `None` if the kernel answers that there is no such thing.
pub fn found<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Err(Error::Kernel(Errno::ENOENT | Errno::ENODEV, _)) => Ok(None),
        other => other.map(Some),
    }
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/netlink.rs"]
pub mod fuzzing;
