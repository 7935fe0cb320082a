//! A small blocking client of the kernel's routing service, `rtnetlink(7)`.
//!
//! A socket is connected to the kernel and used with plain `send`, so that nobody else can send to
//! it and nothing can be sent elsewhere. Every reply is checked: its sender, its sequence number,
//! its length.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc::MSG_TRUNC;
use thiserror::Error;

/// Room for one reply: what the kernel puts into one at most, in a dump (`NLMSG_GOODSIZE` is less).
const REPLY: usize = 32 << 10;

/// How often a dump is tried.
const DUMPS: u32 = 10;

/// The length of a message's header, and the alignment of messages (`linux/netlink.h`).
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

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

/// A socket to the kernel's routing service in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
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
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// [`Error::Kernel`] with ENODEV, ENOENT and the like when there is none.
    pub fn get(&mut self, request: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Error> {
        self.send(request, NLM_F_REQUEST)?;
        match self.replies()?.pop() {
            Some(object) => Ok(object),
            None => Err(Error::Reply("empty".to_owned())),
        }
    }

    /// Asks for all objects that the request's filter lets through.
    ///
    /// # Errors
    /// [`Error::Kernel`] with EINTR when what is asked for changed during each of several tries.
    pub fn dump(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        for _ in 1..DUMPS {
            self.send(request.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            match self.replies() {
                Err(error) if error.is(Errno::EINTR) => {}
                done => return done,
            }
        }
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.replies()
    }

    /// Has something changed, and waits for the kernel's acknowledgement.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the reason why it was not.
    pub fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.replies().map(drop)
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        match self.socket.send(&bytes, 0)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(Error::Reply("request cut short".to_owned())),
        }
    }

    /// Reads until the kernel has said all that it has to say to the last request.
    fn replies(&mut self) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            let mut bytes = Vec::with_capacity(REPLY);
            let (length, sender) = self.socket.recv_from(&mut bytes, MSG_TRUNC)?;
            if sender.port_number() != 0 {
                continue;
            }
            if length > bytes.len() {
                return Err(Error::Reply("longer than expected".to_owned()));
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| Error::Reply(error.to_string()))?;
                let length = usize::try_from(message.header.length)
                    .unwrap_or(0)
                    .max(HEADER);
                rest = rest
                    .get(length.next_multiple_of(ALIGNMENT)..)
                    .unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                let more = message.header.flags & NLM_F_MULTIPART != 0;
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(objects),
                        Some(code) => {
                            return Err(Error::Kernel(Errno::from_raw(code.get().wrapping_neg())));
                        }
                    },
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(Error::Kernel(Errno::from_raw(done.code.wrapping_neg())));
                    }
                    // A dump during which something changed may lack an object.
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(Error::Kernel(Errno::EINTR));
                    }
                    NetlinkPayload::Done(_) => return Ok(objects),
                    NetlinkPayload::InnerMessage(object) => {
                        objects.push(object);
                        if !more {
                            return Ok(objects);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
