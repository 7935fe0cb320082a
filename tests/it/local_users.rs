//! The host's own users: which of them reach a container's ports.

use crate::leftover::unwire;
use crate::publish::published;
use crate::world::{Container, HOST, User, World};

fn world(network: &str) -> World {
    World::with_policy(&format!(
        "[network]\n{network}\n[[allow]]\nuser = \"alice\"\npublish = [\"8000-8999\"]\n\
         [[allow]]\nuser = \"bob\"\n"
    ))
}

/// Which of these users' processes are answered by the container, over TCP and UDP, which have to agree.
#[track_caller]
fn who_reaches(users: &[User<'_>], address: &str, port: u16) -> Vec<bool> {
    let ask = |user: &User<'_>| {
        ["tcp", "udp"].map(|protocol| user.starts_asking(protocol, address, port))
    };
    let asked: Vec<_> = users.iter().map(ask).collect();
    let heard: Vec<_> = asked
        .into_iter()
        .map(|both| both.map(|question| question.end().done().starts_with("pod ")))
        .collect();
    assert!(heard.iter().all(|[tcp, udp]| tcp == udp), "{heard:?}");
    heard.into_iter().map(|[tcp, _]| tcp).collect()
}

fn server<'w>(user: &User<'w>) -> Container<'w> {
    let pod = published(user, "-publish 8080:80 -publish 8080:80/udp");
    pod.inside().serves("pod", "80 81");
    pod
}

#[test]
fn a_process_of_another_user_of_the_host_reaches_no_port_that_is_not_published() {
    let world = world("");
    let _remote = world.internet();
    let pod = server(&world.alice());
    // A container of the user's own gives no way to another user's.
    let _his = world.bob().attached();
    // Nor does being root of a namespace.
    let fake_root = world.user("dave").by("unshare -Ur --");
    let who = [
        world.root(),
        world.alice(),
        world.bob(),
        world.user("dave"),
        world.user("65534"),
        fake_root,
    ];
    let allowed = [true, true, false, false, false, false];
    for (switch, port) in [(0, 80), (1, 81)] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        assert_eq!(who_reaches(&who, "10.10.10.2", port), allowed, "{port}");
    }
    // After a flush as before.
    world.sh("nft flush ruleset");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(who_reaches(&who, "10.10.10.2", 80), allowed);
}

#[test]
fn published_ports_are_open_to_every_user_of_the_host() {
    let world = world("");
    let remote = world.internet();
    let _pod = server(&world.alice());
    let who = [world.root(), world.alice(), world.bob(), world.user("dave")];
    for address in ["127.0.0.1", HOST, "10.10.10.1"] {
        assert_eq!(who_reaches(&who, address, 8080), [true; 4], "{address}");
    }
    assert_eq!(who_reaches(&[remote.user()], HOST, 8080), [true]);
}

#[test]
fn answers_of_the_hosts_servers_get_to_containers_whichever_user_runs_them() {
    let world = world("host_access = \"all\"");
    world.user("dave").serves("host", "2000");
    world.root().serves("host", "53");
    let pod = world.alice().attached();
    for port in [2000, 53] {
        for protocol in ["tcp", "udp"] {
            let heard = pod.inside().asks(protocol, "10.10.10.1", port);
            assert_eq!(heard, "host 10.10.10.2", "{protocol} {port}");
        }
    }
    // What the kernel itself sends is answered by, and answers.
    pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    world.sh("busybox ping -c 1 -W 10 10.10.10.2 >/dev/null");
}

#[test]
fn the_user_who_has_an_address_now_is_the_one_whose_processes_reach_it() {
    let world = world("");
    let pod = server(&world.alice());
    unwire(&pod);
    world.until_leases_are(&[]);
    let heir = world.bob().container();
    world.bob().netsetgo(format!("-pid {heir} -containerAddress 10.10.10.2/24")).done();
    heir.inside().serves("pod", "80");
    let who = [world.root(), world.alice(), world.bob()];
    assert_eq!(who_reaches(&who, "10.10.10.2", 80), [true, false, true]);
}

#[test]
fn the_policy_opens_containers_to_all_users_of_the_host() {
    let world = world("local_users = \"all\"");
    let pod = server(&world.alice());
    let who = [world.root(), world.alice(), world.bob(), world.user("dave")];
    assert_eq!(who_reaches(&who, "10.10.10.2", 80), [true; 4]);
    world.policy("[network]\nlocal_users = \"owner\"\n[[allow]]\nuser = \"alice\"\n");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(who_reaches(&who, "10.10.10.2", 80), [true, true, false, false]);
}
