//! A caller who means harm stops the helper, or wants to read it.

use nix::libc;

use crate::refused::undumpable;
use crate::world::{ALICE, Container, Frozen, Stage, Trace, User, World, places, stages};

/// Lets alice and bob attach. There is an address for every stage of a run, of which there are
/// hundreds.
pub(crate) fn alice_and_bob() -> World {
    World::with_policy(&format!(
        "[network]\naddress = \"10.10.10.1/22\"\n\
         {ALICE}links = 1023\n[[allow]]\nuser = \"bob\"\n"
    ))
}

/// Starts the helper of `user` once for each of the stages of such a run, and stops it there, with
/// a target of its own each time.
pub(crate) fn frozen_everywhere<'w>(
    user: &User<'w>,
    mut target: impl FnMut() -> Container<'w>,
) -> (Vec<Frozen>, Vec<Container<'w>>) {
    let first = target();
    let places = places(user, format!("netsetgo -pid {first} -wait 0"), |_| true);
    let targets: Vec<_> = places.iter().map(|_| target()).collect();
    let frozen = places
        .iter()
        .zip(&targets)
        .filter_map(|(place, target)| {
            let run = Trace::of(user, format!("netsetgo -pid {target} -wait 0"));
            run.freeze(|stage| stage.is(place))
        })
        .collect();
    (frozen, targets)
}

#[test]
fn a_helper_stopped_anywhere_keeps_nothing_of_another_users_container() {
    let world = alice_and_bob();
    let (alice, bob) = (world.alice(), world.bob());
    let (shown, hidden) = (bob.attached(), undumpable(&bob));
    bob.netsetgo(format!("-pid {hidden}")).done();
    let mut all = Vec::new();
    for target in [&shown, &hidden] {
        for by in [format!("-pid {target}"), format!("-netns /proc/{target}/ns/net")] {
            let call = format!("netsetgo {by} -wait 0");
            let places = places(&alice, &call, |_| true);
            all.extend(
                places
                    .iter()
                    .filter_map(|place| Trace::of(&alice, &call).freeze(|stage| stage.is(place))),
            );
        }
    }
    assert!(all.len() > 50, "only {} helpers were stopped", all.len());
    shown.kill();
    hidden.kill();
    world.until_leases_are(&[]);
    for frozen in all {
        frozen.thaw().refused("not yours");
    }
}

#[test]
fn a_helper_stopped_anywhere_keeps_no_other_run_waiting() {
    let world = alice_and_bob();
    let (alice, bob) = (world.alice(), world.bob());
    let (all, targets) = frozen_everywhere(&alice, || alice.container());
    assert!(all.len() > 50, "only {} helpers were stopped", all.len());
    // Bob's come and go as if nothing were.
    for _ in 0..3 {
        let pod = bob.attached();
        pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
        pod.kill();
        world.until("bob's lease to go", || !world.leases().contains(&"ns1001-0".to_owned()));
    }
    // And alice's go on as if nothing had been.
    for frozen in all {
        frozen.thaw().done();
    }
    for target in &targets {
        alice.netsetgo(format!("-pid {target}")).done();
    }
    let addresses: std::collections::BTreeSet<_> = targets.iter().map(Container::address).collect();
    assert_eq!(addresses.len(), targets.len());
}

/// The program that tries to get at a process.
const PRY: &str = include_str!("world/pry.py");

/// What `user` gets at of these processes, each given as the program takes it.
#[track_caller]
fn pry(user: &User<'_>, processes: impl IntoIterator<Item = String>) -> String {
    let processes: Vec<_> = processes.into_iter().collect();
    assert!(!processes.is_empty());
    user.sh(&format!("exec python3 /run/pry.py {}", processes.join(" "))).done()
}

/// Asserts that alice gets at none of these helpers, which have a target each.
#[track_caller]
fn is_out_of_reach<'a>(
    world: &World,
    helpers: impl Iterator<Item = (&'a Frozen, &'a Container<'a>)> + Clone,
) {
    let alice = world.alice();
    let pids = helpers.clone().flat_map(|(frozen, _)| frozen.pids());
    let pids: Vec<_> = pids.map(|pid| pid.to_string()).collect();
    assert_eq!(pry(&alice, pids.clone()), "");
    // As root of a user namespace of hers, and as root of the one that the child joins.
    assert_eq!(pry(&alice.by("unshare -Ur --"), pids), "");
    let pairs = helpers.flat_map(|(frozen, target)| {
        let pair = move |pid| format!("{pid}:{target}");
        frozen.pids().into_iter().map(pair)
    });
    assert_eq!(pry(&world.alice(), pairs), "");
}

#[test]
fn no_user_reads_or_traces_a_helper_at_any_stage() {
    let world = alice_and_bob();
    std::fs::write(world.path("/run/pry.py"), PRY).unwrap();
    let alice = world.alice();
    // The program is able to get at what it may get at.
    let own = alice.container();
    for target in [own.to_string(), format!("{own}:{own}")] {
        let gained = pry(&alice, [target]);
        for what in ["ptrace", "pidfd_getfd", "process_vm_readv", "mem", "environ", "fd", "ns/net"]
        {
            assert!(gained.contains(&format!("{own} {what}\n")), "{what} is not in {gained}");
        }
    }
    let (all, targets) = frozen_everywhere(&alice, || alice.container());
    assert!(all.len() > 50, "only {} helpers were stopped", all.len());
    is_out_of_reach(&world, all.iter().zip(&targets));
}

#[test]
fn no_user_reads_or_traces_a_helper_that_may_trace_others_itself() {
    let world = alice_and_bob();
    std::fs::write(world.path("/run/pry.py"), PRY).unwrap();
    let alice = world.alice();
    let hidden = undumpable(&alice);
    let call = format!("netsetgo -pid {hidden}");
    // From where it finds that it needs the capability to where it has given it up.
    let tracing = |stage: &&Stage| stage.call == libc::SYS_openat || stage.call == libc::SYS_capset;
    let all: Vec<_> = stages(&alice, &call)
        .iter()
        .filter(tracing)
        .filter_map(|place| Trace::of(&alice, &call).freeze(|stage| stage.is(place)))
        .collect();
    let pids: Vec<_> = all.iter().flat_map(Frozen::pids).map(|pid| pid.to_string()).collect();
    assert_eq!(pry(&alice, pids.clone()), "");
    assert_eq!(pry(&alice.by("unshare -Ur --"), pids), "");
}
