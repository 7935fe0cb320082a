//! What a caller can give a setuid program beside its arguments, beyond what `caller` tries, and what
//! a caller can do to it from outside while it runs.

use nix::libc;

use crate::world::{ALICE, Container, Part, Stage, Trace, User, World, places, stages};

/// The system calls that a run makes on what is not its own memory.
fn calls(user: &User<'_>, command: &str) -> Vec<(bool, i64)> {
    let memory =
        [libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_write];
    let mut all: Vec<_> = Vec::new();
    let _ = Trace::of(user, command).watch(|stage| {
        if !memory.contains(&stage.call) {
            all.push((stage.part == Part::Child, stage.call));
        }
    });
    // The two run beside each other.
    all.sort_by_key(|(child, _)| *child);
    all
}

#[test]
fn no_variable_makes_the_program_do_anything_else() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.attached();
    let call = format!("netsetgo -delete -ifname none -pid {pod}");
    let usual = calls(&alice, &call);
    assert!(usual.len() > 50, "{}", usual.len());
    let path = "/usr/local/bin";
    // CVE-2023-4911, and what C libraries and Rust's run-time read.
    let tunable = "glibc.malloc.mxfast=glibc.malloc.mxfast=A".to_owned() + &"A".repeat(4000);
    let long = "x".repeat(30_000);
    for variables in [
        format!("GLIBC_TUNABLES={tunable}"),
        "GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.rtld.optional_static_tls=1:glibc.pthread.rseq=0:glibc.mem.tagging=255".to_owned(),
        "MALLOC_CHECK_=3 MALLOC_PERTURB_=255 MALLOC_ARENA_MAX=1 MALLOC_TOP_PAD_=1 MALLOC_TRACE=/tmp/t".to_owned(),
        "LD_PRELOAD=/tmp/x LD_AUDIT=/tmp/x LD_BIND_NOW=1 LD_PROFILE=x LD_SHOW_AUXV=1 LD_DEBUG=all".to_owned(),
        "LC_ALL=../../tmp LANGUAGE=x LOCPATH=/tmp NLSPATH=/tmp/%N CHARSET=x OUTPUT_CHARSET=y".to_owned(),
        "TZ=:/tmp/zone TZDIR=/tmp RES_OPTIONS=debug LOCALDOMAIN=x HOSTALIASES=/tmp/x".to_owned(),
        "RUST_BACKTRACE=full RUST_MIN_STACK=1 RUST_LOG=trace RUST_TEST_THREADS=0".to_owned(),
        format!("A={long} B={long} TMPDIR={long}"),
        (0..2000).map(|number| format!("V{number}=x ")).collect(),
    ] {
        let hostile = format!("env {variables} PATH={path} {call}");
        assert_eq!(calls(&alice, &hostile), usual, "{}", &hostile[..100]);
    }
}

#[test]
fn a_thousand_descriptors_come_in_and_none_stays() {
    let world = World::new();
    let alice = world.alice();
    alice.attached();
    let pod = alice.container();
    // Of every kind: files, directories, sockets, and a pipe at whose other end a process waits.
    let open = "import os, socket, sys, resource; \
                resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048)); r, w = os.pipe(); \
                kept = [socket.socket(k, socket.SOCK_DGRAM) for k in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK)]; \
                [os.set_inheritable(s.fileno(), True) for s in kept]; \
                [os.set_inheritable(os.open(p, os.O_RDONLY), True) for p in [\"/\", \"/proc/self/ns/net\", \"/dev/zero\"] * 300]; \
                [os.dup2(w, w + 1000 + n) for n in range(100)]; \
                os.execvp(sys.argv[1], sys.argv[1:])";
    let call = format!("python3 -c '{open}' netsetgo -pid {pod}");
    let mut most = 0;
    let outcome = Trace::of(&alice, &call).watch(|stage| {
        let files = std::fs::read_dir(format!("/proc/{}/fd", stage.pid)).unwrap().count();
        if stage.call == libc::SYS_execve {
            return;
        }
        most = most.max(files);
        // The first that others could notice.
        if [libc::SYS_pidfd_open, libc::SYS_socketpair, libc::SYS_setns, libc::SYS_sendto]
            .contains(&stage.call)
        {
            assert!(files < 16, "{files} files: {stage:?}");
        }
    });
    outcome.done();
    assert!(most > 1000, "only {most} files came in");
    assert_eq!(pod.address(), "10.10.10.3/24");
}

#[test]
fn a_soft_limit_alone_is_of_no_account() {
    let world = World::new();
    let alice = world.alice();
    for limit in
        ["nofile=3", "fsize=0", "cpu=1", "stack=65536", "core=0", "memlock=0", "as=8000000"]
    {
        let pod = alice.container();
        alice.sh(&format!("exec prlimit --{limit}: netsetgo -pid {pod}")).done();
        pod.kill();
    }
}

#[test]
fn a_full_pipe_as_standard_error_holds_up_the_caller_alone() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let (alice, bob) = (world.alice(), world.bob());
    let neighbour = bob.attached();
    let pod = alice.container();
    alice.sh("mkfifo /tmp/full").done();
    // No process reads what is in it; the shell that holds it open says when there is no more room.
    let _full = alice.process(
        "exec python3 -c '
import os, time
f = os.open(\"/tmp/full\", os.O_RDWR | os.O_NONBLOCK)
try:
    while True: os.write(f, bytes(4096))
except BlockingIOError: print(os.getpid(), flush=True)
time.sleep(999)'",
    );
    for (call, status) in [("-pid 1 -wait 0".to_owned(), 3), (format!("-pid {pod} -json"), 0)] {
        let run = alice.process(&format!(
            "netsetgo {call} >/tmp/full 2>&1 & echo $!; wait $!; echo $? >/tmp/status; exec sleep infinity"
        ));
        let waits = || {
            world.sh(&format!("cat /proc/{run}/wchan /proc/{run}/syscall")).contains("pipe_write")
        };
        world.until("it to wait for its reader", waits);
        // It holds no privilege and no descriptor any more.
        let held = world.sh(&format!("grep -E '^Cap(Prm|Eff)' /proc/{run}/status"));
        assert_eq!(held.matches("0000000000000000").count(), 2, "{held}");
        let other = bob.attached();
        bob.netsetgo(format!("-delete -pid {other} -wait 0")).done();
        assert_eq!(neighbour.address(), "10.10.10.2/24");
        world.sh("timeout 10 dd if=/tmp/full of=/dev/null bs=4096 count=16 2>/dev/null");
        world.until("it to end", || world.path("/tmp/status").exists());
        assert_eq!(world.sh("cat /tmp/status; rm /tmp/status").trim(), status.to_string());
        world.sh("python3 -c '
import os
f = os.open(\"/tmp/full\", os.O_RDWR | os.O_NONBLOCK)
try:
    while True: os.write(f, bytes(4096))
except BlockingIOError: pass'");
    }
    // A pipe that does not block, and that no process reads, is an error in the end.
    let nonblocking = |call: &str| {
        alice.sh(&format!(
            "exec python3 -c '
import os, sys
f = os.open(\"/tmp/full\", os.O_RDWR | os.O_NONBLOCK)
os.dup2(f, 1); os.dup2(f, 2); os.execvp(\"netsetgo\", sys.argv[1:])' netsetgo {call}"
        ))
    };
    assert_eq!(nonblocking("-pid 1 -wait 0").status, 3);
    let unheard = alice.container();
    let leases = world.leases();
    assert_eq!(nonblocking(&format!("-pid {unheard} -json")).status, 1);
    assert_eq!(world.leases(), leases);
}

#[test]
fn as_many_groups_as_there_can_be_are_read() {
    let world = World::with_policy("[[allow]]\ngroup = \"netdev\"\n");
    let become_alice = |groups: &str| {
        std::fs::write(
            world.path("/run/groups.py"),
            format!("import os, sys\nos.setgroups({groups})\nos.setresgid(1000, 1000, 1000)\nos.setresuid(1000, 1000, 1000)\nos.execvp(sys.argv[1], sys.argv[1:])\n"),
        )
        .unwrap();
        world.root().by("python3 /run/groups.py")
    };
    let pod = world.alice().container();
    // NGROUPS_MAX is 65536. The kernel sorts them, and this one comes last.
    world.sh("sed -i s/netdev:x:1100/netdev:x:99999/ /etc/group");
    become_alice("list(range(2000, 67536))").refused(format!("-pid {pod}"), "not allowed");
    become_alice("list(range(2000, 67535)) + [99999]").netsetgo(format!("-pid {pod}")).done();
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn a_proc_that_hides_much_hides_nothing_that_is_needed_or_says_so() {
    for (mount, works) in [("hidepid=1", true), ("hidepid=4", true), ("subset=pid", false)] {
        let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
        let (own, bobs, neighbour) =
            (world.alice().container(), world.bob().container(), world.bob().attached());
        world.sh(&format!("mount -t proc -o {mount} proc /proc"));
        let outcome = world.alice().netsetgo(format!("-pid {own}"));
        if works {
            outcome.done();
            world.alice().netsetgo(format!("-pid {bobs}")).refused("not yours");
        } else {
            outcome.failed("/proc/sys/");
            world.alice().netsetgo(format!("-pid {bobs}")).refused("not yours");
        }
        world.sh("umount /proc");
        assert_eq!(world.leases().len(), 1 + usize::from(works), "{mount}");
        assert_eq!(neighbour.address(), "10.10.10.2/24");
        assert_eq!(bobs.links(), ["lo"]);
    }
}

/// A process as deep in user namespaces as this says, or as the kernel lets it, in a network
/// namespace of the innermost.
fn nested<'w>(user: &User<'w>, depth: u32) -> Container<'w> {
    user.process(&format!(
        "exec python3 -c '
import ctypes, os, time
libc = ctypes.CDLL(None)
for level in range({depth}):
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(0x10000000) != 0: break
    for name, line in (\"setgroups\", \"deny\"), (\"uid_map\", \"0 %d 1\" % uid), (\"gid_map\", \"0 %d 1\" % gid):
        with open(\"/proc/self/\" + name, \"w\") as file: file.write(line)
    deepest = level + 1
assert libc.unshare(0x40000000) == 0
open(\"/tmp/depth\", \"w\").write(str(deepest))
print(os.getpid(), flush=True)
time.sleep(999)'"
    ))
}

#[test]
fn a_container_as_deep_in_user_namespaces_as_there_can_be_is_attached_by_its_owner_alone() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    for depth in [30, 100] {
        let pod = nested(&world.alice(), depth);
        let reached: u32 = world.sh("cat /tmp/depth; rm /tmp/depth").parse().unwrap();
        assert!((30..=33).contains(&reached), "{reached}");
        world.bob().refused(format!("-pid {pod}"), "not yours");
        world.alice().netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24");
        world.alice().netsetgo(format!("-delete -pid {pod}")).done();
        assert_eq!(pod.links(), ["lo"]);
    }
}

#[test]
fn a_namespace_that_a_sub_uid_made_inside_is_the_callers_and_no_other_users() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let pod = world.alice().process(
        "unshare -U sh -c '
             until [ -e /tmp/mapped ]; do sleep 0.01; done
             exec setpriv --reuid 1 --regid 1 --clear-groups unshare -Un sleep infinity
         ' & own=$(readlink /proc/self/ns/user)
         while [ $(readlink /proc/$!/ns/user) = $own ]; do sleep 0.01; done
         echo $!; wait",
    );
    let net = pod.namespace("net");
    for map in ["uid_map", "gid_map"] {
        let file = world.path(&format!("/proc/{pod}/{map}"));
        std::fs::write(file, "0 1000 1\n1 100000 65536\n").unwrap();
    }
    world.sh("touch /tmp/mapped");
    world.until("the sub-uid to make a namespace", || pod.namespace("net") != net);
    assert_eq!(world.sh(&format!("stat -c %u /proc/{pod}")), "100000\n");
    world.bob().refused(format!("-pid {pod}"), "not yours");
    // Not even by way of the sub-uid itself, which has no account.
    world.user("100000").refused(format!("-pid {pod}"), "not allowed");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

/// Whether the target is about to be looked at, or the kernel to be asked for something.
fn looks(stage: &Stage) -> bool {
    [libc::SYS_openat, libc::SYS_ioctl, libc::SYS_setns, libc::SYS_sendto, libc::SYS_recvfrom]
        .contains(&stage.call)
}

#[test]
fn a_target_that_goes_to_another_namespace_meanwhile_is_attached_in_one_or_not_at_all() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let alice = world.alice();
    let neighbour = world.bob().attached();
    // It leaves its network namespace for a new one at a signal.
    let restless = || {
        alice.process(
            "exec unshare -Ur python3 -c '
import ctypes, os, signal
libc = ctypes.CDLL(None)
def leave(*_):
    assert libc.unshare(0x40000000) == 0
    open(\"/tmp/left\", \"w\").close()
signal.signal(signal.SIGUSR1, leave)
assert libc.unshare(0x40000000) == 0
print(os.getpid(), flush=True)
while True: signal.pause()'",
        )
    };
    let call = |pod: &Container<'_>| format!("netsetgo -pid {pod} -wait 0");
    // From the second on all runs are alike: the firewall is seen to be whole.
    for _ in 0..2 {
        alice.attached().kill();
    }
    world.until_leases_are(&["ns1001-0"]);
    let first = restless();
    let places = places(&alice, call(&first), looks);
    first.kill();
    for place in places {
        let pod = restless();
        let run = Trace::of(&alice, call(&pod));
        let Some(frozen) = run.freeze(|stage| stage.is(&place)) else {
            pod.kill();
            continue;
        };
        world.sh(&format!("kill -USR1 {pod}"));
        world.until("it to leave", || world.path("/tmp/left").exists());
        world.sh("rm /tmp/left");
        let outcome = frozen.thaw();
        assert!(outcome.status == 0 || outcome.is_one_line(), "{place:?}: {outcome:?}");
        // What is in the namespace that was left goes with it.
        let inside = if pod.links().contains(&"veth1".to_owned()) { 2 } else { 1 };
        world.until("the wire to be where it is", || world.leases().len() == inside);
        alice.netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.3/24");
        pod.kill();
        world.until_leases_are(&["ns1001-0"]);
    }
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

/// Sends to every netlink socket of the container's, as its root, what the kernel might answer.
const FORGE: &str = "
import socket, struct
NLMSG_ERROR, NLMSG_DONE, RTM_NEWLINK = 2, 3, 16
own = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
forger = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
own.bind((0, 0))
ports = [int(line.split()[2]) for line in list(open(\"/proc/net/netlink\"))[1:] if line.split()[1] == \"0\"]
for port in ports:
    for sequence in range(12):
        for kind, body in ((NLMSG_ERROR, bytes(20)), (NLMSG_ERROR, struct.pack(\"i\", -13) + bytes(16)), (NLMSG_DONE, bytes(4)), (RTM_NEWLINK, bytes(16))):
            try:
                forger.sendto(struct.pack(\"IHHII\", 16 + len(body), kind, 0, sequence, 0) + body, (port, 0))
                if port not in (0, own.getsockname()[0]): print(\"got through to\", port)
            except ConnectionRefusedError: print(\"refused\", port)
own.setblocking(False)
own.recv(1024)
print(\"heard oneself\")
";

#[test]
fn root_of_the_container_cannot_answer_in_the_kernels_place() {
    let world = World::new();
    let alice = world.alice();
    std::fs::write(world.path("/run/forge.py"), FORGE).unwrap();
    let neighbour = alice.attached();
    let call = |pod: &Container<'_>| format!("netsetgo -pid {pod} -json");
    let first = alice.container();
    let waits = |stage: &Stage| stage.part == Part::Child && stage.call == libc::SYS_recvfrom;
    let places: Vec<_> = stages(&alice, call(&first)).into_iter().filter(waits).collect();
    assert!(places.len() > 4, "{places:?}");
    first.kill();
    let mut refused = 0;
    for place in places {
        let pod = alice.container();
        let Some(frozen) = Trace::of(&alice, call(&pod)).freeze(|stage| stage.is(&place)) else {
            continue;
        };
        let said = pod.inside().sh("exec python3 /run/forge.py").done();
        assert!(said.contains("heard oneself") && !said.contains("got through"), "{said}");
        refused += said.matches("refused").count();
        assert_eq!(frozen.thaw().status, 0, "{place:?}");
        assert_eq!(pod.address(), "10.10.10.3/24");
        assert_eq!(pod.ip("route show default")[0]["gateway"], "10.10.10.1");
        pod.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    assert!(refused > 0, "nobody was there to be sent to");
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}
