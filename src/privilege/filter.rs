//! The system call filter (`seccomp(2)`): once its arguments are read, the process can do what the rest
//! of the run needs, and dies at anything else. It can start no program, create no file, send no
//! signal, change no id, map no code and enter no mount namespace, whatever happens to it.
//!
//! The filter's program is a decision tree, and not the list that libraries make of it. The kernel
//! translates a new filter instruction by instruction, and tries each of its some 450 system calls on
//! it (`seccomp_cache_prepare`, `kernel/seccomp.c`): so both its length and the length of a decision
//! are paid for by every run.

use nix::libc::{self, c_int, c_long, sock_filter};

use crate::privilege::sys;
use crate::report::error::{Failed, Result};
use crate::request::cli::Request;

/// The machine that gives the numbers of system calls their meaning (`linux/audit.h`). On another than
/// these there is no filter.
const MACHINE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else if cfg!(target_arch = "riscv64") {
    0xc000_00f3
} else {
    0
};

/// Where `struct seccomp_data` has the number of the call, the machine, and the low half of each
/// argument (`linux/seccomp.h`).
const NUMBER_AT: u32 = 0;
const MACHINE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT: u32 = 8;

/// A system call that stays allowed: with any arguments, or only if one of them is, behind a mask,
/// one of these values.
#[derive(Clone, Copy)]
struct Call(c_long, Option<(u32, u32, &'static [u32])>);

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
const CHILD: &[Call] =
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

/// What a run may do from when its arguments are read.
static OUTSIDE: Filter = Filter::of(MACHINE, &[EITHER, RUN]);

/// What a run of `-check` may do from then on.
static CHECK: Filter = Filter::of(MACHINE, &[EITHER, RUN, TRIAL]);

/// What the child may do once it is inside the container.
pub static INSIDE: Filter = Filter::of(MACHINE, &[EITHER, CHILD]);

/// The filter that leaves what a request needs.
pub fn for_request(request: &Request) -> &'static Filter {
    match request {
        Request::Check => &CHECK,
        _ => &OUTSIDE,
    }
}

/// Leaves this process, and whatever it will start, what `filter` allows. Filters add up: what one
/// forbids no later one allows.
///
/// # Errors
/// [`Failed::Filter`].
pub fn leave_only(filter: &Filter) -> Result<()> {
    match MACHINE {
        0 => Ok(()),
        _ => Ok(sys::set_filter(filter.program()).map_err(Failed::Filter)?),
    }
}

/// The most instructions that a filter has.
const ROOM: usize = 128;

/// The highest number of a system call that is looked for in a list.
const HIGHEST: u32 = 511;

/// A filter's program. It is written when this one is compiled, and whatever could fail then keeps it
/// from being compiled: a place out of bounds, a jump too long.
pub struct Filter {
    /// The program is the end of this. Jumps lead forward, so what they lead to is written before,
    /// and a place is counted from the end.
    instructions: [sock_filter; ROOM],
    length: usize,
}

impl Filter {
    /// A filter that leaves the calls of these lists to the numbers of this machine.
    const fn of(machine: u32, lists: &[&[Call]]) -> Filter {
        let nothing = sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
        let mut filter = Filter { instructions: [nothing; ROOM], length: 0 };
        let allow = filter.push(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
        let kill = filter.push(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
        let ends = Ends { kill, allow };
        let (from, count) = turns(lists);
        filter.tree(from.split_at(count).0, ends);
        let number = filter.load(NUMBER_AT);
        filter.jump(libc::BPF_JEQ, machine, number, ends.kill);
        filter.load(MACHINE_AT);
        filter
    }

    fn program(&self) -> &[sock_filter] {
        self.instructions.split_at(ROOM - self.length).1
    }

    /// Finds the decision on a number by halves. Gives where that begins.
    const fn tree(&mut self, from: &[(u32, Decision)], ends: Ends) -> usize {
        let (lower, upper) = match from {
            [] | [(_, Decision::Kill)] => return ends.kill,
            [(_, Decision::Allow)] => return ends.allow,
            [(_, Decision::If(condition))] => return self.condition(*condition, ends),
            _ => from.split_at(from.len() / 2),
        };
        let above = self.tree(upper, ends);
        let below = self.tree(lower, ends);
        let [(first, _), ..] = upper else { return below };
        self.jump(libc::BPF_JGE, *first, above, below)
    }

    const fn condition(
        &mut self,
        (argument, mask, mut values): (u32, u32, &[u32]),
        ends: Ends,
    ) -> usize {
        let mut otherwise = ends.kill;
        while let [value, rest @ ..] = values {
            otherwise = self.jump(libc::BPF_JEQ, *value, ends.allow, otherwise);
            values = rest;
        }
        if mask != u32::MAX {
            self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask);
        }
        self.load(ARGUMENTS_AT + argument * ARGUMENT)
    }

    const fn load(&mut self, offset: u32) -> usize {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
    }

    /// Goes on at the one place if the condition holds, and at the other if not.
    #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing)]
    const fn jump(&mut self, condition: u32, k: u32, holds: usize, fails: usize) -> usize {
        let here = self.push(libc::BPF_JMP | condition | libc::BPF_K, k);
        let (jt, jf) = (here - holds - 1, here - fails - 1);
        assert!(jt <= u8::MAX as usize && jf <= u8::MAX as usize, "too long to jump over");
        let instruction = &mut self.instructions[ROOM - 1 - here];
        (instruction.jt, instruction.jf) = (jt as u8, jf as u8);
        here
    }

    #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing)]
    const fn push(&mut self, code: u32, k: u32) -> usize {
        let here = self.length;
        // The kernel's codes have 16 bits, the C library's constants 32.
        self.instructions[ROOM - 1 - here] = sock_filter { code: code as u16, jt: 0, jf: 0, k };
        self.length += 1;
        here
    }
}

/// What becomes of a call.
#[derive(Clone, Copy)]
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

/// The numbers from which another decision is taken, up to the next one, and how many there are.
#[allow(clippy::indexing_slicing)]
const fn turns(lists: &[&[Call]]) -> ([(u32, Decision); 2 * ROOM], usize) {
    let mut turns = [(0, Decision::Kill); 2 * ROOM];
    let mut count = 1;
    let mut number = 0;
    // The one beyond the highest is in no list.
    while number <= HIGHEST + 1 {
        let decision = decision(lists, number);
        match (turns[count - 1].1, decision) {
            (Decision::Kill, Decision::Kill) | (Decision::Allow, Decision::Allow) => {}
            _ => {
                turns[count] = (number, decision);
                count += 1;
            }
        }
        number += 1;
    }
    (turns, count)
}

const fn decision(mut lists: &[&[Call]], number: u32) -> Decision {
    while let [list, others @ ..] = lists {
        let mut calls = *list;
        while let [Call(listed, condition), rest @ ..] = calls {
            assert!(*listed >= 0 && *listed <= HIGHEST as c_long, "a number out of range");
            if *listed == number as c_long {
                return match *condition {
                    None => Decision::Allow,
                    Some(condition) => Decision::If(condition),
                };
            }
            calls = rest;
        }
        lists = others;
    }
    Decision::Kill
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const OURS: u32 = 7;

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
                        MACHINE_AT => machine,
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
        let filter = Filter::of(OURS, &[calls]);
        let number = number.try_into().unwrap();
        decide(filter.program(), OURS, number, arguments) == libc::SECCOMP_RET_ALLOW
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
        let filter = Filter::of(OURS, &[&[any(1)]]);
        assert_eq!(decide(filter.program(), 8, 1, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn the_filters_in_use_leave_what_is_listed() {
        let used = [
            (&OUTSIDE, &[EITHER, RUN][..]),
            (&CHECK, &[EITHER, RUN, TRIAL]),
            (&INSIDE, &[EITHER, CHILD]),
        ];
        for (filter, lists) in used {
            let calls: Vec<_> = lists.iter().copied().flatten().collect();
            let numbers: HashSet<_> = calls.iter().map(|call| call.0).collect();
            assert_eq!(numbers.len(), calls.len(), "one is listed twice");
            let decide = |number: c_long, arguments| {
                decide(filter.program(), MACHINE, number.try_into().unwrap(), arguments)
            };
            for Call(number, condition) in calls {
                let arguments = condition.map_or([0; 6], |(_, _, values)| [values[0]; 6]);
                assert_eq!(decide(*number, arguments), libc::SECCOMP_RET_ALLOW, "{number}");
            }
            for number in (0..600).filter(|number| !numbers.contains(number)) {
                let killed = decide(number, [0; 6]) == libc::SECCOMP_RET_KILL_PROCESS;
                assert!(killed, "{number}");
            }
        }
    }
}
