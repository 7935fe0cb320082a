//! The host's side: the bridge, the firewall, the lease of an address, which is a port of the bridge,
//! and published ports.

pub mod bridge;
pub mod lease;
pub mod overlap;
pub mod pool;
pub mod port;

use std::fs::OpenOptions;
use std::io::{self, Write};

use caps::Capability;
use nix::errno::Errno;

use crate::firewall::Seal;
use crate::kernel::conntrack::{self, Flows};
use crate::kernel::link::{self, By, Kind, Link};
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::nftables::{Batch, Ruleset};
use crate::privilege::caller::Privilege;
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;

/// The host's network, to be read by anybody and changed with CAP_NET_ADMIN.
pub struct Host<'a> {
    pub netlink: Netlink,
    /// Opened when it is needed first.
    pub ruleset: Option<Ruleset>,
    /// Under which generation the firewall was seen to be whole.
    pub seal: Option<Seal>,
    privilege: &'a Privilege,
}

impl Host<'_> {
    /// Opens the host's network: that of the namespace that this process is in.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn open(privilege: &Privilege) -> Result<Host<'_>> {
        // The kernel asks for the capability of whoever opened a socket, and of whoever sends.
        let _raised = privilege.raise(Capability::CAP_NET_ADMIN)?;
        let netlink = Netlink::open().map_err(Failed::netlink("opening a netlink socket"))?;
        Ok(Host { netlink, ruleset: None, seal: None, privilege })
    }

    /// Looks an interface up; `None` when there is none.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn link(&mut self, by: By) -> Result<Option<Link>> {
        link::get(&mut self.netlink, by).map_err(Failed::netlink("looking an interface up"))
    }

    /// Whether an interface has the index `index`.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn has_index(&self, index: u32) -> Result<bool> {
        self.netlink.has_index(index).map_err(Failed::netlink("looking an index up"))
    }

    /// Whether an interface has the name or alternative name `name`.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn has_name(&self, name: &IfName) -> Result<bool> {
        self.netlink.has_name(name).map_err(Failed::netlink("looking a name up"))
    }

    /// The names of all bridges.
    ///
    /// # Errors
    /// [`Failed::Netlink`].
    pub fn bridges(&mut self) -> Result<Vec<IfName>> {
        let links = link::all(&mut self.netlink, Kind::Bridge)
            .map_err(Failed::netlink("looking bridges up"))?;
        // A name that cannot be read as one is of no bridge that could be meant.
        Ok(links.into_iter().filter_map(|link| link.name.parse().ok()).collect())
    }

    /// Runs `request` on the firewall, with CAP_NET_ADMIN in effect; likewise.
    pub fn ruleset<T>(
        &mut self,
        request: impl FnOnce(&mut Ruleset) -> Result<T, netlink::Error>,
    ) -> Result<Result<T, netlink::Error>> {
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        if self.ruleset.is_none() {
            match Ruleset::open() {
                Ok(ruleset) => self.ruleset = Some(ruleset),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match &mut self.ruleset {
            Some(ruleset) => request(ruleset),
            None => Err(netlink::Error::Kernel(Errno::EBADF)),
        })
    }

    /// Carries a transaction out, one that leaves the firewall whole, if nothing was changed since this
    /// generation; likewise.
    pub fn commit(
        &mut self,
        mut batch: Batch,
        generation: u32,
    ) -> Result<Result<(), netlink::Error>> {
        let seal = self.seal.and_then(|seal| seal.after(generation));
        if let Some(seal) = seal {
            seal.take_along(&mut batch);
        }
        let done = self.ruleset(|ruleset| ruleset.commit(batch, Some(generation)))?;
        self.seal = seal.filter(|_| done.is_ok());
        Ok(done)
    }

    /// Has the kernel forget the flows that `read` tells of, if `may` says then that this is right.
    /// Where the kernel cannot, the firewall keeps them from others as far as they are known to it.
    ///
    /// # Errors
    /// [`Failed::Caller`], and those of `may`.
    pub fn forget_flows(
        &mut self,
        read: impl FnOnce(&mut Netlink) -> Result<Flows, netlink::Error>,
        may: impl FnOnce(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let flows = self.ruleset(|ruleset| read(ruleset.socket()))?;
        if let Ok(flows) = flows
            && may(self)?
        {
            let _ = self.ruleset(|ruleset| conntrack::forget(ruleset.socket(), flows))?;
        }
        Ok(())
    }

    /// Writes one of the kernel's switches for networks. Whoever has CAP_NET_ADMIN may
    /// (`net_ctl_permissions`, `net/sysctl_net.c`). The outer result tells of the capability, the inner
    /// one of the switch.
    pub fn set_switch(&self, path: &str, value: &str) -> Result<io::Result<()>> {
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        let file = OpenOptions::new().write(true).open(path);
        Ok(file.and_then(|mut file| file.write_all(value.as_bytes())))
    }

    /// Runs `change` with CAP_NET_ADMIN in effect. The outer result tells of the capability, the
    /// inner one of the change.
    pub fn privileged<T>(
        &mut self,
        change: impl FnOnce(&mut Netlink) -> Result<T, netlink::Error>,
    ) -> Result<Result<T, netlink::Error>> {
        let _raised = self.privilege.raise(Capability::CAP_NET_ADMIN)?;
        Ok(change(&mut self.netlink))
    }
}
