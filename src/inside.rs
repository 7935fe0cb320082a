//! What happens inside the container. A child process does it, with the caller's own rights there.
//!
//! The child holds no capability on the host and cannot be read or traced. It joins the user
//! namespace that owns the target, and then the target. If the kernel lets the child in, the caller may
//! configure the target; if not, the caller may not. No comparison in this program decides that. The
//! child then does all the work inside. So the parent, which holds CAP_NET_ADMIN on the host, never
//! has a socket of the container.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use serde::{Deserialize, Serialize};

use crate::kernel::link::{self, By};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::route;
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::privilege::child::{Channel, Child};
use crate::privilege::filter;
use crate::report::error::{Error, Failed, Result};
use crate::request::address::{Cidr, IfName};
use crate::target::Target;

/// The index of the loopback interface: it is the first of every namespace.
const LOOPBACK: u32 = 1;

/// What the parent has the child do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    LookUp,
    /// Set the container end up, give it its address and a default route.
    Configure(Configuration),
    Remove {
        peer: u32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The index of the host end.
    pub peer: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    /// Whether to set `lo` up as well.
    pub loopback: bool,
    /// Whether the child waits for another order when this is done.
    pub stay: bool,
}

/// What the child answers: to [`Order::LookUp`] the container end, and to the other orders nothing more than
/// that it is done. A failure has the step that failed, and an error number of `errno(3)`.
///
/// The child looks the container end up without being told, as soon as it is in. So its first answer also
/// says that the kernel has let it in.
type Answer = Result<Option<End>, (String, i32)>;

/// The container end, as the inside tells of it. Nothing is decided by this alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct End {
    /// Its index inside.
    pub index: u32,
    /// The index of its peer outside.
    pub peer: Option<u32>,
}

/// The steps of the child for which an error has a remedy.
const LOOK_UP: &str = "looking the interface up";
const ROUTE: &str = "adding the default route";

fn failed(step: String, errno: i32) -> Error {
    let errno = Errno::from_raw(errno);
    let remedy = match (step.as_str(), errno) {
        (LOOK_UP, Errno::ENODEV) => ": a process inside the container removed it",
        (ROUTE, Errno::EEXIST) => {
            ": the container has another one already; remove that first (ip route del default)"
        }
        _ => "",
    };
    Failed::Inside { step, errno, remedy }.into()
}

/// The child, seen from its parent. Dropping it ends the child.
#[derive(Debug)]
pub struct Inside {
    child: Child,
    /// Whether the child still has to answer an order.
    at_work: bool,
}

impl Inside {
    /// Starts the child, which tries to join the target at once. All orders are about the interface of
    /// the name `end`.
    pub fn start(target: &Target, caller: &Caller, end: &IfName) -> Result<Inside> {
        let child = Child::start(|parent| live(parent, target, caller, end))?;
        Ok(Inside { child, at_work: true })
    }

    /// Waits until the child has joined the target, which proves that the caller may configure it. The
    /// first call after [`Inside::start`]. Gives the container end, as [`Inside::look_up`] does. If the
    /// kernel does not let the child in, the error is the target's own refusal.
    pub fn proof(&mut self, target: &Target) -> Result<Option<End>> {
        match self.answer() {
            Err(Error::Failed(Failed::ChildGone)) => Err(target.not_yours()),
            answer => answer,
        }
    }

    /// The container end, if there is an interface of that name.
    pub fn look_up(&mut self) -> Result<Option<End>> {
        self.order(&Order::LookUp)?;
        self.answer()
    }

    /// Has the child configure the container end. The parent can work meanwhile:
    /// [`Inside::configured`] tells how it went.
    pub fn configure(&mut self, configuration: Configuration) -> Result<()> {
        self.order(&Order::Configure(configuration))
    }

    /// Waits for what [`Inside::configure`] has asked for. It fails if the peer of the container end is not
    /// the given one.
    pub fn configured(&mut self) -> Result<()> {
        self.answer().map(drop)
    }

    /// Deletes the container end, if its peer is the interface `peer` of the host.
    pub fn remove(&mut self, peer: u32) -> Result<()> {
        self.order(&Order::Remove { peer })?;
        self.answer().map(drop)
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        // The next answer must be the one to this order.
        if self.at_work {
            let _ = self.answer();
        }
        self.child.channel.send(order).ok_or(Failed::ChildGone)?;
        self.at_work = true;
        Ok(())
    }

    fn answer(&mut self) -> Result<Option<End>> {
        self.at_work = false;
        let answer: Answer = self.child.channel.receive().ok_or(Failed::ChildGone)?;
        answer.map_err(|(step, errno)| failed(step, errno))
    }
}

/// The child's life. `None` when the kernel does not let the child in, or when the parent has ended.
fn live(parent: &Channel, target: &Target, caller: &Caller, end: &IfName) -> Option<()> {
    join(target, caller)?;
    filter::install(filter::INSIDE).ok()?;
    let mut netlink = Netlink::open().map_err(at("opening a netlink socket"));
    let mut order = Order::LookUp;
    loop {
        let netlink = netlink.as_mut().map_err(|fault| *fault);
        let outcome = netlink.and_then(|netlink| carry_out(&order, netlink, end));
        let answer: Answer = outcome.map_err(|(step, errno)| (step.to_owned(), errno as i32));
        parent.send(&answer)?;
        // A child that does not stay ends while its parent goes on.
        if matches!(order, Order::Configure(Configuration { stay: false, .. })) {
            return Some(());
        }
        order = parent.receive()?;
    }
}

/// Enters the target, through the user namespace that owns it: the caller has every right there, or
/// does not get in. Root enters without it: in there, root would be at the mercy of the container's root.
fn join(target: &Target, caller: &Caller) -> Option<()> {
    if caller.is_root() {
        capability::keep_for_entering().ok()?;
    } else {
        capability::give_up_all().ok()?;
        setns(&target.owner, CloneFlags::CLONE_NEWUSER).ok()?;
    }
    setns(&target.net, CloneFlags::CLONE_NEWNET).ok()?;
    // A change of credentials may make the process dumpable again.
    prctl::set_dumpable(false).ok()
}

/// The step that failed, and why.
type Fault = (&'static str, Errno);

fn carry_out(order: &Order, netlink: &mut Netlink, name: &IfName) -> Result<Option<End>, Fault> {
    let end = link::get(netlink, By::Name(name)).map_err(at(LOOK_UP))?;
    let index_if = |peer| match &end {
        Some(end) if end.peer == Some(peer) => Ok(end.index),
        _ => Err((LOOK_UP, Errno::ENODEV)),
    };
    match order {
        Order::LookUp => return Ok(end.map(|end| End { index: end.index, peer: end.peer })),
        Order::Configure(wanted) => configure(netlink, index_if(wanted.peer)?, wanted)?,
        Order::Remove { peer } => {
            link::delete(netlink, By::Index(index_if(*peer)?))
                .map_err(at("deleting the interface"))?;
        }
    }
    Ok(None)
}

fn at(step: &'static str) -> impl Fn(netlink::Error) -> Fault {
    move |error| (step, error.errno())
}

/// Sets the interface `index` up, with its address and a default route, in one go. What is there already
/// is left.
fn configure(netlink: &mut Netlink, index: u32, wanted: &Configuration) -> Result<(), Fault> {
    let address = Cidr { ip: wanted.address, prefix: wanted.prefix };
    let mut changes = vec![
        ("setting the interface up", link::set_up(index)),
        ("adding the address", route::address(index, address)),
    ];
    if wanted.loopback {
        changes.push(("setting lo up", link::set_up(LOOPBACK)));
    }
    // The route is last: if it is there already, the rest is done all the same.
    changes.push((ROUTE, route::default_route(index, wanted.gateway)));
    let (steps, requests): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
    let Err(error) = netlink.change_all(requests) else { return Ok(()) };
    let step = steps.get(error.request()).copied().unwrap_or_default();
    let exists = step == ROUTE && error.is(Errno::EEXIST);
    if exists && route::has_default_route(netlink, index, wanted.gateway).map_err(at(ROUTE))? {
        return Ok(());
    }
    // The route that was there may have been this interface's, and be gone with it.
    if exists && link::get(netlink, By::Index(index)).map_err(at(LOOK_UP))?.is_none() {
        return Err((LOOK_UP, Errno::ENODEV));
    }
    Err(at(step)(error))
}

#[cfg(fuzzing)]
#[path = "../tests/fuzz/within/inside.rs"]
pub mod fuzzing;
