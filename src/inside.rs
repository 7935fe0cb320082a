//! What happens inside the container, by a child process with the caller's own rights there.
//!
//! The child holds no capability on the host and cannot be read or traced. It joins the user
//! namespace that owns the target, and then the target: if the kernel lets it in, the caller may
//! configure the target, and if not, he may not. No comparison of ours decides. The child then does
//! all the work inside, so that the parent, who holds CAP_NET_ADMIN on the host, never has a socket
//! of the container's in its hands.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::socket::{
    AddressFamily as SocketFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, close};
use serde::{Deserialize, Serialize};

use crate::kernel::link::{self, By};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::route;
use crate::privilege::caller::{self, Caller};
use crate::privilege::filter;
use crate::privilege::sys;
use crate::report::error::{Error, Failed, Result};
use crate::request::address::{Cidr, IfName};
use crate::target::Target;

/// The index of the loopback interface: it is the first of every namespace.
const LOOPBACK: u32 = 1;

/// The longest message between parent and child, in bytes.
const LONGEST: usize = 512;

/// What the parent has the child do.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Look the container's end up.
    Look,
    /// Set the container's end up, give it its address and a default route.
    Configure(Configuration),
    /// Delete the container's end, and with it the wire.
    Remove { peer: u32 },
}

/// What the container's end is to be like.
#[derive(Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The index of its peer on the host.
    pub peer: u32,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// The length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// Where the default route leads.
    pub gateway: Ipv4Addr,
    /// Whether `lo` is set up as well.
    pub loopback: bool,
    /// Whether the child stays for another order when this is done.
    pub stay: bool,
}

/// What the child answers. Error numbers are `errno(3)`'s.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// To the fork itself, which means that the kernel let the child in, and to [`Order::Look`].
    End(Option<End>),
    /// To the others.
    Done,
    /// To any order.
    Failed(Step, i32),
}

/// The container's end, as the inside sees it. Nothing is decided by it alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct End {
    /// Its index inside.
    pub index: u32,
    /// Its peer's index outside.
    pub peer: Option<u32>,
}

/// What the child was at when it failed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Step {
    Socket,
    Look,
    Vanished,
    Up,
    Address,
    Route,
    Loopback,
    Remove,
}

impl Step {
    fn failed(self, errno: i32) -> Error {
        let errno = Errno::from_raw(errno);
        let (step, remedy) = self.explain(errno);
        Failed::Inside { step, errno, remedy }.into()
    }

    fn explain(self, errno: Errno) -> (&'static str, &'static str) {
        match (self, errno) {
            (Step::Socket, _) => ("opening a netlink socket", ""),
            (Step::Look, _) => ("looking the interface up", ""),
            (Step::Vanished, _) => ("looking the interface up", ": somebody inside removed it"),
            (Step::Up, _) => ("setting the interface up", ""),
            (Step::Address, _) => ("adding the address", ""),
            (Step::Route, Errno::EEXIST) => (
                "adding the default route",
                ": the container has another one already; remove that first (ip route del default)",
            ),
            (Step::Route, _) => ("adding the default route", ""),
            (Step::Loopback, _) => ("setting lo up", ""),
            (Step::Remove, _) => ("deleting the interface", ""),
        }
    }
}

/// The child, seen from its parent. It ends when this is dropped, and is waited for.
#[derive(Debug)]
pub struct Inside {
    channel: Option<OwnedFd>,
    /// The process, until it has been waited for.
    child: Option<Pid>,
    /// Whether there is an order that it has not answered yet.
    at_work: bool,
}

impl Inside {
    /// Starts the child, which tries to join the target at once. `end` is the name of the
    /// container's end, which all orders are about.
    ///
    /// # Errors
    /// [`Failed::Fork`] when there can be no child.
    pub fn start(target: &Target, caller: &Caller, end: &IfName) -> Result<Inside> {
        let (ours, theirs) =
            socketpair(SocketFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| Failed::Fork(errno, ""))?;
        match sys::fork() {
            Err(errno @ Errno::EAGAIN) => {
                Err(Failed::Fork(errno, ": too many processes (ulimit -u)").into())
            }
            Err(errno) => Err(Failed::Fork(errno, "").into()),
            Ok(ForkResult::Child) => {
                drop(ours);
                sys::exit_now(match child(&theirs, target, caller, end) {
                    Some(()) => 0,
                    None => 1,
                })
            }
            Ok(ForkResult::Parent { child }) => {
                drop(theirs);
                Ok(Inside { channel: Some(ours), child: Some(child), at_work: false })
            }
        }
    }

    /// Waits for the child to have joined the target, which proves that the caller may configure it.
    /// To be called once, before any order. Gives what the inside says of the container's end, as
    /// [`Inside::look`] does.
    ///
    /// # Errors
    /// A refusal in the target's own words when the kernel did not let the child in, or whatever
    /// else keeps it from saying that it is there.
    pub fn proof(&self, target: &Target) -> Result<Option<End>> {
        match self.answer() {
            Ok(Answer::End(end)) => Ok(end),
            // It is in, and failed at something else.
            Ok(Answer::Failed(step, errno)) => Err(step.failed(errno)),
            _ => Err(target.not_yours()),
        }
    }

    /// What the inside says of the container's end.
    ///
    /// # Errors
    /// [`Failed::Inside`] and [`Failed::ChildGone`].
    pub fn look(&mut self) -> Result<Option<End>> {
        match self.ask(&Order::Look)? {
            Answer::End(end) => Ok(end),
            _ => Err(Failed::ChildGone.into()),
        }
    }

    /// Has the child set the container's end up and give it its address and a default route. How that
    /// went tells [`Inside::configured`]: there is work for the parent meanwhile.
    ///
    /// # Errors
    /// [`Failed::ChildGone`].
    pub fn configure(&mut self, configuration: Configuration) -> Result<()> {
        self.order(&Order::Configure(configuration))
    }

    /// Waits for what [`Inside::configure`] has asked for.
    ///
    /// # Errors
    /// [`Failed::Inside`], also when its peer is not the one it should be, and
    /// [`Failed::ChildGone`].
    pub fn configured(&mut self) -> Result<()> {
        self.outcome().map(drop)
    }

    /// Deletes the container's end, if its peer is the interface `peer` of the host.
    ///
    /// # Errors
    /// [`Failed::Inside`] and [`Failed::ChildGone`].
    pub fn remove(&mut self, peer: u32) -> Result<()> {
        self.ask(&Order::Remove { peer }).map(drop)
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        self.order(order)?;
        self.outcome()
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        // The answer to an earlier order is none to this.
        if self.at_work {
            let _ = self.outcome();
        }
        let channel = self.channel.as_ref().ok_or(Failed::ChildGone)?;
        tell(channel, order).ok_or(Failed::ChildGone)?;
        self.at_work = true;
        Ok(())
    }

    fn outcome(&mut self) -> Result<Answer> {
        self.at_work = false;
        match self.answer()? {
            Answer::Failed(step, errno) => Err(step.failed(errno)),
            answer => Ok(answer),
        }
    }

    fn answer(&self) -> Result<Answer> {
        let channel = self.channel.as_ref().ok_or(Failed::ChildGone)?;
        hear(channel).ok_or_else(|| Failed::ChildGone.into())
    }

    /// Waits for the child's end: that leaves no zombie to a caller who becomes its parent otherwise.
    fn wait(&mut self) {
        if let Some(child) = self.child.take() {
            while waitpid(child, None) == Err(Errno::EINTR) {}
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The child reads the end of the channel as its own.
        self.channel = None;
        self.wait();
    }
}

fn tell(channel: &OwnedFd, message: &impl Serialize) -> Option<()> {
    let bytes = serde_json::to_vec(message).ok()?;
    let sent = send(channel.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).ok()?;
    (sent == bytes.len()).then_some(())
}

fn hear<T: for<'de> Deserialize<'de>>(channel: &OwnedFd) -> Option<T> {
    let mut bytes = [0; LONGEST];
    loop {
        match recv(channel.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(length) => return serde_json::from_slice(bytes.get(..length)?).ok(),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// The child's life. `None` when it could not get in, or the channel broke.
fn child(channel: &OwnedFd, target: &Target, caller: &Caller, end: &IfName) -> Option<()> {
    // The caller's own descriptors are of no use here, and a reader of them waits for their end.
    for descriptor in 0..3 {
        let _ = close(descriptor);
    }
    join(target, caller)?;
    filter::leave_only(&filter::INSIDE).ok()?;
    let mut netlink = Netlink::open();
    let mut next = Some(Order::Look);
    while let Some(order) = next {
        let outcome = match &mut netlink {
            Ok(netlink) => carry_out(&order, netlink, end),
            Err(error) => Err((Step::Socket, error.errno())),
        };
        let answer = match outcome {
            Ok(answer) => answer,
            Err((step, errno)) => Answer::Failed(step, errno as i32),
        };
        tell(channel, &answer)?;
        // What is left to do for a child that does not stay is to end: while its parent goes on.
        next = match order {
            Order::Configure(Configuration { stay: false, .. }) => None,
            _ => hear(channel),
        };
    }
    Some(())
}

/// Enters the target: for the caller, by way of the user namespace that owns it, where he has every
/// right or does not get in. Root needs none of that, and would there be at the mercy of whoever is
/// root inside.
fn join(target: &Target, caller: &Caller) -> Option<()> {
    if caller.is_root() {
        caller::keep_for_entering().ok()?;
    } else {
        caller::give_up_all().ok()?;
        setns(&target.owner, CloneFlags::CLONE_NEWUSER).ok()?;
    }
    setns(&target.net, CloneFlags::CLONE_NEWNET).ok()?;
    // A change of credentials may set it anew.
    prctl::set_dumpable(false).ok()
}

fn carry_out(order: &Order, netlink: &mut Netlink, name: &IfName) -> Result<Answer, (Step, Errno)> {
    let end = link::get(netlink, By::Name(name)).map_err(at(Step::Look))?;
    let ours = |peer| {
        end.as_ref().filter(|end| end.peer == Some(peer)).ok_or((Step::Vanished, Errno::ENODEV))
    };
    match order {
        Order::Look => Ok(Answer::End(end.map(|end| End { index: end.index, peer: end.peer }))),
        Order::Configure(wanted) => {
            configure(netlink, ours(wanted.peer)?.index, wanted)?;
            Ok(Answer::Done)
        }
        Order::Remove { peer } => {
            link::delete(netlink, By::Index(ours(*peer)?.index)).map_err(at(Step::Remove))?;
            Ok(Answer::Done)
        }
    }
}

fn at(step: Step) -> impl Fn(netlink::Error) -> (Step, Errno) {
    move |error| (step, error.errno())
}

/// Sets the interface `index` up, with its address and a default route, in one go. Having any of that
/// already is success.
fn configure(
    netlink: &mut Netlink,
    index: u32,
    wanted: &Configuration,
) -> Result<(), (Step, Errno)> {
    let address = Cidr { ip: wanted.address, prefix: wanted.prefix };
    let mut steps = vec![Step::Up, Step::Address];
    let mut requests = vec![(link::set_up(index), 0), route::address(index, address)];
    if wanted.loopback {
        steps.push(Step::Loopback);
        requests.push((link::set_up(LOOPBACK), 0));
    }
    // Last, so that all has been done when it turns out that it is there.
    steps.push(Step::Route);
    requests.push(route::default_route(index, wanted.gateway));
    let Err(failure) = netlink.change_all(requests) else { return Ok(()) };
    let step = steps.get(failure.request).copied().unwrap_or(Step::Up);
    if !matches!(step, Step::Route) || !failure.error.is(Errno::EEXIST) {
        return Err(at(step)(failure.error));
    }
    if route::has_default_route(netlink, index, wanted.gateway).map_err(at(Step::Route))? {
        return Ok(());
    }
    match link::get(netlink, By::Index(index)).map_err(at(Step::Look))? {
        Some(_) => Err(at(step)(failure.error)),
        // It was this interface's, and went with it.
        None => Err((Step::Vanished, Errno::ENODEV)),
    }
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../tests/fuzz/within/container.rs"]
pub mod fuzzing;
