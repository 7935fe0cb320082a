//! Published ports: elements of the firewall's map `ports`, which lead from a port of the host to a port
//! of a container, and of the set `live`, which says how long their connections go on.
//!
//! Elements belong to a lease, not to an address. When a container dies the kernel takes its link away,
//! but its elements stay. They are removed by whoever comes first of these: the run that gives the address to a container
//! ([`crate::network::owner`]), the run that wants one of their ports, and `-prune`.
//!
//! To publish: 1. read the ruleset's generation; 2. check that the lease is still the target's; 3. look
//! at the ports; 4. commit for that generation. So a run that was stopped publishes nothing for an
//! address that has gone to another user.

mod encode;
mod plan;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use self::encode::leads_to;
pub use self::plan::check_granted;
use self::plan::{Plan, Ports, plan};
use crate::firewall::{self, LIVE, PORTS, PUBLISHING, Step, forwarding, optimistic};
use crate::kernel::conntrack::{self, Own};
use crate::kernel::link::By;
use crate::kernel::nftables::{Batch, Element, Set};
use crate::kernel::{route, sock_diag};
use crate::network::Host;
use crate::network::lease::{self, Lease, Wanted, index_of};
use crate::network::owner::{forget_neighbour, last_user};
use crate::network::take::NAP;
use crate::report::error::{Error, Failed, Result, Usage};
use crate::request::policy::Grant;
use crate::request::ports::{MOST_PORTS, Mapping, Protocol};
use crate::target::Target;

/// With more ports than this, a run first removes those of containers that are gone. So these stay few,
/// also at addresses that no container gets again.
const MANY: usize = 64;

/// Checks that the mappings can be published: that the policy grants them, that their addresses are the
/// host's, that no program waits there, and that no container has them. Waits until the deadline for a
/// container that is dying. Nothing is changed.
pub fn check(
    host: &mut Host,
    wanted: &Wanted,
    mappings: &[Mapping],
    own: Option<&Lease>,
) -> Result<()> {
    let Wanted { grant, target, deadline, .. } = *wanted;
    if mappings.is_empty() {
        return Ok(());
    }
    check_granted(grant, mappings)?;
    let asked: HashSet<_> = mappings.iter().filter_map(|mapping| mapping.host_ip).collect();
    for ip in asked {
        let is_local = |netlink: &mut _| route::is_local(netlink, ip);
        // The address of a bridge that is not there yet will be.
        if ip != grant.address.ip
            && !is_local(&mut host.netlink).map_err(Failed::netlink("looking a route up"))?
        {
            return Err(Usage::HostAddress(ip).into());
        }
    }
    let own = own.map(|lease| lease.address.ip);
    loop {
        match plan(&mut Ports::of(host, own), grant, mappings) {
            Err(Error::Failed(Failed::PortPublished(..))) if Instant::now() < deadline => {
                target.sleep(NAP.min(deadline.saturating_duration_since(Instant::now())))?;
            }
            planned => return planned.map(drop),
        }
    }
}

/// Publishes the mappings for a lease whose bridge port is open. Gives them with the host ports that were
/// chosen for 0. Fails like [`check`] if others were faster.
pub fn publish(
    host: &mut Host,
    grant: &Grant,
    mappings: &[Mapping],
    lease: &Lease,
    target: &Target,
) -> Result<Vec<Mapping>> {
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
    let plan = optimistic(host, |host| {
        if !lease::is_held(host, lease, target)? {
            return Err(Failed::LeaseLost.into());
        }
        if last_user(host, ip)? != Some(grant.uid) {
            // The ruleset was flushed meanwhile.
            firewall::mend(host, grant)?;
            return Ok(Step::Again);
        }
        let plan = plan(&mut Ports::of(host, Some(ip)), grant, mappings)?;
        if plan.stale {
            prune(host)?;
            return Ok(Step::Again);
        }
        let published = is_published(host, ip)? && !plan.added.is_empty();
        if published {
            let own =
                elements(host, &PORTS)?.iter().filter(|port| leads_to(port) == Some(ip)).count();
            if own + plan.added.len() > MOST_PORTS {
                return Err(Failed::ManyPorts(MOST_PORTS).into());
            }
        }
        Ok(match plan.added.is_empty() {
            true => Step::Done(plan),
            false => Step::Commit(addition(ip, &plan.added, lease), plan),
        })
    })?;
    redirect_udp(host, &plan, ip)?;
    Ok(plan.all)
}

/// The transaction that publishes mappings.
fn addition(ip: Ipv4Addr, mappings: &[Mapping], lease: &Lease) -> Batch {
    let ports: Vec<_> =
        mappings.iter().map(|mapping| encode::element(ip, mapping, &lease.host_end)).collect();
    let mut batch = Batch::default();
    batch.add(&PUBLISHING, &[mark(ip)]);
    batch.create(&PORTS, &ports);
    batch.add(&LIVE, &ports.iter().map(encode::live).collect::<Vec<_>>());
    batch
}

/// The element of the set `publishing`: something may lead to this address.
fn mark(ip: Ipv4Addr) -> Element {
    Element::key(ip.octets().into())
}

/// Whether something may be published for the container at this address.
pub fn is_published(host: &mut Host, ip: Ipv4Addr) -> Result<bool> {
    let found = host.ruleset("reading it", |ruleset| ruleset.element(&PUBLISHING, mark(ip).key))?;
    Ok(found.is_some())
}

/// All that is published: the container's address, the name of its host end, and the mapping.
pub fn all(host: &mut Host) -> Result<Vec<(Ipv4Addr, String, Mapping)>> {
    let all = elements(host, &PORTS)?.into_iter();
    Ok(all
        .filter_map(|port| encode::mapping(&port).map(|(ip, mapping)| (ip, port.comment, mapping)))
        .collect())
}

/// Removes what leads to the container that has this lease.
pub fn withdraw(host: &mut Host, lease: &Lease, target: &Target) -> Result<()> {
    let ip = lease.address.ip;
    if !is_published(host, ip)? {
        return Ok(());
    }
    remove(host, |host, other| match other == ip && lease::is_held(host, lease, target)? {
        true => Ok(Scope::Everything),
        false => Ok(Scope::Nothing),
    })
}

/// Removes what leads to containers that are gone.
pub fn prune(host: &mut Host) -> Result<()> {
    remove(host, |host, ip| {
        let link = host.link(By::Index(index_of(ip)))?;
        Ok(link.map_or(Scope::Everything, |link| Scope::AllBut(link.name)))
    })
}

/// Which of the ports that lead to an address are to be removed.
pub enum Scope {
    Nothing,
    Everything,
    /// All but those that were published for the container with this host end.
    AllBut(String),
}

/// Removes what leads to publishing containers, as far as `scope` says of each address, and what waits
/// for them.
pub fn remove(host: &mut Host, scope: impl Fn(&mut Host, Ipv4Addr) -> Result<Scope>) -> Result<()> {
    let removed = optimistic(host, |host| {
        let mut scopes = HashMap::new();
        for ip in elements(host, &PUBLISHING)?.iter().filter_map(Element::ipv4) {
            scopes.insert(ip, scope(host, ip)?);
        }
        if scopes.values().all(|scope| matches!(scope, Scope::Nothing)) {
            return Ok(Step::Done(Vec::new()));
        }
        let (ports, live) = (elements(host, &PORTS)?, elements(host, &LIVE)?);
        let (batch, gone) = removal(&scopes, ports, live);
        Ok(Step::Commit(batch, gone))
    })?;
    if removed.is_empty() {
        return Ok(());
    }
    for bridge in firewall::bridges(host)? {
        for ip in &removed {
            forget_neighbour(host, bridge.index, *ip)?;
        }
    }
    Ok(())
}

/// The transaction that removes ports, and the addresses to which nothing leads after it.
fn removal(
    scopes: &HashMap<Ipv4Addr, Scope>,
    ports: Vec<Element>,
    live: Vec<Element>,
) -> (Batch, Vec<Ipv4Addr>) {
    let stays = |port: &Element| match leads_to(port).and_then(|ip| scopes.get(&ip)) {
        Some(Scope::Everything) => false,
        Some(Scope::AllBut(host_end)) => port.comment == *host_end,
        Some(Scope::Nothing) | None => true,
    };
    let (staying, ports): (Vec<_>, Vec<_>) = ports.into_iter().partition(stays);
    let kept: HashSet<_> = staying.iter().map(|port| encode::live(port).key).collect();
    let is_meant = |ip: &Ipv4Addr| !matches!(scopes.get(ip), Some(Scope::Nothing) | None);
    let goes = |live: &Element| {
        leads_to(live).is_some_and(|ip| is_meant(&ip)) && !kept.contains(&live.key)
    };
    let busy: HashSet<_> = staying.iter().filter_map(leads_to).collect();
    let is_left = |ip: &&Ipv4Addr| is_meant(ip) && !busy.contains(*ip);
    let gone: Vec<_> = scopes.keys().filter(is_left).copied().collect();
    let mut batch = Batch::default();
    batch.delete(&PORTS, &ports);
    batch.delete(&LIVE, &live.into_iter().filter(goes).collect::<Vec<_>>());
    batch.delete(&PUBLISHING, &gone.iter().copied().map(mark).collect::<Vec<_>>());
    (batch, gone)
}

fn elements(host: &mut Host, set: &Set) -> Result<Vec<Element>> {
    host.ruleset("reading it", |ruleset| ruleset.elements(set))
}

/// Leads clients of UDP that sent to these ports before they were published to `ip` from now on: the
/// kernel remembers where their flows went as long as they send. A TCP client connects anew.
fn redirect_udp(host: &mut Host, plan: &Plan, ip: Ipv4Addr) -> Result<()> {
    let of_udp = |mapping: &&Mapping| mapping.protocol == Protocol::Udp;
    if !plan.added.iter().any(|mapping| of_udp(&mapping)) {
        return Ok(());
    }
    // What is published stays so, also where this cannot be looked up.
    let (Ok(sockets), Ok(addresses)) =
        (sock_diag::udp_sockets(), route::local_addresses(&mut host.netlink))
    else {
        return Ok(());
    };
    for mapping in plan.added.iter().filter(of_udp) {
        let own = Own { addresses: &addresses, in_use: sockets.hold(mapping) };
        host.forget_flows(
            |netlink| conntrack::leading_elsewhere(netlink, mapping, ip, &own),
            |host, _| {
                let key = encode::key(mapping);
                let element = host.ruleset("reading it", |ruleset| ruleset.element(&PORTS, key))?;
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
