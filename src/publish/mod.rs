//! Published ports: elements of the firewall's map `ports`, which lead from a port of the host to a port
//! of a container, and of the set `live`, which says how long their connections go on.
//!
//! Elements belong to a lease, not to an address. When a container dies the kernel takes its link away,
//! but its elements stay until a run removes them ([`remove`]): one that gives the address to a container
//! ([`crate::network::owner`]), one that wants one of their ports, or `-prune`.
//!
//! To publish: 1. read the ruleset's generation; 2. check that the lease is still the target's; 3. look
//! at the ports; 4. commit for that generation. So a run that was stopped publishes nothing for an
//! address that has gone to another user.

mod encode;
mod plan;
pub mod remove;

use std::collections::HashSet;
use std::net::Ipv4Addr;

use self::encode::leads_to;
use self::plan::{Plan, Ports, check_granted, plan};
use self::remove::prune;
use crate::firewall::{LIVE, PORTS, PUBLISHING, Step, forwarding, optimistic_mending, set_owners};
use crate::kernel::conntrack;
use crate::kernel::link::By;
use crate::kernel::nftables::{Batch, Element};
use crate::kernel::sock_diag::Places;
use crate::network::Host;
use crate::network::lease::{self, Lease, Wanted, index_of};
use crate::network::owner::{History, last_user};
use crate::report::error::{Error, Failed, Refused, Result, Usage};
use crate::request::policy::Grant;
use crate::request::ports::{MOST_PORTS, Mapping, Protocol};

/// With more ports than this, a run first removes those of containers that are gone. So these stay few,
/// also at addresses that no container gets again.
const MANY: usize = 64;

/// Checks that the wanted ports can be published: that the policy grants them, that their addresses are
/// the host's, that no program waits there, and that no container has them. Waits until the deadline for
/// a container that is dying. Nothing is changed.
pub fn check(host: &mut Host, wanted: &Wanted, own: Option<&Lease>) -> Result<()> {
    let grant = wanted.grant;
    let mappings = &wanted.request.publish;
    if mappings.is_empty() {
        return Ok(());
    }
    check_granted(grant, mappings)?;
    let local = host.local_addresses()?;
    let is_local = |ip: &Ipv4Addr| local.iter().any(|range| range.contains(*ip));
    let mut asked = mappings.iter().filter_map(|mapping| mapping.host_ip);
    // The address of a bridge that is not there yet will be.
    if let Some(ip) = asked.find(|ip| *ip != grant.address.ip && !is_local(ip)) {
        return Err(Usage::HostAddress(ip).into());
    }
    let own = own.map(|lease| lease.address.ip);
    wanted.wait_for(|| {
        let added = plan(&mut Ports::of(host, own), grant, mappings)?.added.len();
        check_quota(host, grant, added, own)
    })
}

/// Checks that so many ports more are within the caller's quota, and within what one container can have.
fn check_quota(host: &mut Host, grant: &Grant, added: usize, own: Option<Ipv4Addr>) -> Result<()> {
    let theirs: HashSet<_> = History::read(host)?.publishing(grant.uid).collect();
    // Most often the user publishes nothing else. Then the ports of others are not read.
    let ports = if theirs.is_empty() { Vec::new() } else { host.elements(&PORTS)? };
    let mut used: Vec<_> = ports
        .iter()
        .filter_map(|port| Some((leads_to(port).filter(|ip| theirs.contains(ip))?, port)))
        .collect();
    let most = usize::try_from(grant.ports).unwrap_or(usize::MAX);
    if used.len() + added > most {
        // Those of containers that are gone do not count.
        for ip in theirs {
            let link = host.link(By::Index(index_of(ip)))?;
            used.retain(|(at, port)| {
                *at != ip || link.as_ref().is_some_and(|link| link.name == port.comment)
            });
        }
    }
    if used.len() + added > most {
        return Err(Refused::PortQuota(grant.ports, grant.uid).into());
    }
    if used.iter().filter(|(ip, _)| Some(*ip) == own).count() + added > MOST_PORTS {
        return Err(Failed::ManyPorts(MOST_PORTS).into());
    }
    Ok(())
}

/// Publishes the wanted ports for a lease whose bridge port is open. Gives them, with the host ports that
/// were chosen for 0. Fails like [`check`] if others were faster.
pub fn publish(host: &mut Host, wanted: &Wanted, lease: &Lease) -> Result<Vec<Mapping>> {
    let Wanted { grant, target, .. } = *wanted;
    let mappings = &wanted.request.publish;
    if mappings.is_empty() {
        return Ok(Vec::new());
    }
    let ip = lease.address.ip;
    if mappings.iter().any(|mapping| mapping.host_ip.is_none_or(|ip| ip.is_loopback())) {
        forwarding::route_localnet(host, &grant.bridge)?;
    }
    if mappings.len() > MANY {
        prune(host)?;
    }
    let plan = optimistic_mending(host, grant, |host| {
        // After a flush no user is known to have had the address.
        if lease::held(host, lease, target)?.is_none()
            || last_user(host, ip)?.is_some_and(|uid| uid != lease.user())
        {
            return Err(Failed::LeaseLost.into());
        }
        let plan = plan(&mut Ports::of(host, Some(ip)), grant, mappings)?;
        if plan.stale {
            prune(host)?;
            return Ok(Step::Again);
        }
        if plan.added.is_empty() {
            return Ok(Step::Done(plan));
        }
        check_quota(host, grant, plan.added.len(), Some(ip))?;
        Ok(Step::Commit(addition(grant, ip, &plan.added, lease), plan))
    })?;
    // What is published stays so, also where the flows cannot be looked up or forgotten.
    match redirect_udp(host, &plan, ip) {
        Err(Error::Failed(Failed::Firewall(..) | Failed::Netlink(..))) | Ok(()) => Ok(plan.all),
        Err(error) => Err(error),
    }
}

/// The transaction that publishes mappings.
fn addition(grant: &Grant, ip: Ipv4Addr, mappings: &[Mapping], lease: &Lease) -> Batch {
    let ports: Vec<_> =
        mappings.iter().map(|mapping| encode::element(ip, mapping, &lease.host_end)).collect();
    let mut batch = Batch::default();
    set_owners(&mut batch, grant, &[(ip, lease.user())]);
    batch.add(&PUBLISHING, &[publishing(ip)]);
    batch.create(&PORTS, &ports);
    batch.add(&LIVE, &ports.iter().map(encode::live).collect::<Vec<_>>());
    batch
}

/// The element of the set `publishing`: something may lead to this address.
fn publishing(ip: Ipv4Addr) -> Element {
    Element::key(ip.octets().into())
}

/// Whether something may be published for the container at this address.
pub fn is_published(host: &mut Host, ip: Ipv4Addr) -> Result<bool> {
    Ok(host.element(&PUBLISHING, publishing(ip).key)?.is_some())
}

/// All that is published: the container's address, the name of its host end, and the mapping.
pub fn all(host: &mut Host) -> Result<Vec<(Ipv4Addr, String, Mapping)>> {
    let all = host.elements(&PORTS)?.into_iter();
    Ok(all
        .filter_map(|port| encode::mapping(&port).map(|(ip, mapping)| (ip, port.comment, mapping)))
        .collect())
}

/// Leads clients of UDP that sent to these ports before they were published to `ip` from now on: the
/// kernel remembers where their flows went as long as they send. A TCP client connects anew.
fn redirect_udp(host: &mut Host, plan: &Plan, ip: Ipv4Addr) -> Result<()> {
    let added: Vec<_> = plan.added.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    if added.is_empty() {
        return Ok(());
    }
    let sockets =
        Places::of_udp().map_err(Failed::netlink("looking for programs with a socket"))?;
    let local = host.local_addresses()?;
    for mapping in added {
        let in_use = sockets.hold(mapping);
        host.forget_flows(
            |netlink| conntrack::leading_elsewhere(netlink, mapping, ip, &local, in_use),
            |host, _| {
                let element = host.element(&PORTS, encode::key(mapping))?;
                Ok(element.is_some_and(|element| element.value == encode::value(ip, mapping)))
            },
        )?;
    }
    Ok(())
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/publish.rs"]
pub mod fuzzing;
