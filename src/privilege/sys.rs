//! The system calls that no safe wrapper exists for. All unsafe code of the project is here.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::ForkResult;

/// Makes `$story` (a `fn() -> i32`) the program's `main`, called by the C library's start code.
///
/// The standard library's own start code is left out: it would open files and set signal handlers
/// with the privilege still in hand, before the program's first act.
#[macro_export]
macro_rules! entry_point {
    ($story:path) => {
        /// What the C library calls.
        // SAFETY: the binary defines no other `main`, and the signature is the one that the C
        // start code calls; the two arguments are left alone.
        #[unsafe(no_mangle)]
        pub extern "C" fn main(
            _count: core::ffi::c_int,
            _arguments: *const *const core::ffi::c_char,
        ) -> core::ffi::c_int {
            $story()
        }
    };
}

/// Sets every signal that the kernel sends to its default action and unblocks all, but ignores
/// SIGPIPE and SIGXFSZ, so that writing to a closed pipe or past a limit is an error and not a
/// death. See `signal(7)`: ignored signals and the mask are inherited through `execve(2)`. The
/// real-time signals, which mean nothing of their own, are left: each would cost a system call.
pub fn reset_signals() {
    for number in 1..=libc::SIGSYS {
        let action = match number {
            libc::SIGPIPE | libc::SIGXFSZ => libc::SIG_IGN,
            _ => libc::SIG_DFL,
        };
        // SAFETY: neither action runs code of ours. SIGKILL and SIGSTOP answer EINVAL, which
        // changes nothing.
        unsafe { libc::signal(number, action) };
    }
    // SAFETY: an all-zero set is a valid `sigset_t`, `sigemptyset` then makes it the empty one,
    // and `sigprocmask` only reads it; the process has one thread.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Opens `/dev/null` for each of the three standard descriptors that came closed, the wrong way
/// round, so that using it is an error (as `csu/check_fds.c` of the GNU C library does for setuid
/// programs): no file opened later can be taken for standard output.
pub fn open_standard_descriptors() -> nix::Result<()> {
    for (descriptor, mode) in [(0, libc::O_WRONLY), (1, libc::O_RDONLY), (2, libc::O_RDONLY)] {
        // SAFETY: asks for flags of a number; nothing is dereferenced.
        let closed = unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1;
        if closed {
            // SAFETY: the path is a zero-terminated literal. The lowest free number is taken,
            // which is `descriptor`, since all below it are open.
            Errno::result(unsafe { libc::open(c"/dev/null".as_ptr(), mode | libc::O_NOFOLLOW) })?;
        }
    }
    Ok(())
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> nix::Result<()> {
    // SAFETY: called before anything that owns a descriptor exists, so none is closed under its
    // owner's hands.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Forgets every environment variable.
pub fn clear_environment() {
    // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
    unsafe { libc::clearenv() };
}

/// Whether `no_new_privs` is set (`PR_GET_NO_NEW_PRIVS`, `prctl(2)`).
pub fn no_new_privs() -> bool {
    // SAFETY: takes plain numbers, the unused ones zero, as prctl(2) asks.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// Has the kernel ask `program` what becomes of each system call of this process, from now on and for
/// good (`seccomp(2)`, by its older name). It takes `no_new_privs`.
pub fn set_filter(program: &[libc::sock_filter]) -> nix::Result<()> {
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions, which are there, and keeps a copy; it writes
    // nothing.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(set).map(drop)
}

/// Forks. The child has this process's memory, one thread, and the same descriptors.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: this program never starts a thread, so the child may do whatever the parent may.
    unsafe { nix::unistd::fork() }
}

/// Ends the process at once, without running what was registered for its end.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(status) }
}

/// A descriptor of the process `pid` (`pidfd_open(2)`, Linux 5.3): it means this process even after
/// the number has been given to another.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes plain numbers.
    let answer = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let descriptor = libc::c_int::try_from(answer).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The user namespace that owns the namespace `ns` (`NS_GET_USERNS`, `ioctl_nsfs(2)`).
///
/// # Errors
/// EPERM when it is neither this process's own nor below it.
pub fn owning_user_namespace(ns: impl AsFd) -> nix::Result<OwnedFd> {
    let ns = ns.as_fd().as_raw_fd();
    // SAFETY: this request has no argument.
    let descriptor = Errno::result(unsafe { libc::ioctl(ns, libc::NS_GET_USERNS) })?;
    // SAFETY: the kernel just made this descriptor, close-on-exec, and nobody else has it.
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
    let mut request = empty_ifreq();
    request.ifr_ifru.ifru_ifindex = index.cast_signed();
    ask_interface(socket, libc::SIOCGIFNAME, &mut request)
}

/// Whether an interface with the name or the alternative name `name` exists, in the network
/// namespace that `socket` was opened in (`SIOCGIFINDEX`, `netdevice(7)`).
///
/// The kernel tries to load a module of the name that it does not know, if CAP_NET_ADMIN or
/// CAP_SYS_MODULE is in effect (`dev_load`, `net/core/dev_ioctl.c`): neither may be.
pub fn interface_name_exists(socket: impl AsFd, name: &str) -> nix::Result<bool> {
    let mut request = empty_ifreq();
    // The last byte stays zero.
    let room = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in room.zip(name.bytes()) {
        *to = from.cast_signed();
    }
    ask_interface(socket, libc::SIOCGIFINDEX, &mut request)
}

fn empty_ifreq() -> libc::ifreq {
    // SAFETY: the structure is plain numbers and a union of such, for which all zero is valid.
    unsafe { std::mem::zeroed() }
}

fn ask_interface(
    socket: impl AsFd,
    question: libc::Ioctl,
    request: &mut libc::ifreq,
) -> nix::Result<bool> {
    // SAFETY: both questions read and write one `ifreq`, which `request` is, and nothing else.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), question, request) };
    match Errno::result(answer) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV) => Ok(false),
        Err(errno) => Err(errno),
    }
}
