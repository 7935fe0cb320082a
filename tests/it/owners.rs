//! An address belongs to a user: what one user's container began never reaches another user's.

use crate::leftover::datagrams;
use crate::publish::three_users;
use crate::world::{Container, REMOTE, Remote, Trace, User, World};

/// A policy of three users whose subnet has room for five containers.
const SMALL: &str = "[network]\naddress = \"10.10.10.1/29\"\n\
    [[allow]]\nuser = \"alice\"\n[[allow]]\nuser = \"bob\"\n[[allow]]\nuser = \"carol\"\n";

/// The addresses of these containers.
fn addresses(containers: &[Container<'_>]) -> Vec<String> {
    containers.iter().map(|container| container.address()).collect()
}

fn attached<'w>(user: &User<'w>, count: usize) -> Vec<Container<'w>> {
    (0..count).map(|_| user.attached()).collect()
}

#[track_caller]
fn all_end(world: &World, containers: &[Container<'_>]) {
    containers.iter().for_each(Container::kill);
    world.until_leases_are(&[]);
}

/// Starts a server at the remote host that answers each datagram late, when it is told to.
#[track_caller]
fn answers_late<'w>(world: &'w World, remote: &Remote<'w>) -> impl Fn() + use<'w> {
    let server = remote.user().process(
        "exec python3 -uc '
import os, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"\", 7777))
print(os.getpid())
while True:
    _, sender = s.recvfrom(64)
    open(\"/run/asked\", \"w\")
    while not os.path.exists(\"/run/answer\"): time.sleep(0.01)
    s.sendto(b\"secret\", sender)
    open(\"/run/answered\", \"w\")'",
    );
    let answered = world.path("/run/answered");
    move || {
        let _ = &server;
        world.sh("touch /run/answer");
        world.until("the late answer", || answered.exists());
    }
}

/// The first of these containers has asked the remote host, and all of them end before the answer. Then the
/// answer comes: a container that has the first one's address by now does not get it.
#[track_caller]
fn asked_by<'w>(
    world: &'w World,
    remote: &Remote<'w>,
    pods: &[Container<'w>],
) -> impl FnOnce(&Container<'w>) + use<'w> {
    let answer = answers_late(world, remote);
    pods[0].sh(&format!(
        "python3 -c 'import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"?\", (\"{REMOTE}\", 7777))'"
    ));
    let asked = world.path("/run/asked");
    world.until("the question", || asked.exists());
    all_end(world, pods);
    move |heir| {
        let before = datagrams(heir);
        answer();
        assert_eq!(datagrams(heir), before);
    }
}

#[test]
fn a_user_gets_own_addresses_again_and_others_as_long_as_they_are_free() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let first = attached(&alice, 2);
    assert_eq!(addresses(&first), ["10.10.10.2/24", "10.10.10.3/24"]);
    all_end(&world, &first);
    let second = attached(&bob, 2);
    assert_eq!(addresses(&second), ["10.10.10.4/24", "10.10.10.5/24"]);
    all_end(&world, &second);
    let third = attached(&alice, 3);
    let expected = ["10.10.10.2/24", "10.10.10.3/24", "10.10.10.6/24"];
    assert_eq!(addresses(&third), expected);
    all_end(&world, &third);
    assert_eq!(addresses(&attached(&bob, 3)), ["10.10.10.4/24", "10.10.10.5/24", "10.10.10.7/24"]);
}

#[test]
fn an_attach_at_an_own_address_changes_nothing_of_the_ruleset() {
    let world = three_users();
    let alice = world.alice();
    alice.attached().kill();
    world.until_leases_are(&[]);
    let before = world.ruleset();
    let monitor = world.root().process("echo $$; exec nft monitor >/run/heard");
    let hears = |word: &str| {
        world.sh(&format!("nft add table inet {word}; nft delete table inet {word}"));
        std::fs::read_to_string(world.path("/run/heard")).unwrap()
    };
    world.until("nft to listen", || hears("begun").contains("begun"));
    alice.attached();
    world.until("nft to have heard everything", || hears("done").contains("done"));
    monitor.kill();
    let heard = std::fs::read_to_string(world.path("/run/heard")).unwrap();
    assert!(!heard.contains("netsetgo"), "{heard}");
    assert_eq!(world.ruleset(), before);
}

#[test]
fn another_users_address_is_taken_if_no_other_is_free_and_nothing_comes_with_it() {
    let world = World::with_policy(SMALL);
    let remote = world.internet();
    let answer_is_not_for = asked_by(&world, &remote, &attached(&world.alice(), 5));
    let heir = world.bob().attached();
    assert_eq!(heir.address(), "10.10.10.2/29");
    answer_is_not_for(&heir);
    // It is the new user's from now on.
    all_end(&world, &[heir]);
    assert_eq!(world.user("carol").attached().address(), "10.10.10.2/29");
}

#[test]
fn late_answers_reach_the_user_who_asked_and_no_other() {
    let world = three_users();
    let remote = world.internet();
    let answer_is_not_for = asked_by(&world, &remote, &[world.alice().attached()]);
    let heir = world.bob().container();
    world.bob().netsetgo(format!("-pid {heir} -containerAddress 10.10.10.2/24")).done();
    answer_is_not_for(&heir);
}

#[test]
fn after_a_flush_an_address_has_nothing_of_the_user_who_had_it_before() {
    let world = three_users();
    let remote = world.internet();
    let answer_is_not_for = asked_by(&world, &remote, &[world.alice().attached()]);
    world.sh("nft flush ruleset");
    let heir = world.bob().attached();
    assert_eq!(heir.address(), "10.10.10.2/24");
    answer_is_not_for(&heir);
}

#[test]
fn after_a_flush_the_addresses_of_living_containers_keep_their_users() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let pods = attached(&alice, 2);
    world.sh("nft flush ruleset");
    bob.netsetgo("-prune").done();
    all_end(&world, &pods);
    assert_eq!(bob.attached().address(), "10.10.10.4/24");
}

#[test]
fn a_flush_while_a_run_has_not_claimed_its_address_yet_gives_it_nothing_of_the_user_before() {
    let world = three_users();
    let remote = world.internet();
    let answer_is_not_for = asked_by(&world, &remote, &[world.alice().attached()]);
    let (bob, heir) = (world.bob(), world.bob().container());
    let attach = format!("-pid {heir} -containerAddress 10.10.10.2/24");
    let run = Trace::of(&bob, format!("netsetgo {attach}"));
    run.freeze(|_| !world.leases().is_empty()).unwrap().kill();
    world.sh("nft flush ruleset");
    world.user("carol").attached();
    bob.netsetgo(attach).done();
    answer_is_not_for(&heir);
}

#[test]
fn root_publishes_for_a_users_container_that_is_attached() {
    let world = three_users();
    let pod = world.alice().attached();
    world.root().netsetgo(format!("-pid {pod} -publish 8080:80")).done();
    assert_eq!(world.published(), [r#"6 . 8080 comment "ns1000-0" : 10.10.10.2 . 80"#]);
    // Its address is still the user's.
    world.sh("nft flush ruleset");
    world.root().netsetgo(format!("-pid {pod} -publish 8081:80")).done();
    all_end(&world, &[pod]);
    assert_eq!(world.bob().attached().address(), "10.10.10.3/24");
}
