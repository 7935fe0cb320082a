//! The floor that `netsetgo` is measured against (`benches/run`): the time that the kernel takes for
//! the messages of one attach, sent by a program that checks nothing.
//!
//! It sends what `src/network/` and `src/inside.rs` send. On the host: the pair, with its container
//! end born in the target's namespace; the port's settings, its forwarding entry, up. Inside, by a
//! forked child: up, address, route. It believes every answer, what it could look up is an argument,
//! and messages that follow each other go out in one batch. With `alone` there is no child: the one
//! process enters the target itself when the host's part is done.
//!
//! It runs setuid root in a throwaway host, and must not be installed anywhere else: it gives every
//! caller every namespace. To cargo it is an example: so it is built with the profile of the program
//! that it is compared with, and no installation has it.
#![no_main]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netsetgo::sys;
use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, pipe, read, write};

netsetgo::entry_point!(story);

const USAGE: &str = "usage: floor PID BRIDGE-INDEX HOST-END ADDRESS/PREFIX GATEWAY [alone]";

fn story(arguments: sys::Arguments) -> i32 {
    let arguments = arguments.read().into_iter().filter_map(|text| text.into_string().ok());
    let arguments: Vec<String> = arguments.collect();
    let Some(wire) = Wire::parse(&arguments) else {
        let _ = write(std::io::stderr(), format!("{USAGE}\n").as_bytes());
        return 2;
    };
    match wire.attach() {
        Ok(()) => 0,
        Err(errno) => {
            let _ = write(std::io::stderr(), format!("floor: {errno}\n").as_bytes());
            1
        }
    }
}

/// What is to be made.
struct Wire {
    pid: u32,
    bridge: u32,
    host_end: String,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    alone: bool,
}

impl Wire {
    fn parse(arguments: &[String]) -> Option<Wire> {
        let [pid, bridge, host_end, address, gateway, rest @ ..] = arguments else { return None };
        let (address, prefix) = address.split_once('/')?;
        Some(Wire {
            pid: pid.parse().ok()?,
            bridge: bridge.parse().ok()?,
            host_end: host_end.clone(),
            address: address.parse().ok()?,
            prefix: prefix.parse().ok()?,
            gateway: gateway.parse().ok()?,
            alone: rest.first().is_some_and(|word| word == "alone"),
        })
    }

    fn attach(&self) -> nix::Result<()> {
        let target = File::open(format!("/proc/{}/ns/net", self.pid)).map_err(|_| Errno::ESRCH)?;
        if self.alone {
            let mut host = Netlink::open()?;
            host.tell(&[self.pair(&target)])?;
            host.tell(&self.port())?;
            setns(&target, CloneFlags::CLONE_NEWNET)?;
            return Netlink::open()?.tell(&self.inside());
        }
        let (go, started) = pipe()?;
        match sys::fork()? {
            ForkResult::Child => {
                drop(started);
                let done = setns(&target, CloneFlags::CLONE_NEWNET)
                    .and_then(|()| Netlink::open())
                    .and_then(|mut inside| {
                        // It exists when the parent says so, and the parent goes on meanwhile.
                        read(&go, &mut [0])?;
                        inside.tell(&self.inside())
                    });
                std::process::exit(done.is_err().into())
            }
            ForkResult::Parent { child } => {
                drop(go);
                let mut host = Netlink::open()?;
                host.tell(&[self.pair(&target)])?;
                write(&started, &[0])?;
                host.tell(&self.port())?;
                match waitpid(child, None)? {
                    WaitStatus::Exited(_, 0) => Ok(()),
                    _ => Err(Errno::ECHILD),
                }
            }
        }
    }

    fn index(&self) -> u32 {
        0x4000_0000 | (self.address.to_bits() & 0x3fff_ffff)
    }

    fn mac(&self, prefix: [u8; 2]) -> Vec<u8> {
        [&prefix[..], &self.address.octets()].concat()
    }

    /// Both ends, in one message.
    fn pair(&self, target: &File) -> Message {
        const VETH_INFO_PEER: u16 = 1;
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &ifinfomsg(self.index(), 0));
        let end = |message: &mut Message, name: &str, mac: &[u8]| {
            message.attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
            message.attribute(libc::IFLA_ADDRESS, mac);
            message.number(libc::IFLA_MTU, 1500);
            message.number(libc::IFLA_NUM_TX_QUEUES, 1);
            message.number(libc::IFLA_NUM_RX_QUEUES, 1);
        };
        end(&mut message, &self.host_end, &self.mac([0xfe, 0x4e]));
        message.number(libc::IFLA_MASTER, self.bridge);
        message.nest(libc::IFLA_LINKINFO, |info| {
            info.attribute(libc::IFLA_INFO_KIND, b"veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    // The same index as outside, so that it need not be looked up inside.
                    peer.0.extend(ifinfomsg(self.index(), 0));
                    end(peer, "veth1", &self.mac([0x02, 0x4e]));
                    peer.number(libc::IFLA_NET_NS_FD, target.as_raw_fd().cast_unsigned());
                });
            });
        });
        message
    }

    /// What makes the host end an open port of the bridge.
    fn port(&self) -> [Message; 3] {
        const IFLA_INFO_SLAVE_KIND: u16 = 4;
        const IFLA_INFO_SLAVE_DATA: u16 = 5;
        const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
        const IFLA_BRPORT_GROUP_FWD_MASK: u16 = 31;
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        const NUD_NOARP: u16 = 0x40;
        const NTF_MASTER: u8 = 4;

        let mut settings = Message::new(libc::RTM_NEWLINK, 0, &ifinfomsg(self.index(), 0));
        settings.nest(libc::IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_SLAVE_KIND, b"bridge");
            info.nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_GROUP_FWD_MASK, &0xfffd_u16.to_ne_bytes());
                data.attribute(IFLA_BRPORT_UNICAST_FLOOD, &[0]);
            });
        });
        settings.nest(libc::IFLA_AF_SPEC, |families| {
            families.nest(family(libc::AF_INET6).into(), |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });

        // struct ndmsg
        let mut header = vec![family(libc::AF_BRIDGE), 0, 0, 0];
        header.extend(self.index().to_ne_bytes());
        header.extend(NUD_NOARP.to_ne_bytes());
        header.extend([NTF_MASTER, 0]);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut forwarding = Message::new(libc::RTM_NEWNEIGH, flags, &header);
        forwarding.attribute(libc::NDA_LLADDR, &self.mac([0x02, 0x4e]));

        let up = ifinfomsg(self.index(), libc::IFF_UP.cast_unsigned());
        [settings, forwarding, Message::new(libc::RTM_SETLINK, 0, &up)]
    }

    /// What the container end becomes.
    fn inside(&self) -> [Message; 3] {
        let index = self.index();
        let up = ifinfomsg(index, libc::IFF_UP.cast_unsigned());
        let up = Message::new(libc::RTM_SETLINK, 0, &up);

        // struct ifaddrmsg
        let mut header = vec![family(libc::AF_INET), self.prefix, 0, 0];
        header.extend(index.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut address = Message::new(libc::RTM_NEWADDR, flags, &header);
        let broadcast = self.address.to_bits() | (u32::MAX >> self.prefix);
        address.attribute(libc::IFA_LOCAL, &self.address.octets());
        address.attribute(libc::IFA_ADDRESS, &self.address.octets());
        address.attribute(libc::IFA_BROADCAST, &broadcast.to_be_bytes());

        // struct rtmsg
        let [table, boot] = [libc::RT_TABLE_MAIN, libc::RTPROT_BOOT];
        let [universe, unicast] = [libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST];
        let mut header = vec![family(libc::AF_INET), 0, 0, 0, table, boot, universe, unicast];
        header.extend([0; 4]);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut route = Message::new(libc::RTM_NEWROUTE, flags, &header);
        route.attribute(libc::RTA_GATEWAY, &self.gateway.octets());
        route.number(libc::RTA_OIF, index);
        [up, address, route]
    }
}

/// One request, without its last fields: those are filled in when it is sent.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: c_int, header: &[u8]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or_default().to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        Message(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.0.extend(value));
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or_default();
        for (to, from) in self.0.iter_mut().skip(start).zip(length.to_ne_bytes()) {
            *to = from;
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// struct ifinfomsg
fn ifinfomsg(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

fn family(number: c_int) -> u8 {
    number as u8
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> nix::Result<Netlink> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink(socket))
    }

    /// Sends messages in one go, the last of which is acknowledged; an error comes for any.
    fn tell(&mut self, messages: &[Message]) -> nix::Result<()> {
        const FLAGS: usize = 6;
        let mut bytes = Vec::new();
        for (number, Message(message)) in messages.iter().enumerate() {
            let start = bytes.len();
            bytes.extend(u32::try_from(message.len()).unwrap_or_default().to_ne_bytes());
            bytes.extend(message.iter().skip(4));
            if number + 1 == messages.len() {
                let ack = u8::try_from(libc::NLM_F_ACK).unwrap_or_default();
                let flags = if cfg!(target_endian = "little") { FLAGS } else { FLAGS + 1 };
                bytes.iter_mut().skip(start + flags).take(1).for_each(|byte| *byte |= ack);
            }
        }
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        recv(self.0.as_fd().as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // struct nlmsghdr, and the number of struct nlmsgerr.
        let error = answer.iter().skip(16).copied().take(4).collect::<Vec<u8>>();
        match error.first_chunk().copied().map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(error) => Err(Errno::from_raw(-error)),
            None => Err(Errno::EBADMSG),
        }
    }
}
