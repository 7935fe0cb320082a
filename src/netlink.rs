//! A small blocking client of the kernel's routing service, `rtnetlink(7)`.
//!
//! A socket is connected to the kernel and used with plain `send`, so that nobody else can send to
//! it and nothing can be sent elsewhere. Every reply is checked: its sender, its sequence number,
//! its length, its type.

use std::io;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    Parseable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc::MSG_TRUNC;
use thiserror::Error;

use crate::address::IfName;
use crate::sys;

/// Room for one reply. One of a dump has 32 KiB at most (`netlink_dump`, `net/netlink/af_netlink.c`);
/// that of one link is as long as its attributes, of which the alternative names can have 64.
const REPLY: usize = 128 << 10;

/// The length of a message's header, and the alignment of messages (`linux/netlink.h`).
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// How often a dump is tried.
const DUMPS: u32 = 10;

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

/// What a request or an object consists of, after the header: a link, an address, a route.
pub trait Body: Emitable + Parseable<[u8]> {}

impl<T: Emitable + Parseable<[u8]>> Body for T {}

/// A message: its type (`RTM_*`) and what it consists of.
struct Message<T> {
    kind: u16,
    body: T,
}

impl<T: Body> NetlinkSerializable for Message<T> {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.body.emit(buffer);
    }
}

impl<T: Body> NetlinkDeserializable for Message<T> {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Message { kind: header.message_type, body: T::parse(payload)? })
    }
}

/// A socket to the kernel's routing service in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    /// For replies: kept, as to have it anew for each would take two system calls.
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling process's network namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Netlink, Error> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // Connecting binds the socket as well. The kernel has port 0.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without it the kernel ignores the filter of a dump (Linux 4.20).
        socket.set_netlink_get_strict_chk(true)?;
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

    /// Asks for one object, with a request of the type `kind`, an `RTM_GET*`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENODEV, ENOENT and the like when there is none.
    pub fn get<T: Body>(&mut self, kind: u16, request: T) -> Result<T, Error> {
        self.send(kind, request, NLM_F_REQUEST)?;
        self.replies(kind)?.pop().ok_or_else(|| Error::Reply("empty".to_owned()))
    }

    /// Asks for all objects that the request's filter lets through, with an `RTM_GET*`.
    ///
    /// # Errors
    /// [`Error::Kernel`] with EINTR when what is asked for changed during each of several tries.
    pub fn dump<T: Body + Clone>(&mut self, kind: u16, request: &T) -> Result<Vec<T>, Error> {
        for _ in 0..DUMPS {
            self.send(kind, request.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            match self.replies(kind) {
                Err(error) if error.is(Errno::EINTR) => {}
                done => return done,
            }
        }
        Err(Error::Kernel(Errno::EINTR))
    }

    /// Has something changed, and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the reason why it was not.
    pub fn change<T: Body>(&mut self, kind: u16, request: T, flags: u16) -> Result<(), Error> {
        self.send(kind, request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.replies::<T>(kind).map(drop)
    }

    fn send<T: Body>(&mut self, kind: u16, body: T, flags: u16) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let payload = NetlinkPayload::InnerMessage(Message { kind, body });
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        match self.socket.send(&bytes, 0)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(Error::Reply("request cut short".to_owned())),
        }
    }

    /// Reads until the kernel has said all that it has to say to the last request, of type `kind`.
    fn replies<T: Body>(&mut self, kind: u16) -> Result<Vec<T>, Error> {
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            let (length, sender) = self.socket.recv_from(&mut self.buffer, MSG_TRUNC)?;
            if sender.port_number() != 0 {
                continue;
            }
            if length > self.buffer.len() {
                return Err(Error::Reply("longer than expected".to_owned()));
            }
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message<T>>::deserialize(rest)
                    .map_err(|error| Error::Reply(error.to_string()))?;
                let header = message.header;
                let length = usize::try_from(header.length).unwrap_or(0).max(HEADER);
                rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(objects),
                        Some(code) => return Err(kernel(code.get())),
                    },
                    NetlinkPayload::Done(done) if done.code < 0 => return Err(kernel(done.code)),
                    // A dump during which something changed may lack an object.
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(Error::Kernel(Errno::EINTR));
                    }
                    NetlinkPayload::Done(_) => return Ok(objects),
                    // Every RTM_GET* is answered by its RTM_NEW*, which is two below.
                    NetlinkPayload::InnerMessage(object) if object.kind + 2 == kind => {
                        objects.push(object.body);
                        if header.flags & NLM_F_MULTIPART == 0 {
                            return Ok(objects);
                        }
                    }
                    _ => return Err(Error::Reply("of another type".to_owned())),
                }
            }
        }
    }
}

/// The kernel's error numbers come negated.
fn kernel(code: i32) -> Error {
    Error::Kernel(Errno::from_raw(code.wrapping_neg()))
}
