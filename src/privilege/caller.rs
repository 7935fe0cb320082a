//! Becoming the caller: the first acts of the process, before it reads a single argument.
//!
//! The process starts as whatever its installation made it: root with every capability (setuid), or
//! the caller with two (file capabilities). In either case it goes on as the caller, with nothing
//! left that was inherited and could be bent, and with at most two capabilities, neither in effect:
//!
//! - `CAP_NET_ADMIN`, to change the host's network; raised around those requests alone;
//! - `CAP_SYS_PTRACE`, to open the namespace of a process of the caller's own that is not dumpable
//!   (crun's), and given up before anything is changed.
//!
//! A caller who is root keeps root's rights, since he has them anyway.

use std::fmt::Display;
use std::os::unix::fs::MetadataExt;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{
    Gid, Uid, getgid, getgroups, getresgid, getresuid, getuid, setresgid, setresuid,
};

use crate::privilege::sys;
use crate::report::error::{Error, Failed, Result};

/// The capabilities that the process may keep.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_PTRACE];

/// The soft limits under which the process runs, as far as the caller's hard limits allow. His
/// `RLIMIT_NPROC` stays: it is his budget of processes, and the child counts in it.
const LIMITS: [(Resource, rlim_t); 7] = [
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_CPU, RLIM_INFINITY),
    (Resource::RLIMIT_FSIZE, RLIM_INFINITY),
    (Resource::RLIMIT_AS, RLIM_INFINITY),
    (Resource::RLIMIT_DATA, RLIM_INFINITY),
    (Resource::RLIMIT_STACK, 8 << 20),
    (Resource::RLIMIT_NOFILE, 64),
];

/// The inode number of the initial user namespace (`PROC_USER_INIT_INO`,
/// `include/linux/proc_ns.h`).
const INITIAL_USER_NAMESPACE: u64 = 0xeffffffd;

/// Who called, and what the process may do for him.
#[derive(Debug)]
pub struct Caller {
    /// The real user id.
    pub uid: u32,
    unprivileged: Option<Failed>,
}

/// Becomes the caller, for good, and proves it.
///
/// # Errors
/// [`Failed::Caller`] when any step fails: the process must then end. That the program was not
/// installed, or not called, so that it has its privilege is no error yet, as `-help` needs none.
pub fn become_caller() -> Result<Caller> {
    sys::reset_signals();
    let (uid, gid) = (getuid(), getgid());
    let no_new_privs = sys::no_new_privs();
    empty_bounding_set();
    prctl::set_keepcaps(true).map_err(step("keeping capabilities"))?;
    match setresgid(gid, gid, gid).and_then(|()| setresuid(uid, uid, uid)) {
        // Where an id has no mapping not even one's own can be taken, nor does anything count.
        Err(Errno::EINVAL) if inside_user_namespace()? => {}
        taken => taken.map_err(step("taking the caller's ids"))?,
    }
    match uid.is_root() {
        true => lower_for_root(),
        false => cut_capabilities(),
    }
    .map_err(step("cutting the capabilities"))?;
    prctl::set_no_new_privs().map_err(step("setting no_new_privs"))?;
    // Last, as each change of ids may set it anew.
    prctl::set_dumpable(false).map_err(step("becoming undumpable"))?;
    prove(uid, gid)?;

    sys::open_standard_descriptors().map_err(step("opening the standard descriptors"))?;
    sys::close_from(3).map_err(step("closing inherited descriptors"))?;
    sys::clear_environment();
    umask(Mode::from_bits_truncate(0o077));
    set_limits().map_err(step("setting resource limits"))?;
    Ok(Caller { uid: uid.as_raw(), unprivileged: unprivileged(no_new_privs)? })
}

fn step<E: Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Failed::Caller(what, error.to_string()).into()
}

fn set_limits() -> nix::Result<()> {
    for (resource, soft) in LIMITS {
        let (now, hard) = getrlimit(resource)?;
        let hard = if resource == Resource::RLIMIT_CORE { 0 } else { hard };
        let soft = soft.min(hard);
        if now != soft || resource == Resource::RLIMIT_CORE {
            setrlimit(resource, soft, hard)?;
        }
    }
    Ok(())
}

/// Empties the bounding set as far as allowed: file capabilities do not include CAP_SETPCAP, and
/// an old kernel does not know every capability. no_new_privs alone sees to it as well that nothing
/// is ever gained.
fn empty_bounding_set() {
    for capability in caps::all() {
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
}

fn cut_capabilities() -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|kept| held.contains(kept)).collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Effective)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Root keeps what root has, but what would have the kernel load a module whenever an interface is
/// looked up by a name that there is not ([`crate::kernel::netlink::Netlink::has_name`]).
fn lower_for_root() -> Result<(), caps::errors::CapsError> {
    caps::drop(None, CapSet::Effective, Capability::CAP_SYS_MODULE)?;
    caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN)
}

/// Proves that the process is the caller and can be nothing else any more.
fn prove(uid: Uid, gid: Gid) -> Result<()> {
    let not = |what: &'static str| Err(Failed::Caller("proving it", what.to_owned()).into());
    let (users, groups) =
        (getresuid().map_err(step("proving it"))?, getresgid().map_err(step("proving it"))?);
    if [users.real, users.effective, users.saved] != [uid; 3] {
        return not("a user id is not the caller's");
    }
    if [groups.real, groups.effective, groups.saved] != [gid; 3] {
        return not("a group id is not the caller's");
    }
    if !sys::no_new_privs() || prctl::get_dumpable().map_err(step("proving it"))? {
        return not("the process could gain privilege or be read");
    }
    if uid.is_root() {
        return Ok(());
    }
    let unchanged = Uid::from_raw(u32::MAX);
    if setresuid(unchanged, Uid::from_raw(0), unchanged).is_ok() {
        return not("root was regained");
    }
    let held = |set| caps::read(None, set).map_err(step("proving it"));
    if !held(CapSet::Effective)?.is_empty()
        || !held(CapSet::Inheritable)?.is_empty()
        || !held(CapSet::Permitted)?.iter().all(|capability| KEPT.contains(capability))
    {
        return not("a capability was left");
    }
    Ok(())
}

/// Why the process lacks its privilege, if it does. A user namespace is judged by itself, since
/// within one every capability can be held and still none of them counts on the host.
fn unprivileged(no_new_privs: bool) -> Result<Option<Failed>> {
    if inside_user_namespace()? {
        return Ok(Some(Failed::InsideUserNamespace));
    }
    if caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN)
        .map_err(step("reading the capabilities"))?
    {
        return Ok(None);
    }
    let nosuid = statvfs("/proc/self/exe").is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let traced =
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
    Ok(Some(if traced {
        Failed::Traced
    } else if no_new_privs {
        Failed::NoNewPrivs
    } else if nosuid {
        Failed::NoSuidMount
    } else {
        Failed::NotSetuid("CAP_NET_ADMIN")
    }))
}

fn inside_user_namespace() -> Result<bool> {
    const NAMESPACE: &str = "/proc/self/ns/user";
    let namespace = std::fs::metadata(NAMESPACE).map_err(|e| Failed::File(NAMESPACE.into(), e))?;
    Ok(namespace.ino() != INITIAL_USER_NAMESPACE)
}

impl Caller {
    /// A caller as the tests want him.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_test(uid: u32) -> Caller {
        Caller { uid, unprivileged: None }
    }

    /// Whether the caller really is root.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The real group id and the supplementary ones.
    ///
    /// # Errors
    /// [`Failed::Caller`].
    pub fn gids(&self) -> Result<Vec<u32>> {
        let supplementary = getgroups().map_err(step("reading the caller's groups"))?;
        Ok([getgid()].into_iter().chain(supplementary).map(Gid::as_raw).collect())
    }

    /// The privilege that the installation gave.
    ///
    /// # Errors
    /// The reason why there is none, each with its own remedy.
    pub fn privilege(&mut self) -> Result<Privilege> {
        match self.unprivileged.take() {
            Some(why) => Err(why.into()),
            None => Ok(Privilege { _private: () }),
        }
    }
}

/// The capabilities that the process holds. None is in effect, but while a [`Raised`] lives.
#[derive(Debug)]
pub struct Privilege {
    _private: (),
}

impl Privilege {
    /// Brings `capability` into effect until the answer is dropped.
    ///
    /// # Errors
    /// [`Failed::Caller`] when it is not held.
    pub fn raise(&self, capability: Capability) -> Result<Raised> {
        caps::raise(None, CapSet::Effective, capability).map_err(step("raising a capability"))?;
        Ok(Raised { capability })
    }

    /// Whether `capability` can be raised.
    pub fn holds(&self, capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Permitted, capability).unwrap_or(false)
    }

    /// Gives `capability` up for good.
    ///
    /// # Errors
    /// [`Failed::Caller`] when the kernel does not let go of it; the process must then end.
    pub fn give_up(&self, capability: Capability) -> Result<()> {
        caps::drop(None, CapSet::Effective, capability)
            .and_then(|()| caps::drop(None, CapSet::Permitted, capability))
            .map_err(step("giving up a capability"))
    }
}

/// For the child of a caller who is root: brings CAP_SYS_ADMIN, by which it enters any namespace,
/// and CAP_NET_ADMIN into effect, and keeps no other.
///
/// # Errors
/// [`Failed::Caller`] when they are not held.
pub fn keep_for_entering() -> Result<()> {
    let kept = CapsHashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]);
    caps::set(None, CapSet::Effective, &kept)
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept))
        .map_err(step("keeping what it takes to enter"))
}

/// Gives up every capability of the calling process for good.
///
/// # Errors
/// [`Failed::Caller`] when the kernel does not let go of them; the process must then end.
pub fn give_up_all() -> Result<()> {
    caps::clear(None, CapSet::Effective)
        .and_then(|()| caps::clear(None, CapSet::Permitted))
        .map_err(step("giving up the capabilities"))
}

/// A capability in effect. Dropping it ends that.
#[derive(Debug)]
#[must_use = "the capability is in effect only while this lives"]
pub struct Raised {
    capability: Capability,
}

impl Drop for Raised {
    fn drop(&mut self) {
        if caps::drop(None, CapSet::Effective, self.capability).is_err() {
            // To go on with a capability in effect is worse than to end here.
            std::process::abort();
        }
    }
}
