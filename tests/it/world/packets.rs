//! Scripts in Python that make packets, and a program that changes a frame while it is on its way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::internet::Conversation;
use super::user::Running;
use super::{Container, Outcome, User};

/// The ways to send a frame from a page that the sender still writes to (`flip.c`).
pub(crate) const FLIPPING: [&str; 2] = ["vxlan", "ring"];

/// What sends on the frames that come out of the tunnel of `flip.c`.
const TUNNEL: &str = "ip link set lo up
    ip link add vx0 type vxlan id 5 dstport 4789 local 127.0.0.1 nolearning
    ip link set vx0 up
    nft 'add table netdev tunnel
         add chain netdev tunnel out { type filter hook ingress device vx0 priority 0; }
         add rule netdev tunnel out ether type 0x1234 ether type set 0x0800 fwd to veth1
         add rule netdev tunnel out ether type 0x1235 ether type set 0x0806 fwd to veth1'";

impl User<'_> {
    /// The shell script that runs this code, which has all of `packets.py`.
    fn python_script(&self, code: &str) -> String {
        fs::write(self.world.path("/run/packets.py"), include_str!("packets.py")).unwrap();
        let code = format!("from packets import *\n{code}").replace('\'', "'\\''");
        format!("PYTHONPATH=/run exec python3 -Bc '{code}'")
    }

    /// Runs Python code here.
    pub(crate) fn python(&self, code: &str) -> Outcome {
        self.sh(&self.python_script(code))
    }

    /// The same beside the test.
    pub(crate) fn starts_python(&self, code: &str) -> Running {
        self.start(&self.python_script(code))
    }

    /// Starts Python code that says a line, and a further one for each line that it is sent.
    #[track_caller]
    pub(crate) fn converses(&self, code: &str) -> Conversation {
        let mut command = self.command(&self.python_script(code));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let questions = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        answers.read_line(&mut first).unwrap();
        Conversation { child, questions, answers, first: first.trim_end().to_owned() }
    }
}

impl Container<'_> {
    /// Prepares [`Container::flips`].
    #[track_caller]
    pub(crate) fn prepares_to_flip(&self) {
        let world = self.inside().world;
        fs::write(world.path("/run/flip.c"), include_str!("flip.c")).unwrap();
        world.sh("gcc -O2 -Wall -Werror -o /run/flip /run/flip.c -lpthread");
        self.sh(TUNNEL);
    }

    /// Sends a frame that many times, while it changes into the other one and back. Both are expressions
    /// of `packets.py`.
    #[track_caller]
    pub(crate) fn flips(&self, way: &str, count: u32, frame: &str, other: &str) {
        let sent = self
            .inside()
            .python(&format!(
                "one, other = {frame}, {other}
os.execv('/run/flip', ['flip', '{way}', 'veth1', '{count}', one.hex(), other.hex()])"
            ))
            .done();
        let sent: u32 = sent.trim_end().parse().unwrap();
        assert!(sent > count / 2, "{way}: {sent} of {count} were sent");
    }
}
