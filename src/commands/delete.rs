//! Takes a container's network away: its veth pair and its published ports. The namespace is then as it
//! was before.

use std::time::Instant;

use crate::inside::{End, Inside};
use crate::network::Host;
use crate::network::lease::{self, Wanted};
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::publish;
use crate::report::audit::Trail;
use crate::report::error::Result;
use crate::request::cli::{Attach, Which};
use crate::request::policy::Grant;
use crate::target::Target;

/// Takes the network of the container `which` away. A caller who may attach a container may do this.
/// If the container has no network, that is success.
pub fn delete(caller: &Caller, which: &Which, request: &Attach) -> Result<()> {
    let trail = Trail::new("delete", caller.uid, Some((which, request)));
    trail.ends(step_by_step(caller, which, request, &trail))
}

fn step_by_step(caller: &Caller, which: &Which, request: &Attach, trail: &Trail) -> Result<()> {
    let deadline = Instant::now() + request.wait;
    let privilege = caller.privilege()?;
    let grant = Grant::for_request(caller, request)?;
    let target = Target::open(which, caller, &privilege, deadline)?;
    let mut inside = Inside::start(&target, caller, &request.container_end)?;
    let mut host = Host::open(&privilege)?;
    let Some(end) = inside.proof(&target)? else {
        return capability::give_up_all();
    };
    let wanted = Wanted {
        grant: &grant,
        target: &target,
        host_end: None,
        container_end: &request.container_end,
        mtu: grant.mtu,
        address: None,
        publishes: false,
        deadline,
    };
    match take_out(&mut host, &wanted, end, &mut inside, trail) {
        // Another run has done it, or a process inside.
        Err(_) if matches!(inside.look_up(), Ok(None)) => capability::give_up_all(),
        done => done,
    }
}

fn take_out(
    host: &mut Host,
    wanted: &Wanted,
    end: End,
    inside: &mut Inside,
    trail: &Trail,
) -> Result<()> {
    let lease = lease::find_with_bridge(host, wanted, end)?.0;
    trail.begins(&lease);
    let is_held = |host: &mut Host| lease::is_held(host, &lease, wanted.target);
    if publish::is_published(host, lease.address.ip)? {
        publish::remove::all_of(host, lease.address.ip, is_held)?;
    }
    capability::give_up_all()?;
    // With the container's own rights.
    inside.remove(lease.index)
}
