//! The process itself: whose it is, what it may do, and that nothing which it inherits bends it.

use nix::libc;

use crate::refused::undumpable;
use crate::world::{
    ALICE, Container, Outcome, Part, Stage, Trace, User, World, closed_takes_nothing, program,
};

/// Bits of the capability sets in `/proc/PID/status`.
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;

/// What reaches things that the caller may have chosen. It is done as the caller, and without any
/// capability in effect.
const REACHING: [i64; 13] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_ioctl,
    libc::SYS_pidfd_open,
    libc::SYS_socketpair,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_setns,
];

/// A set of bits in `/proc/PID/status`.
fn set(stage: &Stage, name: &str) -> u64 {
    u64::from_str_radix(&stage.status(name), 16).unwrap()
}

/// Whose the process is, and that it cannot become anybody else.
fn is_alice(stage: &Stage, bounding: u64) {
    for ids in ["Uid", "Gid"] {
        assert_eq!(stage.status(ids), "1000\t1000\t1000\t1000", "{stage:?}");
    }
    assert_eq!(stage.status("NoNewPrivs"), "1", "{stage:?}");
    assert_eq!(set(stage, "CapInh") | set(stage, "CapAmb"), 0, "{stage:?}");
    assert_eq!(set(stage, "CapBnd") & !bounding, 0, "{stage:?}");
    assert_eq!(set(stage, "CapPrm") & !(NET_ADMIN | SYS_PTRACE), 0, "{stage:?}");
}

/// What it does only once nothing is left of what its caller set for it.
const ACTING: [i64; 5] = [
    libc::SYS_pidfd_open,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_setns,
    libc::SYS_recvfrom,
];

/// That nothing which its caller set for it is still set.
fn is_itself(stage: &Stage) {
    assert_eq!(set(stage, "SigBlk"), 0, "{stage:?}");
    assert_eq!(set(stage, "SigIgn") & 1 << (libc::SIGCHLD - 1), 0, "{stage:?}");
    assert_eq!(stage.status("Umask"), "0077", "{stage:?}");
    let files = std::fs::read_dir(format!("/proc/{}/fd", stage.pid)).unwrap();
    for file in files.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()) {
        assert!(!file.ends_with("full"), "an inherited file is still open: {stage:?}");
    }
}

/// Attaches a container with a command that executes the helper, and looks at it before each of its
/// system calls. Answers the outcome and the calls with `CAP_SYS_PTRACE` in effect. `bounding` is
/// what may be left of the bounding set.
fn look_at(
    user: &User<'_>,
    helper: &str,
    pod: &Container<'_>,
    bounding: u64,
) -> (Outcome, Vec<i64>) {
    let mut tracing = Vec::new();
    let mut began = false;
    let mut looks = 0;
    let outcome = Trace::of(user, format!("{helper} -pid {pod} 9</dev/full")).watch(|stage| {
        assert!(![libc::SYS_execve, libc::SYS_execveat].contains(&stage.call));
        began |= stage.status("NoNewPrivs") == "1";
        if !began {
            let early = REACHING.contains(&stage.call) || stage.call == libc::SYS_socket;
            assert!(!early, "system call {} came too early", stage.call);
            return;
        }
        looks += 1;
        if ACTING.contains(&stage.call) {
            is_itself(&stage);
        }
        if stage.namespace("user") == pod.namespace("user") {
            assert_eq!(stage.part, Part::Child);
            return;
        }
        is_alice(&stage, bounding);
        let (permitted, effective) = (set(&stage, "CapPrm"), set(&stage, "CapEff"));
        if stage.call == libc::SYS_socketpair {
            // Before anything is changed the right to trace has been given up for good.
            assert_eq!(permitted & SYS_PTRACE, 0);
        }
        if stage.call == libc::SYS_setns {
            assert_eq!((stage.part, permitted), (Part::Child, 0));
        }
        if effective & SYS_PTRACE != 0 {
            tracing.push(stage.call);
        } else if REACHING.contains(&stage.call) {
            assert_eq!(effective, 0, "{stage:?}");
        }
    });
    assert!(outcome.status != 0 || looks > 50, "only {looks} system calls were seen");
    (outcome, tracing)
}

/// A host on which alice has attached one container already: nothing is left to be done but what
/// every run does. With it comes a second container.
fn with_bridge(world: &World) -> Container<'_> {
    world.root().netsetgo(format!("-pid {}", world.bob().container())).done();
    world.alice().container()
}

#[test]
fn the_process_is_its_caller_with_two_capabilities_at_most() {
    let world = World::new();
    let pod = with_bridge(&world);
    let (outcome, tracing) = look_at(&world.alice(), "netsetgo", &pod, 0);
    outcome.done();
    assert!(tracing.is_empty(), "{tracing:?}");
    assert_eq!(pod.address(), "10.10.10.3/24");
}

#[test]
fn one_open_alone_is_made_with_the_right_to_trace() {
    let world = World::new();
    with_bridge(&world);
    let pod = undumpable(&world.alice());
    let (outcome, tracing) = look_at(&world.alice(), "netsetgo", &pod, 0);
    outcome.done();
    let opens: Vec<_> = tracing.iter().filter(|call| REACHING.contains(call)).collect();
    assert_eq!(opens, [&libc::SYS_openat]);
}

#[test]
fn whatever_the_caller_was_given_the_process_has_no_more() {
    let world = World::new();
    let pod = with_bridge(&world);
    for given in [
        "--inh-caps +net_raw,+sys_admin --ambient-caps +net_raw,+sys_admin",
        "--bounding-set -all,+net_admin,+setuid,+setgid,+sys_ptrace",
        "--securebits +no_setuid_fixup",
        "--securebits +noroot",
        "--securebits +noroot,+noroot_locked",
    ] {
        let user = world
            .root()
            .by(&format!("setpriv {given} --reuid alice --regid alice --clear-groups --"));
        // Without CAP_SETPCAP the bounding set stays; no_new_privs makes it meaningless.
        let kept = given.contains("bounding") || given.contains("noroot");
        let bounding = if kept { u64::MAX } else { 0 };
        let (outcome, _) = look_at(&user, "netsetgo", &pod, bounding);
        // Where the kernel gives a setuid program nothing, nothing is done.
        if outcome.status != 0 {
            outcome.failed("");
        }
    }
}

#[test]
fn who_really_calls_is_what_counts() {
    let world = World::new();
    let (alices, bobs) = (world.alice().container(), world.bob().container());
    let half = world
        .root()
        .by("setpriv --ruid alice --euid bob --rgid alice --egid bob --clear-groups --");
    half.refused(format!("-pid {bobs}"), "not yours");
    half.netsetgo(format!("-pid {alices}")).done();
    assert_eq!(world.leases(), ["ns1000-0"]);
    let other = world
        .root()
        .by("setpriv --ruid bob --euid alice --rgid bob --egid alice --clear-groups --");
    other.refused(format!("-pid {alices}"), "not allowed");
}

#[test]
fn membership_of_a_group_can_also_keep_out() {
    let world = World::with_policy("[[allow]]\nuser = \"carol\"\n");
    let carol = world.user("carol");
    let pod = carol.container();
    world.sh("mkdir -m 705 /run/kept-out; chgrp netdev /run/kept-out");
    world
        .sh(&format!("touch /run/kept-out/net; mount --bind /proc/{pod}/ns/net /run/kept-out/net"));
    carol.refused("-netns /run/kept-out/net", "not yours");
    world.sh("chmod 755 /run/kept-out");
    carol.netsetgo("-netns /run/kept-out/net").done();
}

#[test]
fn the_executable_needs_no_loader() {
    let image = std::fs::read(program()).unwrap();
    let number = |at: usize, size: usize| {
        let bytes = image[at..at + size].iter().rev();
        bytes.fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    // elf(5), 64 bits, little-endian: where the program headers are, how large, how many.
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<_> = (0..count).map(|header| number(start + header * size, 4)).collect();
    const PT_LOAD: usize = 1;
    const PT_INTERP: usize = 3;
    assert!(kinds.contains(&PT_LOAD) && !kinds.contains(&PT_INTERP), "{kinds:?}");
}

#[test]
fn the_environment_is_of_no_account() {
    let world = World::new();
    let pod = world.alice().container();
    let hostile = "env LD_PRELOAD=/tmp/x.so LD_LIBRARY_PATH=/tmp LD_DEBUG=all LD_AUDIT=/tmp/x.so \
                   GCONV_PATH=/tmp LOCPATH=/tmp NLSPATH=/tmp/%N MALLOC_CHECK_=3 MALLOC_TRACE=/tmp/trace \
                   GLIBC_TUNABLES=glibc.malloc.check=3 RUST_BACKTRACE=full RUST_LOG=trace TMPDIR=/tmp/t \
                   LANG=xx TZ=/tmp/z PATH=/tmp HOME=/tmp IFS=/ '=' 'BASH_FUNC_x%%=() { :; }' \
                   /usr/local/bin/netsetgo";
    let printed = world.alice().sh(&format!("{hostile} -pid {pod} -json")).done();
    assert_eq!(printed.lines().count(), 1);
    assert_eq!(world.alice().sh("ls /tmp").done(), "");
    world.alice().sh(&format!("{hostile} -pid 1")).refused("not yours");
}

#[test]
fn standard_descriptors_may_come_closed() {
    let world = World::new();
    let alice = world.alice();
    let bobs = world.bob().container();
    for (input, output, error) in
        [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
    {
        let closed = [" <&-", " >&-", " 2>&-"];
        let closed: String = closed
            .into_iter()
            .zip([input, output, error])
            .map(|(text, count)| text.repeat(usize::from(count != 0)))
            .collect();
        let pod = alice.container();
        alice.netsetgo(format!("-pid {pod} {closed}")).done();
        let status = |arguments| alice.netsetgo(format!("{arguments} {closed}")).status;
        assert_eq!(status(format!("-pid {bobs}")), 3, "{closed}");
        let expected = if closed_takes_nothing() { output } else { 0 };
        assert_eq!(status(format!("-pid {pod} -json")), expected, "{closed}");
    }
    assert_eq!(world.leases().len(), 7);
}

#[test]
fn signals_may_come_ignored_and_blocked() {
    let world = World::new();
    let bobs = world.bob().container();
    for signals in [
        "--ignore-signal=CHLD",
        "--block-signal=CHLD",
        "--ignore-signal",
        "--block-signal",
        "--ignore-signal --block-signal",
    ] {
        let user = world.alice().by(&format!("env {signals} --"));
        user.netsetgo(format!("-pid {}", world.alice().container())).done();
        user.refused(format!("-pid {bobs}"), "not yours");
    }
    let pod = with_bridge(&world);
    let (outcome, _) =
        look_at(&world.alice(), "env --ignore-signal --block-signal netsetgo", &pod, 0);
    outcome.done();
}

#[test]
fn a_closed_pipe_or_a_size_limit_is_an_error_and_no_signal() {
    let world = World::new();
    let pod = world.alice().container();
    let limited = format!("ulimit -f 0; netsetgo -pid {pod} -json >>/tmp/file");
    world.alice().sh(": >/tmp/file").done();
    let outcome = world.alice().sh(&limited);
    // Where the limit can be lifted again, all is well.
    if outcome.status != 0 {
        outcome.failed("standard output");
        assert_eq!(world.leases(), [""; 0]);
    }
}

#[test]
fn the_umask_and_the_working_directory_are_of_no_account() {
    let world = World::new();
    for script in [
        "umask 0; exec netsetgo -pid",
        "umask 777; exec netsetgo -pid",
        "mkdir /tmp/gone; cd /tmp/gone; rmdir /tmp/gone; exec netsetgo -pid",
    ] {
        let pod = world.alice().container();
        world.alice().sh(&format!("{script} {pod}")).done();
    }
}

#[test]
fn no_resource_limit_leaves_anything_half_done() {
    let world = World::new();
    let alice = world.alice();
    // So that the host has its bridge, and one lease.
    let neighbour = alice.attached();
    let limits = (0..16)
        .map(|files| format!("--nofile={files}"))
        .chain((1..=16).map(|mebibytes| format!("--as={}", mebibytes << 20)))
        .chain((0..8).map(|pages| format!("--data={}", pages << 17)))
        .chain([16, 64, 128, 256].map(|kibibytes| format!("--stack={}", kibibytes << 10)))
        .chain(
            ["cpu", "fsize", "locks", "memlock", "msgqueue", "nice", "rss", "rtprio", "sigpending"]
                .map(|limit| format!("--{limit}=0")),
        );
    for limit in limits {
        let pod = alice.container();
        let outcome = alice.sh(&format!("exec prlimit {limit} netsetgo -pid {pod}"));
        match outcome.status {
            0 => assert_eq!(world.leases().len(), 2, "{limit}: {outcome:?}"),
            1 | 3 => {
                assert!(outcome.is_one_line(), "{limit}: {outcome:?}");
                assert_eq!(world.leases(), ["ns1000-0"], "{limit}");
            }
            // Too little even to start, or to go on: what is left is in alice's own quota.
            status => assert!(status > 125, "{limit}: {outcome:?}"),
        }
        pod.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

#[test]
fn any_argument_vector_is_read_without_harm() {
    let world = World::new();
    let execute = |arguments: &str| {
        let program =
            format!("import os; os.execve(\"/usr/local/bin/netsetgo\", {arguments}, {{}})");
        world.unchanged(|| world.alice().sh(&format!("exec python3 -c '{program}'")))
    };
    execute("[\"-pid\"]").usage("-pid");
    execute("[\"netsetgo\", \"-pid\", \"7\" * 100000]").usage("pid");
    execute("[\"netsetgo\"] + [\"-json\"] * 20000").usage("");
    execute("[\"netsetgo\"] + [\"\"] * 1000").usage("");
}

#[test]
fn each_way_to_come_without_privilege_has_its_own_words() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    let confined = alice.clone().by("setpriv --no-new-privs --");
    let helper = "/usr/local/bin/netsetgo";
    let works = |user: &User<'_>| {
        for option in ["-help", "-version"] {
            assert!(user.netsetgo(option).done().starts_with("netsetgo"));
        }
        user.usage("-nosuch", "");
    };

    confined.failed(format!("-pid {pod}"), "no_new_privs");
    works(&confined);

    let inside = "inside a user namespace";
    let strangers = ["unshare -U --", "unshare -Ur --", "unshare -Ur unshare -Ur --"];
    for namespace in
        strangers.map(|command| alice.clone().by(command)).iter().chain([&pod.inside()])
    {
        namespace.failed("-pid 1", inside);
        namespace.failed(format!("-pid {pod}"), inside);
        works(namespace);
    }
    world.root().by("unshare -Ur --").failed(format!("-pid {pod}"), inside);

    world.sh("mount -o remount,nosuid /usr/local/bin");
    alice.failed(format!("-pid {pod}"), "nosuid mount");
    works(&alice);
    world.sh(&format!("mount -o remount,suid /usr/local/bin; chmod 755 {helper}"));
    alice.failed(format!("-pid {pod}"), "not installed setuid");
    works(&alice);
    // A setuid bit of another owner counts for nothing.
    world.sh(&format!("chown bob {helper}; chmod 4755 {helper}"));
    alice.failed(format!("-pid {pod}"), "not installed setuid");
    // Root has every right without any of it.
    world.sh(&format!("chown root {helper}; chmod 755 {helper}"));
    world.root().netsetgo(format!("-pid {pod}")).done();
}

#[test]
fn a_user_namespace_is_told_apart_even_with_every_capability_in_it() {
    let world = World::new();
    let pod = world.alice().container();
    // As in rootless Podman: root inside may do anything there and nothing outside.
    let outcome = world.unchanged(|| pod.inside().by("unshare -mp --fork").netsetgo("-pid 1"));
    outcome.failed("inside a user namespace");
}

/// Installs the helper with these file capabilities in place of the setuid bit.
fn with_capabilities(capabilities: &str) -> World {
    let world = World::new();
    let helper = "/usr/local/bin/netsetgo";
    world.sh(&format!("chmod 755 {helper}; setcap {capabilities} {helper}"));
    world
}

#[test]
fn file_capabilities_do_in_place_of_the_setuid_bit() {
    let world = with_capabilities("cap_net_admin,cap_sys_ptrace=ep");
    let (pod, hidden) = (with_bridge(&world), undumpable(&world.alice()));
    // Here CAP_SETPCAP is missing as well.
    for target in [&pod, &hidden] {
        let (outcome, _) = look_at(&world.alice(), "netsetgo", target, u64::MAX);
        outcome.done();
    }
    let bobs = world.bob().container();
    world.alice().refused(format!("-pid {bobs}"), "not yours");
    world.bob().refused(format!("-pid {bobs}"), "not allowed");
    let confined = world.alice().by("setpriv --no-new-privs --");
    confined.failed(format!("-pid {pod}"), "no_new_privs");
    world.sh("mount -o remount,nosuid /usr/local/bin");
    world.alice().failed(format!("-pid {pod}"), "nosuid mount");
}

#[test]
fn one_capability_is_enough_for_what_may_be_looked_at() {
    let world = with_capabilities("cap_net_admin=ep");
    world.alice().attached();
    let hidden = undumpable(&world.alice());
    world.alice().refused(format!("-pid {hidden}"), "CAP_SYS_PTRACE");
    let bobs = undumpable(&world.bob());
    world.alice().refused(format!("-pid {bobs}"), "not yours");
}

#[test]
fn the_wrong_capability_is_none() {
    let world = with_capabilities("cap_sys_ptrace,cap_setuid=ep");
    let pod = world.alice().container();
    world.alice().failed(format!("-pid {pod}"), "not installed setuid");
}

#[test]
fn a_quota_is_one_users_and_not_anothers() {
    let world =
        World::with_policy(&format!("{ALICE}links = 1\n[[allow]]\nuser = \"bob\"\nlinks = 1\n"));
    world.alice().attached();
    world.bob().attached();
    let more = world.bob().container();
    world.bob().refused(format!("-pid {more} -wait 0"), "quota");
    assert_eq!(world.leases(), ["ns1000-0", "ns1001-0"]);
}
