//! The system call filter (`seccomp(2)`).
//!
//! Once its arguments are read, the process can do what the rest of the run needs, and the kernel
//! kills it for anything else. It can start no program, create no file, send no signal, change no
//! id, map no code and enter no mount namespace.

use std::env::consts::ARCH;
use std::mem::offset_of;

use nix::libc::{self, c_int, c_long, seccomp_data, sock_filter};

use super::sys;
use crate::report::error::{Failed, Result};
use crate::request::cli::Request;

/// A system call that stays allowed: with any arguments, or only if the low half of one argument
/// is, behind a mask, one of these values.
#[derive(Clone, Copy)]
struct Call(c_long, Option<(usize, c_int, &'static [c_int])>);

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

/// Builds with debug assertions look at a descriptor before they close it. musl sets close-on-exec anew.
const FCNTL: &[c_int] =
    if cfg!(target_env = "musl") { &[libc::F_GETFD, libc::F_SETFD] } else { &[libc::F_GETFD] };

/// What both processes need: memory, messages, their end, and what the C library does on its own.
const EITHER: &[Call] = &[
    any(libc::SYS_brk),
    any(libc::SYS_close),
    any(libc::SYS_exit_group),
    // A build with debug assertions looks at a descriptor before it closes it.
    one_of(libc::SYS_fcntl, 1, FCNTL),
    any(libc::SYS_futex),
    any(libc::SYS_getpid),
    any(libc::SYS_getrandom),
    any(libc::SYS_gettid),
    any(libc::SYS_madvise),
    without(libc::SYS_mmap, 2, libc::PROT_EXEC),
    without(libc::SYS_mprotect, 2, libc::PROT_EXEC),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_recvfrom),
    // The kernel continues a call by this one after a stop.
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sendto),
    any(libc::SYS_setsockopt),
    // For abort(3), in the words of both C libraries.
    one_of(libc::SYS_tgkill, 2, &[libc::SIGABRT]),
    one_of(libc::SYS_tkill, 1, &[libc::SIGABRT]),
    #[cfg(target_env = "musl")]
    any(libc::SYS_exit),
    any(libc::SYS_write),
    any(libc::SYS_writev),
];

/// What the run needs besides, and the child on its way into the container.
const RUN: &[Call] = &[
    any(libc::SYS_capget),
    any(libc::SYS_capset),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    // It makes a process, but no thread and no namespace.
    without(
        libc::SYS_clone,
        0,
        libc::CLONE_NEWUSER
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_THREAD
            | libc::CLONE_VM,
    ),
    any(libc::SYS_connect),
    any(libc::SYS_fstat),
    any(libc::SYS_fstatfs),
    any(libc::SYS_getdents64),
    any(libc::SYS_getgid),
    any(libc::SYS_getgroups),
    one_of(
        libc::SYS_ioctl,
        1,
        &[
            libc::SIOCGIFNAME as c_int,
            libc::SIOCGIFINDEX as c_int,
            libc::NS_GET_USERNS as c_int,
            libc::NS_GET_NSTYPE as c_int,
        ],
    ),
    any(libc::SYS_lseek),
    any(libc::SYS_newfstatat),
    without(libc::SYS_openat, 2, libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND),
    any(libc::SYS_pidfd_open),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    #[cfg(target_env = "musl")]
    any(libc::SYS_readv),
    #[cfg(target_env = "musl")]
    any(libc::SYS_set_tid_address),
    #[cfg(all(target_env = "musl", target_arch = "x86_64"))]
    any(libc::SYS_fork),
    #[cfg(all(target_env = "musl", target_arch = "x86_64"))]
    without(libc::SYS_open, 1, libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND),
    #[cfg(all(target_env = "musl", target_arch = "x86_64"))]
    any(libc::SYS_stat),
    #[cfg(all(target_env = "musl", target_arch = "x86_64"))]
    any(libc::SYS_lstat),
    any(libc::SYS_ppoll),
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_DUMPABLE, libc::PR_SET_SECCOMP]),
    any(libc::SYS_read),
    one_of(libc::SYS_setns, 1, &[libc::CLONE_NEWUSER, libc::CLONE_NEWNET]),
    any(libc::SYS_set_robust_list),
    one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK, libc::AF_UNIX]),
    any(libc::SYS_socketpair),
    any(libc::SYS_statx),
    one_of(libc::SYS_wait4, 2, &[0]),
];

/// What the child needs besides, once it is inside: a socket of the routing service.
const CHILD: &[Call] = &[any(libc::SYS_connect), one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK])];

/// What the trial of `-check` needs besides: a container of its own.
const TRIAL: &[Call] = &[one_of(libc::SYS_unshare, 0, &[libc::CLONE_NEWUSER | libc::CLONE_NEWNET])];

/// The system calls that a process may make.
pub struct Filter(&'static [&'static [Call]]);

/// A run, from when its arguments are read.
const OUTSIDE: Filter = Filter(&[EITHER, RUN]);

/// A run of `-check`.
const CHECK: Filter = Filter(&[EITHER, RUN, TRIAL]);

/// The child, once it is inside the container.
pub const INSIDE: Filter = Filter(&[EITHER, CHILD]);

/// The filter for a request.
pub fn for_request(request: &Request) -> &'static Filter {
    match request {
        Request::Check => &CHECK,
        _ => &OUTSIDE,
    }
}

/// Leaves this process, and each one that it starts, what `filter` allows. Filters add up: a later
/// one allows nothing that an earlier one forbids.
///
/// The numbers of system calls mean something on one machine only (`AUDIT_ARCH_*`,
/// `linux/audit.h`). On other machines than these there is no filter.
pub fn install(filter: &Filter) -> Result<()> {
    let machine = match ARCH {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        "riscv64" => 0xc000_00f3,
        _ => return Ok(()),
    };
    Ok(sys::set_filter(&program(filter.0, machine)).map_err(Failed::Filter)?)
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
    let load = |at: usize| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at as u32, 0, 0);
    let and = |mask| step(libc::BPF_ALU | libc::BPF_AND, mask, 0, 0);
    // Skips so many steps if the loaded bits are `value`, and so many if not.
    let skip_if = |value, yes, no| step(libc::BPF_JMP | libc::BPF_JEQ, value, yes, no);
    let kill = step(libc::BPF_RET, libc::SECCOMP_RET_KILL_PROCESS, 0, 0);
    let allow = step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0);
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
                (0x06, libc::SECCOMP_RET_ALLOW) => return true,
                (0x06, libc::SECCOMP_RET_KILL_PROCESS) => return false,
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
        for Filter(lists) in [OUTSIDE, CHECK, INSIDE] {
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
