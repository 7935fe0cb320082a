//! Attaching a container, from the right to do so to the report. What can be refused is refused
//! before the first change, and what has been changed is taken back if a later step fails.

use std::time::Instant;

use crate::firewall;
use crate::firewall::others::{self, Blocked};
use crate::inside::{Configuration, Inside};
use crate::kernel::link::Link;
use crate::network::lease::{self, Choice, Lease, Wanted};
use crate::network::{Host, bridge, port};
use crate::privilege::caller::{self, Caller};
use crate::publish;
use crate::report;
use crate::report::audit::Trail;
use crate::report::cni::CniResult;
use crate::report::dns::Dns;
use crate::report::error::{Failed, Result};
use crate::request::cli::{Attach, Output, Which};
use crate::request::policy::Grant;
use crate::request::ports::Mapping;
use crate::target::Target;

/// Gives the container `which` its network, as `request` says. Gives what another firewall has
/// against it, if that can be seen.
///
/// # Errors
/// Any [`crate::report::error::Error`]; nothing of the wire is left then.
pub fn attach(caller: &mut Caller, which: &Which, request: &Attach) -> Result<Option<Blocked>> {
    let trail = Trail::new("attach", caller.uid, Some((which, request)));
    trail.ends(step_by_step(caller, which, request, &trail))
}

fn step_by_step(
    caller: &mut Caller,
    which: &Which,
    request: &Attach,
    trail: &Trail,
) -> Result<Option<Blocked>> {
    let deadline = Instant::now() + request.wait;
    let privilege = caller.privilege()?;
    let grant = Grant::for_request(caller, request)?;
    let dns = name_service(&grant, request)?;
    let target = Target::open(which, caller, &privilege, deadline)?;
    let mut inside = Inside::start(&target, caller, &request.container_end)?;
    // The host is looked at while the child enters. Its refusal goes before whatever is found there.
    trail.open();
    let mut host = Host::open(&privilege)?;
    let found = look(&mut host, &grant);
    let end = inside.proof(&target)?;
    let (found, firewall) = found?;

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
        Some(end) => Plan::Keep(lease::find(&mut host, &wanted, end)?),
        None => Plan::Take(lease::choose(&mut host, &wanted)?),
    };
    publish::check(&mut host, &wanted, &request.publish, plan.lease())?;
    target.check_alive()?;

    let bridge = bridge::ensure(&mut host, &grant, found)?;
    firewall::complete(&mut host, &grant, firewall)?;
    let lease = match plan {
        Plan::Keep(lease) => lease,
        Plan::Take(choice) => lease::take(&mut host, &wanted, choice, &bridge, &mut inside)
            .map_err(|error| bridge::or_gone(&mut host, &grant, &bridge, error))?,
    };
    trail.begins(&lease);
    let done = connect(&mut host, &wanted, &mut inside, &lease, &bridge, request)
        .map_err(|error| bridge::or_gone(&mut host, &grant, &bridge, error))
        .and_then(|(blocked, published)| {
            trail.chose(&published);
            match request.output {
                Output::Nothing => {}
                Output::Json => {
                    report::print_json(&result(&bridge, &lease, &wanted, &published, dns))?
                }
                Output::ResolvConf => report::print(&dns.resolv_conf())?,
            }
            Ok(blocked)
        });
    if done.is_err() && lease.new {
        // Should this fail too, the first error still says more, and the lease dies with the
        // container.
        let _ = lease::give_back(&mut host, &lease, &mut inside);
    }
    done
}

/// Looks at the host. Nothing is changed.
fn look(host: &mut Host, grant: &Grant) -> Result<(bridge::Found, firewall::Found)> {
    let bridge = bridge::find(host, grant)?;
    let firewall = firewall::find(host, grant, bridge.index())?;
    Ok((bridge, firewall))
}

/// What the container is told of name service, if that is asked for.
fn name_service(grant: &Grant, request: &Attach) -> Result<Dns> {
    let dns = match request.output {
        Output::Nothing => return Ok(Dns::default()),
        Output::Json | Output::ResolvConf => Dns::of(grant)?,
    };
    match request.output {
        Output::ResolvConf if dns.nameservers.is_empty() => Err(Failed::NoNameServer.into()),
        _ => Ok(dns),
    }
}

/// Has the inside configured, and meanwhile prepares the port; lets frames pass, and publishes ports;
/// then gives up the last capability.
fn connect(
    host: &mut Host,
    wanted: &Wanted,
    inside: &mut Inside,
    lease: &Lease,
    bridge: &Link,
    request: &Attach,
) -> Result<(Option<Blocked>, Vec<Mapping>)> {
    wanted.target.check_alive()?;
    inside.configure(Configuration {
        peer: lease.index,
        address: lease.address.ip,
        prefix: lease.address.prefix,
        gateway: wanted.grant.address.ip,
        loopback: request.loopback,
        // For the wire to be taken back when its report cannot be written.
        stay: request.output != Output::Nothing,
    })?;
    // What was published before still is.
    let reflect =
        !request.publish.is_empty() || lease.astray && publish::is_published(host, lease)?;
    if lease.astray {
        bridge::put_back(host, lease, bridge)?;
    }
    if !lease.open {
        publish::clear(host, lease, bridge, wanted.target)?;
    }
    let closed = !lease.open || lease.astray;
    if closed {
        let alias = request.container.as_deref();
        port::configure(host, lease, reflect, alias)?;
    } else if reflect {
        port::set_hairpin(host, &lease.host_end)?;
    }
    let blocked = match firewall::is_sealed(host) {
        true => None,
        false => others::way_out(host, wanted.grant, Some(bridge.index))?,
    };
    if blocked.is_none() {
        firewall::seal(host)?;
    }
    // A port whose other end is down would be taken out of service again when the kernel comes to look
    // at links, under the lock that every change of anybody's network waits for.
    inside.configured()?;
    if closed {
        port::open(host, lease)?;
    }
    // From here on somebody answers. It is the last step that takes the capability, so that there is
    // nothing to take back.
    let published = publish::publish(host, wanted.grant, &request.publish, lease, wanted.target)?;
    caller::give_up_all()?;
    Ok((blocked, published))
}

/// What there is to do about the lease.
enum Plan {
    /// The target has it already.
    Keep(Lease),
    /// It is to be taken.
    Take(Choice),
}

impl Plan {
    /// The lease that the target has already.
    fn lease(&self) -> Option<&Lease> {
        match self {
            Plan::Keep(lease) => Some(lease),
            Plan::Take(_) => None,
        }
    }
}

fn result(
    bridge: &Link,
    lease: &Lease,
    wanted: &Wanted,
    published: &[Mapping],
    dns: Dns,
) -> CniResult {
    let grant = wanted.grant;
    CniResult::new(
        (&grant.bridge, bridge.mac.unwrap_or(crate::request::address::Mac::of(grant.address.ip))),
        grant.address.ip,
        lease.host_end.as_str(),
        wanted.container_end,
        lease.address,
        &wanted.target.sandbox,
        dns,
        published,
    )
}
