//! Which namespaces may be attached: the caller's own, of every kind and by every way to name them.

use crate::refused::undumpable;
use crate::world::{ALICE, World};

#[test]
fn a_process_that_has_yet_to_unshare_is_waited_for() {
    let world = World::with_policy(&format!("{ALICE}links = 40\n"));
    // Nothing between the start of the container and the call, and thirty times.
    let script = "for i in $(seq 30); do
                      unshare -Urn sleep 1000 >/dev/null 2>&1 & netsetgo -pid $! || exit
                  done";
    assert_eq!(world.alice().sh(script).done(), "");
    assert_eq!(world.leases().len(), 30);
}

#[test]
fn a_process_that_unshares_late_is_waited_for() {
    let world = World::new();
    let script =
        "(sleep 0.3; exec unshare -Urn sleep 1000) >/dev/null 2>&1 & netsetgo -pid $! -wait 60";
    world.alice().sh(script).done();
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn a_process_that_exits_while_it_is_waited_for_is_gone() {
    let world = World::new();
    world.unchanged(|| world.alice().sh("sleep 0.3 & netsetgo -pid $! -wait 60")).refused("gone");
}

#[test]
fn a_zombie_is_gone() {
    let world = World::new();
    let parent = world.alice().process("unshare -Urn sleep 0.3 & echo $!; exec sleep infinity");
    world.until("the child to end", || {
        world.sh(&format!("cat /proc/{parent}/stat")).contains(" Z ")
    });
    world.alice().refused(format!("-pid {parent} -wait 0"), "not yours");
}

#[test]
fn a_container_whose_process_is_not_dumpable_is_attached() {
    let world = World::new();
    let pod = undumpable(&world.alice());
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn a_container_in_nested_user_namespaces_is_attached() {
    let world = World::new();
    for launch in [
        "exec unshare -Ur unshare -Urn",
        "exec unshare -Ur unshare -Ur unshare -Urn",
        // The user namespace of the process is a child of the one that owns its network.
        "exec unshare -Urn unshare -Ur",
        // No user is mapped at all.
        "exec unshare -Un",
    ] {
        let pod = world.alice().process(&format!("{launch} sh -c 'echo $$; exec sleep infinity'"));
        world.alice().netsetgo(format!("-pid {pod}")).done();
        let leases = world.leases();
        assert_eq!(leases.len(), 1, "{launch}");
        pod.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn a_container_whose_init_runs_as_a_sub_uid_is_attached() {
    let world = World::new();
    let pod = world.alice().process(
        "unshare -Un sh -c '
             until [ -e /tmp/mapped ]; do sleep 0.01; done
             exec setpriv --reuid 1 --regid 1 --clear-groups sleep infinity
         ' & own=$(readlink /proc/self/ns/user)
         while [ $(readlink /proc/$!/ns/user) = $own ]; do sleep 0.01; done
         echo $!; wait",
    );
    for map in ["uid_map", "gid_map"] {
        let file = world.path(&format!("/proc/{pod}/{map}"));
        std::fs::write(file, "0 1000 1\n1 100000 65536\n").unwrap();
    }
    world.sh("touch /tmp/mapped");
    world.until("the init to become its sub-uid", || {
        world.sh(&format!("stat -c %u /proc/{pod}")) == "100000\n"
    });
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn a_namespace_file_is_attached_wherever_it_is() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    world.sh(&format!("touch /run/kept; mount --bind /proc/{pod}/ns/net /run/kept"));
    alice.sh(&format!("ln -s /proc/{pod}/ns/net /tmp/link")).done();
    for path in [format!("/proc/{pod}/ns/net"), "/run/kept".to_owned(), "/tmp/link".to_owned()] {
        alice.netsetgo(format!("-netns {path}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24", "{path}");
    }
    // The file outlives the process, and so does the veth pair.
    pod.kill();
    alice.netsetgo("-netns /run/kept").done();
    assert_eq!(world.leases(), ["ns1000-0"]);
    world.sh("umount /run/kept");
    world.until_leases_are(&[]);
}

#[test]
fn a_path_is_read_from_where_the_caller_is() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    alice.sh(&format!("cd /proc/{pod}/ns && netsetgo -netns net")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn a_process_of_another_user_in_the_callers_container_is_no_way_in() {
    let world = World::with_policy("[[allow]]\nuser = \"bob\"\n");
    let alices = world.alice().container();
    let file = format!("/proc/{alices}/ns/net");
    // Even handed over as an open file, it is refused by the kernel.
    let handed = format!(
        "exec 3<{file}; exec setpriv --reuid bob --regid bob --clear-groups \
         sh -c 'netsetgo -netns /proc/$$/fd/3'"
    );
    world.unchanged(|| world.root().sh(&handed)).refused("not yours");
}

#[test]
fn hidden_processes_stay_hidden_and_ones_own_are_attached() {
    let world = World::new();
    let (own, bobs) = (world.alice().container(), world.bob().container());
    world.sh("mount -o remount,hidepid=2 /proc");
    world.alice().netsetgo(format!("-pid {own}")).done();
    world.alice().refused(format!("-pid {bobs}"), "not yours");
}
