//! The lease of an address, kept by the kernel alone: a lease is a link.
//!
//! The host's end of a wire is named `ns<uid>-<slot>`, with a slot below its owner's quota, and has
//! the index `0x40000000 | (address & 0x3fffffff)`. Both are asked for in the one message that
//! creates it, and the kernel refuses a second link of either. So no quota and no address can be
//! raced past, and when the namespace dies the kernel removes the link, and with it the lease.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nix::errno::Errno;

use super::pool::{Pool, lowest_free};
use super::{Host, owner};
use crate::inside::{End, Inside};
use crate::kernel::link::{self, By, Kind, Link, Namespace};
use crate::publish;
use crate::report::error::{Error, Failed, Refused, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::policy::Grant;
use crate::target::Target;

/// What marks an index as a lease's, and the part of an address that an index has room for.
pub const MARK: u32 = 0x4000_0000;
pub const ADDRESS_BITS: u32 = 0x3fff_ffff;

/// What marks a group as a lease's. Every other link is in group 0, so that one must never be meant.
const GROUP_MARK: u32 = 0x4000_0000;

/// How long to sleep between two tries to get what is still taken.
pub const NAP: Duration = Duration::from_millis(20);

/// How often a creation that others were faster at is tried again: as often as all the links that
/// there can be could have come between, and gone.
pub const TRIES: u32 = 2 * crate::request::policy::MOST_LINKS;

/// The index of the link that leases `ip`.
pub fn index_of(ip: Ipv4Addr) -> u32 {
    MARK | (ip.to_bits() & ADDRESS_BITS)
}

/// The address that the link of this index leases, if it is one of this subnet's.
pub fn address_of(index: u32, subnet: Cidr) -> Option<Cidr> {
    // The bits that the index has no room for are the subnet's, which has no more than ten others.
    let ip = Ipv4Addr::from_bits((subnet.ip.to_bits() & !ADDRESS_BITS) | (index & ADDRESS_BITS));
    let leased = index & !ADDRESS_BITS == MARK && subnet.is_host(ip) && ip != subnet.ip;
    leased.then_some(Cidr { ip, prefix: subnet.prefix })
}

/// The name of `uid`'s link number `slot`. The slot is in base 36, so that it has two digits at
/// most and the longest uid leaves room for them.
pub fn slot_name(uid: u32, slot: u32) -> IfName {
    let digit = |value: u32| char::from_digit(value % 36, 36).unwrap_or('0');
    let slot = match slot {
        0..36 => digit(slot).to_string(),
        _ => [digit(slot / 36), digit(slot)].iter().collect(),
    };
    IfName::literal(format!("ns{uid}-{slot}"))
}

/// The uid whose link `name` is, if it is one that this program gives.
pub fn owner_of(name: &str) -> Option<u32> {
    let (uid, slot) = name.strip_prefix("ns")?.split_once('-')?;
    let is_slot = (1..=2).contains(&slot.len()) && slot.bytes().all(|b| b.is_ascii_alphanumeric());
    uid.parse().ok().filter(|owner: &u32| is_slot && owner.to_string() == uid)
}

/// Whether `link` was made as the host's end of a wire: by its kind, and by its group.
pub fn is_of_a_lease(link: &Link) -> bool {
    link.kind == Some(Kind::Veth) && link.group & GROUP_MARK != 0
}

/// A lease that is held: both ends of the veth pair exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The container's address, with the subnet's prefix length.
    pub address: Cidr,
    /// The index of the host end.
    pub index: u32,
    /// The name of the host end.
    pub host_end: IfName,
    /// The group of the host end: a number that no other link has. The index can be another link's by
    /// now, and the name another link's of the same user. The group means this link only.
    pub group: u32,
    /// How far its bridge port is.
    pub port: Port,
}

/// How far the bridge port of a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// This run has made it: it is closed.
    New,
    /// Another run has made it, and not opened it yet. Perhaps that run was killed.
    Closed,
    /// Frames pass.
    Open,
}

/// What is asked for.
pub struct Wanted<'a> {
    /// The caller's real user id.
    pub uid: u32,
    /// The network, and the quota.
    pub grant: &'a Grant,
    /// The target: the container end is born in its namespace.
    pub target: &'a Target,
    /// The name of the host end, if not the first free slot's.
    pub host_end: Option<&'a IfName>,
    /// The name of the container end.
    pub container_end: &'a IfName,
    /// The MTU of the container end, in bytes.
    pub mtu: u32,
    /// The address, if not the lowest free one.
    pub address: Option<Ipv4Addr>,
    /// Whether ports are to be published.
    pub publishes: bool,
    /// Until when to wait for a lease that is dying.
    pub deadline: Instant,
}

/// The lease that the target has already, if the interface `end` inside is the container end of one. The
/// host's view decides that; the inside says only where to look.
///
/// [`Failed::NameInside`] if the interface is something else, [`Failed::AttachedAlready`] if it has
/// another address than the one wanted, [`Failed::BridgeDeleted`].
pub fn find(host: &mut Host, wanted: &Wanted, end: End) -> Result<Lease> {
    let (lease, bridge) = find_with_bridge(host, wanted, end)?;
    if bridge.is_none() {
        return Err(Failed::BridgeDeleted(wanted.grant.bridge.clone()).into());
    }
    match wanted.address.is_some_and(|asked| asked != lease.address.ip) {
        true => Err(Failed::AttachedAlready(wanted.container_end.clone(), lease.address).into()),
        false => Ok(lease),
    }
}

/// The same, with the index of the bridge. `None`: the bridge was deleted.
pub fn find_with_bridge(
    host: &mut Host,
    wanted: &Wanted,
    end: End,
) -> Result<(Lease, Option<u32>)> {
    let foreign = || Error::from(Failed::NameInside(wanted.container_end.clone()));
    let index = end.peer.ok_or_else(foreign)?;
    let address = address_of(index, wanted.grant.address).ok_or_else(foreign)?;
    let link = host.link(By::Index(index))?.ok_or_else(foreign)?;
    let of_the_caller = wanted.uid == 0 || owner_of(&link.name) == Some(wanted.uid);
    let to_the_target = link.peer == Some(end.index)
        && link.peer_namespace.is_some()
        && link.peer_namespace == namespace_id(host, wanted.target)?;
    // The bridge as it is now: another run for the same container may just have made it.
    let bridge = host.link(By::Name(&wanted.grant.bridge))?.map(|bridge| bridge.index);
    let master = match link.master {
        // It may also have been deleted since.
        Some(other) if Some(other) != bridge && host.link(By::Index(other))?.is_some() => {
            return Err(foreign());
        }
        master => master.filter(|master| Some(*master) == bridge),
    };
    if !of_the_caller || !to_the_target || !is_of_a_lease(&link) {
        return Err(foreign());
    }
    let host_end = link.name.parse().map_err(|_| foreign())?;
    let port = if link.up { Port::Open } else { Port::Closed };
    Ok((Lease { address, index, host_end, group: link.group, port }, master))
}

/// The link of `lease`, if it is still the target's: a veth pair can be removed from inside, and its
/// address be leased again.
pub fn held(host: &mut Host, lease: &Lease, target: &Target) -> Result<Option<Link>> {
    let Some(link) = host.link(By::Index(lease.index))? else { return Ok(None) };
    let still = link.name == lease.host_end.as_str()
        && link.group == lease.group
        && link.peer_namespace.is_some()
        && link.peer_namespace == namespace_id(host, target)?;
    Ok(Some(link).filter(|_| still))
}

/// Whether `lease` is still the target's.
pub fn is_held(host: &mut Host, lease: &Lease, target: &Target) -> Result<bool> {
    held(host, lease, target).map(|link| link.is_some())
}

/// The id by which this network namespace knows the target.
fn namespace_id(host: &mut Host, target: &Target) -> Result<Option<i32>> {
    link::namespace_id(&mut host.netlink, Namespace::Fd(target.net.as_raw_fd().cast_unsigned()))
        .map_err(Failed::netlink("reading the id of the container's namespace"))
}

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
    if let Some(name) = wanted.host_end {
        let free = !host.has_name(name)?;
        return Ok(free.then_some(name.clone()).ok_or(Failed::HostName(name.clone()).into()));
    }
    let links = wanted.grant.links;
    let slot = lowest_free(links, |slot| host.has_name(&slot_name(wanted.uid, slot)))?;
    let name = slot.map(|slot| slot_name(wanted.uid, slot));
    Ok(name.ok_or(Refused::Quota(links, wanted.uid).into()))
}

/// A free address, likewise: the lowest that is the caller's own or nobody's, if there is one
/// ([`super::owner`]).
fn free_address(host: &mut Host, wanted: &Wanted) -> Result<Result<Ipv4Addr, Error>> {
    if let Some(ip) = wanted.address {
        let free = !host.has_index(index_of(ip))?;
        return Ok(free.then_some(ip).ok_or(Failed::Leased(ip).into()));
    }
    let pool = Pool::of(wanted.grant.address);
    let lowest = lowest_free(pool.len(), |place| host.has_index(index_of(pool.nth(place))))?;
    let Some(lowest) = lowest.map(|place| pool.nth(place)) else {
        return Ok(Err(Failed::SubnetFull(wanted.grant.address).into()));
    };
    let suits = owner::last_user(host, lowest)?.is_none_or(|uid| uid == wanted.uid)
        && (wanted.publishes || !publish::is_published(host, lowest)?);
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
        let request = wire(wanted, bridge, &choice, group);
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

/// A group for a link. Groups are for administrators to change many links at once; one of each link's
/// own makes a change mean that link. Theirs are small numbers.
fn random_group() -> u32 {
    // The standard library has its keys from the kernel (getrandom(2)).
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
fn wire(wanted: &Wanted, bridge: &Link, choice: &Choice, group: u32) -> LinkMessage {
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
    let mut inside = end(wanted.container_end, Mac::of(ip), wanted.mtu);
    inside.push(LinkAttribute::NetNsFd(wanted.target.net.as_raw_fd()));
    let peer = InfoVeth::Peer(link::message(0, inside));
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
    link::message(index_of(ip), outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_its_index_determine_each_other() {
        assert_eq!(index_of(Ipv4Addr::new(10, 10, 10, 2)), 0x4a0a_0a02);
        assert_eq!(index_of(Ipv4Addr::new(192, 168, 1, 2)), 0x40a8_0102);
        let address = |index, subnet: &str| {
            address_of(index, subnet.parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(address(0x4a0a_0a02, "10.10.10.1/24").as_deref(), Some("10.10.10.2/24"));
        assert_eq!(address(0x40a8_0102, "192.168.1.1/24").as_deref(), Some("192.168.1.2/24"));
        for none in [7, 0x0a0a_0a02, 0x4a0a_0a01, 0x4a0a_0a00, 0x4a0a_0b02, 0xca0a_0a02] {
            assert_eq!(address(none, "10.10.10.1/24"), None, "{none:x}");
        }
        // An index is a positive 32-bit number (struct ifinfomsg, linux/rtnetlink.h).
        assert!(i32::try_from(index_of(Ipv4Addr::new(255, 255, 255, 255))).is_ok());
    }

    #[test]
    fn every_uid_and_slot_has_a_name_of_its_own() {
        assert_eq!(slot_name(1000, 0).as_str(), "ns1000-0");
        assert_eq!(slot_name(1000, 35).as_str(), "ns1000-z");
        assert_eq!(slot_name(1000, 36).as_str(), "ns1000-10");
        let longest = slot_name(u32::MAX, crate::request::policy::MOST_LINKS);
        assert_eq!(longest.as_str(), "ns4294967295-sf");
        assert_eq!(longest.as_str().parse(), Ok(longest));
        let names: std::collections::HashSet<_> =
            (0..=1023).map(|slot| slot_name(7, slot).to_string()).collect();
        assert_eq!(names.len(), 1024);
        assert!(names.iter().all(|name| owner_of(name) == Some(7)));
        for foreign in
            ["ns77-0", "ns7-", "ns7-000", "ns7--1", "veth0", "ns7-0/", "ns07-0", "ns+7-0"]
        {
            assert_ne!(owner_of(foreign), Some(7), "{foreign}");
        }
    }
}
