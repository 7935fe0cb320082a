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

use crate::privilege::caller::Caller;
use crate::privilege::capability::Privilege;
use crate::privilege::sys;
use crate::report::error::{Error, Failed, Refused, Result, Usage};
use crate::request::cli::Which;

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
    /// ([`crate::inside::Inside::proof`]).
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
        self.sleep(Duration::ZERO)
    }

    /// Sleeps, at most for `nap`.
    ///
    /// # Errors
    /// [`Failed::TargetGone`], as soon as the process which was named, if one was, exits.
    pub fn sleep(&self, nap: Duration) -> Result<()> {
        match &self.process {
            Some(process) if exited(process, nap) => {
                Err(Failed::TargetGone(self.name.clone()).into())
            }
            Some(_) => Ok(()),
            None => {
                std::thread::sleep(nap);
                Ok(())
            }
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
    let no = |errno| not_had(&name, errno);
    let process = sys::pidfd_open(pid).map_err(|errno| match errno {
        Errno::ESRCH if pid > pid_max() => Usage::Pid(pid.to_string(), pid_max()).into(),
        _ => no(errno),
    })?;
    let path = format!("/proc/{pid}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path.as_str(), flags, Mode::empty()).map_err(no)?;
    // While the process has not exited its number means no other, so the directory is its own, and
    // stays so: an open /proc/PID never shows another process.
    if exited(&process, Duration::ZERO) {
        return Err(no(Errno::ESRCH));
    }

    let host = host_namespaces(caller)?;
    let mut nap = Duration::from_millis(1);
    let net = loop {
        let (net, again) = match open_namespace(&directory) {
            // The capability is there for one look, so there is no waiting for such a process.
            Err(Errno::EACCES | Errno::EPERM) => {
                (open_undumpable(&directory, caller, privilege, &name)?, false)
            }
            net => (net.map_err(no)?, true),
        };
        if !host.contains(&identity(&net).map_err(no)?) {
            break net;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !again {
            return Err(Refused::HostNamespace(name).into());
        }
        drop(net);
        if exited(&process, nap.min(left)) {
            return Err(no(Errno::ESRCH));
        }
        nap = (nap * 2).min(LONGEST_NAP);
    };
    let owner = sys::owning_user_namespace(&net).map_err(no)?;
    Ok(Target { net, owner, sandbox: format!("/proc/{pid}/ns/net"), process: Some(process), name })
}

/// Why a target is not to be had: the process itself has run out of something, or it is the refusal
/// that tells nothing.
fn not_had(name: &str, errno: Errno) -> Error {
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => {
            Failed::Target(name.to_owned(), errno).into()
        }
        _ => Refused::Target(name.to_owned()).into(),
    }
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
    let owner = fstat(directory).map_err(|errno| not_had(name, errno))?.st_uid;
    if owner != caller.uid {
        return Err(not_had(name, Errno::EACCES));
    }
    if !privilege.holds(Capability::CAP_SYS_PTRACE) {
        return Err(Refused::NotDumpable(name.to_owned()).into());
    }
    let net = {
        let _raised = privilege.raise(Capability::CAP_SYS_PTRACE)?;
        open_namespace(directory)
    };
    privilege.give_up(Capability::CAP_SYS_PTRACE)?;
    net.map_err(|errno| not_had(name, errno))
}

/// A path is opened without reading, so that nothing happens to what it leads to, and used only if
/// it is a namespace. Its words are the same whatever else it is, or whether it is at all.
fn of_file(path: &Path, caller: &Caller) -> Result<Target> {
    let name = format!("{path:?}");
    let no = |errno| not_had(&name, errno);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(no)?;
    if fstatfs(&file).map_err(no)?.filesystem_type() != NSFS_MAGIC {
        return Err(no(Errno::EINVAL));
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let net =
        open(again.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(no)?;
    if !sys::is_network_namespace(&net) {
        return Err(no(Errno::EINVAL));
    }
    if host_namespaces(caller)?.contains(&identity(&net).map_err(no)?) {
        return Err(Refused::HostNamespace(name).into());
    }
    let owner = sys::owning_user_namespace(&net).map_err(no)?;
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
fn identity(namespace: impl AsFd) -> nix::Result<Identity> {
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
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(crate::request::cli::PID_LIMIT)
}
