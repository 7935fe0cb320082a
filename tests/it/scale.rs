//! Many containers: what one more costs, and when it is one too many.

use crate::world::{ALICE, Container, Trace, User, World};

/// A host with this subnet, of which alice may have every address.
fn world(subnet: &str) -> World {
    World::with_policy(&format!("[network]\naddress = \"{subnet}\"\n{ALICE}links = 1023\n"))
}

/// Attaches them all, in one go.
#[track_caller]
fn attach(user: &User<'_>, pods: &[Container<'_>]) {
    let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
    let script =
        format!("for pid in {}; do netsetgo -pid $pid -wait 0 || exit; done", pids.join(" "));
    user.sh(&script).done();
}

/// How many system calls it takes to attach one more.
#[track_caller]
fn cost(user: &User<'_>) -> usize {
    let mut calls = 0;
    let pod = user.container();
    let _ = Trace::of(user, format!("netsetgo -pid {pod}")).watch(|_| calls += 1).done();
    calls
}

#[test]
fn one_more_of_900_containers_costs_about_what_one_more_of_10_does() {
    let world = world("10.10.8.1/22");
    let alice = world.alice();
    let pods = alice.containers(900);
    attach(&alice, &pods[..10]);
    let few = cost(&alice);
    attach(&alice, &pods[10..]);
    let many = cost(&alice);
    assert_eq!(world.leases().len(), 902);
    // Finding a free place takes a look more each time that the number doubles.
    assert!(many < few + few / 2, "{few} system calls became {many}");
    assert_eq!(pods[899].address(), "10.10.11.134/22");
}

#[test]
fn the_port_after_the_last_is_an_error() {
    let world = World::new();
    let pod = world.alice().attached();
    // Both ends of a veth pair may be ports.
    let others: String = (0..511)
        .map(|n| {
            format!(
                "link add a{n} master brg0 type veth peer name b{n}\nlink set b{n} master brg0\n"
            )
        })
        .collect();
    std::fs::write(world.path("/tmp/others"), others).unwrap();
    world.sh("ip -batch /tmp/others; rm /tmp/others");
    let one_more = world.alice().container();
    world.alice().failed(format!("-pid {one_more}"), "1023 ports");
    world.sh("ip link del a0");
    world.alice().netsetgo(format!("-pid {one_more}")).done();
    assert_eq!([pod.address(), one_more.address()], ["10.10.10.2/24", "10.10.10.3/24"]);
}

/// The subnet for holes: 13 containers fit.
const SMALL: &str = "10.10.10.1/28";

/// Attaches containers until that is refused. Answers how many there came to be.
#[track_caller]
fn fill(world: &World, why: &str) -> usize {
    let alice = world.alice();
    for count in 0.. {
        let pod = alice.container();
        let outcome = alice.netsetgo(format!("-pid {pod} -wait 0"));
        if outcome.status != 0 {
            assert!(outcome.is_one_line() && outcome.err.contains(why), "{outcome:?}");
            return count;
        }
    }
    unreachable!()
}

#[test]
fn addresses_held_on_purpose_never_make_it_say_full_too_early() {
    // Where a search that doubles its steps looks, where one that halves them does, and others.
    for held in [
        &[2, 3, 5, 9][..],
        &[2, 3, 5, 9, 14],
        &[14],
        &[13, 14],
        &[2, 14],
        &[2, 3, 5, 9, 10, 11, 13, 14],
        &[2, 4, 6, 8, 10, 12, 14],
        &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
        &[2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14],
    ] {
        let world = world(SMALL);
        let alice = world.alice();
        for last in held {
            let pod = alice.container();
            alice.netsetgo(format!("-pid {pod} -containerAddress 10.10.10.{last}/28")).done();
        }
        assert_eq!(fill(&world, "every address is leased"), 13 - held.len(), "{held:?}");
    }
}

#[test]
fn whichever_container_goes_its_place_is_found() {
    let world =
        World::with_policy(&format!("[network]\naddress = \"{SMALL}\"\n{ALICE}links = 13\n"));
    let alice = world.alice();
    let mut pods = alice.containers(13);
    attach(&alice, &pods);
    for pod in &mut pods {
        let (address, all) = (pod.address(), world.leases());
        pod.kill();
        world.until("its lease to go", || world.leases().len() == 12);
        *pod = alice.container();
        alice.netsetgo(format!("-pid {pod} -wait 0")).done();
        assert_eq!(pod.address(), address);
        assert_eq!(world.leases(), all);
    }
}

#[test]
fn slots_held_on_purpose_never_make_it_say_used_up_too_early() {
    let world = World::with_policy(&format!("{ALICE}links = 13\n"));
    let alice = world.alice();
    for kept in [&[0, 1, 3, 7][..], &[0, 1, 3, 7, 12], &[12], &[0, 12], &[1, 3, 5, 7, 9, 11]] {
        let pods = alice.containers(13);
        attach(&alice, &pods);
        for (slot, pod) in pods.iter().enumerate().filter(|(slot, _)| !kept.contains(slot)) {
            assert_eq!(pod.address(), format!("10.10.10.{}/24", slot + 2));
            pod.kill();
        }
        world.until("the others' leases to go", || world.leases().len() == kept.len());
        assert_eq!(fill(&world, "quota"), 13 - kept.len(), "{kept:?}");
        world.sh("pkill -9 sleep");
        world.until_leases_are(&[]);
    }
}
