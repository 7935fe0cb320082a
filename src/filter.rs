//! The system call filter (`seccomp(2)`): once its arguments are read, the process can do what the rest
//! of the run needs, and dies at anything else. It can start no program, create no file, send no
//! signal, change no id, map no code and enter no mount namespace, whatever happens to it.
//!
//! The filter's program is a decision tree, and not the list that libraries make of it. The kernel
//! translates a new filter instruction by instruction, and tries each of its some 450 system calls on
//! it (`seccomp_cache_prepare`, `kernel/seccomp.c`): so both its length and the length of a decision
//! are paid for by every run.

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, sock_filter};

use crate::cli::Request;
use crate::error::{Failed, Result};
use crate::sys;

/// What the present process is by its numbers of system calls (`linux/audit.h`). Where it is another
/// machine than these, there is no filter.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else {
    None
};

/// Where `struct seccomp_data` has the number of the call, the machine, and the low half of each
/// argument (`linux/seccomp.h`).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT: u32 = 8;

/// A system call that stays allowed: with any arguments, or only if one of them is, behind a mask,
/// one of these values.
#[derive(Debug, Clone, Copy)]
pub struct Call(c_long, Option<(u32, u32, &'static [u32])>);

const fn any(number: c_long) -> Call {
    Call(number, None)
}

const fn one_of(number: c_long, argument: u32, values: &'static [u32]) -> Call {
    Call(number, Some((argument, u32::MAX, values)))
}

/// With none of the bits of `mask`.
const fn without(number: c_long, argument: u32, mask: c_int) -> Call {
    Call(number, Some((argument, mask.cast_unsigned(), &[0])))
}

/// What both processes need: memory, their end, and what the C library does of its own accord.
const EITHER: &[Call] = &[
    any(libc::SYS_brk),
    any(libc::SYS_close),
    any(libc::SYS_exit_group),
    // Builds with debug assertions look at a descriptor before they close it.
    one_of(libc::SYS_fcntl, 1, &[libc::F_GETFD.cast_unsigned()]),
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
    // A call that a stop has interrupted goes on by this one.
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sendto),
    any(libc::SYS_setsockopt),
    // To end by abort(3).
    one_of(libc::SYS_tgkill, 2, &[libc::SIGABRT.cast_unsigned()]),
    any(libc::SYS_write),
    any(libc::SYS_writev),
];

/// What the run needs beyond that, and its child on its way in.
const RUN: &[Call] = &[
    any(libc::SYS_capget),
    any(libc::SYS_capset),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    // A process, and in no namespaces of its own.
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
            ioctl(libc::SIOCGIFNAME),
            ioctl(libc::SIOCGIFINDEX),
            ioctl(libc::NS_GET_USERNS),
            ioctl(libc::NS_GET_NSTYPE),
        ],
    ),
    any(libc::SYS_lseek),
    any(libc::SYS_newfstatat),
    without(libc::SYS_openat, 2, libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND),
    any(libc::SYS_pidfd_open),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_DUMPABLE.cast_unsigned(), PR_SET_SECCOMP]),
    any(libc::SYS_read),
    one_of(
        libc::SYS_setns,
        1,
        &[libc::CLONE_NEWUSER.cast_unsigned(), libc::CLONE_NEWNET.cast_unsigned()],
    ),
    any(libc::SYS_set_robust_list),
    one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK.cast_unsigned(), libc::AF_UNIX.cast_unsigned()]),
    any(libc::SYS_socketpair),
    any(libc::SYS_statx),
    one_of(libc::SYS_wait4, 2, &[0]),
];

/// What the child needs once it is inside the container: a socket of the routing service there.
pub const INSIDE: &[Call] =
    &[any(libc::SYS_connect), one_of(libc::SYS_socket, 0, &[libc::AF_NETLINK.cast_unsigned()])];

/// What the trial of `-check` needs beyond the run: a container of its own.
const TRIAL: &[Call] =
    &[one_of(libc::SYS_unshare, 0, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWNET).cast_unsigned()])];

const PR_SET_SECCOMP: u32 = libc::PR_SET_SECCOMP.cast_unsigned();

/// A request as the kernel compares it. Its constants have the C library's type, which differs.
#[allow(clippy::cast_possible_truncation)]
const fn ioctl(request: libc::Ioctl) -> u32 {
    request as u32
}

/// The calls that a request needs beyond those that every process does.
pub fn calls_for(request: &Request) -> &'static [&'static [Call]] {
    match request {
        Request::Check => &[RUN, TRIAL],
        _ => &[RUN],
    }
}

/// Leaves this process, and whatever it will start, the calls of these lists alone, and those that
/// every process needs. Filters add up: what one forbids no later one allows.
///
/// # Errors
/// [`Failed::Filter`].
pub fn leave_only(lists: &[&[Call]]) -> Result<()> {
    let Some(architecture) = ARCHITECTURE else { return Ok(()) };
    let calls = lists.iter().copied().chain([EITHER]).flatten().copied().collect();
    let program = program(architecture, calls).ok_or(Failed::Filter(Errno::E2BIG))?;
    Ok(sys::set_filter(&program).map_err(Failed::Filter)?)
}

/// The filter's program. `None` when it would be too long to jump over.
fn program(architecture: u32, mut calls: Vec<Call>) -> Option<Vec<sock_filter>> {
    calls.sort_by_key(|call| call.0);
    // What is decided from this number on, up to the next one.
    let mut from = vec![(0, Decision::Kill)];
    for Call(number, condition) in calls {
        let number = u32::try_from(number).ok()?;
        from.pop_if(|(start, _)| *start == number);
        let decision = condition.map_or(Decision::Allow, Decision::If);
        if from.last().is_none_or(|(_, before)| *before != decision) {
            from.push((number, decision));
        }
        from.push((number + 1, Decision::Kill));
    }
    let mut program = Program(Vec::new());
    let allow = program.push(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let kill = program.push(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
    let ends = Ends { kill, allow };
    program.tree(&from, ends)?;
    let number = program.load(NUMBER_AT);
    program.jump(libc::BPF_JEQ, architecture, number, ends.kill)?;
    program.load(ARCHITECTURE_AT);
    program.0.reverse();
    Some(program.0)
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Kill,
    Allow,
    If((u32, u32, &'static [u32])),
}

/// Where a program ends.
#[derive(Clone, Copy)]
struct Ends {
    kill: usize,
    allow: usize,
}

/// A program, the last instruction first: jumps lead forward, so where they lead is written before. An
/// instruction's place is counted from the end.
struct Program(Vec<sock_filter>);

impl Program {
    /// Finds the decision on a number by halves. Gives where that begins.
    fn tree(&mut self, from: &[(u32, Decision)], ends: Ends) -> Option<usize> {
        let (lower, upper) = match from {
            [] | [(_, Decision::Kill)] => return Some(ends.kill),
            [(_, Decision::Allow)] => return Some(ends.allow),
            [(_, Decision::If(condition))] => return self.condition(*condition, ends),
            _ => from.split_at(from.len() / 2),
        };
        let above = self.tree(upper, ends)?;
        let below = self.tree(lower, ends)?;
        self.jump(libc::BPF_JGE, upper.first()?.0, above, below)
    }

    fn condition(
        &mut self,
        (argument, mask, values): (u32, u32, &[u32]),
        ends: Ends,
    ) -> Option<usize> {
        let mut otherwise = ends.kill;
        for value in values {
            otherwise = self.jump(libc::BPF_JEQ, *value, ends.allow, otherwise)?;
        }
        if mask != u32::MAX {
            self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask);
        }
        Some(self.load(ARGUMENTS_AT + argument * ARGUMENT))
    }

    fn load(&mut self, offset: u32) -> usize {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
    }

    /// Goes on at the one place if the condition holds, and at the other if not.
    fn jump(&mut self, condition: u32, k: u32, holds: usize, fails: usize) -> Option<usize> {
        let here = self.push(libc::BPF_JMP | condition | libc::BPF_K, k);
        let past = |place: usize| u8::try_from(here - place - 1).ok();
        let (jt, jf) = (past(holds)?, past(fails)?);
        let instruction = self.0.last_mut()?;
        (instruction.jt, instruction.jf) = (jt, jf);
        Some(here)
    }

    #[allow(clippy::cast_possible_truncation)]
    fn push(&mut self, code: u32, k: u32) -> usize {
        // The kernel's codes have 16 bits, the C library's constants 32.
        self.0.push(sock_filter { code: code as u16, jt: 0, jf: 0, k });
        self.0.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: u32 = 7;

    /// What the program decides, as the kernel would carry it out.
    fn decide(program: &[sock_filter], machine: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let code = u32::from(code);
            let holds = match code & 7 {
                libc::BPF_LD => {
                    value = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => machine,
                        _ => arguments[((k - ARGUMENTS_AT) / ARGUMENT) as usize],
                    };
                    continue;
                }
                libc::BPF_ALU => {
                    value &= k;
                    continue;
                }
                libc::BPF_RET => return k,
                _ if code & 0xf0 == libc::BPF_JEQ => value == k,
                _ => value >= k,
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn allows(calls: &[Call], number: c_long, arguments: [u32; 6]) -> bool {
        let program = program(MACHINE, calls.to_vec()).unwrap();
        let number = number.try_into().unwrap();
        decide(&program, MACHINE, number, arguments) == libc::SECCOMP_RET_ALLOW
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        for listed in [&[1, 2, 3, 5, 8][..], &[0], &[], &[0, 1], &[3, 9, 300, 301]] {
            let calls: Vec<_> = listed.iter().copied().map(any).collect();
            for number in 0..400 {
                assert_eq!(allows(&calls, number, [0; 6]), listed.contains(&number), "{number}");
            }
        }
    }

    #[test]
    fn an_argument_is_one_of_the_values_or_has_none_of_the_bits() {
        let calls = [any(4), one_of(5, 1, &[3, 7]), without(6, 2, 0x84), any(7)];
        for value in 0..256 {
            assert!(allows(&calls, 4, [value; 6]) && allows(&calls, 7, [value; 6]));
            assert_eq!(allows(&calls, 5, [0, value, 0, 0, 0, 0]), [3, 7].contains(&value));
            assert_eq!(allows(&calls, 6, [0, 0, value, 0, 0, 0]), value & 0x84 == 0);
        }
    }

    #[test]
    fn the_numbers_of_another_machine_mean_nothing() {
        let program = program(MACHINE, vec![any(1)]).unwrap();
        assert_eq!(decide(&program, 8, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn the_filters_in_use_can_be_made() {
        for lists in [&[RUN][..], &[RUN, TRIAL], &[INSIDE]] {
            let calls: Vec<_> = lists.iter().copied().chain([EITHER]).flatten().copied().collect();
            let mut numbers: Vec<_> = calls.iter().map(|call| call.0).collect();
            numbers.sort_unstable();
            assert!(numbers.is_sorted_by(|one, other| one < other), "one is listed twice");
            for Call(number, condition) in &calls {
                let arguments = condition.map_or([0; 6], |(_, _, values)| [values[0]; 6]);
                assert!(allows(&calls, *number, arguments), "{number}");
            }
            for number in [libc::SYS_execve, libc::SYS_ptrace, libc::SYS_kill, libc::SYS_mount] {
                assert!(!allows(&calls, number, [0; 6]), "{number}");
            }
        }
    }
}
