//! Takes a container's network away: its veth pair and its published ports. The namespace is then as it
//! was before.

use std::time::Instant;

use crate::inside::Inside;
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
    let grant = Grant::of(caller)?.for_request(caller, request)?;
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
