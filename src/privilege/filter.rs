//! The system call filter (`seccomp(2)`).
//!
//! Once its arguments are read, the process can do what the rest of the run needs, and the kernel
//! kills it for anything else. It can start no program, create no file, send no signal, change no
//! id, map no code and enter no mount namespace.

use std::env::consts::ARCH;
use std::mem::offset_of;

use nix::libc::*;

use super::sys;
use crate::report::error::{Failed, Result};
use crate::request::cli::Request;

/// A system call that stays allowed: with any arguments, or only if the low half of one argument
/// is, behind a mask, one of these values.
#[derive(Clone, Copy)]
pub struct Call(c_long, Option<(usize, c_int, &'static [c_int])>);

const fn any(number: c_long) -> Call {
    Call(number, None)
}

const fn one_of(number: c_long, argument: usize, values: &'static [c_int]) -> Call {
    Call(number, Some((argument, -1, values)))
}

/// With none of the bits of `mask`.
const fn without(number: c_long, argument: usize, mask: c_int) -> Call {
    Call(number, Some((argument, mask, &[0])))
}

#[rustfmt::skip]
const NAMESPACES: c_int = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
    | CLONE_NEWUTS | CLONE_NEWCGROUP;

// The lists are for both C libraries, and a debug build makes some of the calls alone. The kernel
// continues a call by restart_syscall after a stop. A clone makes a process, but no thread and no
// namespace.

/// What both processes need.
#[rustfmt::skip] // A purpose in a line.
const EITHER: &[Call] = &[
    any(SYS_brk), any(SYS_madvise), any(SYS_mremap), any(SYS_munmap), // memory
    without(SYS_mmap, 2, PROT_EXEC), without(SYS_mprotect, 2, PROT_EXEC), // and none to run
    any(SYS_recvfrom), any(SYS_sendto), any(SYS_setsockopt), // messages
    any(SYS_write), any(SYS_writev), any(SYS_close), one_of(SYS_fcntl, 1, &[F_GETFD, F_SETFD]),
    any(SYS_getpid), any(SYS_gettid), any(SYS_getrandom), any(SYS_futex), // the C library's own
    any(SYS_rt_sigaction), any(SYS_rt_sigprocmask), any(SYS_restart_syscall), // signals
    any(SYS_exit), any(SYS_exit_group), // the end
    one_of(SYS_tgkill, 2, &[SIGABRT]), one_of(SYS_tkill, 1, &[SIGABRT]), // abort(3)
];

const IOCTLS: &[c_int] =
    &[NS_GET_USERNS as c_int, NS_GET_NSTYPE as c_int, SIOCGIFNAME as c_int, SIOCGIFINDEX as c_int];

/// What the run needs besides, and the child on its way into the container.
#[rustfmt::skip]
const RUN: &[Call] = &[
    any(SYS_capget), any(SYS_capset), any(SYS_getgid), any(SYS_getgroups), // rights
    one_of(SYS_prctl, 0, &[PR_SET_DUMPABLE, PR_SET_SECCOMP]), // fewer rights
    any(SYS_clock_gettime), any(SYS_clock_nanosleep), any(SYS_ppoll), // time
    without(SYS_openat, 2, O_CREAT | O_TRUNC | O_APPEND), any(SYS_getdents64), // files
    any(SYS_read), any(SYS_readv), any(SYS_lseek), // files
    any(SYS_fstat), any(SYS_fstatfs), any(SYS_newfstatat), any(SYS_statx), // files
    one_of(SYS_socket, 0, &[AF_NETLINK, AF_UNIX]), any(SYS_socketpair), any(SYS_connect), // sockets
    without(SYS_clone, 0, NAMESPACES | CLONE_THREAD | CLONE_VM), // the child
    any(SYS_set_tid_address), any(SYS_set_robust_list), one_of(SYS_wait4, 2, &[0]), // the child
    any(SYS_pidfd_open), one_of(SYS_setns, 1, &[CLONE_NEWUSER, CLONE_NEWNET]), // the target
    one_of(SYS_ioctl, 1, IOCTLS), // the target, and which interfaces there are
];

/// The older names of calls above, by which musl makes them.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[Call] = &[
    any(SYS_poll), any(SYS_fork), any(SYS_stat), any(SYS_lstat),
    without(SYS_open, 1, O_CREAT | O_TRUNC | O_APPEND),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// What the child needs besides, once it is inside: a socket of the routing service.
const CHILD: &[Call] = &[any(SYS_connect), one_of(SYS_socket, 0, &[AF_NETLINK])];

/// What the trial of `-check` needs besides: a container of its own.
const TRIAL: &[Call] = &[one_of(SYS_unshare, 0, &[CLONE_NEWUSER | CLONE_NEWNET])];

/// The system calls that a process may make.
pub type Filter = &'static [&'static [Call]];

/// A run, from when its arguments are read.
const OUTSIDE: Filter = &[EITHER, RUN, OLDER];

/// A run of `-check`.
const CHECK: Filter = &[EITHER, RUN, OLDER, TRIAL];

/// The child, once it is inside the container.
pub const INSIDE: Filter = &[EITHER, CHILD];

/// The filter for a request.
pub fn for_request(request: &Request) -> Filter {
    if *request == Request::Check { CHECK } else { OUTSIDE }
}

/// Leaves this process, and each one that it starts, what `filter` allows. Filters add up: a later
/// one allows nothing that an earlier one forbids.
///
/// The numbers of system calls mean something on one machine only (`AUDIT_ARCH_*`,
/// `linux/audit.h`). On other machines than these there is no filter.
pub fn install(filter: Filter) -> Result<()> {
    let machine = match ARCH {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        "riscv64" => 0xc000_00f3,
        _ => return Ok(()),
    };
    Ok(sys::set_filter(&program(filter, machine)).map_err(Failed::Filter)?)
}

/// The filter's program: a plain list, which the kernel reads from the top.
///
/// When a filter is installed, the kernel runs it for each of some 450 system calls, to learn which
/// ones it allows whatever their arguments are (`seccomp_cache_prepare`, `kernel/seccomp.c`). That
/// costs much more than the calls of a short run. The kernel gives up at the first load of anything
/// but the number and the machine. So the program begins with one, whose value nothing uses.
fn program(lists: &[&[Call]], machine: u32) -> Vec<sock_filter> {
    // The kernel's codes have 16 bits, the C library's constants 32.
    let step = |code: u32, k: u32, jt, jf| sock_filter { code: code as u16, jt, jf, k };
    let load = |at: usize| step(BPF_LD | BPF_W | BPF_ABS, at as u32, 0, 0);
    let and = |mask| step(BPF_ALU | BPF_AND, mask, 0, 0);
    // Skips so many steps if the loaded bits are `value`, and so many if not.
    let skip_if = |value, yes, no| step(BPF_JMP | BPF_JEQ, value, yes, no);
    let kill = step(BPF_RET, SECCOMP_RET_KILL_PROCESS, 0, 0);
    let allow = step(BPF_RET, SECCOMP_RET_ALLOW, 0, 0);
    let mut program = vec![
        load(offset_of!(seccomp_data, instruction_pointer)),
        load(offset_of!(seccomp_data, arch)),
        skip_if(machine, 1, 0),
        kill,
        load(offset_of!(seccomp_data, nr)),
    ];
    for Call(number, condition) in lists.iter().copied().flatten() {
        let number = *number as u32;
        let Some((argument, mask, values)) = condition else {
            program.extend([skip_if(number, 0, 1), allow]);
            continue;
        };
        // On these machines the low half of an argument comes first.
        let argument = offset_of!(seccomp_data, args) + argument * size_of::<u64>();
        let steps = 3 + 2 * values.len() as u8;
        program.extend([skip_if(number, 0, steps), load(argument), and(mask.cast_unsigned())]);
        for value in *values {
            program.extend([skip_if(value.cast_unsigned(), 0, 1), allow]);
        }
        program.push(kill);
    }
    program.push(kill);
    program
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const X86: u32 = 0xc000_003e;
    const ARM: u32 = 0xc000_00b7;

    /// Whether a program allows a call, decided as the kernel does. Otherwise it kills the process.
    fn allows(filter: &[sock_filter], machine: u32, call: c_long, arguments: [c_int; 6]) -> bool {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            match (code, k) {
                (0x20, 0) => value = call.try_into().unwrap(),
                (0x20, 4) => value = machine,
                (0x20, 8) => value = 0x1234,
                // The low half of an argument.
                (0x20, 16..64) if k % 8 == 0 => {
                    value = arguments[(k as usize - 16) / 8].cast_unsigned();
                }
                (0x54, _) => value &= k,
                (0x15, _) => at += usize::from(if value == k { jt } else { jf }),
                (0x06, SECCOMP_RET_ALLOW) => return true,
                (0x06, SECCOMP_RET_KILL_PROCESS) => return false,
                other => panic!("an instruction {other:x?}"),
            }
        }
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        for listed in [&[1, 2, 3, 5, 8][..], &[0], &[], &[0, 1], &[3, 9, 300, 301]] {
            let calls: Vec<_> = listed.iter().copied().map(any).collect();
            let program = program(&[&calls], X86);
            for call in 0..400 {
                assert_eq!(allows(&program, X86, call, [0; 6]), listed.contains(&call), "{call}");
                assert!(!allows(&program, ARM, call, [0; 6]), "{call} of another machine");
            }
        }
    }

    #[test]
    fn an_argument_is_one_of_the_values_or_has_none_of_the_bits() {
        let calls = [any(4), one_of(5, 1, &[3, 7]), without(6, 2, 0x84), any(7)];
        let program = program(&[&calls], X86);
        let allows = |call, arguments| allows(&program, X86, call, arguments);
        for value in 0..256 {
            assert!(allows(4, [value; 6]) && allows(7, [value; 6]));
            assert_eq!(allows(5, [0, value, 0, 0, 0, 0]), [3, 7].contains(&value));
            assert_eq!(allows(6, [0, 0, value, 0, 0, 0]), value & 0x84 == 0);
        }
    }

    #[test]
    fn the_filters_in_use_leave_what_is_listed() {
        for lists in [OUTSIDE, CHECK, INSIDE] {
            let program = program(lists, X86);
            let allows = |call, value| allows(&program, X86, call, [value; 6]);
            let calls: Vec<_> = lists.iter().copied().flatten().collect();
            let numbers: HashSet<_> = calls.iter().map(|call| call.0).collect();
            assert_eq!(numbers.len(), calls.len(), "a call is listed twice");
            for Call(number, condition) in calls {
                let (_, mask, values) = condition.unwrap_or((0, 0, &[0]));
                let bits = (0..32).map(|bit| 1 << bit).filter(|bit| mask & bit != 0);
                for value in bits.map(|bit| values[0] ^ bit).chain(values.iter().copied()) {
                    let listed = values.contains(&value);
                    assert_eq!(allows(*number, value), listed, "{number} {value:#x}");
                }
            }
            for number in (0..600).filter(|number| !numbers.contains(number)) {
                assert!(!allows(number, 0), "{number}");
            }
            // The kernel gives up to look for constant answers: this loads neither number nor
            // machine.
            assert!(program[0].code == 0x20 && ![0, 4].contains(&program[0].k));
        }
    }
}
