//! A trial: a namespace of the caller's own, made for it, attached and gone.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};

use crate::commands::attach::attach;
use crate::kernel::link::{self, By};
use crate::kernel::netlink::Netlink;
use crate::privilege::caller::{self, Caller};
use crate::privilege::sys;
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;
use crate::request::cli::{self, Request};

/// Attaches a namespace that a child of this process makes as the caller. Gives how long that took,
/// in seconds. The capabilities are given up by it.
///
/// # Errors
/// [`Failed::Trial`] when the namespace cannot be made, and any that [`attach`] has.
pub fn attach_and_leave(caller: &mut Caller) -> Result<f64> {
    let end: IfName = "veth1".parse().map_err(|_| Failed::Trial(Errno::EINVAL))?;
    let guinea_pig = GuineaPig::start(&end)?;
    let pid = guinea_pig.pid.to_string();
    let Request::Attach(which, request) = cli::parse(["-pid", &pid, "-ifname", end.as_str()])?
    else {
        return Err(Failed::Trial(Errno::EINVAL).into());
    };
    let start = Instant::now();
    attach(caller, &which, &request)?;
    Ok(Duration::as_secs_f64(&start.elapsed()))
}

/// A child in a user and a network namespace of its own. When this is dropped it takes its wire out
/// and ends.
struct GuineaPig {
    channel: Option<OwnedFd>,
    pid: Pid,
}

impl GuineaPig {
    fn start(end: &IfName) -> Result<GuineaPig> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(Failed::Trial)?;
        match sys::fork().map_err(Failed::Trial)? {
            ForkResult::Child => {
                drop(ours);
                live(&theirs, end);
                sys::exit_now(0)
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let pig = GuineaPig { channel: Some(ours), pid: child };
                match pig.hear() {
                    0 => Ok(pig),
                    errno => Err(Failed::Trial(Errno::from_raw(errno.into())).into()),
                }
            }
        }
    }

    /// The error number with which it failed to make its namespaces, 0 for success.
    fn hear(&self) -> u8 {
        let mut word = [0];
        let heard = self
            .channel
            .as_ref()
            .map(|channel| recv(channel.as_raw_fd(), &mut word, MsgFlags::empty()));
        match (heard, word) {
            (Some(Ok(1)), [errno]) => errno,
            _ => u8::try_from(Errno::EPIPE as i32).unwrap_or(u8::MAX),
        }
    }
}

impl Drop for GuineaPig {
    fn drop(&mut self) {
        self.channel = None;
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

/// The child's life: to make its namespaces as the caller, say so, and wait for the end. Then it
/// takes the interface `end` out, or the kernel would do so a moment after this program has said that
/// all is gone.
fn live(channel: &OwnedFd, end: &IfName) {
    let made = caller::give_up_all()
        .is_ok()
        .then(|| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET));
    let errno = match made {
        Some(Ok(())) => 0,
        Some(Err(errno)) => errno as i32,
        None => Errno::EPERM as i32,
    };
    let word = [u8::try_from(errno).unwrap_or(u8::MAX)];
    if send(channel.as_raw_fd(), &word, MsgFlags::MSG_NOSIGNAL).is_ok() && errno == 0 {
        let _ = recv(channel.as_raw_fd(), &mut [0], MsgFlags::empty());
        let _ = Netlink::open().map(|mut netlink| link::delete(&mut netlink, By::Name(end)));
    }
}
