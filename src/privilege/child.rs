//! A child process, and the channel between it and its parent.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::exit;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, close};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::privilege::sys;
use crate::report::error::{Error, Failed, Result};

/// The longest message, in bytes.
pub const LONGEST: usize = 512;

/// One end of the channel. Each message is a packet of JSON.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Sends a message. `None` when the other process no longer reads.
    pub fn send(&self, message: &impl Serialize) -> Option<()> {
        let bytes = serde_json::to_vec(message).ok()?;
        let sent = send(self.0.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).ok()?;
        (sent == bytes.len()).then_some(())
    }

    /// Waits for a message. `None` when the other process has closed its end.
    pub fn receive<T: DeserializeOwned>(&self) -> Option<T> {
        let mut bytes = [0; LONGEST];
        loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(length) => return serde_json::from_slice(bytes.get(..length)?).ok(),
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// A child, seen from its parent. Dropping it first closes the channel, which tells the child to
/// end, and then waits for its end.
#[derive(Debug)]
pub struct Child {
    /// The channel. Fields are dropped in their order, so this goes first.
    pub channel: Channel,
    process: Process,
}

impl Child {
    /// Forks. The child runs `life` with its end of the channel, and exits.
    pub fn start<T>(life: impl FnOnce(&Channel) -> T) -> Result<Child> {
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
            .map_err(not_started)?;
        match sys::fork().map_err(not_started)? {
            ForkResult::Child => {
                drop(ours);
                // The child has no use for the caller's descriptors. It must not keep a pipe of the
                // caller's open either.
                for descriptor in 0..3 {
                    let _ = close(descriptor);
                }
                life(&Channel(theirs));
                exit(0)
            }
            ForkResult::Parent { child } => {
                Ok(Child { channel: Channel(ours), process: Process(child) })
            }
        }
    }

    pub fn pid(&self) -> Pid {
        self.process.0
    }
}

fn not_started(errno: Errno) -> Error {
    let remedy = if errno == Errno::EAGAIN { ": too many processes (ulimit -u)" } else { "" };
    Failed::Fork(errno, remedy).into()
}

/// A process that is waited for when this is dropped: the caller, who may become its parent, is
/// left no zombie.
#[derive(Debug)]
struct Process(Pid);

impl Drop for Process {
    fn drop(&mut self) {
        while waitpid(self.0, None) == Err(Errno::EINTR) {}
    }
}
