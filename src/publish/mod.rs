//! Published ports: elements of the firewall's maps, which follow the lease and not the address.
//!
//! An address is leased again as soon as it is free, so an element that outlived its container would
//! lead to somebody else's. Nobody is there to take it out when the container dies, and any run may
//! be stopped at any moment. What keeps the rule all the same:
//!
//! - Whoever publishes reads the number of the ruleset's generation. Then he sees that his address is in
//!   the set `publishing`, where he has put it before, and that the lease is still his; and what he then
//!   commits counts only if the generation is still the same.
//! - Whoever takes a lease has his port of the bridge closed. If the address is in `publishing`, he
//!   takes everything out that leads to it, in the same way, then what waits for it, and last the
//!   address from the set, which begins a new generation. Only then he opens the port.
//!
//! What is taken out is told to expire (see `publish/removal.rs`): that begins the new generation, and
//! it is waited for. A mark that expires says nothing any more to whoever publishes.
//!
//! So a run of an earlier lessee's has committed before, and that is taken out; or it comes after, and
//! its generation is over. Where an address has never been published there is nothing to do.

mod encode;
mod plan;
mod removal;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use nix::errno::Errno;

use self::encode::{address, key, led_to, live_of, mapping, sets, value};
use self::plan::{Resolved, resolve};
use self::removal::{Removal, leading};
use crate::firewall::forwarding;
use crate::firewall::{self, LIVE, LIVE_AT, PORTS, PORTS_AT, PUBLISHING};
use crate::kernel::conntrack::{self, Own};
use crate::kernel::link::Link;
use crate::kernel::netlink;
use crate::kernel::nftables::{Batch, Element, Ruleset, Set};
use crate::kernel::route;
use crate::kernel::sock_diag;
use crate::network::Host;
use crate::network::lease::{self, Lease, NAP, TRIES, Wanted, index_of};
use crate::report::error::{Error, Failed, Refused, Result, Usage};
use crate::request::policy::Grant;
use crate::request::ports::{MOST_PORTS, Mapping, Protocol};
use crate::target::Target;

/// With more ports than that on one address each, those of containers that are gone are taken out
/// before further ones are published. Every run that publishes reads them all, and quotas do not bound
/// what is left at addresses that nobody has leased again.
const MOST_LEFT: usize = 4 * MOST_PORTS;

/// How a kernel answers that has no nf_tables, or no netfilter at all.
const NO_NF_TABLES: [Errno; 2] = [Errno::EINVAL, Errno::EPROTONOSUPPORT];

/// Checks that the mappings can be published: that the policy grants them, that their addresses are
/// the host's, that no program waits there, and that they are not taken by a container; waits until
/// the deadline for one that is dying. Nothing is changed.
///
/// # Errors
/// [`Refused::NoNat`], [`Refused::Port`], [`Usage::HostAddress`], [`Failed::PortInUse`],
/// [`Failed::PortPublished`], [`Failed::NoFreePort`].
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
    if !grant.nat {
        return Err(Refused::NoNat.into());
    }
    if grant.publish.as_ref().is_some_and(Vec::is_empty) {
        return Err(Refused::NoPorts(grant.uid).into());
    }
    for mapping in mappings {
        let granted = mapping.host_port == 0
            || grant
                .publish
                .as_ref()
                .is_none_or(|all| all.iter().any(|granted| granted.contains(mapping.host_port)));
        if !granted {
            return Err(Refused::Port(*mapping, grant.uid).into());
        }
    }
    let asked: HashSet<_> = mappings.iter().filter_map(|mapping| mapping.host_ip).collect();
    for ip in asked {
        // That of a bridge to be made will be.
        if ip != grant.address.ip && !is_local(host, ip)? {
            return Err(Usage::HostAddress(ip).into());
        }
    }
    let own = own.map(|lease| lease.address.ip);
    loop {
        match resolve(host, grant, mappings, own) {
            Err(Error::Failed(Failed::PortPublished(..))) if Instant::now() < deadline => {
                target.sleep(NAP.min(deadline.saturating_duration_since(Instant::now())))?;
            }
            resolved => return resolved.map(drop),
        }
    }
}

/// Whether `ip` is an address of the host.
fn is_local(host: &mut Host, ip: Ipv4Addr) -> Result<bool> {
    route::is_local(&mut host.netlink, ip).map_err(Failed::netlink("looking a route up"))
}

/// Takes out whatever leads to the address of a lease that has just been taken, and whose port is
/// still closed.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::Netlink`], [`Failed::Contended`].
pub fn clear(host: &mut Host, lease: &Lease, bridge: &Link, target: &Target) -> Result<()> {
    // Once the port is open, another run for the same container has been here, and perhaps published.
    let closed = |host: &mut Host| {
        lease::held(host, lease, target).map(|link| link.is_some_and(|link| !link.up))
    };
    take_out_of(host, lease, &[bridge.index], closed)
}

/// Whether something may be published for this lease's container.
///
/// # Errors
/// [`Failed::Firewall`].
pub fn is_published(host: &mut Host, lease: &Lease) -> Result<bool> {
    Ok(mark_of(host, lease.address.ip)?.is_some())
}

/// All that is published: for whom, by address and by the name of the host's end, and what.
///
/// # Errors
/// [`Failed::Firewall`].
pub fn all(host: &mut Host) -> Result<Vec<(Ipv4Addr, String, Mapping)>> {
    let mut all = Vec::new();
    for map in [&PORTS, &PORTS_AT] {
        for element in all_of(host, map)?.into_iter().filter(|element| !element.expires) {
            all.extend(mapping(&element).map(|(ip, mapping)| (ip, element.comment, mapping)));
        }
    }
    Ok(all)
}

/// Takes out whatever leads to the container that has this lease.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::Contended`].
pub fn withdraw(host: &mut Host, lease: &Lease, target: &Target) -> Result<()> {
    let bridges = bridges(host)?;
    take_out_of(host, lease, &bridges, |host| lease::is_held(host, lease, target))
}

/// Takes out whatever leads to a container that is gone.
///
/// # Errors
/// [`Failed::Firewall`], [`Failed::Contended`].
pub fn prune(host: &mut Host) -> Result<()> {
    let bridges = bridges(host)?;
    take_out(host, &bridges, |host| {
        let mut gone = Vec::new();
        for mark in all_of(host, &PUBLISHING)? {
            let Some(ip) = address(&mark.key) else { continue };
            if !host.has_index(index_of(ip))? {
                gone.push(mark);
            }
        }
        Ok(gone)
    })
}

/// Takes out whatever leads to the address of this lease, if `may` says that this is right.
fn take_out_of(
    host: &mut Host,
    lease: &Lease,
    bridges: &[u32],
    may: impl Fn(&mut Host) -> Result<bool>,
) -> Result<()> {
    let ip = lease.address.ip;
    if mark_of(host, ip)?.is_none() {
        return Ok(());
    }
    take_out(host, bridges, |host| {
        let mark = mark_of(host, ip)?.into_iter().collect();
        Ok(if may(host)? { mark } else { Vec::new() })
    })
}

/// Takes out whatever leads to the addresses of these marks, under generations in which `marks` gives
/// them, and what waits for them at one of the bridges; last of all the marks, so that a further run
/// goes on with what this one may leave.
fn take_out(
    host: &mut Host,
    bridges: &[u32],
    marks: impl Fn(&mut Host) -> Result<Vec<Element>>,
) -> Result<()> {
    let mut removal = Removal::default();
    for _ in 0..TRIES {
        let generation = generation(host)?;
        let marks = marks(host)?;
        if marks.is_empty() {
            return Ok(());
        }
        let marked: HashSet<_> = marks.iter().filter_map(|mark| address(&mark.key)).collect();
        let there =
            leading(host, |element| led_to(element).is_some_and(|ip| marked.contains(&ip)))?;
        if !there.is_empty() {
            removal.go_on(host, there, generation)?;
            continue;
        }
        // A packet that waits for the address to be resolved has passed the firewall already.
        for bridge in bridges {
            for ip in &marked {
                forget_neighbour(host, *bridge, *ip)?;
            }
        }
        let marks = marks.into_iter().map(|mark| (&PUBLISHING, mark)).collect();
        removal.go_on(host, marks, generation)?;
    }
    Err(Failed::Contended.into())
}

/// The indices of the bridges that containers are at.
fn bridges(host: &mut Host) -> Result<Vec<u32>> {
    Ok(firewall::bridges(host)?.iter().map(|link| link.index).collect())
}

/// The mark of an address, if something may lead there.
fn mark_of(host: &mut Host, ip: Ipv4Addr) -> Result<Option<Element>> {
    match host.ruleset(|ruleset| ruleset.element(&PUBLISHING, ip.octets().to_vec()))? {
        Ok(found) => Ok(found),
        // A kernel that has no nf_tables has nothing in it either.
        Err(error) if NO_NF_TABLES.contains(&error.errno()) => Ok(None),
        Err(error) => Err(firewall::failed("reading it")(error)),
    }
}

/// Publishes the mappings for a lease whose port of the bridge is open. Gives them with the ports that
/// have been chosen.
///
/// # Errors
/// As [`check`], since others may have been faster, and [`Failed::LeaseLost`],
/// [`Failed::Firewall`], [`Failed::Contended`], [`Failed::Sysctl`].
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
    let mut announced = None;
    let mut pruned = false;
    let mut removal = Removal::default();
    for _ in 0..TRIES {
        let generation = generation(host)?;
        let Some(mark) = mark_of(host, ip)? else {
            let mut batch = Batch::default();
            batch.add(&PUBLISHING, &[Element::key(ip.octets().to_vec())]);
            if commit(host, batch, generation)? {
                announced = Some(generation);
            } else {
                // Somebody has changed the ruleset, or flushed it.
                firewall::ensure(host, grant)?;
            }
            continue;
        };
        if mark.expires {
            removal.go_on(host, vec![(&PUBLISHING, mark)], generation)?;
            continue;
        }
        if !lease::is_held(host, lease, target)? {
            return Err(Failed::LeaseLost.into());
        }
        let Resolved { all, added, stale, at } = resolve(host, grant, mappings, Some(ip))?;
        if at > MOST_LEFT && !pruned {
            prune(host)?;
            pruned = true;
            continue;
        }
        // What has been announced by the last change of all has nothing yet.
        let has_nothing = announced.is_some_and(|before| before.wrapping_add(1) == generation);
        if !has_nothing && leading_to(host, ip)? + added.len() > MOST_PORTS {
            return Err(Failed::ManyPorts(MOST_PORTS).into());
        }
        if !stale.is_empty() {
            removal.go_on(host, stale, generation)?;
            continue;
        }
        let mut batch = Batch::default();
        let comment = lease.host_end.to_string();
        let (at, anywhere): (Vec<Mapping>, Vec<Mapping>) =
            added.iter().partition(|mapping| mapping.host_ip.is_some());
        for (map, live, mappings) in [(&PORTS, &LIVE, anywhere), (&PORTS_AT, &LIVE_AT, at)] {
            let lead = |mapping: &Mapping| Element {
                key: key(mapping),
                value: value(ip, mapping.container_port),
                comment: comment.clone(),
                ..Element::default()
            };
            let leading: Vec<_> = mappings.iter().map(lead).collect();
            let lives = |element: &Element| Element::key(live_of(element));
            batch.create(map, &leading);
            batch.add(live, &leading.iter().map(lives).collect::<Vec<_>>());
        }
        if batch.is_empty() || commit(host, batch, generation)? {
            redirect(host, &added, ip)?;
            return Ok(all);
        }
    }
    Err(Failed::Contended.into())
}

/// Has clients who have been sending to these ports come to `ip` from now on. Connections of TCP end by
/// themselves, and the next one is another.
fn redirect(host: &mut Host, added: &[Mapping], ip: Ipv4Addr) -> Result<()> {
    let of_udp = |mapping: &&Mapping| mapping.protocol == Protocol::Udp;
    if !added.iter().any(|mapping| of_udp(&mapping)) {
        return Ok(());
    }
    // What has been published stays so, also where this cannot be looked up.
    let (Ok(sockets), Ok(addresses)) =
        (sock_diag::udp_sockets(), route::local_addresses(&mut host.netlink))
    else {
        return Ok(());
    };
    for mapping in added.iter().filter(of_udp) {
        let own = Own { addresses: &addresses, in_use: sockets.hold(mapping) };
        host.forget_flows(
            |netlink| conntrack::leading_elsewhere(netlink, mapping, ip, &own),
            |host| leads_to(host, mapping, ip),
        )?;
    }
    Ok(())
}

fn all_of(host: &mut Host, set: &Set) -> Result<Vec<Element>> {
    host.ruleset(|ruleset| ruleset.elements(set))?.map_err(firewall::failed("reading it"))
}

fn element_of(host: &mut Host, set: &Set, key: &[u8]) -> Result<Option<Element>> {
    let element = host.ruleset(|ruleset| ruleset.element(set, key.to_vec()))?;
    element.map_err(firewall::failed("reading it"))
}

fn generation(host: &mut Host) -> Result<u32> {
    host.ruleset(Ruleset::generation)?.map_err(firewall::failed("reading it"))
}

/// Whether the transaction was carried out. It is not if its generation is over, or if it was about
/// something that somebody has taken out meanwhile: then it is time to look again.
fn commit(host: &mut Host, batch: Batch, generation: u32) -> Result<bool> {
    is_done(host.commit(batch, generation)?)
}

fn is_done(committed: Result<(), netlink::Error>) -> Result<bool> {
    match committed {
        Ok(()) => Ok(true),
        Err(error) if error.is(Errno::ERESTART) || error.is(Errno::ENOENT) => Ok(false),
        Err(error) => Err(firewall::failed("changing it")(error)),
    }
}

/// Whether this mapping still leads to `ip`.
fn leads_to(host: &mut Host, mapping: &Mapping, ip: Ipv4Addr) -> Result<bool> {
    let (map, _) = sets(mapping);
    let element = element_of(host, map, &key(mapping))?;
    Ok(element.is_some_and(|element| element.value == value(ip, mapping.container_port)))
}

/// How many mappings lead to `ip`.
fn leading_to(host: &mut Host, ip: Ipv4Addr) -> Result<usize> {
    Ok(all(host)?.iter().filter(|(other, ..)| *other == ip).count())
}

/// Has the host forget a neighbour, and with it the packets that wait for it.
fn forget_neighbour(host: &mut Host, bridge: u32, ip: Ipv4Addr) -> Result<()> {
    host.privileged(|netlink| route::forget_neighbour(netlink, bridge, ip))?
        .map_err(Failed::netlink("forgetting the container's neighbour entry"))
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/publish.rs"]
pub mod fuzzing;
