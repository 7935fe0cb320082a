//! Frames, byte by byte, and listeners that hear them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdout, Stdio};

use super::{Container, User, World};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Everybody's.
pub(crate) const BROADCAST: Mac = [0xff; 6];

/// How long the text is that ends each frame.
const TEXT: usize = 24;

/// The address that belongs to an IPv4 address: a container's, or the bridge's.
pub(crate) fn mac_of(ip: &str) -> Mac {
    let [a, b, c, d] = octets(ip);
    [0x02, 0x4e, a, b, c, d]
}

fn octets(ip: &str) -> [u8; 4] {
    ip.parse::<Ipv4Addr>().unwrap().octets()
}

/// A frame, but for its number: to whom, from whom, and all that follows.
#[derive(Clone)]
pub(crate) struct Frame {
    to: Mac,
    from: Mac,
    rest: Vec<u8>,
}

impl Frame {
    /// One of this type: two bytes, or more where tags come first.
    pub(crate) fn new(to: Mac, from: Mac, kind: &[u8], payload: &[u8]) -> Frame {
        Frame { to, from, rest: [kind, payload].concat() }
    }

    /// A datagram from a port to port 9.
    pub(crate) fn udp(to: Mac, from: Mac, source: &str, target: &str, port: u16) -> Frame {
        Frame::new(to, from, &[0x08, 0x00], &udp(source, target, port))
    }

    /// An ARP packet: 1 asks, 2 answers.
    pub(crate) fn arp(
        to: Mac,
        from: Mac,
        operation: u8,
        sender: (Mac, &str),
        target: &str,
    ) -> Frame {
        let start = [0, 1, 8, 0, 6, 4, 0, operation];
        let whom = [&[0; 6], &octets(target)[..]].concat();
        let says = [&sender.0[..], &octets(sender.1), &whom].concat();
        Frame::new(to, from, &[0x08, 0x06], &[&start[..], &says].concat())
    }

    /// An IPv6 packet with nothing but its text in it, from a router's address to all nodes.
    pub(crate) fn ipv6(to: Mac, from: Mac) -> Frame {
        let start = [&[0x60, 0, 0, 0, 0][..], &[TEXT as u8, 59, 255]].concat();
        let source = [&[0xfe, 0x80][..], &[0; 13], &[1]].concat();
        let target = [&[0xff, 0x02][..], &[0; 13], &[1]].concat();
        Frame::new(to, from, &[0x86, 0xdd], &[start, source, target].concat())
    }

    /// The same behind these tags.
    pub(crate) fn tagged(&self, tags: &[u8]) -> Frame {
        Frame { rest: [tags, &self.rest].concat(), ..self.clone() }
    }

    fn hex(&self, number: &str) -> String {
        let mut bytes = [&self.to[..], &self.from, &self.rest].concat();
        let mut text = format!("frame number {number}.").into_bytes();
        text.resize(TEXT, 0);
        bytes.extend(text);
        // No card would send a shorter one.
        bytes.resize(bytes.len().max(60), 0);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An IPv4 header and UDP's, for a text to follow.
fn udp(source: &str, target: &str, port: u16) -> Vec<u8> {
    let length = u16::try_from(20 + 8 + TEXT).unwrap();
    let header = |check: u16| {
        let start = [&[0x45, 0], &length.to_be_bytes()[..], &[0; 4], &[64, 17]].concat();
        [&start[..], &check.to_be_bytes(), &octets(source), &octets(target)].concat()
    };
    let words = header(0);
    let sum: u32 = words.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    let ports = [port.to_be_bytes(), 9_u16.to_be_bytes(), (length - 20).to_be_bytes(), [0; 2]];
    [header(check), ports.concat()].concat()
}

/// The command that runs the program for frames in a world.
fn frames(world: &World, arguments: &str) -> String {
    fs::write(world.path("/run/frames.py"), include_str!("frames.py")).unwrap();
    format!("exec python3 /run/frames.py {arguments}")
}

impl Container<'_> {
    /// Sends frames, each with its place in the list as its number, and then the last of all.
    #[track_caller]
    pub(crate) fn sends(&self, all: &[Frame], last: &Frame) {
        let numbered = all.iter().enumerate().map(|(number, frame)| frame.hex(&number.to_string()));
        let frames_and_last: Vec<_> = numbered.chain([last.hex("last")]).collect();
        let words = format!("send veth1 {}", frames_and_last.join(" "));
        self.sh(&frames(self.inside().world, &words));
    }
}

impl User<'_> {
    /// Listens at interfaces, below every filter.
    #[track_caller]
    pub(crate) fn listens(&self, interfaces: &str) -> Ear {
        let script = frames(self.world, &format!("hear {interfaces} -- 15"));
        let mut command = self.command(&script);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Ear { child, said }
    }
}

/// A listener.
pub(crate) struct Ear {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Ear {
    /// The numbers of the frames that have been heard, the last of which has to be among them.
    #[track_caller]
    pub(crate) fn heard(self) -> Vec<usize> {
        let all = self.everything();
        assert!(all.contains(&"last".to_owned()), "the last one was not heard: {all:?}");
        all.iter().filter_map(|number| number.parse().ok()).collect()
    }

    /// All that has been heard when this is called, or soon after.
    pub(crate) fn by_now(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        self.everything()
    }

    /// All that has been heard after 15 seconds, or soon after the last.
    pub(crate) fn everything(mut self) -> Vec<String> {
        let mut text = String::new();
        self.said.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }
}
