//! Becoming the caller: the first acts of the process, before it reads an argument.
//!
//! The installation decides how the process starts: as root with every capability (setuid), or as
//! the caller with two capabilities (file capabilities). In both cases it becomes the caller for
//! good, keeps at most two capabilities ([`super::capability`]), and undoes what the caller can
//! have set for it.

use std::os::unix::fs::MetadataExt;

use caps::Capability;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{
    Gid, Uid, getgid, getgroups, getresgid, getresuid, getuid, setresgid, setresuid,
};

use super::capability::{self, Privilege};
use super::{failed, sys};
use crate::report::error::{Failed, Result, Unprivileged, first_of};

/// The soft limits of the process, as far as the caller's hard limits allow them. `RLIMIT_NPROC`
/// stays: the child counts among the caller's processes.
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

/// The user who called, and what the process may do for them.
#[derive(Debug)]
pub struct Caller {
    pub uid: u32,
    privilege: Result<(), Unprivileged>,
}

/// Becomes the caller for good, and proves it. After an error the process must end.
///
/// A wrong installation or a wrong way of calling is no error yet, as `-help` needs no privilege:
/// `Caller::privilege` tells of it.
pub fn become_caller() -> Result<Caller> {
    sys::reset_signals();
    let (uid, gid) = (getuid(), getgid());
    let no_new_privs = prctl::get_no_new_privs().map_err(failed("reading no_new_privs"))?;
    capability::empty_bounding_set();
    prctl::set_keepcaps(true).map_err(failed("keeping capabilities"))?;
    match setresgid(gid, gid, gid).and_then(|()| setresuid(uid, uid, uid)) {
        // In a user namespace without a mapping of the caller's ids the kernel refuses even these.
        // There is no privilege to lose there.
        Err(Errno::EINVAL) if inside_user_namespace()? => {}
        taken => taken.map_err(failed("taking the caller's ids"))?,
    }
    capability::cut(uid.is_root()).map_err(failed("cutting the capabilities"))?;
    prctl::set_no_new_privs().map_err(failed("setting no_new_privs"))?;
    // After the ids, as each change of them can make the process dumpable again.
    prctl::set_dumpable(false).map_err(failed("becoming undumpable"))?;
    prove(uid, gid)?;

    sys::open_standard_descriptors().map_err(failed("opening the standard descriptors"))?;
    sys::close_from(3).map_err(failed("closing inherited descriptors"))?;
    sys::clear_environment();
    umask(Mode::from_bits_truncate(0o077));
    set_limits().map_err(failed("setting resource limits"))?;
    Ok(Caller { uid: uid.as_raw(), privilege: privilege(no_new_privs)? })
}

fn set_limits() -> nix::Result<()> {
    for (resource, soft) in LIMITS {
        let (_, hard) = getrlimit(resource)?;
        let hard = if resource == Resource::RLIMIT_CORE { 0 } else { hard };
        setrlimit(resource, soft.min(hard), hard)?;
    }
    Ok(())
}

/// Proves that the process is the caller, and can never be another user again.
fn prove(uid: Uid, gid: Gid) -> Result<()> {
    const PROOF: &str = "proving it";
    let users = getresuid().map_err(failed(PROOF))?;
    let groups = getresgid().map_err(failed(PROOF))?;
    let unchanged = Uid::from_raw(u32::MAX);
    let regained = || setresuid(unchanged, Uid::from_raw(0), unchanged).is_ok();
    let is_user = [users.real, users.effective, users.saved] == [uid; 3];
    let is_group = [groups.real, groups.effective, groups.saved] == [gid; 3];
    first_of(&[
        (!is_user, "a user id is not the caller's"),
        (!is_group, "a group id is not the caller's"),
        (!prctl::get_no_new_privs().map_err(failed(PROOF))?, "the process could gain privilege"),
        (prctl::get_dumpable().map_err(failed(PROOF))?, "the process could be read"),
        (!uid.is_root() && regained(), "root was regained"),
        (!uid.is_root() && !capability::is_cut().map_err(failed(PROOF))?, "a capability was left"),
    ])
    .map_err(failed(PROOF))
}

/// Whether the process has its privilege, or why not. The user namespace is the first question:
/// inside one the process can hold every capability, and none of them counts on the host.
fn privilege(no_new_privs: bool) -> Result<Result<(), Unprivileged>> {
    if inside_user_namespace()? {
        return Ok(Err(Unprivileged::InsideUserNamespace));
    }
    if capability::holds(Capability::CAP_NET_ADMIN) {
        return Ok(Ok(()));
    }
    let nosuid = statvfs("/proc/self/exe").is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_traced = |line: &str| line.starts_with("TracerPid:") && !line.ends_with("\t0");
    Ok(first_of(&[
        (status.lines().any(is_traced), Unprivileged::Traced),
        (no_new_privs, Unprivileged::NoNewPrivs),
        (nosuid, Unprivileged::NoSuidMount),
        (true, Unprivileged::NotSetuid),
    ]))
}

fn inside_user_namespace() -> Result<bool> {
    const NAMESPACE: &str = "/proc/self/ns/user";
    let namespace = std::fs::metadata(NAMESPACE).map_err(|e| Failed::File(NAMESPACE.into(), e))?;
    Ok(namespace.ino() != INITIAL_USER_NAMESPACE)
}

impl Caller {
    #[cfg(test)]
    pub(crate) fn for_test(uid: u32) -> Caller {
        Caller { uid, privilege: Ok(()) }
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// The real group id and the supplementary ones.
    pub fn gids(&self) -> Result<Vec<u32>> {
        let supplementary = getgroups().map_err(failed("reading the caller's groups"))?;
        Ok([getgid()].into_iter().chain(supplementary).map(Gid::as_raw).collect())
    }

    /// The privilege that the installation gave, or why there is none.
    pub fn privilege(&self) -> Result<Privilege> {
        self.privilege.map_err(Failed::Unprivileged)?;
        Ok(Privilege(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_privilege_is_told_why_each_time() {
        let caller = Caller { privilege: Err(Unprivileged::Traced), ..Caller::for_test(1000) };
        for _ in 0..2 {
            let why = caller.privilege().unwrap_err().to_string();
            assert!(why.starts_with("run under a tracer: "), "{why}");
        }
        assert!(Caller::for_test(1000).privilege().is_ok());
    }
}
