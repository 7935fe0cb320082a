//! The admin deletes the bridge: its veth pairs stay, each without a bridge. Such a container reaches
//! nothing, and it is attached anew once its network is taken away.

use nix::libc;
use serde_json::Value;

use crate::attach::{is_up, reaches};
use crate::publish::{published, three_users};
use crate::way_out::{count, counted};
use crate::world::{Container, HOST, Part, REMOTE, Running, Stage, Trace, User, World, places};

/// What an attach says to a container whose bridge was deleted.
const REMEDY: &str = "the bridge that this container was attached to was deleted; take its network away \
                      (netsetgo -delete) or restart it, and attach it anew";

/// What the bridge's port `name` is like, as far as it matters to whom frames go; its place in the
/// bridge's forwarding table is the last.
#[track_caller]
fn port(world: &World, name: &str) -> [String; 8] {
    let link = world.link(name);
    let data = &link["linkinfo"]["info_slave_data"];
    let entry = world.sh(&format!("bridge fdb show dev {name} | grep ^02:4e | sort || true"));
    [
        link["master"].to_string(),
        is_up(&link).to_string(),
        link["mtu"].to_string(),
        data["group_fwd_mask"].to_string(),
        data["flood"].to_string(),
        data["learning"].to_string(),
        data["hairpin"].to_string(),
        entry,
    ]
}

/// Takes a container's network away, and attaches it anew.
#[track_caller]
fn anew(user: &User<'_>, pod: &Container<'_>, options: &str) {
    user.netsetgo(format!("-delete -pid {pod}")).done();
    assert_eq!(pod.links(), ["lo"]);
    user.netsetgo(format!("-pid {pod} {options}")).done();
}

#[test]
fn a_container_whose_bridge_was_deleted_is_attached_anew_once_its_network_is_taken_away() {
    let world = three_users();
    let _remote = world.internet();
    let (alice, bob) = (world.alice(), world.bob());
    let publish = "-publish 8080:80";
    let pod = published(&alice, publish);
    pod.inside().serves("pod", "80");
    let (other, bobs) = (alice.attached(), bob.attached());
    let ports = || ["ns1000-0", "ns1000-1", "ns1001-0"].map(|name| port(&world, name));
    let (whole, elements) = (ports(), world.elements());
    for harm in [
        "ip link del brg0",
        "ip link del brg0; ip link add brg0 type bridge",
        "ip link del brg0; ip link set ns1000-0 mtu 1400; ip link set ns1000-1 down",
        "ip link set dev ns1000-0 nomaster; ip link set dev ns1000-1 nomaster
         ip link set dev ns1001-0 nomaster",
    ] {
        world.sh(harm);
        for options in ["", publish, "-publish 8090:80", "-json", "-lo"] {
            alice.failed(format!("-pid {pod} {options}"), REMEDY);
        }
        bob.failed(format!("-pid {bobs}"), REMEDY);
        anew(&alice, &pod, publish);
        // Another's is as it was, though there is a bridge again.
        alice.failed(format!("-pid {other}"), REMEDY);
        anew(&alice, &other, "");
        anew(&bob, &bobs, "");
        world.has_its_bridge();
        assert_eq!(ports(), whole, "{harm}");
        assert_eq!(world.elements(), elements, "{harm}");
        assert_eq!(pod.address(), "10.10.10.2/24", "{harm}");
        reaches(&pod, "10.10.10.1");
        reaches(&pod, "10.10.10.3");
        reaches(&bobs, "10.10.10.1");
        assert!(world.root().asks("tcp", HOST, 8080).starts_with("pod "), "{harm}");
    }
}

#[test]
fn a_container_whose_bridge_was_deleted_can_be_restarted() {
    let world = three_users();
    let alice = world.alice();
    published(&alice, "-publish 8080:80").kill();
    world.until_leases_are(&[]);
    let pod = published(&alice, "-publish 8080:80");
    let whole = (port(&world, "ns1000-0"), world.elements());
    world.sh("ip link del brg0");
    pod.kill();
    // At once: the run waits until the kernel has taken the former link away. Without the address it could
    // take another one meanwhile.
    let again = published(&alice, "-publish 8080:80 -containerAddress 10.10.10.2/24");
    assert_eq!(again.address(), "10.10.10.2/24");
    assert_eq!((port(&world, "ns1000-0"), world.elements()), whole);
    reaches(&again, "10.10.10.1");
}

#[test]
fn a_container_whose_bridge_was_deleted_reaches_nothing_and_keeps_its_address() {
    let world = three_users();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let (alice, bob) = (world.alice(), world.bob());
    let pod = published(&alice, "-publish 8080:80");
    pod.inside().serves("pod", "80");
    world.sh("for each in all default eth0 ns1000-0; do
                  echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter
              done
              ip link del brg0");
    // There is a bridge again, with the address that the container knows, and a neighbour.
    let heir = bob.attached();
    assert_eq!(heir.address(), "10.10.10.3/24");
    heir.inside().serves("heir", "80");
    world.has_its_bridge();
    for user in [heir.inside(), remote.user()] {
        count(&user, "meta l4proto { tcp, udp, icmp } ip saddr { 10.10.10.2, 192.0.2.1 }");
    }
    let forge = |mac: &str| {
        pod.sh(&format!(
            "ip neighbour replace 10.10.10.1 lladdr {mac} dev veth1
             ip neighbour replace 10.10.10.3 lladdr 02:4e:0a:0a:0a:03 dev veth1"
        ));
    };
    // By the bridge's MAC, and by that of its own host end, which hears it.
    for mac in ["02:4e:0a:0a:0a:01", "fe:4e:0a:0a:0a:02"] {
        forge(mac);
        let places = [(REMOTE, 7), ("10.10.10.3", 80), (HOST, 8080)];
        let begun = places.map(|(address, port)| pod.inside().starts_asking("udp", address, port));
        assert_eq!(begun.map(Running::answer), ["nothing"; 3], "{mac}, {places:?}");
        // Nor as another's.
        pod.sh("ip address add 10.10.10.3/32 dev veth1");
        assert_eq!(pod.inside().asks("udp", REMOTE, 7), "nothing", "{mac}");
        pod.sh("ip address del 10.10.10.3/32 dev veth1");
    }
    assert_eq!(counted(&heir.inside()) + counted(&remote.user()), 0);
    // Its published port leads to no other container.
    assert_eq!(world.root().asks("tcp", HOST, 8080), "nothing");
    alice.failed(format!("-pid {pod}"), REMEDY);
    // It is the firewall that keeps its packets from being routed.
    world.sh("nft delete table inet netsetgo");
    assert_eq!(pod.inside().asks("udp", REMOTE, 7), "nothing");
    assert!(counted(&remote.user()) > 0);
    anew(&alice, &pod, "-publish 8080:80");
    assert_eq!(pod.address(), "10.10.10.2/24");
    assert!(world.root().asks("tcp", HOST, 8080).starts_with("pod "));
}

#[test]
fn with_its_bridge_deleted_at_any_step_a_port_is_at_no_bridge_or_as_it_should_be() {
    let world = three_users();
    let alice = world.alice();
    let pod = published(&alice, "-publish 8080:80");
    let whole = port(&world, "ns1000-0");
    let call = format!("netsetgo -pid {pod} -publish 8080:80");
    let sends = |stage: &Stage| stage.part == Part::Parent && stage.call == libc::SYS_sendto;
    let places = places(&alice, &call, sends);
    assert!(places.len() > 5, "only {} places", places.len());
    for place in places {
        let Some(frozen) = Trace::of(&alice, &call).freeze(|stage| stage.is(&place)) else {
            continue;
        };
        world.sh("ip link del brg0");
        let outcome = frozen.thaw();
        let why = format!("{place:?}: {outcome:?}");
        match outcome.status {
            0 => assert!(outcome.err.is_empty(), "{why}"),
            1 => assert!(outcome.is_one_line(), "{why}"),
            _ => panic!("{why}"),
        }
        if world.link("ns1000-0")["master"] != Value::Null {
            assert_eq!(port(&world, "ns1000-0"), whole, "{why}");
        }
        anew(&alice, &pod, "-publish 8080:80");
        assert_eq!(port(&world, "ns1000-0"), whole, "{why}");
    }
}

#[test]
fn a_port_that_the_admin_put_at_another_bridge_stays_there() {
    let world = World::new();
    let pod = world.alice().attached();
    world.sh("ip link add other type bridge; ip link set ns1000-0 master other");
    world.alice().failed(format!("-pid {pod}"), "netsetgo did not make it for you");
    assert_eq!(world.link("ns1000-0")["master"], "other");
}
