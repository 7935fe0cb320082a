//! An address belongs to a user. The map `owners` remembers who had each address last. What one user's
//! container began, published or was sent never reaches a container of another user: an address goes to
//! another user only after all of that is removed, while the bridge port is still closed. A user's own
//! address at which nothing is published costs a few looks, and no transaction.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::Host;
use super::lease::{self, Lease, Wanted};
use crate::firewall::{OWNERS, PUBLISHING, Step, optimistic_mending, set_owners, unset_owner};
use crate::kernel::nftables::{Batch, Element};
use crate::kernel::{conntrack, route};
use crate::publish;
use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;
use crate::target::Target;

/// The uid of the user who had the address last. `None`: no user had it since the tables were made.
pub fn last_user(host: &mut Host, ip: Ipv4Addr) -> Result<Option<u32>> {
    Ok(host.element(&OWNERS, ip.octets().into())?.as_ref().and_then(uid))
}

/// The users of all addresses that had one since then.
pub fn all(host: &mut Host) -> Result<HashMap<Ipv4Addr, u32>> {
    let owner = |element: &Element| Some((element.ipv4()?, uid(element)?));
    Ok(host.elements(&OWNERS)?.iter().filter_map(owner).collect())
}

/// The uid in an element of the map `owners`.
fn uid(element: &Element) -> Option<u32> {
    element.value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Who had which address last, and which addresses containers publish at, or did.
pub struct History {
    owners: HashMap<Ipv4Addr, u32>,
    publishing: HashSet<Ipv4Addr>,
}

impl History {
    pub fn read(host: &mut Host) -> Result<History> {
        Ok(History {
            owners: all(host)?,
            publishing: host.elements(&PUBLISHING)?.iter().filter_map(Element::ipv4).collect(),
        })
    }

    /// The addresses of this user at which something is published.
    pub fn publishing(&self, uid: u32) -> impl Iterator<Item = Ipv4Addr> {
        self.publishing.iter().copied().filter(move |ip| self.owners.get(ip) == Some(&uid))
    }

    /// What [`claim`] would have to do for this address, the cheapest first: nothing, remove published
    /// ports of the same user, remove all that another user left.
    pub fn cost(&self, ip: Ipv4Addr, wanted: &Wanted) -> u32 {
        let published = self.publishing.contains(&ip);
        match self.owners.get(&ip) {
            Some(uid) if *uid != wanted.grant.uid => 2,
            None if published => 2,
            // To publish removes what the user's dead containers published in any case.
            _ => u32::from(published && wanted.request.publish.is_empty()),
        }
    }
}

/// Makes the address of `lease`, whose bridge port is still closed, its user's, and removes whatever leads
/// to it or waits for it.
///
/// What a user left at an own address is published ports, which a new container must not inherit. From
/// another user there are also flows, which would bring that user's late answers.
pub fn claim(host: &mut Host, wanted: &Wanted, lease: &Lease, bridge: u32) -> Result<()> {
    let Wanted { grant, target, .. } = *wanted;
    let (ip, uid) = (lease.address.ip, lease.user());
    let last = last_user(host, ip)?;
    let published = publish::remove::all_of(host, ip, |host| is_closed(host, lease, target))?;
    // A packet that waits for the address to be resolved has passed the firewall already.
    forget_neighbour(host, bridge, ip)?;
    if wanted.request.container_address.is_some() {
        forget_flows_of_many(host, grant, uid)?;
    }
    if last == Some(uid) {
        return Ok(());
    }
    if last.is_some() || published {
        let read = |netlink: &mut _| conntrack::of_containers(netlink, |end| end == ip);
        host.forget_flows(read, |host, _| is_closed(host, lease, target))?;
    }
    // Last: a run that is killed before this leaves the rest to the next one.
    optimistic_mending(host, grant, |host| {
        if !is_closed(host, lease, target)? {
            return Ok(Step::Done(()));
        }
        let mut batch = Batch::default();
        if let Some(last) = last_user(host, ip)? {
            unset_owner(&mut batch, (ip, last));
        }
        set_owners(&mut batch, grant, &[(ip, uid)]);
        Ok(Step::Commit(batch, ()))
    })
}

/// Makes the kernel forget the flows of a user's dead containers, if the user had more addresses than
/// there are links in the quota. Each address may have a number of flows, and these last for days. A user
/// gets so many addresses only by asking for them one by one.
fn forget_flows_of_many(host: &mut Host, grant: &Grant, uid: u32) -> Result<()> {
    let mut owners = all(host)?;
    owners.retain(|_, owner| *owner == uid);
    let many = u32::try_from(owners.len()).is_ok_and(|count| count > grant.links);
    if many { host.forget_flows_of_free(|ip| owners.contains_key(&ip)) } else { Ok(()) }
}

/// Whether the bridge port of `lease` is closed yet. Once it is open, another run for the same container
/// has done everything. [`Failed::LeaseLost`] if the lease is not the target's any more.
fn is_closed(host: &mut Host, lease: &Lease, target: &Target) -> Result<bool> {
    let link = lease::held(host, lease, target)?.ok_or(Failed::LeaseLost)?;
    Ok(!link.up)
}

/// Makes the kernel forget the neighbour entry of a container, and with it the packets that wait there.
pub fn forget_neighbour(host: &mut Host, bridge: u32, ip: Ipv4Addr) -> Result<()> {
    let forget = |netlink: &mut _| route::forget_neighbour(netlink, bridge, ip);
    host.change("forgetting the container's neighbour entry", forget)
}
