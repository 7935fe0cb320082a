//! A caller who has an own control group, as systemd gives one to each user who logs in, freezes
//! the runs, kills them all at once, or lets them have no more memory, wherever they are.

use crate::attacks::{alice_and_bob, frozen_everywhere};
use crate::world::{Container, Frozen, User, World};

/// A control group. It is of the whole machine, so it is taken away in the end.
struct Group<'w> {
    world: &'w World,
    path: String,
}

impl<'w> Group<'w> {
    /// A group of the hierarchy that is mounted with these options.
    fn of(world: &'w World, mount: &str) -> Self {
        // Each world has an inode of its own for its network namespace.
        let path = world.sh(&format!(
            "mkdir -p /run/groups; mount -t {mount} none /run/groups
             group=/run/groups/netsetgo-$(stat -Lc %i /proc/1/ns/net); mkdir $group; echo $group"
        ));
        Group { world, path: path.trim().to_owned() }
    }

    /// Writes into one of its files, once for each of these.
    #[track_caller]
    fn set(&self, file: &str, values: impl IntoIterator<Item = impl ToString>) {
        for value in values {
            std::fs::write(self.world.path(&format!("{}/{file}", self.path)), value.to_string())
                .unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }

    /// Moves these runs there, which stand still.
    #[track_caller]
    fn take_in(&self, runs: &[Frozen]) {
        // Of the pids that this test's own pid namespace has.
        self.set("cgroup.procs", runs.iter().flat_map(Frozen::living));
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        // The processes in it have to end first.
        let path = &self.path;
        let _ = self.world.root().sh(&format!(
            "echo 0 >{path}/cgroup.freeze; for pid in $(cat {path}/cgroup.procs); do kill -9 $pid; done
             for try in $(seq 100); do rmdir {path} && break; sleep 0.05; done; umount /run/groups"
        ));
    }
}

/// Bob's containers come and go as if nothing were.
fn others_go_on(world: &World, bob: &User<'_>) {
    for _ in 0..3 {
        let pod = bob.container();
        bob.netsetgo(format!("-pid {pod} -wait 0")).done();
        pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
        bob.netsetgo(format!("-delete -pid {pod} -wait 0")).done();
        assert!(!world.leases().contains(&"ns1001-0".to_owned()));
    }
}

/// How many veth pairs there are beside those of the stopped runs: one, and that of the run by which the
/// stages were found.
const BEFORE: usize = 2;

/// Each of alice's containers gets its network by a further run, whatever became of the first.
fn a_further_run_completes(world: &World, alice: &User<'_>, targets: &[Container<'_>]) {
    for target in targets {
        alice.netsetgo(format!("-pid {target} -wait 0")).done();
    }
    assert_eq!(world.leases().len(), BEFORE + targets.len());
    for target in targets {
        target.kill();
    }
    world.until("alice's leases to go", || world.leases().len() == BEFORE);
}

/// Starts alice's runs at every stage, and has them in a group.
fn grouped<'w>(world: &'w World, mount: &str) -> (Group<'w>, Vec<Frozen>, Vec<Container<'w>>) {
    let alice = world.alice();
    alice.attached();
    let group = Group::of(world, mount);
    let (runs, targets) = frozen_everywhere(&alice, || alice.container());
    assert!(runs.len() > 50, "only {} runs were stopped", runs.len());
    (group, runs, targets)
}

#[test]
fn a_frozen_group_of_runs_holds_no_other_run_up() {
    let world = alice_and_bob();
    let (group, runs, _) = grouped(&world, "cgroup2");
    group.take_in(&runs);
    group.set("cgroup.freeze", ["1"]);
    for pid in runs.iter().flat_map(Frozen::pids) {
        world.sh(&format!("kill -CONT {pid}"));
    }
    others_go_on(&world, &world.bob());
    group.set("cgroup.freeze", ["0"]);
    for run in runs {
        run.thaw().done();
    }
}

#[test]
fn a_group_of_runs_that_is_killed_at_once_leaves_nothing_in_anybodys_way() {
    let world = alice_and_bob();
    let (group, runs, targets) = grouped(&world, "cgroup2");
    group.take_in(&runs);
    group.set("cgroup.kill", ["1"]);
    for run in runs {
        assert!([0, 137].contains(&run.thaw().status));
    }
    others_go_on(&world, &world.bob());
    a_further_run_completes(&world, &world.alice(), &targets);
}

#[test]
fn a_group_of_runs_without_any_more_memory_leaves_nothing_in_anybodys_way() {
    let world = alice_and_bob();
    let unified = world.sh("mkdir /run/look; mount -t cgroup2 none /run/look
         if grep -qw memory /run/look/cgroup.controllers; then
             echo +memory >/run/look/cgroup.subtree_control; echo yes
         fi; umount /run/look");
    let (mount, limit) = match unified.is_empty() {
        true => ("cgroup -o memory", "memory.limit_in_bytes"),
        false => ("cgroup2", "memory.max"),
    };
    let (group, runs, targets) = grouped(&world, mount);
    group.set(limit, ["0"]);
    group.take_in(&runs);
    let mut killed = 0;
    for run in runs {
        let outcome = run.thaw();
        killed += usize::from(outcome.status == 137);
        assert!([0, 1, 3, 137].contains(&outcome.status), "{outcome:?}");
    }
    assert!(killed > 5, "only {killed} missed the memory");
    others_go_on(&world, &world.bob());
    a_further_run_completes(&world, &world.alice(), &targets);
}
