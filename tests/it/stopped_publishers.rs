//! A run that publishes is stopped or killed at each of its steps, while the address of its container goes
//! to another: nothing leads to the next container that is not its own.

use nix::libc;

use crate::leftover::{AT, leading_to, next, one_port, unwire};
use crate::publish::{published, three_users};
use crate::world::{Choice, Container, Frozen, Outcome, Part, Trace, User, World};

/// Stops a run of the helper's after each of its requests to the kernel and each of its writes, and
/// does something then. The containers that this starts it gives back, to be ended before the next.
#[track_caller]
fn at_each_step<'w>(
    world: &'w World,
    user: &User<'w>,
    arguments: &str,
    choice: fn() -> Choice,
    mut before: impl FnMut(),
    mut act: impl FnMut(Frozen, &Container<'w>) -> Vec<Container<'w>>,
) {
    for step in 1.. {
        before();
        let pod = user.container();
        let run = Trace::of(user, format!("netsetgo -pid {pod} -wait 0 {arguments}"));
        let (mut steps, mut choice) = (0, choice());
        let frozen = run.freeze(|stage| {
            let is_step = stage.part == Part::Parent
                && [libc::SYS_sendto, libc::SYS_write].contains(&stage.call)
                && choice.takes(&stage);
            steps += usize::from(is_step);
            is_step && steps == step
        });
        let Some(frozen) = frozen else {
            assert!(step > 5, "only {step} steps");
            return;
        };
        for other in act(frozen, &pod) {
            other.kill();
        }
        pod.kill();
        world.until_leases_are(&[]);
    }
}

/// What is done to a stopped run, and to its container.
type Act = for<'w> fn(&'w World, Frozen, &Container<'w>) -> Vec<Container<'w>>;

/// Stops a run of alice's at each step that publishes port 8080, at the first address.
#[track_caller]
fn alice_is_stopped(before: fn(&World), act: Act) {
    alice_publishes(Choice::default, before, act);
}

/// The same of a run that is killed there, as the first of what is done to it.
#[track_caller]
fn alice_is_killed(before: fn(&World), act: Act) {
    alice_publishes(Choice::of_kills, before, act);
}

#[track_caller]
fn alice_publishes(choice: fn() -> Choice, before: fn(&World), act: Act) {
    let world = three_users();
    let arguments = format!("{AT} -publish 8080:80");
    at_each_step(
        &world,
        &world.alice(),
        &arguments,
        choice,
        || before(&world),
        |frozen, pod| act(&world, frozen, pod),
    );
}

/// Nothing was there before.
fn nothing(_: &World) {}

/// The first address was bob's, and had a port.
#[track_caller]
fn bob_was_there(world: &World) {
    was_there(&world.bob(), world, 8090);
}

/// The first address was this user's, and had this port.
#[track_caller]
fn was_there(user: &User<'_>, world: &World, port: u16) {
    next(user, &format!("-publish {port}:80")).kill();
    world.until_leases_are(&[]);
}

/// Alice's port 8080, published for another container, leads there.
#[track_caller]
fn alice_publishes_again<'w>(world: &'w World, why: &str) -> Container<'w> {
    let again = published(&world.alice(), "-publish 8080:80");
    only_this_leads_to(world, &again, 8080, why);
    again
}

/// Lets a stopped run go on. Answers how that ended, and the same with where it was stopped.
#[track_caller]
fn let_go(frozen: Frozen) -> (Outcome, String) {
    let stage = frozen.stage;
    let outcome = frozen.thaw();
    let why = format!("{stage:?}: {outcome:?}");
    let line = if outcome.status == 0 { outcome.err.is_empty() } else { outcome.is_one_line() };
    assert!(line, "{why}");
    (outcome, why)
}

/// Asserts that this host port leads to a container's port 80, and nothing else to it.
#[track_caller]
fn only_this_leads_to(world: &World, pod: &Container<'_>, port: u16, why: &str) {
    let address = pod.address().replace("/24", "");
    let elements = world.elements();
    let link = world.ip("link show master brg0");
    let index = pod.link("veth1")["link_index"].clone();
    let link = link.as_array().unwrap().iter().find(|link| link["ifindex"] == index).unwrap();
    let link = link["ifname"].as_str().unwrap();
    assert_eq!(leading_to(&elements, &address), one_port(link, port, &address), "{why}");
    assert!(elements.contains(&format!("publishing: {address}")), "{why}");
}

/// Whether a container is attached.
fn is_attached(pod: &Container<'_>) -> bool {
    pod.links().contains(&"veth1".to_owned())
}

#[test]
fn a_helper_stopped_anywhere_and_let_go_leads_no_client_to_the_next_lessee() {
    alice_is_stopped(nothing, |world, frozen, pod| {
        unwire(pod);
        let heir = next(&world.bob(), "-publish 8090:80");
        let (_, why) = let_go(frozen);
        only_this_leads_to(world, &heir, 8090, &why);
        if is_attached(pod) {
            only_this_leads_to(world, pod, 8080, &why);
            return vec![heir];
        }
        vec![heir, alice_publishes_again(world, &why)]
    });
}

#[test]
fn a_helper_killed_anywhere_leads_no_client_to_the_next_lessee() {
    alice_is_killed(nothing, |world, frozen, pod| {
        let why = format!("{:?}", frozen.stage);
        frozen.kill();
        pod.kill();
        world.until_leases_are(&[]);
        let heir = next(&world.bob(), "-publish 8090:80");
        only_this_leads_to(world, &heir, 8090, &why);
        vec![heir, alice_publishes_again(world, &why)]
    });
}

#[test]
fn a_helper_killed_anywhere_leaves_what_a_further_run_completes() {
    alice_is_killed(bob_was_there, |world, frozen, pod| {
        let why = format!("{:?}", frozen.stage);
        frozen.kill();
        world.alice().netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(world, pod, 8080, &why);
        let again = published(&world.bob(), "-publish 8090:80");
        only_this_leads_to(world, &again, 8090, &why);
        vec![again]
    });
}

#[test]
fn a_helper_stopped_anywhere_takes_out_nothing_of_the_next_lessees() {
    let world = three_users();
    let carol = world.user("carol");
    let before = || was_there(&world.alice(), &world, 8080);
    let arguments = format!("{AT} -publish 8090:80");
    at_each_step(&world, &world.bob(), &arguments, Choice::default, before, |frozen, pod| {
        unwire(pod);
        let heir = next(&carol, "-publish 8085:80");
        let (_, why) = let_go(frozen);
        only_this_leads_to(&world, &heir, 8085, &why);
        vec![heir]
    });
}

#[test]
fn a_helper_stopped_anywhere_while_its_container_is_attached_anew_leaves_nothing_to_the_next() {
    alice_is_stopped(nothing, |world, frozen, pod| {
        unwire(pod);
        world.alice().netsetgo(format!("-pid {pod} -wait 0 {AT}")).done();
        let (_, why) = let_go(frozen);
        pod.kill();
        world.until_leases_are(&[]);
        let heir = next(&world.bob(), "-publish 8090:80");
        only_this_leads_to(world, &heir, 8090, &why);
        vec![heir]
    });
}

#[test]
fn a_helper_stopped_anywhere_opens_no_other_veth_pair_of_its_owners() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let address = "10.10.10.7";
    let at = format!("-wait 0 -containerAddress {address}/24");
    // What a wire leads to that is open has to be its own.
    let opened = || {
        let links = world.ip("link show up master brg0");
        let mut links = links.as_array().unwrap().iter();
        links.any(|link| link["address"] == "fe:4e:0a:0a:0a:07")
    };
    for step in 1.. {
        published(&bob, &format!("{at} -publish 8090:80")).kill();
        world.until_leases_are(&[]);
        let (pod, heir) = (alice.container(), alice.container());
        let (mut steps, mut choice, mut harmed) = (0, Choice::default(), false);
        let run = Trace::of(&alice, format!("netsetgo -pid {pod} -wait 0"));
        let frozen = run.freeze(|stage| {
            if stage.part == Part::Child || stage.call != libc::SYS_sendto {
                return false;
            }
            if harmed {
                return opened();
            }
            steps += usize::from(choice.takes(&stage));
            harmed = steps == step;
            if harmed {
                // Another container of hers takes bob's address, and its run ends at once.
                let _ = pod.inside().sh("ip link del veth1");
                let others = world.leases();
                let heirs = Trace::of(&alice, format!("netsetgo -pid {heir} {at}"));
                heirs.freeze(|_| world.leases() != others).unwrap().kill();
            }
            false
        });
        assert!(
            frozen.is_none(),
            "bob's port leads to alice's: {:?}",
            leading_to(&world.elements(), address)
        );
        alice.netsetgo(format!("-pid {heir} {at}")).done();
        assert!(leading_to(&world.elements(), address).is_empty());
        pod.kill();
        heir.kill();
        world.until_leases_are(&[]);
        if !harmed {
            assert!(step > 5, "only {step} steps");
            break;
        }
    }
}

#[test]
fn a_helper_stopped_anywhere_opens_no_bridge_port_that_has_its_index_by_then() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let at = "-wait 0 -containerAddress 10.10.10.7/24";
    for step in 1.. {
        let (pod, heir) = (alice.container(), bob.container());
        let (mut steps, mut choice, mut harmed) = (0, Choice::default(), false);
        let _ = Trace::of(&alice, format!("netsetgo -pid {pod} {at}")).watch(|stage| {
            if stage.part == Part::Child || stage.call != libc::SYS_sendto || harmed {
                return;
            }
            steps += usize::from(!world.leases().is_empty() && choice.takes(&stage));
            harmed = steps == step;
            if harmed {
                // Bob's run takes the address, and ends before it has removed what alice left there.
                let _ = pod.inside().sh("ip link del veth1");
                world.until_leases_are(&[]);
                let heirs = Trace::of(&bob, format!("netsetgo -pid {heir} {at}"));
                heirs.freeze(|_| !world.leases().is_empty()).unwrap().kill();
            }
        });
        if !harmed {
            assert!(step > 3, "only {step} steps");
            break;
        }
        assert_eq!(world.sh("ip -o link show up master brg0"), "", "step {step}");
        pod.kill();
        heir.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn a_helper_stopped_anywhere_keeps_what_another_run_published_for_its_container() {
    let world = three_users();
    let alice = world.alice();
    at_each_step(
        &world,
        &alice,
        "",
        Choice::default,
        || bob_was_there(&world),
        |frozen, pod| {
            alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
            let place = frozen.stage;
            frozen.thaw().done();
            only_this_leads_to(&world, pod, 8080, &format!("{place:?}"));
            Vec::new()
        },
    );
}

#[test]
fn a_helper_stopped_anywhere_leaves_its_owners_other_veth_pairs_alone() {
    alice_is_stopped(nothing, |world, frozen, pod| {
        unwire(pod);
        let other = next(&world.alice(), "-publish 8090:80");
        let (_, why) = let_go(frozen);
        assert!(is_attached(&other), "{why}");
        only_this_leads_to(world, &other, 8090, &why);
        vec![other]
    });
}

#[test]
fn with_the_ruleset_flushed_meanwhile_a_further_run_heals_everything() {
    alice_is_stopped(bob_was_there, |world, frozen, pod| {
        world.sh("nft flush ruleset");
        let (outcome, why) = let_go(frozen);
        match outcome.status {
            0 => assert!(outcome.err.is_empty(), "{why}"),
            // It is not said that the kernel lacks something.
            1 => assert!(!is_attached(pod) && !outcome.err.contains("the kernel needs"), "{why}"),
            _ => panic!("{why}"),
        }
        world.alice().netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(world, pod, 8080, &why);
        Vec::new()
    });
}
