//! A run that publishes is stopped or killed at each of its steps, while the address of its container goes
//! to another: nothing leads to the next container that is not its own.

use nix::libc;

use crate::leftover::{AT, leading_to, next, one_port, unwire};
use crate::publish::{published, three_users};
use crate::world::{Container, Frozen, Outcome, Part, Trace, User, World};

/// Stops a run of the helper's after each of its requests to the kernel and each of its writes, and
/// does something then. The containers that this starts it gives back, to be ended before the next.
#[track_caller]
fn at_each_step<'w>(
    world: &'w World,
    user: &User<'w>,
    arguments: &str,
    mut before: impl FnMut(),
    mut act: impl FnMut(Frozen, &Container<'w>) -> Vec<Container<'w>>,
) {
    for step in 1.. {
        before();
        let pod = user.container();
        let run = Trace::of(user, format!("netsetgo -pid {pod} -wait 0 {arguments}"));
        let mut steps = 0;
        let frozen = run.freeze(|stage| {
            let is_step = [libc::SYS_sendto, libc::SYS_write].contains(&stage.call);
            steps += usize::from(is_step && stage.part == Part::Parent);
            steps == step
        });
        let Some(frozen) = frozen else {
            assert!(step > 10, "only {step} steps");
            return;
        };
        for other in act(frozen, &pod) {
            other.kill();
        }
        pod.kill();
        world.until_leases_are(&[]);
    }
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
    let seen = leading_to(world, &address);
    let link = world.ip("link show master brg0");
    let mac = pod.link("veth1")["link_index"].clone();
    let link = link.as_array().unwrap().iter().find(|link| link["ifindex"] == mac).unwrap();
    let link = link["ifname"].as_str().unwrap();
    assert_eq!(seen, one_port(link, port, &address), "{why}");
    assert!(world.elements().contains(&format!("publishing: {address}")), "{why}");
}

/// Whether a container is attached.
fn is_attached(pod: &Container<'_>) -> bool {
    pod.links().contains(&"veth1".to_owned())
}

#[test]
fn a_helper_stopped_anywhere_and_let_go_leads_no_client_to_the_next_lessee() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            let heir = next(&bob, "-publish 8090:80");
            let (_, why) = let_go(frozen);
            only_this_leads_to(&world, &heir, 8090, &why);
            if is_attached(pod) {
                only_this_leads_to(&world, pod, 8080, &why);
                return vec![heir];
            }
            let again = published(&alice, "-publish 8080:80");
            only_this_leads_to(&world, &again, 8080, &why);
            vec![heir, again]
        },
    );
}

#[test]
fn a_helper_killed_anywhere_leads_no_client_to_the_next_lessee() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            let why = format!("{:?}", frozen.stage);
            frozen.kill();
            pod.kill();
            world.until_leases_are(&[]);
            let heir = next(&bob, "-publish 8090:80");
            only_this_leads_to(&world, &heir, 8090, &why);
            let again = published(&alice, "-publish 8080:80");
            only_this_leads_to(&world, &again, 8080, &why);
            vec![heir, again]
        },
    );
}

#[test]
fn a_helper_killed_anywhere_leaves_what_a_further_run_completes() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    // Bob's at the same address had a port as well.
    let before = || {
        next(&bob, "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, &format!("{AT} -publish 8080:80"), before, |frozen, pod| {
        let why = format!("{:?}", frozen.stage);
        frozen.kill();
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(&world, pod, 8080, &why);
        let again = published(&bob, "-publish 8090:80");
        only_this_leads_to(&world, &again, 8090, &why);
        vec![again]
    });
}

#[test]
fn a_helper_stopped_anywhere_takes_out_nothing_of_the_next_lessees() {
    let world = three_users();
    let (alice, bob, carol) = (world.alice(), world.bob(), world.user("carol"));
    let before = || {
        next(&alice, "-publish 8080:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &bob, &format!("{AT} -publish 8090:80"), before, |frozen, pod| {
        unwire(pod);
        let heir = next(&carol, "-publish 8085:80");
        let (_, why) = let_go(frozen);
        only_this_leads_to(&world, &heir, 8085, &why);
        vec![heir]
    });
}

#[test]
fn a_helper_stopped_anywhere_while_its_container_is_attached_anew_leaves_nothing_to_the_next() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            alice.netsetgo(format!("-pid {pod} -wait 0 {AT}")).done();
            let (_, why) = let_go(frozen);
            pod.kill();
            world.until_leases_are(&[]);
            let heir = next(&bob, "-publish 8090:80");
            only_this_leads_to(&world, &heir, 8090, &why);
            vec![heir]
        },
    );
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
        let mut steps = 0;
        let run = Trace::of(&alice, format!("netsetgo -pid {pod} -wait 0"));
        let frozen = run.freeze(|stage| {
            if stage.part == Part::Child || stage.call != libc::SYS_sendto {
                return false;
            }
            steps += 1;
            if steps == step {
                // Another container of hers takes bob's address, and its run ends at once.
                let _ = pod.inside().sh("ip link del veth1");
                let others = world.leases();
                let heirs = Trace::of(&alice, format!("netsetgo -pid {heir} {at}"));
                heirs.freeze(|_| world.leases() != others).unwrap().kill();
            }
            steps > step && opened()
        });
        assert!(frozen.is_none(), "bob's port leads to alice's: {:?}", leading_to(&world, address));
        alice.netsetgo(format!("-pid {heir} {at}")).done();
        assert!(leading_to(&world, address).is_empty());
        pod.kill();
        heir.kill();
        world.until_leases_are(&[]);
        if steps < step {
            assert!(step > 10, "only {step} steps");
            break;
        }
    }
}

#[test]
fn a_helper_stopped_anywhere_keeps_what_another_run_published_for_its_container() {
    let world = three_users();
    let alice = world.alice();
    let before = || {
        next(&world.bob(), "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, "", before, |frozen, pod| {
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        let place = frozen.stage;
        frozen.thaw().done();
        only_this_leads_to(&world, pod, 8080, &format!("{place:?}"));
        Vec::new()
    });
}

#[test]
fn a_helper_stopped_anywhere_leaves_its_owners_other_veth_pairs_alone() {
    let world = three_users();
    let alice = world.alice();
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            let other = next(&alice, "-publish 8090:80");
            let (_, why) = let_go(frozen);
            assert!(is_attached(&other), "{why}");
            only_this_leads_to(&world, &other, 8090, &why);
            vec![other]
        },
    );
}

#[test]
fn with_the_ruleset_flushed_meanwhile_a_further_run_heals_everything() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let before = || {
        next(&bob, "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, &format!("{AT} -publish 8080:80"), before, |frozen, pod| {
        world.sh("nft flush ruleset");
        let (outcome, why) = let_go(frozen);
        match outcome.status {
            0 => assert!(outcome.err.is_empty(), "{why}"),
            // It is not said that the kernel lacks something.
            1 => assert!(!is_attached(pod) && !outcome.err.contains("the kernel needs"), "{why}"),
            _ => panic!("{why}"),
        }
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(&world, pod, 8080, &why);
        Vec::new()
    });
}
