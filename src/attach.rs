//! Attaching a container, from the right to do so to the report. What can be refused is refused
//! before the first change, and what has been changed is taken back if a later step fails.

use std::time::Instant;

use crate::caller::{self, Caller};
use crate::cli::Attach;
use crate::container::{Configuration, Inside};
use crate::error::{Failed, Result};
use crate::host::lease::{self, Choice, Lease, Wanted};
use crate::host::{Host, bridge};
use crate::link::Link;
use crate::policy;
use crate::report::CniResult;
use crate::target::Target;

/// Gives the container that `request` names its network.
///
/// # Errors
/// Any [`crate::error::Error`]; nothing of the wire is left then.
pub fn attach(caller: &mut Caller, request: &Attach) -> Result<()> {
    let deadline = Instant::now() + request.wait;
    let privilege = caller.privilege()?;
    let grant = policy::grant(caller, request)?;
    let target = Target::open(&request.which, caller, &privilege, deadline)?;
    let inside = Inside::start(&target, caller, &request.container_end)?;
    // The host is looked at while the child enters. Its refusal goes before whatever is found there.
    let mut host = Host::open(&privilege)?;
    let found = bridge::find(&mut host, &grant);
    let end = inside.proof(&target)?;
    let found = found?;

    let bridge_mtu = found.mtu(&grant);
    let wanted = Wanted {
        uid: caller.uid,
        grant: &grant,
        target: &target,
        host_end: request.host_end.as_ref().filter(|_| caller.is_root()),
        container_end: &request.container_end,
        mtu: match request.mtu {
            Some(mtu) if mtu > bridge_mtu => return Err(Failed::Mtu(mtu, bridge_mtu).into()),
            mtu => mtu.unwrap_or(bridge_mtu),
        },
        address: request.container_ip(),
        deadline,
    };
    let plan = match end {
        Some(end) => Plan::Keep(lease::find(&mut host, &wanted, found.index(), end)?),
        None => Plan::Take(lease::choose(&mut host, &wanted)?),
    };
    target.check_alive()?;

    let bridge = bridge::ensure(&mut host, &grant, found)?;
    let lease = match plan {
        Plan::Keep(lease) => lease,
        Plan::Take(choice) => lease::take(&mut host, &wanted, choice, &bridge, &inside)?,
    };
    let done =
        finish(&mut host, &wanted, &inside, &lease, request).and_then(|()| match request.json {
            true => result(&bridge, &lease, &wanted).print(),
            false => Ok(()),
        });
    if done.is_err() && lease.new {
        // Should this fail too, the first error still says more, and the lease dies with the
        // container.
        let _ = lease::give_back(&mut host, &lease, &inside);
    }
    done
}

/// Lets frames pass, configures the inside, and gives up the last capability.
fn finish(
    host: &mut Host,
    wanted: &Wanted,
    inside: &Inside,
    lease: &Lease,
    request: &Attach,
) -> Result<()> {
    if !lease.open {
        bridge::open_port(host, &lease.host_end)?;
    }
    wanted.target.check_alive()?;
    inside.configure(Configuration {
        peer: lease.index,
        address: lease.address.ip,
        prefix: lease.address.prefix,
        gateway: wanted.grant.address.ip,
        loopback: request.loopback,
        // For the wire to be taken back when its report cannot be written.
        stay: request.json,
    })?;
    caller::give_up_all()
}

/// What there is to do about the lease.
enum Plan {
    /// The target has it already.
    Keep(Lease),
    /// It is to be taken.
    Take(Choice),
}

fn result(bridge: &Link, lease: &Lease, wanted: &Wanted) -> CniResult {
    let grant = wanted.grant;
    CniResult::new(
        (&grant.bridge, bridge.mac.unwrap_or(crate::address::Mac::of(grant.address.ip))),
        grant.address.ip,
        lease.host_end.as_str(),
        wanted.container_end,
        lease.address,
        &wanted.target.sandbox,
    )
}
