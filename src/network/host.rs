//! The host's network: sockets to the kernel, and the capability that changes take.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;

use caps::Capability;
use nix::errno::Errno;

use super::lease::{index_of, is_of_a_lease};
use crate::firewall::dnat::Nat;
use crate::kernel::conntrack::{self, Flows};
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::nftables::{Element, Ruleset, Set};
use crate::kernel::route;
use crate::privilege::capability::Privilege;
use crate::report::error::{Failed, Result};
use crate::request::address::Cidr;

/// The network of the namespace that this process is in. Links, addresses and routes are read without a
/// capability; each other request raises CAP_NET_ADMIN for itself.
pub struct Host<'a> {
    pub netlink: Netlink,
    /// Opened when it is needed first.
    ruleset: Option<Ruleset>,
    /// The tables of others that have NAT, read when they are needed first.
    pub others_nat: Option<Vec<Nat>>,
    privilege: &'a Privilege,
    /// Checks that the policy still grants what this run does. Some runs need no grant.
    pub policy: Option<&'a dyn Fn() -> Result<()>>,
    /// The generation of the ruleset in which the tables are whole, as far as this run knows.
    pub whole: Option<u32>,
}

impl Host<'_> {
    pub fn open(privilege: &Privilege) -> Result<Host<'_>> {
        // The kernel asks for the capability at a socket's opening as well as at each request.
        let _raised = privilege.raise(Capability::CAP_NET_ADMIN)?;
        let netlink = Netlink::open().map_err(Failed::netlink("opening a netlink socket"))?;
        Ok(Host { netlink, ruleset: None, others_nat: None, privilege, policy: None, whole: None })
    }

    /// Checks that the policy is still the one that this run has read.
    pub fn check_policy(&self) -> Result<()> {
        self.policy.map_or(Ok(()), |check| check())
    }

    /// The generation of the ruleset.
    pub fn generation(&mut self) -> Result<u32> {
        self.ruleset("reading its generation", Ruleset::generation)
    }

    /// Looks an interface up; `None` when there is none.
    pub fn link(&mut self, by: By) -> Result<Option<Link>> {
        link::get(&mut self.netlink, by).map_err(Failed::netlink("looking an interface up"))
    }

    /// Whether there is such an interface, see [`link::exists`].
    pub fn has(&self, by: By) -> Result<bool> {
        link::exists(&self.netlink, by).map_err(Failed::netlink("looking an interface up"))
    }

    /// The addresses that are the host's own, in ranges.
    pub fn local_addresses(&mut self) -> Result<Vec<Cidr>> {
        let read = route::local_addresses(&mut self.netlink);
        read.map_err(Failed::netlink("reading the host's addresses"))
    }

    /// The host ends of all containers.
    pub fn leases(&mut self) -> Result<Vec<Link>> {
        let mut links = link::all(&mut self.netlink, Kind::Veth)
            .map_err(Failed::netlink("reading the links of containers"))?;
        links.retain(is_of_a_lease);
        Ok(links)
    }

    /// Changes links, addresses or neighbours; `what` is what an error says of it.
    pub fn change<T>(
        &mut self,
        what: &'static str,
        request: impl FnOnce(&mut Netlink) -> Result<T, netlink::Error>,
    ) -> Result<T> {
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        request(&mut self.netlink).map_err(Failed::netlink(what))
    }

    /// Reads or changes the firewall; likewise.
    pub fn ruleset<T>(
        &mut self,
        what: &'static str,
        request: impl FnOnce(&mut Ruleset) -> Result<T, netlink::Error>,
    ) -> Result<T> {
        let failed = |error| Failed::Firewall(what, error);
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        let ruleset = match &mut self.ruleset {
            Some(ruleset) => ruleset,
            none => none.insert(Ruleset::open().map_err(failed)?),
        };
        Ok(request(ruleset).map_err(failed)?)
    }

    /// The element of `set` with this key.
    pub fn element(&mut self, set: &Set, key: Vec<u8>) -> Result<Option<Element>> {
        self.ruleset("reading it", |ruleset| ruleset.element(set, key))
    }

    /// All elements of `set`.
    pub fn elements(&mut self, set: &Set) -> Result<Vec<Element>> {
        self.ruleset("reading it", |ruleset| ruleset.elements(set))
    }

    /// Makes the kernel forget flows, in the order that [`conntrack`] explains: they are read; `still` says
    /// of each container's address whether this is still right; those that were read are deleted. A kernel
    /// without this service is no error.
    pub fn forget_flows(
        &mut self,
        read: impl FnOnce(&mut Netlink) -> Result<Flows, netlink::Error>,
        mut still: impl FnMut(&mut Self, Ipv4Addr) -> Result<bool>,
    ) -> Result<()> {
        let flows = match self.ruleset("reading flows", |ruleset| read(&mut ruleset.netlink)) {
            Err(error) if error.is(Errno::EINVAL) || error.is(Errno::EOPNOTSUPP) => return Ok(()),
            flows => flows?,
        };
        for (ip, flows) in flows {
            if still(self, ip)? {
                self.ruleset("forgetting flows", |ruleset| {
                    conntrack::forget(&mut ruleset.netlink, &flows)
                })?;
            }
        }
        Ok(())
    }

    /// Makes the kernel forget the flows of those of these addresses that no container uses.
    pub fn forget_flows_of_free(&mut self, these: impl Fn(Ipv4Addr) -> bool) -> Result<()> {
        self.forget_flows(
            |netlink| conntrack::of_containers(netlink, these),
            |host, ip| Ok(host.link(By::Index(index_of(ip)))?.is_none_or(|link| !link.up)),
        )
    }

    /// Writes one of the kernel's switches for networks, which takes CAP_NET_ADMIN
    /// (`net_ctl_permissions`, `net/sysctl_net.c`).
    pub fn set_switch(&self, path: &str, value: &str) -> Result<()> {
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        let file = OpenOptions::new().write(true).open(path);
        let written = file.and_then(|mut file| file.write_all(value.as_bytes()));
        Ok(written.map_err(|error| Failed::Sysctl(path.into(), value.to_owned(), error))?)
    }
}
