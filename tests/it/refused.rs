//! What a caller may not have: exit status 3, and nothing changed on the host or inside.

use crate::world::{ALICE, Container, User, World};

/// The words for whatever is not to be had.
const NOT_YOURS: &str = "not yours";
/// The words for a process that has no network namespace of its own.
const IN_THE_HOST: &str = "host's own network namespace";

/// A container whose process may not be dumped, and so not be looked at by its own user: crun's is
/// one. It has not executed anything since it made its namespaces, or the user who owns these could
/// look at it all the same.
pub(crate) fn undumpable<'w>(user: &User<'w>) -> Container<'w> {
    // CLONE_NEWUSER and CLONE_NEWNET, then PR_SET_DUMPABLE.
    let program = "import ctypes, os, time; libc = ctypes.CDLL(None); \
                   assert libc.unshare(0x50000000) == 0; assert libc.prctl(4, 0, 0, 0, 0) == 0; \
                   print(os.getpid(), flush=True); time.sleep(10**6)";
    let container = user.process(&format!("exec python3 -c '{program}'"));
    let looked = user.sh(&format!("readlink /proc/{container}/ns/net"));
    assert_ne!(looked.status, 0, "its owner may look at it: {looked:?}");
    container
}

#[test]
fn another_users_container_is_refused() {
    let world = World::new();
    let (bobs, hidden) = (world.bob().container(), undumpable(&world.bob()));
    for target in [bobs, hidden] {
        world.alice().refused(format!("-pid {target}"), NOT_YOURS);
        world.alice().refused(format!("-pid {target} -wait 0 -ifname eth0 -lo"), NOT_YOURS);
    }
}

#[test]
fn another_users_container_is_refused_also_once_it_is_attached() {
    let world = World::new();
    world.policy(&format!("{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let bobs = world.bob().attached();
    world.alice().refused(format!("-pid {bobs}"), NOT_YOURS);
    world.alice().refused(format!("-pid {bobs} -ifname second"), NOT_YOURS);
    world.alice().refused(format!("-netns /proc/{bobs}/ns/net"), NOT_YOURS);
}

#[test]
fn a_process_that_does_not_exist_reads_like_one_of_another_user() {
    let world = World::new();
    let (bobs, hidden) = (world.bob().container(), undumpable(&world.bob()));
    let gone = world.alice().container();
    gone.kill();
    let line = |pid: u32| {
        let said = world.alice().refused(format!("-pid {pid} -wait 0"), NOT_YOURS);
        said.replace(&pid.to_string(), "N")
    };
    let nobody = line(gone.pid);
    for somebody in [1, bobs.pid, hidden.pid] {
        assert_eq!(line(somebody), nobody);
    }
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    let world = World::new();
    let alice = world.alice();
    let own = alice.process("echo $$; exec sleep infinity");
    for wait in ["0", "0.05"] {
        alice.refused(format!("-pid {own} -wait {wait}"), IN_THE_HOST);
    }
    for path in [format!("/proc/{own}/ns/net"), "/proc/self/ns/net".to_owned()] {
        alice.refused(format!("-netns {path} -wait 0"), IN_THE_HOST);
    }
    // A user namespace of its own makes no difference.
    let half = alice.process("exec unshare -Ur sh -c 'echo $$; exec sleep infinity'");
    alice.refused(format!("-pid {half} -wait 0"), IN_THE_HOST);
}

#[test]
fn the_hosts_own_namespace_is_refused_to_root_as_well() {
    let world = World::new();
    for target in ["-pid 1", "-pid $$", "-netns /proc/1/ns/net", "-netns /proc/self/ns/net"] {
        world.root().refused(format!("{target} -wait 0"), IN_THE_HOST);
    }
}

#[test]
fn a_namespace_that_root_made_is_refused() {
    let world = World::new();
    world.sh("ip netns add roots");
    let roots = world.root().process("exec unshare -n sh -c 'echo $$; exec sleep infinity'");
    // Being in it, even as oneself, gives no right over it.
    let lent = world.root().process(
        "exec nsenter --net=/run/netns/roots setpriv --reuid alice --regid alice --clear-groups \
         sh -c 'echo $$; exec sleep infinity'",
    );
    let alice = world.alice();
    alice.refused("-netns /run/netns/roots", NOT_YOURS);
    alice.refused(format!("-pid {roots}"), NOT_YOURS);
    alice.refused(format!("-pid {lent}"), NOT_YOURS);
    alice.refused(format!("-netns /proc/{lent}/ns/net"), NOT_YOURS);
}

#[test]
fn a_namespace_of_alices_is_refused_to_bob_even_if_bob_was_put_there() {
    let world = World::with_policy("[[allow]]\nuser = \"bob\"\n");
    let alices = world.alice().container();
    let bobs = world.root().process(&format!(
        "exec nsenter -t {alices} -n setpriv --reuid bob --regid bob --clear-groups \
         sh -c 'echo $$; exec sleep infinity'"
    ));
    world.bob().refused(format!("-pid {bobs}"), NOT_YOURS);
}

#[test]
fn a_file_that_is_no_network_namespace_is_refused() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    alice
        .sh("mkdir /tmp/d; echo text >/tmp/file; mkfifo /tmp/fifo; ln -s /tmp/none /tmp/dangling
             ln -s loop /tmp/loop
             python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/tmp/socket\")'")
        .done();
    for path in [
        "/tmp/d",
        "/tmp/file",
        "/tmp/fifo",
        "/tmp/dangling",
        "/tmp/loop",
        "/tmp/socket",
        "/tmp/none",
        "/",
        "/dev/zero",
        "/proc/self/status",
    ] {
        alice.refused(format!("-netns {path}"), NOT_YOURS);
    }
    for kind in ["mnt", "user", "pid", "uts", "ipc", "time", "cgroup"] {
        alice.refused(format!("-netns /proc/{pod}/ns/{kind}"), NOT_YOURS);
    }
}

#[test]
fn no_process_is_woken_at_the_other_end_of_a_fifo() {
    let world = World::new();
    let alice = world.alice();
    alice.sh("mkfifo /tmp/fifo").done();
    let waiting = alice.process("echo $$; exec 3>/tmp/fifo; exit 1");
    alice.refused("-netns /tmp/fifo", NOT_YOURS);
    // Had the helper opened it for reading, the writer would have come through.
    let alive = world.sh(&format!("grep State: /proc/{waiting}/status"));
    assert!(alive.contains('S'), "{alive}");
}

#[test]
fn a_path_that_the_caller_may_not_see_tells_nothing() {
    let world = World::new();
    world.sh("mkdir -m 700 /run/secret; touch /run/secret/there; ip netns add roots
         touch /run/secret/bound; mount --bind /run/netns/roots /run/secret/bound");
    let line = |name: &str| {
        let said = world.alice().refused(format!("-netns /run/secret/{name}"), NOT_YOURS);
        said.replace(name, "NAME")
    };
    let missing = line("missing");
    assert_eq!(line("there"), missing);
    assert_eq!(line("bound"), missing);
}

#[test]
fn another_users_namespace_file_is_refused() {
    let world = World::new();
    let bobs = world.bob().container();
    world.sh(&format!(
        "touch /run/shown; mount --bind /proc/{bobs}/ns/net /run/shown
         ln -s /proc/{bobs}/ns/net /tmp/link"
    ));
    for path in [format!("/proc/{bobs}/ns/net"), "/run/shown".to_owned(), "/tmp/link".to_owned()] {
        world.alice().refused(format!("-netns {path}"), NOT_YOURS);
    }
}

#[test]
fn who_is_not_in_the_policy_is_refused() {
    let world = World::new();
    let bobs = world.bob().container();
    world.bob().refused(format!("-pid {bobs}"), "not allowed");
    // And learns nothing of others by it.
    let alices = world.alice().container();
    world.bob().refused(format!("-pid {alices}"), "not allowed");
}

#[test]
fn a_used_up_quota_is_refused() {
    let world = World::with_policy(&format!("{ALICE}links = 2\n"));
    let alice = world.alice();
    let pods = [alice.attached(), alice.attached()];
    let third = alice.container();
    alice.refused(format!("-pid {third} -wait 0.05"), "quota");
    alice.refused(format!("-pid {third} -wait 0 -ifname eth0"), "quota");
    // What is attached already may be attached again.
    alice.netsetgo(format!("-pid {} -wait 0", pods[0])).done();
}

#[test]
fn another_name_inside_does_not_get_around_the_quota() {
    let world = World::with_policy(&format!("{ALICE}links = 1\n"));
    let alice = world.alice();
    let pod = alice.attached();
    alice.refused(format!("-pid {pod} -ifname veth2 -wait 0"), "quota");
    pod.sh("ip link set veth1 down; ip link set veth1 name hidden");
    alice.refused(format!("-pid {pod} -wait 0"), "quota");
}

#[test]
fn another_bridge_than_the_policys_is_refused() {
    let world = World::new();
    let pod = world.alice().container();
    world.sh("ip link add brg1 type bridge");
    for name in ["brg1", "brg2", "lo"] {
        world.alice().refused(format!("-pid {pod} -bridgeName {name}"), "brg0");
    }
    for address in ["10.10.11.1/24", "10.10.10.1/25", "10.10.10.2/24"] {
        world.alice().refused(format!("-pid {pod} -bridgeAddress {address}"), "10.10.10.1/24");
    }
    // To name what the policy has anyway is no harm.
    let granted = format!("-pid {pod} -bridgeName brg0 -bridgeAddress 10.10.10.1/24");
    world.alice().netsetgo(granted).done();
}
