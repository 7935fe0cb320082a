//! Taking a lease: choosing a free address and name, and creating the veth pair.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;

use super::lease::{GROUP_MARK, Lease, Port, Wanted, find, index_of, slot_name};
use super::pool::{Pool, lowest_free};
use super::{Host, owner};
use crate::inside::Inside;
use crate::kernel::link::{self, By, Kind, Link};
use crate::publish;
use crate::report::error::{Error, Failed, Refused, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::MOST_LINKS;

/// How long to sleep between two tries to get what is still taken.
pub const NAP: Duration = Duration::from_millis(20);

/// How often to try again what other runs were faster at: as often as all the links that there can be
/// could come in between, and go.
pub const TRIES: u32 = 2 * MOST_LINKS;

/// A free address and a free name of the host end. Another run may be faster.
#[derive(Debug)]
pub struct Choice {
    ip: Ipv4Addr,
    host_end: IfName,
}

/// Chooses what a lease can be taken of, and changes nothing. Waits until the deadline for one that is
/// dying.
///
/// [`Failed::Leased`], [`Failed::SubnetFull`], [`Refused::Quota`] or [`Failed::HostName`] says what stays
/// taken.
pub fn choose(host: &mut Host, wanted: &Wanted) -> Result<Choice> {
    loop {
        let taken = match (free_name(host, wanted)?, free_address(host, wanted)?) {
            (Ok(host_end), Ok(ip)) => return Ok(Choice { ip, host_end }),
            (Err(taken), _) | (_, Err(taken)) => taken,
        };
        let left = wanted.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(taken);
        }
        wanted.target.sleep(NAP.min(left))?;
    }
}

/// A free name of the host end, or the error if there stays none.
fn free_name(host: &Host, wanted: &Wanted) -> Result<Result<IfName, Error>> {
    // Only root names it.
    if let Some(name) = &wanted.request.host_end
        && wanted.grant.uid == 0
    {
        let free = !host.has_name(name)?;
        return Ok(free.then_some(name.clone()).ok_or(Failed::HostName(name.clone()).into()));
    }
    let links = wanted.grant.links;
    let slot = lowest_free(links, |slot| host.has_name(&slot_name(wanted.grant.uid, slot)))?;
    let name = slot.map(|slot| slot_name(wanted.grant.uid, slot));
    Ok(name.ok_or(Refused::Quota(links, wanted.grant.uid).into()))
}

/// A free address, likewise: the lowest that is the caller's own or nobody's, if there is one
/// ([`super::owner`]).
fn free_address(host: &mut Host, wanted: &Wanted) -> Result<Result<Ipv4Addr, Error>> {
    if let Some(Cidr { ip, .. }) = wanted.request.container_address {
        let free = !host.has_index(index_of(ip))?;
        return Ok(free.then_some(ip).ok_or(Failed::Leased(ip).into()));
    }
    let pool = Pool::of(wanted.grant.address);
    let lowest = lowest_free(pool.len(), |place| host.has_index(index_of(pool.nth(place))))?;
    let Some(lowest) = lowest.map(|place| pool.nth(place)) else {
        return Ok(Err(Failed::SubnetFull(wanted.grant.address).into()));
    };
    let suits = owner::last_user(host, lowest)?.is_none_or(|uid| uid == wanted.grant.uid)
        && (!wanted.request.publish.is_empty() || !publish::is_published(host, lowest)?);
    if suits {
        return Ok(Ok(lowest));
    }
    let history = owner::History::read(host)?;
    let mut best = (history.cost(lowest, wanted), lowest);
    for ip in pool.all() {
        let cost = history.cost(ip, wanted);
        if cost < best.0 && !host.has_index(index_of(ip))? {
            best = (cost, ip);
        }
    }
    Ok(Ok(best.1))
}

/// Takes the lease of `choice`, or of another one if another run was faster: creates both ends of the
/// veth pair, the container end in the target's namespace. Fails like [`choose`], and with
/// [`Failed::NameInside`], [`Failed::BridgeFull`] or [`Failed::Contended`].
pub fn take(
    host: &mut Host,
    wanted: &Wanted,
    mut choice: Choice,
    bridge: &Link,
    inside: &mut Inside,
) -> Result<Lease> {
    for _ in 0..TRIES {
        let group = random_group();
        let request = veth_pair(wanted, bridge, &choice, group);
        match host.change("creating the veth pair", |netlink| link::create(netlink, request)) {
            Ok(()) => {
                return Ok(Lease {
                    address: Cidr { ip: choice.ip, prefix: wanted.grant.address.prefix },
                    index: index_of(choice.ip),
                    host_end: choice.host_end,
                    group,
                    port: Port::New,
                });
            }
            // Four things answer so: the index, the name, an alternative name, the name inside.
            Err(error) if error.is(Errno::EEXIST) => {
                if !host.has_index(index_of(choice.ip))?
                    && !host.has_name(&choice.host_end)?
                    && let Some(end) = inside.look_up()?
                {
                    // Another run for the same container may have been faster.
                    return find(host, wanted, end);
                }
            }
            Err(error) if error.is(Errno::EXFULL) => {
                return Err(Failed::BridgeFull(wanted.grant.bridge.clone()).into());
            }
            Err(error) => return Err(error),
        }
        choice = choose(host, wanted)?;
    }
    Err(Failed::Contended.into())
}

/// A group for one link. The admin uses groups, with small numbers, to change many links at once. With a
/// group of its own a link can be meant that no other link can be taken for.
fn random_group() -> u32 {
    // The standard library gets its keys from the kernel (getrandom(2)).
    let random = RandomState::new().hash_one(0);
    (random as u32) & !GROUP_MARK | GROUP_MARK
}

/// Gives a lease back: the veth pair is deleted from inside, with the container's own rights, or else
/// from the host.
pub fn give_back(host: &mut Host, lease: &Lease, inside: &mut Inside) -> Result<()> {
    if inside.remove(lease.index).is_ok() {
        return Ok(());
    }
    host.change("deleting the veth pair", |netlink| link::delete_group(netlink, lease.group))
}

/// The message that creates both ends at once, the container's in its own namespace from the start:
/// to move one there later takes ten times as long.
fn veth_pair(wanted: &Wanted, bridge: &Link, choice: &Choice, group: u32) -> LinkMessage {
    let Choice { ip, ref host_end } = *choice;
    let end = |name: &IfName, mac: Mac, mtu: u32| {
        vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ]
    };
    let mut inside = end(&wanted.request.container_end, Mac::of(ip), wanted.mtu);
    inside.push(LinkAttribute::NetNsFd(wanted.target.net.as_raw_fd()));
    let peer = InfoVeth::Peer(link::message(By::Index(0), inside));
    // A port with a lower MTU than the bridge's would lower that of everybody's.
    let mut outside = end(host_end, Mac::of_host_end(ip), bridge.mtu);
    outside.extend([
        LinkAttribute::Group(group),
        LinkAttribute::Controller(bridge.index),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(Kind::Veth),
            LinkInfo::Data(InfoData::Veth(peer)),
        ]),
    ]);
    link::message(By::Index(index_of(ip)), outside)
}
