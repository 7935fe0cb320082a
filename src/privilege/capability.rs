//! The capabilities that the process keeps. None is in effect, except while a [`Raised`] lives.
//!
//! - `CAP_NET_ADMIN` changes the host's network. It is raised for those requests only.
//! - `CAP_SYS_PTRACE` opens the namespace of a process of the caller that is not dumpable (crun's).
//!   The run gives it up before it changes anything.
//!
//! A caller who is root keeps root's capabilities.

use std::process::abort;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

use super::failed;
use crate::report::error::Result;

/// The capabilities that the process may keep for a caller who is not root.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_PTRACE];

/// Empties the bounding set, as far as the kernel allows that: file capabilities do not include
/// CAP_SETPCAP, and an old kernel does not know every capability. An error is no danger, as with
/// no_new_privs the process never gains a capability.
pub(super) fn empty_bounding_set() {
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
}

/// Keeps [`KEPT`], as far as the installation gave them, and takes all capabilities out of effect.
///
/// Root keeps all, and two are out of effect: with CAP_SYS_MODULE or CAP_NET_ADMIN in effect the
/// kernel loads a module for each unknown interface name that it is asked for
/// ([`crate::privilege::sys::interface_name_exists`]).
pub(super) fn cut(root: bool) -> Result<(), CapsError> {
    if root {
        caps::drop(None, CapSet::Effective, Capability::CAP_SYS_MODULE)?;
        return caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN);
    }
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|kept| held.contains(kept)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Effective)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Whether the process holds at most [`KEPT`], and has none in effect.
pub(super) fn is_cut() -> Result<bool, CapsError> {
    Ok(caps::read(None, CapSet::Effective)?.is_empty()
        && caps::read(None, CapSet::Inheritable)?.is_empty()
        && caps::read(None, CapSet::Permitted)?.iter().all(|held| KEPT.contains(held)))
}

/// The right to raise the capabilities that the process holds.
#[derive(Debug)]
pub struct Privilege {
    pub(super) _private: (),
}

impl Privilege {
    /// Brings `capability` into effect until the answer is dropped.
    pub fn raise(&self, capability: Capability) -> Result<Raised> {
        caps::raise(None, CapSet::Effective, capability).map_err(failed("raising a capability"))?;
        Ok(Raised { capability })
    }

    /// Whether `capability` can be raised.
    pub fn holds(&self, capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Permitted, capability).unwrap_or(false)
    }

    /// Gives `capability` up for good. After an error the process must end.
    pub fn give_up(&self, capability: Capability) -> Result<()> {
        caps::drop(None, CapSet::Effective, capability)
            .and_then(|()| caps::drop(None, CapSet::Permitted, capability))
            .map_err(failed("giving up a capability"))
    }
}

/// A capability in effect, until this is dropped.
#[derive(Debug)]
#[must_use = "the capability is in effect only while this lives"]
pub struct Raised {
    capability: Capability,
}

impl Drop for Raised {
    fn drop(&mut self) {
        if caps::drop(None, CapSet::Effective, self.capability).is_err() {
            // To go on with a capability in effect is worse than to end here.
            abort();
        }
    }
}

/// For the child of a caller who is root: brings CAP_NET_ADMIN, and CAP_SYS_ADMIN, which enters any
/// namespace, into effect, and gives up all others.
pub fn keep_for_entering() -> Result<()> {
    let kept = CapsHashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]);
    caps::set(None, CapSet::Effective, &kept)
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept))
        .map_err(failed("keeping the capabilities for entering"))
}

/// Gives up every capability of the calling process for good. After an error the process must end.
pub fn give_up_all() -> Result<()> {
    caps::clear(None, CapSet::Effective)
        .and_then(|()| caps::clear(None, CapSet::Permitted))
        .map_err(failed("giving up the capabilities"))
}
