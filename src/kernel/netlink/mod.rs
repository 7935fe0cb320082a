//! A small blocking client of the kernel over netlink: of its routing service, `rtnetlink(7)`, and
//! of whatever else has a socket of this family.
//!
//! A socket is connected to the kernel and used with plain `send`, so that nobody else can send to
//! it and nothing can be sent elsewhere. Every reply is checked: its sender, its sequence number,
//! its length, its type.

mod request;

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc::MSG_TRUNC;
use thiserror::Error;

pub use self::request::Request;
use crate::privilege::sys;
use crate::request::address::IfName;

/// Room for one reply. One of a dump has 32 KiB at most (`netlink_dump`, `net/netlink/af_netlink.c`);
/// that of one link is as long as its attributes, of which the alternative names can have 64. With 128
/// the allocator would map pages for it, and take them away again, for each socket.
const REPLY: usize = 96 << 10;

/// The type of a message that nobody sends, for when no object is asked for.
const NLMSG_NOOP: u16 = 1;

/// The length of a message's header, and the alignment of messages (`linux/netlink.h`).
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// How often a dump is tried.
const DUMPS: u32 = 100;

/// A request of several that was not fulfilled: its number, from 0, and why.
#[derive(Debug)]
pub struct Failure {
    /// Which of them.
    pub request: usize,
    /// Why.
    pub error: Error,
}

/// Of what concerns all of them.
impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { request: 0, error }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// Why a request was not answered as wished.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel's own answer.
    #[error("{0}")]
    Kernel(Errno),
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The reply was not one.
    #[error("netlink reply: {0}")]
    Reply(String),
}

impl Error {
    /// Whether this is the kernel's answer `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        matches!(self, Error::Kernel(answer) if *answer == errno)
    }

    /// The error number to report where only a number fits.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Kernel(errno) => *errno,
            Error::Socket(error) => Errno::from_raw(error.raw_os_error().unwrap_or_default()),
            Error::Reply(_) => Errno::EBADMSG,
        }
    }
}

/// An answer: the structure that it begins with, of so many bytes, and attributes. Most of what the
/// kernel tells of an object is none of this program's business, so it is not taken apart any further
/// than it has to be.
#[derive(Debug)]
pub struct Answer<const HEADER: usize> {
    /// What it begins with.
    pub header: [u8; HEADER],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl<const HEADER: usize> NetlinkDeserializable for Answer<HEADER> {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match payload.split_first_chunk() {
            Some((header, rest)) => Ok(Answer { header: *header, attributes: attributes(rest) }),
            None => Err(DecodeError::from("too short")),
        }
    }
}

impl<const HEADER: usize> Answer<HEADER> {
    /// The value of the attribute of this kind, if there is one.
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(own, _)| *own == kind);
        found.map(|(_, value)| value.as_slice())
    }

    /// The number in the attribute of this kind, as the machine writes it.
    pub fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(number)
    }

    /// The address in the attribute of this kind.
    pub fn ipv4(&self, kind: u16) -> Option<Ipv4Addr> {
        self.get(kind)?.first_chunk().copied().map(Ipv4Addr::from)
    }

    /// The text in the attribute of this kind, without the zero at its end.
    pub fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        Some(String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned())
    }
}

/// The attributes that these bytes consist of, up to the first that is none: kind and value.
pub fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let attributes = NlasIterator::new(bytes).map_while(Result::ok);
    attributes.map(|attribute| (attribute.kind(), attribute.value().to_vec())).collect()
}

/// A number, as the machine writes it.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

/// What is expected where no object is: nothing is read.
struct Nothing;

impl NetlinkDeserializable for Nothing {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, DecodeError> {
        Ok(Nothing)
    }
}

/// A socket to one of the kernel's services in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// For replies: kept, as to have it anew for each would take two system calls.
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket to the routing service in the calling process's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Netlink, Error> {
        let netlink = Netlink::connect(NETLINK_ROUTE)?;
        // Without it the kernel ignores the filter of a dump (Linux 4.20).
        netlink.socket.set_netlink_get_strict_chk(true)?;
        Ok(netlink)
    }

    /// Opens a socket to netfilter, likewise.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open_netfilter() -> Result<Netlink, Error> {
        Netlink::connect(NETLINK_NETFILTER)
    }

    /// Opens a socket to the service that tells of other sockets, `sock_diag(7)`, likewise.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open_sock_diag() -> Result<Netlink, Error> {
        Netlink::connect(NETLINK_SOCK_DIAG)
    }

    fn connect(service: isize) -> Result<Netlink, Error> {
        let socket = Socket::new(service)?;
        // Connecting binds the socket as well. The kernel has port 0.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(REPLY) })
    }

    /// Whether an interface has the index `index`. Unlike a look at the interface itself this
    /// takes no lock in the kernel, so that it costs little and waits for nobody.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn has_index(&self, index: u32) -> Result<bool, Error> {
        sys::interface_exists(&self.socket, index).map_err(Error::Kernel)
    }

    /// Whether an interface has the name or alternative name `name`; likewise. CAP_NET_ADMIN and
    /// CAP_SYS_MODULE must not be in effect.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn has_name(&self, name: &IfName) -> Result<bool, Error> {
        sys::interface_name_exists(&self.socket, name.as_str()).map_err(Error::Kernel)
    }

    /// Asks for one object, with an `RTM_GET*`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENODEV, ENOENT and the like when there is none.
    pub fn get<const HEADER: usize>(&mut self, request: Request) -> Result<Answer<HEADER>, Error> {
        let answer = answer_to(request.kind());
        self.ask(request, answer)
    }

    /// Asks for all objects that the request's filter lets through, with an `RTM_GET*`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with EINTR when what is asked for changed during each of several tries.
    pub fn dump<const HEADER: usize>(
        &mut self,
        request: &Request,
    ) -> Result<Vec<Answer<HEADER>>, Error> {
        self.ask_all(|| request.clone(), answer_to(request.kind()))
    }

    /// Has something changed, and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the reason why it was not.
    pub fn change(&mut self, request: Request, flags: u16) -> Result<(), Error> {
        Ok(self.tell(vec![(request, NLM_F_ACK | flags)])?)
    }

    /// Has several things changed, in one go. What comes after one that fails is done all the same, if
    /// it can be.
    ///
    /// # Errors
    /// The first that failed.
    pub fn change_all(&mut self, mut requests: Vec<(Request, u16)>) -> Result<(), Failure> {
        if let Some((_, flags)) = requests.last_mut() {
            *flags |= NLM_F_ACK;
        }
        self.tell(requests)
    }

    /// Asks for one object, which comes as a message of the type `answer`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENODEV, ENOENT and the like when there is none.
    pub fn ask<Q, A>(&mut self, question: Q, answer: u16) -> Result<A, Error>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable<Error = DecodeError>,
    {
        let first = self.send(vec![(question, 0)])?;
        self.replies(first, answer)?.pop().ok_or_else(|| Error::Reply("empty".to_owned()))
    }

    /// Asks for all objects of a kind; each comes as a message of the type `answer`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with EINTR when what is asked for changed during each of several tries.
    pub fn ask_all<Q, A>(&mut self, question: impl Fn() -> Q, answer: u16) -> Result<Vec<A>, Error>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable<Error = DecodeError>,
    {
        for _ in 0..DUMPS {
            let first = self.send(vec![(question(), NLM_F_DUMP)])?;
            match self.replies(first, answer) {
                Err(failure) if failure.error.is(Errno::EINTR) => {}
                done => return Ok(done?),
            }
        }
        Err(Error::Kernel(Errno::EINTR))
    }

    /// Sends messages with their flags, one of which asks for an acknowledgement, and waits for that
    /// or for the first error.
    ///
    /// # Errors
    /// The first that failed.
    pub fn tell<M: NetlinkSerializable>(&mut self, messages: Vec<(M, u16)>) -> Result<(), Failure> {
        let first = self.send(messages)?;
        self.replies::<Nothing>(first, NLMSG_NOOP).map(drop)
    }

    /// Sends messages in one go, with the next sequence numbers. Gives the first of these.
    fn send<M: NetlinkSerializable>(&mut self, messages: Vec<(M, u16)>) -> Result<u32, Error> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(1024);
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            let start = bytes.len();
            let end = start + message.buffer_len();
            bytes.resize(end.next_multiple_of(ALIGNMENT), 0);
            message.serialize(bytes.get_mut(start..end).unwrap_or_default());
        }
        match self.socket.send(&bytes, 0)? {
            sent if sent == bytes.len() => Ok(first),
            _ => Err(Error::Reply("request cut short".to_owned())),
        }
    }

    /// Reads until the kernel has said all that it has to say to the requests from the one numbered
    /// `first` on. Objects come in messages of the type `answer`.
    fn replies<A>(&mut self, first: u32, answer: u16) -> Result<Vec<A>, Failure>
    where
        A: NetlinkDeserializable<Error = DecodeError>,
    {
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.read()?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<A>::deserialize(rest)
                    .map_err(|error| Error::Reply(error.to_string()))?;
                let header = message.header;
                let length = usize::try_from(header.length).unwrap_or(0).max(HEADER);
                rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
                let request = header.sequence_number.wrapping_sub(first);
                if request > self.sequence.wrapping_sub(first) {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                let error = match message.payload {
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(objects),
                        Some(code) => kernel(code.get()),
                    },
                    NetlinkPayload::Done(done) if done.code < 0 => kernel(done.code),
                    // A dump during which something changed may lack an object.
                    NetlinkPayload::Done(_) if interrupted => Error::Kernel(Errno::EINTR),
                    NetlinkPayload::Done(_) => return Ok(objects),
                    NetlinkPayload::InnerMessage(object) if header.message_type == answer => {
                        objects.push(object);
                        match header.flags & NLM_F_MULTIPART {
                            0 => return Ok(objects),
                            _ => continue,
                        }
                    }
                    _ => Error::Reply("of another type".to_owned()),
                };
                return Err(Failure { request: request as usize, error });
            }
        }
    }

    /// Reads what the kernel sends next.
    fn read(&mut self) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            let (length, sender) = self.socket.recv_from(&mut self.buffer, MSG_TRUNC)?;
            match sender.port_number() {
                0 if length > self.buffer.len() => {
                    return Err(Error::Reply("longer than expected".to_owned()));
                }
                0 => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The type of message that answers an `RTM_GET*`: its `RTM_NEW*`, which is two below.
fn answer_to(kind: u16) -> u16 {
    kind - 2
}

/// The kernel's error numbers come negated.
fn kernel(code: i32) -> Error {
    Error::Kernel(Errno::from_raw(code.wrapping_neg()))
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../../tests/fuzz/within/netlink.rs"]
pub mod fuzzing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_header_and_its_attributes() {
        let header = NetlinkHeader::default();
        let parse = |bytes: &[u8]| Answer::<4>::deserialize(&header, bytes);
        let nla = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        let attributes =
            [nla(8, 1), vec![127, 0, 0, 1], nla(7, 2), b"ab\0".to_vec(), vec![0], nla(4, 3)]
                .concat();
        let answer = parse(&[&[9, 8, 7, 6][..], &attributes].concat()).unwrap();
        assert_eq!(answer.header, [9, 8, 7, 6]);
        assert_eq!(answer.ipv4(1), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(answer.number(1), Some(u32::from_ne_bytes([127, 0, 0, 1])));
        assert_eq!(answer.text(2).as_deref(), Some("ab"));
        assert_eq!((answer.get(3), answer.get(4)), (Some(&[][..]), None));
        assert!(parse(&[1, 2, 3]).is_err());
        // What is cut short or makes no sense ends the list.
        for end in 4..attributes.len() {
            assert!(super::attributes(attributes.get(..end).unwrap()).len() < 3);
        }
        assert_eq!(super::attributes(&nla(3, 1)), []);
        assert_eq!(super::attributes(&nla(u16::MAX, 1)), []);
    }
}
