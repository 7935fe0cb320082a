//! The target: which network namespace is meant, as descriptors. A process's number is used once.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat, stat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::caller::{Caller, Privilege};
use crate::cli::Which;
use crate::error::{Error, Failed, Refused, Result, Usage};
use crate::sys;

/// How long to sleep, at most, between two looks at a process that is still in the host's network
/// namespace. The kernel tells nobody when a process changes its namespaces.
const LONGEST_NAP: Duration = Duration::from_millis(10);

/// A network namespace to attach, and what belongs to it.
#[derive(Debug)]
pub struct Target {
    /// The network namespace.
    pub net: OwnedFd,
    /// The user namespace that owns it: whoever may act there may configure it.
    pub owner: OwnedFd,
    /// A path by which others can name it, as a CNI result does.
    pub sandbox: String,
    /// The process that was named, if one was.
    process: Option<OwnedFd>,
    name: String,
}

/// A namespace's identity: device and inode of its file (`namespaces(7)`).
type Identity = (u64, u64);

impl Target {
    /// Opens what `which` means, waiting until `deadline` for a process to leave the host's network
    /// namespace. That the caller may configure it is yet to be proved
    /// ([`crate::container::Inside::proof`]).
    ///
    /// CAP_SYS_PTRACE is given up here.
    ///
    /// # Errors
    /// [`Refused::Target`] for whatever is not to be had, in the same words whether it does not
    /// exist or is not the caller's; [`Refused::HostNamespace`].
    pub fn open(
        which: &Which,
        caller: &Caller,
        privilege: &Privilege,
        deadline: Instant,
    ) -> Result<Target> {
        let target = match which {
            Which::Pid(pid) => of_process(*pid, caller, privilege, deadline),
            Which::Netns(path) => of_file(path, caller),
        };
        if !caller.is_root() {
            privilege.give_up(Capability::CAP_SYS_PTRACE)?;
        }
        target
    }

    /// Checks that the process which was named, if one was, has not exited.
    ///
    /// # Errors
    /// [`Failed::TargetGone`].
    pub fn check_alive(&self) -> Result<()> {
        match &self.process {
            Some(process) if exited(process, Duration::ZERO) => {
                Err(Failed::TargetGone(self.name.clone()).into())
            }
            _ => Ok(()),
        }
    }

    /// The refusal that all have in common who may not have this target.
    pub fn not_yours(&self) -> Error {
        Refused::Target(self.name.clone()).into()
    }
}

fn of_process(
    pid: i32,
    caller: &Caller,
    privilege: &Privilege,
    deadline: Instant,
) -> Result<Target> {
    let name = format!("process {pid}");
    let not_yours = || Error::from(Refused::Target(name.clone()));
    let process = sys::pidfd_open(pid).map_err(|errno| match errno {
        Errno::ESRCH if pid > pid_max() => Usage::Pid(pid.to_string(), pid_max()).into(),
        _ => not_yours(),
    })?;
    let path = format!("/proc/{pid}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path.as_str(), flags, Mode::empty()).map_err(|_| not_yours())?;
    // While the process has not exited its number means no other, so the directory is its own, and
    // stays so: an open /proc/PID never shows another process.
    if exited(&process, Duration::ZERO) {
        return Err(not_yours());
    }

    let host = host_namespaces(caller)?;
    let mut nap = Duration::from_millis(1);
    let net = loop {
        let net = match open_namespace(&directory) {
            Err(Errno::EACCES | Errno::EPERM) => {
                open_undumpable(&directory, caller, privilege, &name)?
            }
            other => other.map_err(|_| not_yours())?,
        };
        if !host.contains(&identity(&net).map_err(|_| not_yours())?) {
            break net;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refused::HostNamespace(name).into());
        }
        drop(net);
        if exited(&process, nap.min(left)) {
            return Err(not_yours());
        }
        nap = (nap * 2).min(LONGEST_NAP);
    };
    let owner = sys::owning_user_namespace(&net).map_err(|_| not_yours())?;
    Ok(Target { net, owner, sandbox: format!("/proc/{pid}/ns/net"), process: Some(process), name })
}

fn open_namespace(directory: &OwnedFd) -> nix::Result<OwnedFd> {
    openat(directory, "ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens the namespace of a process that the kernel keeps its own user away from: crun makes its
/// container's first process non-dumpable. Only one that runs as the caller qualifies, by the owner
/// of `/proc/PID` itself, which is the process's user whether dumpable or not: otherwise the open
/// would keep the namespace of another user's container alive as long as the caller likes.
fn open_undumpable(
    directory: &OwnedFd,
    caller: &Caller,
    privilege: &Privilege,
    name: &str,
) -> Result<OwnedFd> {
    let not_yours = || Error::from(Refused::Target(name.to_owned()));
    let owner = fstat(directory).map_err(|_| not_yours())?.st_uid;
    if owner != caller.uid {
        return Err(not_yours());
    }
    if !privilege.holds(Capability::CAP_SYS_PTRACE) {
        return Err(Refused::NotDumpable(name.to_owned()).into());
    }
    let net = {
        let _raised = privilege.raise(Capability::CAP_SYS_PTRACE)?;
        open_namespace(directory)
    };
    privilege.give_up(Capability::CAP_SYS_PTRACE)?;
    net.map_err(|_| not_yours())
}

/// A path is opened without reading, so that nothing happens to what it leads to, and used only if
/// it is a namespace. Its words are the same whatever else it is, or whether it is at all.
fn of_file(path: &Path, caller: &Caller) -> Result<Target> {
    let name = format!("{path:?}");
    let not_yours = |_| Error::from(Refused::Target(name.clone()));
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(not_yours)?;
    if fstatfs(&file).map_err(not_yours)?.filesystem_type() != NSFS_MAGIC {
        return Err(not_yours(Errno::EINVAL));
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let net = open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(not_yours)?;
    if !sys::is_network_namespace(&net) {
        return Err(not_yours(Errno::EINVAL));
    }
    if host_namespaces(caller)?.contains(&identity(&net).map_err(not_yours)?) {
        return Err(Refused::HostNamespace(name).into());
    }
    let owner = sys::owning_user_namespace(&net).map_err(not_yours)?;
    Ok(Target { net, owner, sandbox: path.display().to_string(), process: None, name })
}

/// The network namespaces that are the host's: the caller's own, and the machine's, which only root
/// can see otherwise, and only root could configure.
fn host_namespaces(caller: &Caller) -> Result<Vec<Identity>> {
    const OWN: &str = "/proc/self/ns/net";
    let own = stat(OWN).map_err(|errno| Failed::File(OWN.into(), errno.into()))?;
    let machine = if caller.is_root() { stat("/proc/1/ns/net").ok() } else { None };
    Ok([Some(own), machine].into_iter().flatten().map(|file| (file.st_dev, file.st_ino)).collect())
}

/// The identity of an open namespace.
///
/// # Errors
/// What `fstat(2)` says.
pub fn identity(namespace: impl AsFd) -> nix::Result<Identity> {
    let file = fstat(namespace)?;
    Ok((file.st_dev, file.st_ino))
}

/// Whether the process exits within `patience`.
fn exited(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) != Ok(0)
}

/// The highest process id that this kernel gives.
fn pid_max() -> i32 {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(crate::cli::PID_LIMIT)
}
