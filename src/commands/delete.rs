//! Takes a container's network away: its veth pair and its published ports. The namespace is then as it
//! was before.

use std::time::Instant;

use caps::Capability;
use nix::errno::Errno;

use crate::inside::Inside;
use crate::kernel::link::{self, By, Link};
use crate::network::Host;
use crate::network::lease::{self, Wanted, holder_of, ip_of};
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::publish;
use crate::report::audit::Trail;
use crate::report::error::{Refused, Result};
use crate::request::accounts;
use crate::request::address::IfName;
use crate::request::cli::{Attach, Held, Which};
use crate::request::policy::Grant;
use crate::target::Target;

/// Takes the network of the container `which` away. A caller who could attach it may do this, whatever the
/// policy grants by now. If the container has no network, that is success.
pub fn delete(caller: &Caller, which: &Which, request: &Attach) -> Result<()> {
    let trail = Trail::new("delete", caller.uid, Some((which, request)));
    trail.ends(step_by_step(caller, which, request, &trail))
}

fn step_by_step(caller: &Caller, which: &Which, request: &Attach, trail: &Trail) -> Result<()> {
    let deadline = Instant::now() + request.wait;
    let privilege = caller.privilege()?;
    let grant = Grant::to_delete(caller)?.for_request(caller, request)?;
    let target = Target::open(which, caller, deadline)?;
    let mut inside = Inside::start(&target, caller, &request.container_end)?;
    let mut host = Host::open(&privilege)?;
    let Some(end) = inside.proof(&target)? else {
        return capability::give_up_all();
    };
    let wanted = Wanted { grant: &grant, target: &target, request, mtu: grant.mtu, deadline };
    let mut take_out = || {
        let (lease, _) = lease::find_anywhere(&mut host, &wanted, end)?;
        trail.begins(&lease);
        publish::remove::all_of(&mut host, lease.address.ip, |host| {
            Ok(lease::held(host, &lease, &target)?.is_some())
        })?;
        capability::give_up_all()?;
        // With the container's own rights.
        inside.remove(lease.index)
    };
    match take_out() {
        // Another run has done it, or a process inside.
        Err(_) if matches!(inside.look_up(), Ok(None)) => capability::give_up_all(),
        done => done,
    }
}

/// Takes veth pairs of the caller's away by what the host knows of them: their containers may have no
/// process any more. A client that reads slowly, or vanished, keeps a dead network namespace for minutes,
/// and so link, address and published ports. Root takes anybody's away by the address, or all of a user's.
///
/// If there is none that is the caller's, that is success: what is another user's is not told.
pub fn let_go(caller: &Caller, held: &Held) -> Result<()> {
    let trail = Trail::new("delete", caller.uid, None);
    trail.ends(by_the_host(caller, held, &trail))
}

fn by_the_host(caller: &Caller, held: &Held, trail: &Trail) -> Result<()> {
    let privilege = caller.privilege()?;
    privilege.give_up(Capability::CAP_SYS_PTRACE)?;
    let user = match held {
        Held::User(_) if !caller.is_root() => return Err(Refused::OnlyRoot.into()),
        Held::User(name) => accounts::user(name)?,
        Held::Address(_) | Held::Id(_) => caller.uid,
    };
    let is_meant = |link: &Link| match held {
        Held::Address(ip) => (caller.is_root() || is_of(user, link)) && ip_of(link) == Some(*ip),
        Held::Id(id) => is_of(user, link) && link.alias.as_ref() == Some(id),
        Held::User(_) => is_of(user, link),
    };
    let mut host = Host::open(&privilege)?;
    let all = host.leases()?;
    take_out(&mut host, trail, &all, is_meant)?;
    if matches!(held, Held::User(_)) {
        // What the user's dead containers published.
        publish::remove::prune(&mut host)?;
    }
    capability::give_up_all()
}

/// Whether this host end is the user's.
pub fn is_of(user: u32, link: &Link) -> bool {
    holder_of(&link.name) == user
}

/// Takes those of `all` host ends out that are meant: what leads there, and then the veth pair. It is
/// deleted by its group, so a run that was stopped since its look deletes no later link.
pub fn take_out(
    host: &mut Host,
    trail: &Trail,
    all: &[Link],
    is_meant: impl Fn(&Link) -> bool,
) -> Result<()> {
    for link in all.iter().filter(|link| is_meant(link)) {
        let Some(ip) = ip_of(link) else { continue };
        trail.takes(link, ip);
        publish::remove::all_of(host, ip, |host| {
            let now = host.link(By::Index(link.index))?;
            Ok(now.is_some_and(|now| now.group == link.group && now.name == link.name))
        })?;
        // Groups are random: a user who attaches often enough may get that of another user's link. But no
        // other user gets a link of this name.
        let is_alone = all.iter().filter(|other| other.group == link.group).count() == 1;
        let deleted = host.change("deleting the veth pair", |netlink| match is_alone {
            true => link::delete_group(netlink, link.group),
            false => link::delete(netlink, By::Name(&IfName::literal(&link.name))),
        });
        // The kernel may have been faster, or another run.
        deleted.or_else(|error| if error.is(Errno::ENODEV) { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}
