//! The capabilities that the process keeps. None is in effect, except while a [`Raised`] lives.
//!
//! - `CAP_NET_ADMIN` changes the host's network. It is raised for those requests only.
//! - `CAP_SYS_PTRACE` opens the namespace of a process of the caller that is not dumpable (crun's).
//!   The run gives it up before it changes anything.
//!
//! A caller who is root keeps root's capabilities.

use std::process::abort;

use caps::{CapSet, Capability};
use nix::errno::Errno;

use super::failed;
use super::sys::{Capabilities, capabilities, set_capabilities};
use crate::report::error::Result;

/// The capabilities that the process may keep for a caller who is not root.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_PTRACE];

fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask())
}

/// Empties the bounding set, as far as the kernel allows that: file capabilities do not include
/// CAP_SETPCAP, and an old kernel does not know every capability. An error is no danger, as with
/// no_new_privs the process never gains a capability.
pub(super) fn empty_bounding_set() {
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
}

fn change(to: impl FnOnce(Capabilities) -> Capabilities) -> nix::Result<()> {
    set_capabilities(to(capabilities()?))
}

/// Keeps [`KEPT`], as far as the installation gave them, and takes all capabilities out of effect.
///
/// Root keeps all, and two are out of effect: with CAP_SYS_MODULE or CAP_NET_ADMIN in effect the
/// kernel loads a module for each unknown interface name that it is asked for
/// ([`crate::privilege::sys::interface_name_exists`]).
pub(super) fn cut(root: bool) -> nix::Result<()> {
    if root {
        let out = bits(&[Capability::CAP_SYS_MODULE, Capability::CAP_NET_ADMIN]);
        return change(|held| Capabilities { effective: held.effective & !out, ..held });
    }
    caps::clear(None, CapSet::Ambient).map_err(|_| Errno::EPERM)?;
    let kept = |held: Capabilities| held.permitted & bits(&KEPT);
    change(|held| Capabilities { effective: 0, permitted: kept(held), inheritable: 0 })
}

/// Whether the process holds at most [`KEPT`], and has none in effect.
pub(super) fn is_cut() -> nix::Result<bool> {
    let held = capabilities()?;
    Ok(held.effective == 0 && held.inheritable == 0 && held.permitted & !bits(&KEPT) == 0)
}

/// Whether the process can bring `capability` into effect.
pub fn holds(capability: Capability) -> bool {
    capabilities().is_ok_and(|held| held.permitted & capability.bitmask() != 0)
}

/// The right to raise the capabilities that the process holds.
#[derive(Debug)]
pub struct Privilege(pub(super) ());

impl Privilege {
    /// Brings `capability` into effect until the answer is dropped.
    pub fn raise(&self, capability: Capability) -> Result<Raised> {
        let bit = capability.bitmask();
        change(|held| Capabilities { effective: held.effective | bit, ..held })
            .map_err(failed("raising a capability"))?;
        Ok(Raised(bit))
    }

    /// Gives `capability` up for good. After an error the process must end.
    pub fn give_up(&self, capability: Capability) -> Result<()> {
        keep(!capability.bitmask(), false).map_err(failed("giving up a capability"))
    }
}

/// Keeps of the permitted capabilities these bits alone, and of those in effect as well. `raise`
/// brings them all into effect.
fn keep(bits: u64, raise: bool) -> nix::Result<()> {
    change(|held| Capabilities {
        effective: if raise { bits } else { held.effective & bits },
        permitted: held.permitted & bits,
        ..held
    })
}

/// A capability in effect, until this is dropped.
#[derive(Debug)]
#[must_use = "the capability is in effect only while this lives"]
pub struct Raised(u64);

impl Drop for Raised {
    fn drop(&mut self) {
        if change(|held| Capabilities { effective: held.effective & !self.0, ..held }).is_err() {
            // To go on with a capability in effect is worse than to end here.
            abort();
        }
    }
}

/// For the child of a caller who is root: brings CAP_NET_ADMIN, and CAP_SYS_ADMIN, which enters any
/// namespace, into effect, and gives up all others.
pub fn keep_for_entering() -> Result<()> {
    keep(bits(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]), true)
        .map_err(failed("keeping the capabilities for entering"))
}

/// Gives up every capability of the calling process for good. After an error the process must end.
pub fn give_up_all() -> Result<()> {
    keep(0, false).map_err(failed("giving up the capabilities"))
}
