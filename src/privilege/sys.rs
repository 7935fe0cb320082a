//! The system calls that no safe wrapper exists for. All unsafe code of the project is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::Mode;
use nix::unistd::ForkResult;

/// Makes `$story` (a `fn(Arguments) -> i32`) the program's `main`, called by the C library's start code.
///
/// This leaves out the standard library's own start code. It would open files and set signal
/// handlers before the program's first act, with every privilege.
#[macro_export]
macro_rules! entry_point {
    ($story:path) => {
        /// What the C library calls.
        // SAFETY: the binary defines no other `main`, and the signature is the one that the C
        // start code calls.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn main(
            count: core::ffi::c_int,
            arguments: *const *const core::ffi::c_char,
        ) -> core::ffi::c_int {
            // SAFETY: these are the arguments of `main`.
            $story(unsafe { $crate::sys::Arguments::of_main(count, arguments) })
        }
    };
}

/// The arguments of the program, not read yet.
#[derive(Debug)]
pub struct Arguments(*const *const c_char, usize);

impl Arguments {
    /// The arguments that `main` was called with.
    ///
    /// # Safety
    /// `arguments` points to `count` texts, each with a zero at its end, that live as long as the process.
    pub unsafe fn of_main(count: c_int, arguments: *const *const c_char) -> Arguments {
        Arguments(arguments, usize::try_from(count).unwrap_or_default())
    }

    /// Reads them, without the program's own name. The standard library reads them by itself, but with
    /// the GNU C library only.
    pub fn read(&self) -> Vec<OsString> {
        let text = |place| {
            // SAFETY: as [`Arguments::of_main`] asks; `place` is below the count.
            let text = unsafe { CStr::from_ptr(*self.0.add(place)) };
            OsStr::from_bytes(text.to_bytes()).to_owned()
        };
        (1..self.1).map(text).collect()
    }
}

/// Sets every signal to its default action and unblocks all, as a process inherits ignored signals
/// and the mask (`signal(7)`). SIGPIPE and SIGXFSZ are ignored: to write into a closed pipe or past
/// a limit is an error then, and not a death. The real-time signals stay as they are: none means
/// anything here.
pub fn reset_signals() {
    for number in 1..=libc::SIGSYS {
        let ignored = matches!(number, libc::SIGPIPE | libc::SIGXFSZ);
        let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: neither action runs code of ours. SIGKILL and SIGSTOP answer EINVAL, which
        // changes nothing.
        unsafe { libc::signal(number, action) };
    }
    // It fails only for an unknown way of changing the mask.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Opens `/dev/null` for each of the three standard descriptors that is closed, so that no file
/// opened later is taken for standard output. It opens them the wrong way round, so that to use one
/// is an error. For a setuid program the C library's start code has done the same before, GNU's in this
/// way (`csu/check_fds.c`), musl's for reading and writing (`src/env/__libc_start_main.c`).
pub fn open_standard_descriptors() -> nix::Result<()> {
    for (descriptor, mode) in [(0, OFlag::O_WRONLY), (1, OFlag::O_RDONLY), (2, OFlag::O_RDONLY)] {
        // SAFETY: asks for the flags of a number; nothing is dereferenced.
        let closed = unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1;
        if closed {
            // The kernel gives the lowest free number: `descriptor`, as all below it are open.
            let file = open(c"/dev/null", mode | OFlag::O_NOFOLLOW, Mode::empty())?;
            let _ = file.into_raw_fd();
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> nix::Result<()> {
    // SAFETY: the run calls this before it opens anything, so that no owner loses a descriptor.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Clears the environment.
pub fn clear_environment() {
    // SAFETY: the process has one thread, so that nothing reads the environment meanwhile.
    unsafe { libc::clearenv() };
}

/// Has `program` decide on each system call that this process makes from now on (`seccomp(2)`, by
/// its older name). The process must have `no_new_privs`.
pub fn set_filter(program: &[libc::sock_filter]) -> nix::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the `len` instructions, which are there, and writes nothing.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(set).map(drop)
}

/// Capability sets of the calling process, a bit for each capability (`capabilities(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// What `capget(2)` and `capset(2)` begin with: `_LINUX_CAPABILITY_VERSION_3` and the calling process
/// (`linux/capability.h`).
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// Reads the capability sets (`capget(2)`).
pub(crate) fn capabilities() -> nix::Result<Capabilities> {
    let (mut header, mut halves) = (CAPABILITY_HEADER, [[0_u32; 3]; 2]);
    // SAFETY: the kernel reads and may write the eight bytes of the header, and writes two structures of
    // three 32-bit numbers, which is what this version has; both are there and outlive the call.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), halves.as_mut_ptr()) };
    Errno::result(read)?;
    let [low, high] = halves;
    let set = |place: usize| match (low.get(place), high.get(place)) {
        (Some(low), Some(high)) => u64::from(*high) << 32 | u64::from(*low),
        _ => 0,
    };
    Ok(Capabilities { effective: set(0), permitted: set(1), inheritable: set(2) })
}

/// Changes the capability sets (`capset(2)`).
pub(crate) fn set_capabilities(to: Capabilities) -> nix::Result<()> {
    let sets = [to.effective, to.permitted, to.inheritable];
    let halves = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    let mut header = CAPABILITY_HEADER;
    // SAFETY: as in [`capabilities`]; the kernel only reads the two structures.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), halves.as_ptr()) };
    Errno::result(set).map(drop)
}

/// Forks. The child has a copy of this process's memory, one thread, and the same descriptors.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: this program starts no thread, so that the child may do what the parent may.
    unsafe { nix::unistd::fork() }
}

/// A descriptor of the process `pid` (`pidfd_open(2)`, Linux 5.3). It means this process even after
/// another one gets the number.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let answer = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let descriptor = libc::c_int::try_from(answer).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The user namespace that owns the namespace `ns` (`NS_GET_USERNS`, `ioctl_nsfs(2)`). EPERM means
/// that it is neither this process's own nor below it.
pub fn owning_user_namespace(ns: impl AsFd) -> nix::Result<OwnedFd> {
    let ns = ns.as_fd().as_raw_fd();
    // SAFETY: this request has no argument.
    let descriptor = Errno::result(unsafe { libc::ioctl(ns, libc::NS_GET_USERNS) })?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether `ns`, a file of nsfs, is a network namespace (`NS_GET_NSTYPE`, `ioctl_nsfs(2)`).
pub fn is_network_namespace(ns: impl AsFd) -> bool {
    // SAFETY: this request has no argument.
    let kind = unsafe { libc::ioctl(ns.as_fd().as_raw_fd(), libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// Whether an interface with the index `index` exists, in the network namespace that `socket` was
/// opened in (`SIOCGIFNAME`, `netdevice(7)`).
pub fn interface_exists(socket: impl AsFd, index: u32) -> nix::Result<bool> {
    ask_interface(socket, libc::SIOCGIFNAME as libc::Ioctl, |request| {
        request.ifr_ifru.ifru_ifindex = index.cast_signed();
    })
}

/// Likewise with the name or the alternative name `name` (`SIOCGIFINDEX`, `netdevice(7)`).
///
/// Neither CAP_NET_ADMIN nor CAP_SYS_MODULE may be in effect: with one of them the kernel loads a
/// module for a name that it does not know (`dev_load`, `net/core/dev_ioctl.c`).
pub fn interface_name_exists(socket: impl AsFd, name: &str) -> nix::Result<bool> {
    ask_interface(socket, libc::SIOCGIFINDEX as libc::Ioctl, |request| {
        // The last byte stays zero.
        let room = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
        room.zip(name.bytes()).for_each(|(to, from)| *to = from.cast_signed());
    })
}

fn ask_interface(
    socket: impl AsFd,
    question: libc::Ioctl,
    fill_in: impl FnOnce(&mut libc::ifreq),
) -> nix::Result<bool> {
    // SAFETY: the structure has only numbers and a union of numbers, for which all zero is valid.
    let mut request = unsafe { std::mem::zeroed() };
    fill_in(&mut request);
    // SAFETY: both questions read and write one `ifreq`, which `request` is, and nothing else.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), question, &raw mut request) };
    match Errno::result(answer) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(errno) => Err(errno),
    }
}
