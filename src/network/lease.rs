//! The lease of an address. The kernel alone keeps it: a lease is a link.
//!
//! The host end of a veth pair has the name `ns<uid>-<slot>`, with a slot below the user's quota, and the
//! index `0x40000000 | (address & 0x3fffffff)`. One message asks for both, and the kernel refuses a
//! second link with either. So no run can exceed a quota or take a leased address, however many run at
//! once. When the namespace of a container dies, the kernel removes the link, and with it the lease.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::Host;
use super::take::NAP;
use crate::inside::End;
use crate::kernel::link::{self, By, Kind, Link, Namespace};
use crate::report::error::{Error, Failed, Refused, Result};
use crate::request::address::{Cidr, IfName, Mac};
use crate::request::cli::Attach;
use crate::request::policy::Grant;
use crate::target::Target;

/// The bit that marks an index as a lease's, and the bits of an address that an index has room for.
pub const MARK: u32 = 0x4000_0000;
pub const ADDRESS_BITS: u32 = 0x3fff_ffff;

/// The bit that marks a group as a lease's. Group 0 has every other link, and must never be meant.
pub const GROUP_MARK: u32 = 0x4000_0000;

/// The index of the link that leases `ip`.
pub fn index_of(ip: Ipv4Addr) -> u32 {
    MARK | (ip.to_bits() & ADDRESS_BITS)
}

/// The address that the link of this index leases, if it is one of this subnet's.
pub fn address_of(index: u32, subnet: Cidr) -> Option<Cidr> {
    // The bits that the index has no room for are the subnet's.
    let ip = Ipv4Addr::from_bits((subnet.ip.to_bits() & !ADDRESS_BITS) | (index & ADDRESS_BITS));
    let leased = index & !ADDRESS_BITS == MARK && subnet.is_host(ip) && ip != subnet.ip;
    leased.then_some(Cidr { ip, prefix: subnet.prefix })
}

/// The name of the host end in slot `slot` of user `uid`. The slot is in base 36: it has two digits at
/// most, for which the longest uid leaves room.
pub fn slot_name(uid: u32, slot: u32) -> IfName {
    let digit = |value: u32| char::from_digit(value % 36, 36).unwrap_or('0');
    let slot = match slot {
        0..36 => digit(slot).to_string(),
        _ => [digit(slot / 36), digit(slot)].iter().collect(),
    };
    IfName::literal(format!("ns{uid}-{slot}"))
}

/// The uid in the name of a host end; `None` if this program gives no such name.
pub fn user_of(name: &str) -> Option<u32> {
    let (uid, slot) = name.strip_prefix("ns")?.split_once('-')?;
    let is_slot = (1..=2).contains(&slot.len()) && slot.bytes().all(|b| b.is_ascii_alphanumeric());
    uid.parse().ok().filter(|owner: &u32| is_slot && owner.to_string() == uid)
}

/// The uid of the user whose host end has this name. Only root can give one another name.
pub fn holder_of(name: &str) -> u32 {
    user_of(name).unwrap_or_default()
}

/// Whether `link` is a host end, by its kind and its group.
pub fn is_of_a_lease(link: &Link) -> bool {
    link.kind == Some(Kind::Veth) && link.group & GROUP_MARK != 0
}

/// The address that a host end leases: all of it is in its MAC address.
pub fn ip_of(link: &Link) -> Option<Ipv4Addr> {
    let Mac([_, _, a, b, c, d]) = link.mac?;
    Some(Ipv4Addr::new(a, b, c, d)).filter(|ip| index_of(*ip) == link.index)
}

/// A lease that is held: both ends of the veth pair exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The container's address, with the subnet's prefix length.
    pub address: Cidr,
    pub index: u32,
    pub host_end: IfName,
    /// The group of the host end: a number that no other link has. The index can be another link's by
    /// now, and the name another link's of the same user. The group means this link only.
    pub group: u32,
    pub port: Port,
}

impl Lease {
    /// The uid of the user whose lease it is.
    pub fn user(&self) -> u32 {
        holder_of(self.host_end.as_str())
    }
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

/// The lease that a run asks for.
pub struct Wanted<'a> {
    /// The user, the network and the quota.
    pub grant: &'a Grant,
    /// The container end is born in its namespace.
    pub target: &'a Target,
    pub request: &'a Attach,
    /// The MTU of the container end, in bytes.
    pub mtu: u32,
    /// Until when to wait for a lease or a published port that is dying.
    pub deadline: Instant,
}

impl Wanted<'_> {
    /// Tries until the deadline, as long as `attempt` fails because something is taken: by a container
    /// that may be dying.
    pub fn wait_for<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let outcome = attempt();
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !outcome.as_ref().is_err_and(is_taken) {
                return outcome;
            }
            self.target.sleep(NAP.min(left))?;
        }
    }
}

fn is_taken(error: &Error) -> bool {
    use Failed::{HostName, Leased, PortPublished, SubnetFull};
    matches!(
        error,
        Error::Refused(Refused::Quota(..) | Refused::PortQuota(..))
            | Error::Failed(HostName(_) | Leased(_) | PortPublished(..) | SubnetFull(_))
    )
}

/// The lease that the target has already, if the interface `end` inside is the container end of one. The
/// host's view decides that; the inside says only where to look.
///
/// [`Failed::NameInside`] if the interface is something else, [`Failed::AttachedAlready`] if it has
/// another address than the one wanted, [`Failed::BridgeDeleted`].
pub fn find(host: &mut Host, wanted: &Wanted, end: End) -> Result<Lease> {
    let (lease, at_bridge) = find_anywhere(host, wanted, end)?;
    if !at_bridge {
        return Err(Failed::BridgeDeleted(wanted.grant.bridge.clone()).into());
    }
    let request = wanted.request;
    match request.container_address {
        Some(asked) if asked.ip != lease.address.ip => {
            Err(Failed::AttachedAlready(request.container_end.clone(), lease.address).into())
        }
        _ => Ok(lease),
    }
}

/// The same, also if the bridge was deleted. Gives whether the lease is at its bridge.
pub fn find_anywhere(host: &mut Host, wanted: &Wanted, end: End) -> Result<(Lease, bool)> {
    let foreign = || Error::from(Failed::NameInside(wanted.request.container_end.clone()));
    let index = end.peer.ok_or_else(foreign)?;
    let address = address_of(index, wanted.grant.address).ok_or_else(foreign)?;
    let link = host.link(By::Index(index))?.ok_or_else(foreign)?;
    let of_the_caller = wanted.grant.uid == 0 || user_of(&link.name) == Some(wanted.grant.uid);
    let to_the_target = link.peer == Some(end.index) && leads_into(host, &link, wanted.target)?;
    // The bridge as it is now: another run for the same container may just have made it.
    let bridge = host.link(By::Name(&wanted.grant.bridge))?.map(|bridge| bridge.index);
    let at_bridge = link.master.is_some() && link.master == bridge;
    let elsewhere = match link.master {
        // It may also have been deleted since.
        Some(other) if !at_bridge => host.has(By::Index(other))?,
        _ => false,
    };
    if elsewhere || !of_the_caller || !to_the_target || !is_of_a_lease(&link) {
        return Err(foreign());
    }
    let host_end = link.name.parse().map_err(|_| foreign())?;
    let port = if link.up { Port::Open } else { Port::Closed };
    Ok((Lease { address, index, host_end, group: link.group, port }, at_bridge))
}

/// The link of `lease`, if it is still the target's: a veth pair can be removed from inside, and its
/// address be leased again.
pub fn held(host: &mut Host, lease: &Lease, target: &Target) -> Result<Option<Link>> {
    let Some(link) = host.link(By::Index(lease.index))? else { return Ok(None) };
    let still = link.name == lease.host_end.as_str()
        && link.group == lease.group
        && leads_into(host, &link, target)?;
    Ok(still.then_some(link))
}

/// Whether the peer of `link` is in the target.
fn leads_into(host: &mut Host, link: &Link, target: &Target) -> Result<bool> {
    let target = Namespace::Fd(target.net.as_raw_fd().cast_unsigned());
    let id = link::namespace_id(&mut host.netlink, target)
        .map_err(Failed::netlink("reading the id of the container's namespace"))?;
    Ok(id.is_some() && id == link.peer_namespace)
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
        assert!(names.iter().all(|name| user_of(name) == Some(7)));
        for foreign in
            ["ns77-0", "ns7-", "ns7-000", "ns7--1", "veth0", "ns7-0/", "ns07-0", "ns+7-0"]
        {
            assert_ne!(user_of(foreign), Some(7), "{foreign}");
        }
    }
}
