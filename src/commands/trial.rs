//! A trial attach: of a namespace that this run makes as the caller, and that ends with this run.

use std::time::Instant;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::commands::attach::attach;
use crate::kernel::link::{self, By};
use crate::kernel::netlink::Netlink;
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::privilege::child::{Channel, Child};
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;
use crate::request::cli::{self, Request};

/// Attaches the namespace of a child. Gives how long the attach took, in seconds. It gives up the
/// capabilities. [`Failed::Trial`] when the child cannot make its namespaces.
pub fn attach_and_leave(caller: &Caller) -> Result<f64> {
    let end = IfName::literal("veth1");
    let child = Child::start(|parent| live(parent, &end))?;
    match child.channel.receive().unwrap_or(Errno::EPIPE as i32) {
        0 => {}
        errno => return Err(Failed::Trial(Errno::from_raw(errno)).into()),
    }
    let pid = child.pid().to_string();
    let Request::Attach(which, request) = cli::parse(["-pid", &pid, "-ifname", end.as_str()])?
    else {
        return Err(Failed::Trial(Errno::EINVAL).into());
    };
    let start = Instant::now();
    attach(caller, &which, &request)?;
    Ok(start.elapsed().as_secs_f64())
}

/// The child's life: it makes its namespaces as the caller, says so, and waits for the parent to close
/// the channel. Then it deletes the veth pair by its `end`: the kernel would do so too, but only after
/// this program has said that all is gone.
fn live(parent: &Channel, end: &IfName) {
    let made = capability::give_up_all()
        .map_err(|_| Errno::EPERM)
        .and_then(|()| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET));
    let errno = made.err().map_or(0, |errno| errno as i32);
    if parent.send(&errno).is_some() && errno == 0 {
        let _: Option<()> = parent.receive();
        let _ = Netlink::open().map(|mut netlink| link::delete(&mut netlink, By::Name(end)));
    }
}
