//! Taking a container's network away again: all of it, and nothing of others.

use std::collections::BTreeSet;

use nix::libc;

use crate::publish::{published, three_users};
use crate::world::{ALICE, Container, HOST, Part, Stage, Trace, User, World, places};

/// Asks for an address, whichever user had it before.
const AT: &str = "-containerAddress 10.10.10.2/24";

/// All that there is to see of the network inside.
#[track_caller]
fn inside(pod: &Container<'_>) -> String {
    pod.sh("ip -d link; ip address; ip route show table all; ip rule; ip neighbour")
}

/// Takes a container's network away, as its owner does.
#[track_caller]
fn delete(user: &User<'_>, pod: &Container<'_>) {
    assert_eq!(user.netsetgo(format!("-delete -pid {pod}")).done(), "");
}

#[test]
fn the_veth_pair_and_its_ports_are_gone_and_the_namespace_is_as_before() {
    let world = three_users();
    let alice = world.alice();
    let neighbour = published(&alice, "-publish 8000:80");
    let (host, elements) = (world.leases(), world.elements());
    let pod = alice.container();
    let before = inside(&pod);
    let ports = "-publish 8080:80 -publish 8081-8089:81-89/udp -publish 127.0.0.1:8090:90";
    alice.netsetgo(format!("-pid {pod} {ports}")).done();
    assert!(inside(&pod) != before && world.elements().len() > elements.len() + 20);
    delete(&alice, &pod);
    assert_eq!(inside(&pod), before);
    assert_eq!(world.leases(), host);
    assert_eq!(world.elements(), elements);
    assert_eq!(world.ip("link show master brg0").as_array().unwrap().len(), 1);
    neighbour.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    world.has_its_bridge();
}

#[test]
fn nothing_to_delete_is_success() {
    let world = World::new();
    let alice = world.alice();
    let (pod, attached) = (alice.container(), alice.container());
    // Not even a bridge is made for it.
    world.unchanged(|| delete(&alice, &pod));
    assert_eq!(world.sh("ip -brief link").lines().count(), 1);
    alice.netsetgo(format!("-pid {attached}")).done();
    world.unchanged(|| delete(&alice, &pod));
    delete(&alice, &attached);
    world.unchanged(|| delete(&alice, &attached));
}

#[test]
fn the_address_and_the_slot_are_free_at_once() {
    let world = World::with_policy(&format!("{ALICE}links = 1\n"));
    let alice = world.alice();
    for _ in 0..10 {
        let pod = alice.container();
        for _ in 0..2 {
            alice.netsetgo(format!("-pid {pod} -wait 0")).done();
            assert_eq!(pod.address(), "10.10.10.2/24");
            delete(&alice, &pod);
            assert_eq!(world.leases(), [""; 0]);
        }
    }
}

#[test]
fn the_interface_is_found_by_the_name_that_it_was_given() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    for (attach, delete) in [
        ("-ifname eth0", "-ifname eth0"),
        ("-ifname=eth0", "--ifname=eth0"),
        ("-vethNamePrefix net", "-vethNamePrefix net"),
        ("-vethNamePrefix net", "-ifname net1"),
    ] {
        alice.netsetgo(format!("-pid {pod} {attach}")).done();
        // By another name there is none, and it stays.
        world.unchanged(|| alice.netsetgo(format!("-delete -pid {pod}"))).done();
        assert_eq!(world.leases(), ["ns1000-0"]);
        alice.netsetgo(format!("-delete -pid {pod} {delete}")).done();
        assert_eq!(pod.links(), ["lo"], "{attach}");
    }
    // Of two veth pairs, the one that is named.
    alice.netsetgo(format!("-pid {pod}")).done();
    pod.sh("ip route del default");
    alice.netsetgo(format!("-pid {pod} -ifname eth0")).done();
    assert_eq!(world.leases(), ["ns1000-0", "ns1000-1"]);
    alice.netsetgo(format!("-delete -pid {pod} -ifname eth0")).done();
    assert_eq!(pod.links(), ["lo", "veth1"]);
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn a_namespace_by_its_file() {
    let world = World::new();
    world.sh("ip netns add roots");
    let links = || world.sh("ip -netns roots -brief link").lines().count();
    for options in ["", "-bridgeName tower -bridgeAddress 192.168.9.1/24"] {
        world.root().netsetgo(format!("-netns /run/netns/roots {options}")).done();
        assert_eq!(links(), 2);
        world.alice().refused("-delete -netns /run/netns/roots", "not yours, or gone");
        world.root().netsetgo(format!("-delete -netns /run/netns/roots {options}")).done();
        assert_eq!((links(), world.leases()), (1, Vec::new()));
    }
    let pod = world.alice().attached();
    world.alice().netsetgo(format!("-delete -netns /proc/{pod}/ns/net")).done();
    assert_eq!(pod.links(), ["lo"]);
}

#[test]
fn root_deletes_anybodys_and_a_user_none_of_roots() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.attached();
    delete(&world.root(), &pod);
    assert_eq!((pod.links(), world.leases()), (vec!["lo".to_owned()], Vec::new()));
    for options in ["", "-vethNamePrefix veth"] {
        world.root().netsetgo(format!("-pid {pod} {options}")).done();
        // She could take it out from inside; the ports that root gave it, if any, are root's.
        alice.failed(format!("-delete -pid {pod}"), "netsetgo did not make it for you");
        world.root().netsetgo(format!("-delete -pid {pod} {options}")).done();
        assert_eq!(pod.links(), ["lo"]);
    }
}

#[test]
fn a_user_who_may_not_attach_it_may_not_delete_it() {
    let world = three_users();
    let alice = world.alice();
    let bobs = published(&world.bob(), "-publish 8080:80");
    let gone = alice.container();
    gone.kill();
    let line = |call: &str, pid: u32| {
        let said = alice.refused(format!("{call} -pid {pid}"), "not yours, or gone");
        said.replace(&pid.to_string(), "N")
    };
    for pid in [1, bobs.pid, gone.pid] {
        assert_eq!(line("-delete -wait 0", pid), line("-wait 0", bobs.pid));
    }
    alice.refused(format!("-delete -netns /proc/{bobs}/ns/net"), "not yours, or gone");
    let own = alice.process("echo $$; exec sleep infinity");
    let host = "host's own network namespace";
    alice.refused(format!("-delete -wait 0 -pid {own}"), host);
    world.root().refused("-delete -wait 0 -pid 1", host);
    alice.refused(format!("-delete -pid {gone} -bridgeName brg1"), "grants brg0 only");
    // From inside, nothing is done with the right that one has there.
    let pod = alice.attached();
    pod.inside().failed(format!("-delete -pid {pod}"), "inside a user namespace");
}

#[test]
fn an_interface_that_netsetgo_did_not_make_is_left_alone() {
    let world = three_users();
    let alice = world.alice();
    published(&world.bob(), "-publish 8080:80");
    published(&alice, "-publish 8081:80");
    assert_eq!(world.leases(), ["ns1000-0", "ns1001-0"]);
    for made in [
        "ip link add veth1 type bridge",
        "ip link add veth1 type veth peer name other",
        // With the indices of bob's veth pair, and of the one of alice's other container.
        "ip link add other index 1242171906 type veth peer name veth1",
        "ip link add other index 1242171907 type veth peer name veth1",
    ] {
        let pod = alice.container();
        pod.sh(made);
        alice.failed(format!("-delete -pid {pod}"), "netsetgo did not make it for you");
    }
    let pod = alice.container();
    alice.failed(format!("-delete -pid {pod} -ifname lo"), "netsetgo did not make it for you");
}

#[test]
fn an_interface_that_was_renamed_or_set_down_inside_is_deleted_all_the_same() {
    let world = three_users();
    let alice = world.alice();
    for harm in [
        "ip link set veth1 down; ip link set veth1 name eth7; ip link set eth7 name veth1",
        "ip address flush dev veth1; ip address add 10.10.10.9/24 dev veth1",
        "ip link set veth1 address 02:00:00:00:00:01",
        "ip route del default; ip link set lo up; ip link add br7 type bridge; ip link set veth1 master br7",
    ] {
        let pod = published(&alice, "-publish 8080:80");
        pod.sh(harm);
        delete(&alice, &pod);
        assert!(!pod.links().contains(&"veth1".to_owned()), "{harm}");
        assert_eq!((world.leases(), world.elements().len()), (Vec::new(), 0), "{harm}");
    }
}

#[test]
fn what_has_been_done_to_the_host_meanwhile_does_not_stand_in_the_way() {
    for harm in [
        "nft flush ruleset",
        "nft delete table inet netsetgo",
        "nft flush map inet netsetgo ports",
        "ip link set ns1000-0 down",
        "ip link set brg0 down",
        "ip link del brg0",
        "ip link del brg0; ip link add brg0 type bridge",
        "ip link set ns1000-0 nomaster",
        "ip link set ns1000-0 alias x; ip route add blackhole 10.10.10.128/25",
        "echo 0 >/proc/sys/net/ipv4/ip_forward",
    ] {
        let world = three_users();
        let pod = published(&world.alice(), "-publish 8080:80");
        world.sh(harm);
        delete(&world.alice(), &pod);
        assert_eq!((pod.links(), world.leases()), (vec!["lo".to_owned()], Vec::new()), "{harm}");
        assert_eq!(world.published(), [""; 0], "{harm}");
    }
}

#[test]
fn a_bridge_that_is_deleted_meanwhile_does_not_stand_in_the_way() {
    let world = three_users();
    let alice = world.alice();
    let call = |pod: &Container<'_>| format!("netsetgo -delete -pid {pod}");
    let first = published(&alice, "-publish 8080:80");
    let sends = |stage: &Stage| stage.part == Part::Parent && stage.call == libc::SYS_sendto;
    let places = places(&alice, call(&first), sends);
    assert!(places.len() > 5, "only {} stages", places.len());
    for place in places {
        let pod = published(&alice, "-publish 8080:80");
        let run = Trace::of(&alice, call(&pod));
        let frozen = run.freeze(|stage| stage.is(&place)).unwrap();
        world.sh("ip link del brg0");
        frozen.thaw().done();
        assert_eq!((pod.links(), world.leases()), (vec!["lo".to_owned()], Vec::new()));
        assert_eq!(world.elements().len(), 0, "{place:?}");
        pod.kill();
    }
}

#[test]
fn old_clients_of_a_deleted_containers_port_reach_no_container() {
    let world = three_users();
    let remote = world.internet();
    let alice = world.alice();
    let pod = published(&alice, "-publish 8080:80 -publish 8080:80/udp");
    pod.inside().serves("alice", "80");
    let mut held = ["tcp", "udp"].map(|protocol| remote.user().holds(protocol, HOST, 8080));
    for conversation in &mut held {
        assert_eq!(conversation.first, "alice 192.0.2.9");
        assert_eq!(conversation.again(), "alice 192.0.2.9");
    }
    delete(&alice, &pod);
    let heir = published(&world.bob(), AT);
    heir.inside().serves("bob", "80");
    let asked = |user: &User<'_>| ["tcp", "udp"].map(|protocol| user.asks(protocol, HOST, 8080));
    for conversation in &mut held {
        assert_eq!(conversation.again(), "nothing");
    }
    assert_eq!(asked(&remote.user()), ["nothing"; 2]);
    assert_eq!(asked(&world.root()), ["nothing"; 2]);
    // An own port can be published all the same.
    world.bob().netsetgo(format!("-pid {heir} -publish 8081:80")).done();
    for conversation in &mut held {
        assert_eq!(conversation.again(), "nothing");
    }
    assert_eq!(remote.user().asks("tcp", HOST, 8081), "bob 192.0.2.9");
    // And the container that lost its network gets one again, and its port, but not its clients.
    alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
    assert_eq!(pod.address(), "10.10.10.3/24");
    assert_eq!(remote.user().asks("tcp", HOST, 8080), "alice 192.0.2.9");
}

#[test]
fn any_number_of_deletes_at_once_is_success() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.container();
    for _ in 0..5 {
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        let script = format!(
            "for run in $(seq 20); do
                 (netsetgo -delete -pid {pod}; echo $? >/tmp/status.$run) &
             done; wait; sort /tmp/status.* | uniq -c"
        );
        assert_eq!(alice.sh(&script).done().trim(), "20 0");
        assert_eq!((pod.links(), world.elements().len()), (vec!["lo".to_owned()], 0));
    }
}

#[test]
fn stopped_anywhere_it_holds_no_other_run_up_and_another_delete_completes_it() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let call = |pod: &Container<'_>| format!("netsetgo -delete -pid {pod}");
    let first = published(&alice, "-publish 8080:80");
    let acts = |stage: &Stage| {
        [
            libc::SYS_sendto,
            libc::SYS_sendmsg,
            libc::SYS_recvfrom,
            libc::SYS_setns,
            libc::SYS_exit_group,
        ]
        .contains(&stage.call)
    };
    let places = places(&alice, call(&first), acts);
    assert!(places.len() > 20, "only {} stages", places.len());
    assert_eq!(first.links(), ["lo"]);
    for place in places {
        let pod = published(&alice, &format!("{AT} -publish 8080:80"));
        let run = Trace::of(&alice, call(&pod));
        let Some(frozen) = run.freeze(|stage| stage.is(&place)) else { continue };
        // Others go on, whatever they do.
        let other = bob.container();
        bob.netsetgo(format!("-pid {other} -wait 0 -publish 8081:81")).done();
        bob.netsetgo(format!("-delete -pid {other} -wait 0")).done();
        delete(&alice, &pod);
        assert_eq!((pod.links(), world.leases()), (vec!["lo".to_owned()], Vec::new()));
        assert_eq!(world.elements().len(), 0, "{place:?}");
        // The next container keeps what it has when the stopped run goes on.
        bob.netsetgo(format!("-pid {other} {AT} -publish 8080:80")).done();
        let outcome = world.unchanged(|| frozen.thaw());
        assert_eq!(outcome.status, 0, "{place:?}: {outcome:?}");
        other.kill();
        pod.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn killed_anywhere_what_is_left_is_the_containers_own_and_another_delete_takes_it() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.container();
    let attach = || alice.netsetgo(format!("-pid {pod} -publish 8080:80 -wait 0")).done();
    let call = format!("netsetgo -delete -pid {pod}");
    attach();
    let neighbour = world.bob().attached();
    let whole = world.elements();
    let places = places(&alice, &call, |_| true);
    for place in places {
        attach();
        assert_eq!(world.elements(), whole);
        if let Some(frozen) = Trace::of(&alice, &call).freeze(|stage| stage.is(&place)) {
            frozen.kill();
        }
        // The ports go all at once, then the mark that there are any, and then the veth pair.
        let (left, seen) = (pod.links().len() - 1, world.elements());
        let marked = |all: &BTreeSet<String>| all.iter().any(|e| e.starts_with("publishing"));
        assert!(
            seen.is_empty() || (left == 1 && marked(&seen) && (seen == whole || seen.len() == 1)),
            "{place:?}: {seen:?}"
        );
        delete(&alice, &pod);
        assert_eq!((pod.links(), world.elements().len()), (vec!["lo".to_owned()], 0));
    }
    assert_eq!(neighbour.address(), "10.10.10.3/24");
    assert_eq!(world.leases(), ["ns1001-0"]);
}
