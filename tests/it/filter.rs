//! The system call filter: whatever happens to a run, it can do little else than what it is there for.

use nix::libc;
use nix::sys::signal::Signal;

use crate::world::{Part, Stage, Trace, User, World};

/// Calls that no run makes, with arguments by which the kernel would refuse most of them anyway.
const FORBIDDEN: [(libc::c_long, [u64; 3]); 59] = [
    (libc::SYS_execve, [0; 3]),
    (libc::SYS_execveat, [0; 3]),
    (libc::SYS_vfork, [0; 3]),
    (libc::SYS_clone3, [0; 3]),
    (libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWNET as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWNS as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWPID as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWIPC as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWUTS as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_NEWCGROUP as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_THREAD as u64, 0, 0]),
    (libc::SYS_clone, [libc::CLONE_VM as u64, 0, 0]),
    (libc::SYS_unshare, [0; 3]),
    (libc::SYS_setns, [0, libc::CLONE_NEWNS as u64, 0]),
    (libc::SYS_setns, [0; 3]),
    (libc::SYS_ptrace, [0; 3]),
    (libc::SYS_process_vm_writev, [0; 3]),
    (libc::SYS_pidfd_getfd, [0; 3]),
    (libc::SYS_pidfd_send_signal, [0; 3]),
    (libc::SYS_kill, [1, 0, 0]),
    (libc::SYS_tkill, [1, 0, 0]),
    (libc::SYS_tgkill, [1, 1, libc::SIGKILL as u64]),
    (libc::SYS_setuid, [0; 3]),
    (libc::SYS_setresuid, [0; 3]),
    (libc::SYS_setresgid, [0; 3]),
    (libc::SYS_setgroups, [0; 3]),
    (libc::SYS_mount, [0; 3]),
    (libc::SYS_umount2, [0; 3]),
    (libc::SYS_pivot_root, [0; 3]),
    (libc::SYS_chroot, [0; 3]),
    (libc::SYS_fsopen, [0; 3]),
    (libc::SYS_open_tree, [0; 3]),
    (libc::SYS_open, [0, libc::O_CREAT as u64, 0]),
    (libc::SYS_openat, [0, 0, libc::O_CREAT as u64]),
    (libc::SYS_openat, [0, 0, libc::O_TRUNC as u64]),
    (libc::SYS_openat, [0, 0, libc::O_APPEND as u64]),
    (libc::SYS_openat2, [0; 3]),
    (libc::SYS_unlinkat, [0; 3]),
    (libc::SYS_renameat2, [0; 3]),
    (libc::SYS_fchmod, [0; 3]),
    (libc::SYS_fchownat, [0; 3]),
    (libc::SYS_init_module, [0; 3]),
    (libc::SYS_bpf, [0; 3]),
    (libc::SYS_perf_event_open, [0; 3]),
    (libc::SYS_io_uring_setup, [0; 3]),
    (libc::SYS_keyctl, [0; 3]),
    (libc::SYS_mmap, [0, 4096, libc::PROT_EXEC as u64]),
    (libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC as u64]),
    (libc::SYS_socket, [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0]),
    (libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0]),
    (libc::SYS_ioctl, [0, libc::TIOCSTI, 0]),
    (libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as u64, 1, 0]),
    (libc::SYS_fcntl, [0, libc::F_DUPFD as u64, 0]),
    (libc::SYS_fcntl, [0, libc::F_SETFL as u64, 0]),
    (libc::SYS_fcntl, [0, libc::F_SETOWN as u64, 0]),
    (libc::SYS_wait4, [0, 0, libc::WNOHANG as u64]),
    (libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0]),
    // A number of x32's, which the kernel knows by the same architecture.
    (0x4000_0000 | libc::SYS_getppid, [0; 3]),
];

/// What the run itself may make, and its child may not once it is inside.
const OUTSIDE: [(libc::c_long, [u64; 3]); 8] = [
    (libc::SYS_openat, [0; 3]),
    (libc::SYS_read, [0; 3]),
    (libc::SYS_setns, [0, libc::CLONE_NEWNET as u64, 0]),
    (libc::SYS_capset, [0; 3]),
    (libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0]),
    (libc::SYS_ioctl, [0, libc::NS_GET_USERNS, 0]),
    (libc::SYS_pidfd_open, [1, 0, 0]),
    (libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0]),
];

/// What a run of `user`'s that attaches gets for making `call` at the first stage that is `here`.
fn answer(
    user: &User<'_>,
    here: impl Fn(&Stage) -> bool,
    (call, arguments): (libc::c_long, [u64; 3]),
) -> Result<i64, Signal> {
    let pod = user.container();
    let run = Trace::of(user, format!("netsetgo -pid {pod}"));
    let answer = run.make_another(|stage| here(&stage), call, arguments);
    pod.kill();
    answer
}

/// The first call that it makes with the filter: it opens the policy.
fn opens_policy(stage: &Stage) -> bool {
    stage.part == Part::Parent && stage.call == libc::SYS_openat
}

/// Its last call inside is to be its end.
fn is_done_inside(stage: &Stage) -> bool {
    stage.part == Part::Child && stage.call == libc::SYS_exit_group
}

#[test]
fn a_run_that_has_read_its_arguments_has_a_filter_and_its_child_inside_has_two() {
    let world = World::new();
    for user in [world.alice(), world.root()] {
        let (mut filtered, mut inside) = (false, false);
        let (mut outer, mut inner) = (0, 0);
        let run = Trace::of(&user, format!("netsetgo -pid {} -json -lo", user.container()));
        run.watch(|stage| {
            filtered |= opens_policy(&stage);
            inside |= stage.part == Part::Child && stage.call == libc::SYS_socket;
            let filters = match stage.part {
                Part::Child if inside => "2",
                _ if filtered => "1",
                _ => return,
            };
            assert_eq!(stage.status("Seccomp"), "2", "{stage:?}");
            // Between its last change of namespaces and its first socket the child takes the second.
            let taking = stage.part == Part::Child && !inside;
            assert!(taking || stage.status("Seccomp_filters") == filters, "{stage:?}");
            *(if stage.part == Part::Child { &mut inner } else { &mut outer }) += 1;
        })
        .done();
        assert!(inside && outer > 50 && inner > 10, "{outer} {inner}");
    }
}

#[test]
fn a_run_that_does_anything_else_dies() {
    let world = World::new();
    let alice = world.alice();
    for call in FORBIDDEN {
        let killed = answer(&alice, opens_policy, call);
        // What is not forbidden is answered, if only by a refusal.
        assert_eq!(killed, Err(Signal::SIGSYS), "{call:?}");
    }
    for call in OUTSIDE {
        assert!(answer(&alice, opens_policy, call).is_ok(), "{call:?}");
    }
    let pid = answer(&alice, opens_policy, (libc::SYS_getpid, [0; 3]));
    assert!(pid.is_ok_and(|pid| pid > 1), "{pid:?}");
    assert_eq!(world.leases(), Vec::<String>::new());
}

#[test]
fn a_child_inside_that_does_anything_else_dies() {
    let world = World::new();
    let alice = world.alice();
    let clone = (libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0]);
    for call in FORBIDDEN.into_iter().chain(OUTSIDE).chain([clone]) {
        assert_eq!(answer(&alice, is_done_inside, call), Err(Signal::SIGSYS), "{call:?}");
    }
    let pid = answer(&alice, is_done_inside, (libc::SYS_getpid, [0; 3]));
    assert!(pid.is_ok_and(|pid| pid > 1), "{pid:?}");
}

/// Of 32 bits, by the number that is `munmap` to the others.
const EXECVE_32: u64 = 11;

#[test]
fn a_call_of_32_bits_is_none_of_those_that_have_its_number() {
    let world = World::new();
    let alice = world.alice();
    let answer = |here: fn(&Stage) -> bool| {
        let pod = alice.container();
        let run = Trace::of(&alice, format!("netsetgo -pid {pod}"));
        let answer = run.make_one_of_32_bits(|stage| here(&stage), EXECVE_32, [0; 3]);
        pod.kill();
        answer
    };
    // Without a filter the kernel answers, if it knows such calls.
    if answer(|stage| stage.made == 0) == Err(Signal::SIGSEGV) {
        return;
    }
    assert_eq!(answer(|stage| stage.made == 0), Ok(-i64::from(libc::EFAULT)));
    assert_eq!(answer(opens_policy), Err(Signal::SIGSYS));
    assert_eq!(answer(is_done_inside), Err(Signal::SIGSYS));
}

#[test]
fn a_check_may_make_namespaces_of_two_kinds_and_otherwise_what_a_run_may() {
    let world = World::new();
    let alice = world.alice();
    let answer = |call: (libc::c_long, [u64; 3])| {
        Trace::of(&alice, "netsetgo -check").make_another(
            |stage| opens_policy(&stage),
            call.0,
            call.1,
        )
    };
    let unshare = |kinds: libc::c_int| (libc::SYS_unshare, [kinds as u64, 0, 0]);
    for call in FORBIDDEN.into_iter().chain([unshare(libc::CLONE_NEWNET)]) {
        assert_eq!(answer(call), Err(Signal::SIGSYS), "{call:?}");
    }
    let two = answer(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET));
    assert!(two.is_ok(), "{two:?}");
}

/// Has the kernel refuse a filter to whatever it executes.
const NO_FILTER: &str = "
import ctypes, os, struct, sys
def rule(code, k, true=0, false=0): return struct.pack('HBBI', code, true, false, k)
program = b''.join([
    rule(0x20, 0), rule(0x15, 157, 0, 3),  # prctl
    rule(0x20, 16), rule(0x15, 22, 0, 1),  # PR_SET_SECCOMP
    rule(0x06, 0x00050000 | 22),           # EINVAL
    rule(0x06, 0x7fff0000)])
code = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', len(program) // 8, ctypes.addressof(code)))
assert ctypes.CDLL(None).prctl(22, 2, filter) == 0
os.execvp(sys.argv[1], sys.argv[1:])
";

#[test]
fn without_a_filter_nothing_is_done() {
    let world = World::new();
    let pod = world.alice().container();
    std::fs::write(world.path("/run/no_filter.py"), NO_FILTER).unwrap();
    let call = |what: &str| {
        world.root().sh(&format!(
            "python3 /run/no_filter.py setpriv --reuid alice --regid alice --init-groups netsetgo {what}"
        ))
    };
    for what in [format!("-pid {pod}"), "-list".to_owned(), "-check".to_owned()] {
        world.unchanged(|| call(&what).failed("CONFIG_SECCOMP_FILTER"));
    }
    world.alice().netsetgo(format!("-pid {pod}")).done();
}
