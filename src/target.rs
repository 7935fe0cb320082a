//! The target: which network namespace is meant, as descriptors. A process id is used once.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc::{dev_t, ino_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::privilege::sys;
use crate::report::error::{Error, Failed, Refused, Result, Usage};
use crate::request::cli::{PID_LIMIT, Which};

/// The longest sleep between two looks at a process that is still in the host's network namespace. The
/// kernel has no event for a change of namespaces.
const LONGEST_NAP: Duration = Duration::from_millis(10);
const SHORTEST_NAP: Duration = Duration::from_millis(1);

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC);

/// A network namespace to attach, and what belongs to it.
#[derive(Debug)]
pub struct Target {
    pub net: OwnedFd,
    /// The user namespace that owns it. A capability there is what it takes to configure it.
    pub owner: OwnedFd,
    /// A path by which a CNI result names it.
    pub sandbox: String,
    /// The process, if the caller named one.
    process: Option<OwnedFd>,
    name: String,
    /// Whether this run has waited for it, maybe for long.
    pub waited: bool,
}

impl Target {
    /// Opens what `which` means. Waits until `deadline` for a process to leave the host's network
    /// namespace. Gives CAP_SYS_PTRACE up.
    ///
    /// Whether the caller may configure the target is proved later ([`crate::inside::Inside::proof`]).
    /// A target of another user's and one that does not exist are refused in the same words.
    pub fn open(which: &Which, caller: &Caller, deadline: Instant) -> Result<Target> {
        let target = match which {
            Which::Pid(pid) => of_process(*pid, caller, deadline),
            Which::Netns(path) => of_file(path, caller),
        };
        if !caller.is_root() {
            caller.privilege()?.give_up(Capability::CAP_SYS_PTRACE)?;
        }
        target
    }

    /// Checks that the process has not exited, if the caller named one.
    pub fn check_alive(&self) -> Result<()> {
        self.sleep(Duration::ZERO)
    }

    /// Sleeps. It is an error if the process exits meanwhile.
    pub fn sleep(&self, nap: Duration) -> Result<()> {
        match &self.process {
            None => std::thread::sleep(nap),
            Some(process) if !exits(process, nap) => {}
            Some(_) => return Err(Failed::TargetGone(self.name.clone()).into()),
        }
        Ok(())
    }

    /// The refusal for every caller who may not have this target.
    pub fn not_yours(&self) -> Error {
        Refused::Target(self.name.clone()).into()
    }
}

fn of_process(pid: i32, caller: &Caller, deadline: Instant) -> Result<Target> {
    let name = format!("process {pid}");
    let refused = |errno| refusal(&name, errno);
    let process = sys::pidfd_open(pid).map_err(|errno| match errno {
        Errno::ESRCH if pid > pid_max() => Usage::Pid(pid.to_string(), pid_max()).into(),
        _ => refused(errno),
    })?;
    let path = format!("/proc/{pid}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open(path.as_str(), flags, Mode::empty()).map_err(refused)?;
    // A process id means no other process until this one has exited. So if it has not, the directory is its
    // own, and stays so: an open /proc/PID never shows another process.
    if exits(&process, Duration::ZERO) {
        return Err(refused(Errno::ESRCH));
    }

    let host = host_namespaces(caller)?;
    let mut nap = SHORTEST_NAP;
    let net = loop {
        let (net, may_wait) = match openat(&directory, "ns/net", READ, Mode::empty()) {
            // The capability is there for one look, so this run cannot wait for such a process.
            Err(Errno::EACCES | Errno::EPERM) => {
                (open_undumpable(&directory, caller, &name)?, false)
            }
            net => (net.map_err(refused)?, true),
        };
        if !host.contains(&fstat(&net).map(identity).map_err(refused)?) {
            break net;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !may_wait {
            return Err(Refused::HostNamespace(name).into());
        }
        drop(net);
        if exits(&process, nap.min(left)) {
            return Err(refused(Errno::ESRCH));
        }
        nap = (nap * 2).min(LONGEST_NAP);
    };
    let owner = sys::owning_user_namespace(&net).map_err(refused)?;
    Ok(Target {
        net,
        owner,
        sandbox: format!("/proc/{pid}/ns/net"),
        process: Some(process),
        name,
        waited: nap > SHORTEST_NAP,
    })
}

/// Why a target cannot be had: this process has run out of something, or it is the refusal that says
/// nothing about the target.
fn refusal(name: &str, errno: Errno) -> Error {
    let name = name.to_owned();
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Failed::Target(name, errno).into(),
        _ => Refused::Target(name).into(),
    }
}

/// Opens the namespace of a process that is not dumpable, which the kernel keeps its own user away from.
/// crun makes its container's first process so. The process must run as the caller. The owner of
/// `/proc/PID` itself is the process's user, dumpable or not. Otherwise a caller could keep the
/// namespace of another user's container alive.
fn open_undumpable(directory: &OwnedFd, caller: &Caller, name: &str) -> Result<OwnedFd> {
    let refused = |errno| refusal(name, errno);
    if fstat(directory).map_err(refused)?.st_uid != caller.uid {
        return Err(refused(Errno::EACCES));
    }
    if !capability::holds(Capability::CAP_SYS_PTRACE) {
        return Err(Refused::NotDumpable(name.to_owned()).into());
    }
    let privilege = caller.privilege()?;
    let raised = privilege.raise(Capability::CAP_SYS_PTRACE)?;
    let net = openat(directory, "ns/net", READ, Mode::empty());
    drop(raised);
    privilege.give_up(Capability::CAP_SYS_PTRACE)?;
    net.map_err(refused)
}

/// Opens the path without reading, so that nothing happens to any other kind of file, and reads it only if
/// it is a namespace.
fn of_file(path: &Path, caller: &Caller) -> Result<Target> {
    let name = format!("{path:?}");
    let refused = |errno| refusal(&name, errno);
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(refused)?;
    if fstatfs(&file).map_err(refused)?.filesystem_type() != NSFS_MAGIC {
        return Err(refused(Errno::EINVAL));
    }
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let net = open(again.as_str(), READ, Mode::empty()).map_err(refused)?;
    if !sys::is_network_namespace(&net) {
        return Err(refused(Errno::EINVAL));
    }
    if host_namespaces(caller)?.contains(&fstat(&net).map(identity).map_err(refused)?) {
        return Err(Refused::HostNamespace(name).into());
    }
    let owner = sys::owning_user_namespace(&net).map_err(refused)?;
    Ok(Target {
        net,
        owner,
        sandbox: path.display().to_string(),
        process: None,
        name,
        waited: false,
    })
}

/// The host's network namespaces: the caller's own, and the machine's. Only root can see the machine's if
/// they differ, and only root could configure it.
fn host_namespaces(caller: &Caller) -> Result<Vec<(dev_t, ino_t)>> {
    const OWN: &str = "/proc/self/ns/net";
    let own = stat(OWN).map_err(|errno| Failed::File(OWN.into(), errno.into()))?;
    let machine = if caller.is_root() { stat("/proc/1/ns/net").ok() } else { None };
    Ok([Some(own), machine].into_iter().flatten().map(identity).collect())
}

/// What tells a namespace from any other (`namespaces(7)`).
fn identity(file: FileStat) -> (dev_t, ino_t) {
    (file.st_dev, file.st_ino)
}

/// Whether the process exits within `patience`.
fn exits(process: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) != Ok(0)
}

/// The highest process id that this kernel gives.
fn pid_max() -> i32 {
    let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(PID_LIMIT)
}
