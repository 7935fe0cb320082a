//! Attaching a container, from the caller's right to the report. What can be refused is refused before
//! the first change, and what has been changed is taken back if a later step fails.

use std::time::Instant;

use crate::firewall;
use crate::inside::{Configuration, Inside};
use crate::kernel::link::Link;
use crate::network::lease::{self, Lease, Port, Wanted};
use crate::network::{Host, bridge, owner, port, take};
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::publish;
use crate::report;
use crate::report::audit::Trail;
use crate::report::cni::CniResult;
use crate::report::dns::Dns;
use crate::report::error::{Failed, Result};
use crate::request::cli::{Attach, Output, Which};
use crate::request::grant::Sources;
use crate::request::policy::Grant;
use crate::request::ports::Mapping;
use crate::target::Target;

/// Gives the container `which` its network, as `request` says. After an error the veth pair that
/// this run made is gone, and elements that it published lead nowhere until another run removes them.
pub fn attach(caller: &Caller, which: &Which, request: &Attach) -> Result<()> {
    let trail = Trail::new("attach", caller.uid, Some((which, request)));
    trail.ends(step_by_step(caller, which, request, &trail))
}

fn step_by_step(caller: &Caller, which: &Which, request: &Attach, trail: &Trail) -> Result<()> {
    let deadline = Instant::now() + request.wait;
    let privilege = caller.privilege()?;
    let granted = |sources: &Sources| Grant::from(sources, caller)?.for_request(caller, request);
    let mut sources = Sources::read()?;
    let mut grant = granted(&sources)?;
    let target = Target::open(which, caller, deadline)?;
    if target.waited {
        sources = Sources::read()?;
        grant = granted(&sources)?;
    }
    let dns = name_service(&grant, request)?;
    let mut inside = Inside::start(&target, caller, &request.container_end)?;
    // This run looks at the host while the child enters. If the kernel does not let the child in, that
    // refusal is told before anything that was found on the host.
    trail.open();
    let mut host = Host::open(&privilege)?;
    let unchanged = || match Sources::read()? {
        now if now == sources => Ok(()),
        now => grant.unchanged(granted(&now)?),
    };
    host.policy = Some(&unchanged);
    let found = bridge::find(&mut host, &grant)
        .and_then(|bridge| Ok((bridge, firewall::look(&mut host, &grant)?)));
    let end = inside.proof(&target)?;
    let (bridge, firewall) = found?;

    let bridge_mtu = bridge.mtu(&grant);
    let mtu = request.mtu.unwrap_or(bridge_mtu);
    if mtu > bridge_mtu {
        return Err(Failed::Mtu(mtu, bridge_mtu).into());
    }
    let wanted = Wanted { grant: &grant, target: &target, request, mtu, deadline };
    let (kept, choice) = match end {
        Some(end) => (Some(lease::find(&mut host, &wanted, end)?), None),
        None => (None, Some(take::choose(&mut host, &wanted)?)),
    };
    publish::check(&mut host, &wanted, kept.as_ref())?;
    target.check_alive()?;

    let bridge = bridge::ensure(&mut host, &grant, bridge)?;
    firewall::complete(&mut host, &grant, &firewall)?;
    let lease = match choice {
        Some(choice) => take::take(&mut host, &wanted, choice, &bridge, &mut inside)
            .map_err(|error| bridge::or_gone(&mut host, &grant, &bridge, error))?,
        None => kept.ok_or(Failed::LeaseLost)?,
    };
    trail.begins(&lease);
    let done = connect(&mut host, &wanted, &mut inside, &lease, &bridge)
        .map_err(|error| bridge::or_gone(&mut host, &grant, &bridge, error))
        .and_then(|published| {
            trail.chose(&published);
            match request.output {
                Output::Nothing => Ok(()),
                Output::ResolvConf => report::print(&dns.resolv_conf()),
                Output::Json => {
                    report::print_json(&CniResult::new(&bridge, &lease, &wanted, dns, published))
                }
            }
        });
    if done.is_err() && lease.port == Port::New {
        // Should this fail too, the first error still says more, and the lease ends with the container.
        let _ = take::give_back(&mut host, &lease, &mut inside);
    }
    done
}

/// What the container is told of name service, if that is asked for.
fn name_service(grant: &Grant, request: &Attach) -> Result<Dns> {
    let dns = if request.output == Output::Nothing { Dns::default() } else { Dns::of(grant)? };
    match request.output {
        Output::ResolvConf if dns.nameservers.is_empty() => Err(Failed::NoNameServer.into()),
        _ => Ok(dns),
    }
}

/// Configures the inside and the bridge port, opens the port, publishes, and gives up the last
/// capability. Gives what is published.
fn connect(
    host: &mut Host,
    wanted: &Wanted,
    inside: &mut Inside,
    lease: &Lease,
    bridge: &Link,
) -> Result<Vec<Mapping>> {
    let request = wanted.request;
    let publishes = !request.publish.is_empty();
    wanted.target.check_alive()?;
    // The child does this while this process prepares the port.
    inside.configure(Configuration {
        peer: lease.index,
        address: lease.address.ip,
        prefix: lease.address.prefix,
        gateway: wanted.grant.address.ip,
        loopback: request.loopback,
        // To take the veth pair back when the report cannot be written.
        stay: request.output != Output::Nothing,
    })?;
    match lease.port {
        Port::New | Port::Closed => {
            let alias = request.container.as_deref();
            port::configure(host, lease, publishes, alias)?;
            // The kernel takes a port out of service again if the other end is still down when it comes
            // to look at links, and holds the lock of all networks meanwhile.
            inside.configured()?;
            owner::claim(host, wanted, lease, bridge.index)?;
            firewall::settle(host, wanted.grant)?;
            host.check_policy()?;
            port::open(host, lease)?;
            // This run may have been stopped since, and the ruleset been flushed.
            firewall::settle(host, wanted.grant)?;
        }
        Port::Open => {
            if publishes {
                port::set_hairpin(host, &lease.host_end)?;
            }
            inside.configured()?;
        }
    }
    // The container answers from here on. To publish is the last step that needs the capability: what
    // fails before it has published nothing.
    let published = publish::publish(host, wanted, lease)?;
    capability::give_up_all()?;
    Ok(published)
}
