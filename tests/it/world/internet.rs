//! What lies beyond a world's host: another network namespace, and peers that talk to each other.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::user::Running;
use super::{Container, User, World};

/// The host's address on the link to the Internet.
pub(crate) const HOST: &str = "192.0.2.1";
/// The address of the remote host, which is the way to everywhere else as well.
pub(crate) const REMOTE: &str = "192.0.2.9";

/// A remote host: a network namespace of its own, at the other end of the host's `eth0`.
pub(crate) struct Remote<'w> {
    process: Container<'w>,
    world: &'w World,
}

impl World {
    /// Connects the host to the Internet, of which there is one host.
    #[track_caller]
    pub(crate) fn internet(&self) -> Remote<'_> {
        let remote = self.neighbour("eth0", HOST, REMOTE);
        self.sh(&format!("ip route add default via {REMOTE}"));
        remote
    }

    /// Gives the host an interface with the address `own`, in a /24, and at its other end a
    /// neighbour with the address `other`.
    #[track_caller]
    pub(crate) fn neighbour(&self, interface: &str, own: &str, other: &str) -> Remote<'_> {
        let process = self.root().process("exec unshare -n sh -c 'echo $$; exec sleep infinity'");
        let remote = Remote { process, world: self };
        self.sh(&format!(
            "ip link add {interface} type veth peer name eth0 netns {}
             ip address add {own}/24 dev {interface}; ip link set {interface} up",
            remote.process
        ));
        remote.sh(&format!(
            "ip address add {other}/24 dev eth0; ip link set eth0 up; ip link set lo up"
        ));
        remote
    }

    /// Makes the containers' bridge, as an admin would, with an own LAN at it, on which
    /// a host has the address 10.10.10.200.
    #[track_caller]
    pub(crate) fn lan_at_the_bridge(&self) -> Remote<'_> {
        self.sh("ip link add brg0 type bridge; ip address add 10.10.10.1/24 dev brg0
                 ip link set brg0 up");
        let lan = self.neighbour("lan0", "172.16.9.1", "10.10.10.200");
        self.sh("ip address flush dev lan0; ip link set lan0 master brg0");
        lan
    }
}

impl<'w> Remote<'w> {
    /// Its root.
    pub(crate) fn user(&self) -> User<'w> {
        self.world.root().by(&format!("nsenter -t {} -n --", self.process))
    }

    /// Runs a script there as root; it has to succeed. Answers what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.user().sh(script).done()
    }
}

/// The command that runs the peer's program in a world.
fn peer(world: &World, arguments: &str) -> String {
    // Once, as one that has just been started may still be about to read it.
    let program = world.path("/run/peer.py");
    if !program.exists() {
        fs::write(program, include_str!("peer.py")).unwrap();
    }
    format!("exec python3 /run/peer.py {arguments}")
}

impl User<'_> {
    /// Starts a server here that answers with this word, over TCP and UDP at these ports.
    #[track_caller]
    pub(crate) fn serves(&self, word: &str, ports: &str) {
        let script = peer(self.world, &format!("serve {word} {ports}"));
        let mut server =
            self.command(&script).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "serving\n");
        self.world.keep(server, &[]);
    }

    /// Asks a server, from here: `"tcp"` or `"udp"`, address and port. Answers its word and the
    /// address that it sees this come from, or "nothing".
    #[track_caller]
    pub(crate) fn asks(&self, protocol: &str, address: &str, port: u16) -> String {
        self.starts_asking(protocol, address, port).answer()
    }

    /// The same beside the test.
    pub(crate) fn starts_asking(&self, protocol: &str, address: &str, port: u16) -> Running {
        self.start(&peer(self.world, &format!("ask {protocol} {address} {port}")))
    }

    /// A connection to a server, which goes on. It has to be answered.
    #[track_caller]
    pub(crate) fn holds(&self, protocol: &str, address: &str, port: u16) -> Conversation {
        let script = peer(self.world, &format!("hold {protocol} {address} {port}"));
        let mut child =
            self.command(&script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let questions = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        answers.read_line(&mut first).unwrap();
        Conversation {
            child,
            questions: Some(questions),
            answers,
            first: first.trim_end().to_owned(),
        }
    }
}

impl Running {
    /// The answer to what was [asked](User::starts_asking).
    #[track_caller]
    pub(crate) fn answer(self) -> String {
        let said = self.end().done();
        said.strip_suffix('\n').expect("an answer, if only \"nothing\"").to_owned()
    }
}

/// A connection, or a UDP flow, that goes on.
pub(crate) struct Conversation {
    pub(super) child: Child,
    pub(super) questions: Option<ChildStdin>,
    pub(super) answers: BufReader<ChildStdout>,
    /// The first answer.
    pub(crate) first: String,
}

impl Conversation {
    /// Asks again. Answers as [`User::asks`] does.
    #[track_caller]
    pub(crate) fn again(&mut self) -> String {
        let mut answer = String::new();
        self.questions.as_mut().unwrap().write_all(b"\n").unwrap();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}
