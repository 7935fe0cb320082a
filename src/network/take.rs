//! Taking a lease: choosing a free address and name, and creating the veth pair.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use nix::errno::Errno;

use super::lease::{GROUP_MARK, Lease, Port, Wanted, find, index_of, slot_name};
use super::pool::{Pool, lowest_free};
use super::{Host, owner};
use crate::inside::Inside;
use crate::kernel::link::{self, By, Kind, Link};
use crate::publish;
use crate::report::error::{Failed, Refused, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::{Grant, MOST_LINKS};

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
    wanted.wait_for(|| {
        let host_end = free_name(host, wanted)?;
        Ok(Choice { host_end, ip: free_address(host, wanted)? })
    })
}

/// A free name of the host end.
fn free_name(host: &Host, wanted: &Wanted) -> Result<IfName> {
    let Grant { uid, links, .. } = *wanted.grant;
    let if_free = |name: IfName| Ok((!host.has(By::Name(&name))?).then_some(name));
    // Only root names it.
    if let Some(name) = wanted.request.host_end.as_ref().filter(|_| uid == 0) {
        return if_free(name.clone())?.ok_or(Failed::HostName(name.clone()).into());
    }
    let free = lowest_free(links, |slot| if_free(slot_name(uid, slot)))?;
    Ok(free.ok_or(Refused::Quota(links, uid))?)
}

/// A free address: the lowest that is the caller's own or nobody's, if there is one ([`super::owner`]).
fn free_address(host: &mut Host, wanted: &Wanted) -> Result<Ipv4Addr> {
    let if_free =
        |host: &Host, ip| -> Result<_> { Ok((!host.has(By::Index(index_of(ip)))?).then_some(ip)) };
    if let Some(Cidr { ip, .. }) = wanted.request.container_address {
        return if_free(host, ip)?.ok_or(Failed::Leased(ip).into());
    }
    let subnet = wanted.grant.address;
    let pool = Pool(subnet);
    let lowest = lowest_free(pool.len(), |place| if_free(host, pool.nth(place)))?;
    let lowest = lowest.ok_or(Failed::SubnetFull(subnet))?;
    let suits = owner::last_user(host, lowest)?.is_none_or(|uid| uid == wanted.grant.uid)
        && (!wanted.request.publish.is_empty() || !publish::is_published(host, lowest)?);
    if suits {
        return Ok(lowest);
    }
    let history = owner::History::read(host)?;
    let mut best = (history.cost(lowest, wanted), lowest);
    for ip in pool.all() {
        let cost = history.cost(ip, wanted);
        if cost < best.0 && if_free(host, ip)?.is_some() {
            best = (cost, ip);
        }
    }
    Ok(best.1)
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
        // The admin uses groups, with small numbers, to change many links at once. With a group of its own
        // a link can be meant that no other link can be taken for. The standard library gets its random
        // keys from the kernel (getrandom(2)).
        let group = RandomState::new().hash_one(0) as u32 | GROUP_MARK;
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
                if !host.has(By::Index(index_of(choice.ip)))?
                    && !host.has(By::Name(&choice.host_end))?
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

/// Gives a lease back: the veth pair is deleted from inside, with the container's own rights, or else
/// from the host.
pub fn give_back(host: &mut Host, lease: &Lease, inside: &mut Inside) -> Result<()> {
    let delete = |netlink: &mut _| link::delete_group(netlink, lease.group);
    inside.remove(lease.index).or_else(|_| host.change("deleting the veth pair", delete))
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
        link::of_kind(Kind::Veth, InfoData::Veth(peer)),
    ]);
    link::message(By::Index(index_of(ip)), outside)
}
