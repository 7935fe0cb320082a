//! What changes, or is changed on purpose, while a run is under way.

use std::cell::Cell;

use nix::libc;

use crate::publish::three_users;
use crate::world::{Container, Frozen, Outcome, Part, Stage, Trace, World, choice, places, stages};

/// Attaches container after container, and does something at each of these stages of the run.
/// Whatever comes of it is told in one line. `then` sees how the run ended.
#[track_caller]
fn disturb<'w>(
    world: &'w World,
    at: impl Fn(&Stage) -> bool,
    act: impl Fn(&Frozen, &Container<'w>),
    then: impl Fn(&Outcome, &Container<'w>),
) {
    disturb_with(world, "", at, act, then);
}

/// The same with further options.
#[track_caller]
fn disturb_with<'w>(
    world: &'w World,
    options: &str,
    at: impl Fn(&Stage) -> bool,
    act: impl Fn(&Frozen, &Container<'w>),
    then: impl Fn(&Outcome, &Container<'w>),
) {
    let alice = world.alice();
    let call = |pod: &Container<'_>| format!("netsetgo -pid {pod} -wait 0 {options}");
    let others = world.leases();
    let end = |pod: &Container<'_>| {
        pod.kill();
        world.until("its lease to go", || world.leases() == others);
    };
    let first = alice.container();
    let places = places(&alice, call(&first), at);
    assert!(places.len() > 4, "only {} stages", places.len());
    end(&first);
    for place in places {
        let pod = alice.container();
        if let Some(frozen) = Trace::of(&alice, call(&pod)).freeze(|stage| stage.is(&place)) {
            act(&frozen, &pod);
            let outcome = frozen.thaw();
            assert!([0, 1, 3].contains(&outcome.status), "{place:?}: {outcome:?}");
            assert!(outcome.status == 0 || outcome.is_one_line(), "{place:?}: {outcome:?}");
            then(&outcome, &pod);
        }
        end(&pod);
    }
}

/// Whether the host or the inside is about to be asked for something, or has been.
fn is_message(stage: &Stage) -> bool {
    [libc::SYS_sendto, libc::SYS_recvfrom].contains(&stage.call)
}

#[test]
fn a_target_that_goes_is_gone_and_nothing_is_left() {
    let world = World::new();
    let neighbour = world.alice().attached();
    // Up to its last moment a run may come too early to notice, so any outcome is right.
    disturb(&world, |_| true, |_, pod| pod.kill(), |_, _| ());
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

#[test]
fn a_child_that_its_owner_kills_costs_others_nothing() {
    let world = World::new();
    let alice = world.alice();
    let kill = |frozen: &Frozen, _: &Container<'_>| {
        // It may have ended by itself.
        if let Some(pid) = frozen.pid() {
            alice.sh(&format!("kill -9 {pid}")).done();
        }
    };
    let then = |_: &Outcome, pod: &Container<'_>| {
        alice.netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24");
        world.has_its_bridge();
    };
    disturb(&world, |stage| stage.part == Part::Child, kill, then);
    world.until_leases_are(&[]);
}

#[test]
fn another_run_for_the_same_container_meanwhile_makes_no_difference() {
    let world = World::new();
    let other = |_: &Frozen, pod: &Container<'_>| {
        world.alice().netsetgo(format!("-pid {pod}")).done();
    };
    let both = |outcome: &Outcome, pod: &Container<'_>| {
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert_eq!(world.leases(), ["ns1000-0"]);
        assert_eq!(pod.address(), "10.10.10.2/24");
        world.has_its_bridge();
        // The next ones start from nothing again.
        world.sh("ip link del brg0");
    };
    disturb(&world, |stage| stage.part == Part::Child || is_message(stage), other, both);
}

#[test]
fn whatever_happens_inside_meanwhile_the_host_stays_as_it_is() {
    let world = World::new();
    for harm in [
        "ip link del veth1",
        "ip link set veth1 down; ip link set veth1 name gone",
        "ip link add veth1 type bridge",
        "ip link set veth1 down; ip address add 10.10.10.1/24 dev lo; ip link set lo up",
    ] {
        let harm = |_: &Frozen, pod: &Container<'_>| drop(pod.inside().sh(harm));
        let then = |_: &Outcome, _: &Container<'_>| {
            world.has_its_bridge();
            assert!(world.leases().len() <= 2, "{:?}", world.leases());
        };
        disturb(&world, is_message, harm, then);
        world.until_leases_are(&[]);
    }
}

#[test]
fn a_bridge_that_is_changed_meanwhile_leaves_no_veth_pair_behind_a_failure() {
    let world = World::new();
    let alice = world.alice();
    for harm in [
        "ip link del brg0",
        "ip address flush dev brg0",
        "ip link set brg0 down",
        "ip link del brg0; ip link add brg0 type veth peer name other",
    ] {
        let harm = |_: &Frozen, _: &Container<'_>| drop(world.root().sh(harm));
        let then = |outcome: &Outcome, pod: &Container<'_>| {
            if outcome.status != 0 {
                assert_eq!(pod.links(), ["lo"], "{outcome:?}");
            }
            let _ = world.root().sh("ip link del other");
        };
        disturb(&world, is_message, harm, then);
        world.until_leases_are(&[]);
        let pod = alice.attached();
        world.has_its_bridge();
        pod.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn an_error_says_that_the_bridge_went_meanwhile_and_what_to_do() {
    let world = three_users();
    let alice = world.alice();
    for ready in [true, false] {
        let reset = || {
            let _ = world.root().sh("ip link del brg0");
            if ready {
                alice.attached().kill();
                world.until_leases_are(&[]);
            }
        };
        reset();
        let failures = Cell::new(0);
        let changes = |stage: &Stage| {
            stage.part == Part::Parent && [libc::SYS_sendto, libc::SYS_openat].contains(&stage.call)
        };
        let harm = |_: &Frozen, _: &Container<'_>| drop(world.root().sh("ip link del brg0"));
        let then = |outcome: &Outcome, pod: &Container<'_>| {
            if outcome.status != 0 {
                failures.set(failures.get() + 1);
                assert_eq!(
                    outcome.err,
                    "netsetgo: brg0: deleted or changed while a container was being attached to it; \
                     call netsetgo again\n"
                );
                assert_eq!(outcome.status, 1);
                // It is true.
                alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
                world.has_its_bridge();
            }
            pod.kill();
            world.until_leases_are(&[]);
            reset();
        };
        disturb_with(&world, "-publish 8080:80", changes, harm, then);
        assert!(failures.get() > 10, "{}", failures.get());
    }
}

#[test]
fn a_veth_pair_that_is_deleted_meanwhile_is_not_said_to_have_another_route() {
    let world = World::new();
    let alice = world.alice();
    let again = |pod: &Container<'_>| Trace::of(&alice, format!("netsetgo -pid {pod}"));
    // From the second on all runs are alike: the firewall is seen to be whole.
    alice.attached().kill();
    let first = alice.attached();
    let talks = |stage: &Stage| {
        stage.part == Part::Child && [libc::SYS_sendto, libc::SYS_recvfrom].contains(&stage.call)
    };
    let places = places(&alice, format!("netsetgo -pid {first}"), talks);
    first.kill();
    let mut told = 0;
    for place in places {
        world.until_leases_are(&[]);
        let pod = alice.attached();
        let frozen = again(&pod).freeze(|stage| stage.is(&place));
        pod.sh("ip link delete veth1");
        if let Some(outcome) = frozen.map(Frozen::thaw) {
            assert!(!outcome.err.contains("another one"), "{place:?}: {outcome:?}");
            told += u32::from(outcome.err.contains("a process inside the container removed it"));
        }
        pod.kill();
    }
    assert!(told > 1);
}

/// Starts a container of alice's whose process has this pid.
fn with_number(world: &World, pid: u32) -> Container<'_> {
    world.root().process(&format!(
        "start() {{
             exec setpriv --reuid alice --regid alice --clear-groups \\
                 unshare -Urn sh -c 'if [ $$ = {pid} ]; then echo $$; fi; exec sleep infinity'
         }}
         # The shell itself may have been given it already.
         if [ $$ = {pid} ]; then start; fi
         while :; do
             echo {} >/proc/sys/kernel/ns_last_pid
             start &
             if [ $! = {pid} ]; then wait; exit; else kill $!; fi
         done",
        pid - 1
    ))
}

#[test]
fn a_process_that_gets_the_number_of_one_that_went_is_not_taken_for_it() {
    let world = World::new();
    let alice = world.alice();
    // The second finds the firewall whole and says so, so that from then on all runs are alike.
    alice.attached();
    alice.attached().kill();
    let all = stages(&alice, format!("netsetgo -pid {}", alice.container()));
    let opens = |stage: &&Stage| stage.call == libc::SYS_pidfd_open;
    let opened = all.iter().find(opens).expect("a call of pidfd_open").made;
    // Once the call is made the process is meant, and no longer its number.
    let after = |stage: &Stage| stage.part == Part::Child || stage.made >= opened;
    for place in choice(all.into_iter().filter(after)) {
        let pod = alice.container();
        let run = Trace::of(&alice, format!("netsetgo -pid {pod} -wait 0"));
        let frozen = run.freeze(|stage| stage.is(&place));
        pod.kill();
        let Some(frozen) = frozen else { continue };
        let other = with_number(&world, pod.pid);
        let _ = frozen.thaw();
        assert_eq!(other.links(), ["lo"], "{place:?}");
        other.kill();
        world.until("the lease to go", || world.leases().len() <= 2);
    }
}
