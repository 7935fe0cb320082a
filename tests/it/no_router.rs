//! Forwarding: netsetgo switches it on for its containers. The host becomes no router for others, and
//! bridges that others made are routed as before.

use crate::firewall_healed::{content, same};
use crate::way_out::{count, counted, ip_forward, pings, starts_pinging};
use crate::world::{ALICE, Container, HOST, REMOTE, Remote, Running, World};

/// Two neighbours in networks of their own, which have the host as their router; `b` serves.
fn neighbours(world: &World) -> (Remote<'_>, Remote<'_>) {
    let a = world.neighbour("to-a", "172.16.1.1", "172.16.1.9");
    let b = world.neighbour("to-b", "172.16.2.1", "172.16.2.9");
    a.sh("ip route add default via 172.16.1.1");
    b.sh("ip route add default via 172.16.2.1");
    b.user().serves("b", "7");
    (a, b)
}

/// Makes a bridge of an interface of the host's, as of a LAN: it gets the interface's address.
fn bridge(world: &World, name: &str, interface: &str, address: &str) {
    world.sh(&format!(
        "ip address flush dev {interface}; ip link add {name} type bridge forward_delay 0
         ip link set {interface} master {name}
         ip address add {address}/24 dev {name}; ip link set {name} up"
    ));
}

/// What `a` gets of `b`.
fn across(a: &Remote<'_>) -> String {
    a.user().asks("tcp", "172.16.2.9", 7)
}

#[test]
fn a_host_that_was_no_router_becomes_none_for_others() {
    is_no_router(false);
}

#[test]
fn a_neighbour_behind_a_plain_interface_is_not_routed_to_one_behind_a_bridge() {
    is_no_router(true);
}

/// Asserts that a neighbour is not routed to another, who may be behind a bridge.
#[track_caller]
fn is_no_router(bridged: bool) {
    let world = World::new();
    let (a, b) = neighbours(&world);
    if bridged {
        bridge(&world, "br-b", "to-b", "172.16.2.1");
    }
    count(&b.user(), "ip saddr 172.16.1.9");
    let alice = world.alice();
    let pod = alice.attached();
    // The container gets there, the neighbour does not.
    assert_eq!(pod.inside().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
    assert_eq!(across(&a), "nothing");
    pings(&a.user(), "172.16.2.9", false);
    assert_eq!(ip_forward(&world), "2");
    // Nor does it after another attach, a flush, or a change of the policy.
    for (harm, arguments) in [
        ("true", format!("-pid {}", alice.container())),
        ("nft flush ruleset", format!("-pid {pod}")),
        ("nft flush ruleset", "-prune".to_owned()),
        ("nft flush chain inet netsetgo no_router", "-prune".to_owned()),
        ("nft flush chain inet netsetgo forwarded", format!("-pid {pod}")),
    ] {
        world.sh(harm);
        alice.netsetgo(arguments).done();
        assert_eq!(across(&a), "nothing", "bridged: {bridged}, {harm}");
    }
    for network in ["isolation = \"none\"", "host_access = \"all\"", "dns = [\"192.0.2.53\"]"] {
        world.policy(&policy(network));
        alice.netsetgo(format!("-pid {pod}")).done();
        assert_eq!(across(&a), "nothing", "bridged: {bridged}, {network}");
    }
    assert_eq!(counted(&b.user()), 0, "bridged: {bridged}");
    assert_eq!(ip_forward(&world), "2");
    // What the host itself sends is not touched.
    assert_eq!(world.root().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
}

/// The policy's network, for alice.
fn policy(network: &str) -> String {
    format!("[network]\n{network}\n{ALICE}")
}

/// A host that was no router, with two bridges that others made: one is there before the first attach,
/// and one comes after it. A guest behind each has the host as its router to the remote host.
struct Bridges<'w> {
    world: &'w World,
    remote: Remote<'w>,
    /// A neighbour behind a plain interface, which the host does not route.
    plain: Remote<'w>,
    guests: [Remote<'w>; 2],
    pod: Container<'w>,
}

impl<'w> Bridges<'w> {
    fn new(world: &'w World) -> Bridges<'w> {
        let remote = world.internet();
        remote.user().serves("remote", "7");
        remote.sh(&format!("ip route add 172.17.0.0/16 via {HOST}"));
        let plain = world.neighbour("plain", "172.17.3.1", "172.17.3.9");
        plain.sh("ip route add default via 172.17.3.1");
        let guest = |name: &str, net: u8| {
            let (own, other) = (format!("172.17.{net}.1"), format!("172.17.{net}.9"));
            let interface = format!("to-{name}");
            let guest = world.neighbour(&interface, &own, &other);
            guest.sh(&format!("ip route add default via {own}"));
            bridge(world, name, &interface, &own);
            guest
        };
        let early = guest("early", 1);
        assert_eq!(ip_forward(world), "0");
        let pod = world.alice().attached();
        assert_eq!(ip_forward(world), "2");
        pod.inside().serves("pod", "80");
        let late = guest("late", 2);
        Bridges { world, remote, plain, guests: [early, late], pod }
    }

    /// Asserts that the guests, and the container, get to the remote host, and the others do not.
    #[track_caller]
    fn are_routed(&self, why: &str) {
        let users = [self.guests[0].user(), self.guests[1].user(), self.pod.inside()];
        // They are still not let into the containers' network, nor is a plain interface routed.
        let strays = [(&users[0], "10.10.10.2"), (&self.plain.user(), REMOTE)];
        let strays = strays.map(|(from, to)| starts_pinging(from, to));
        let asks = |protocol| users.each_ref().map(|user| user.starts_asking(protocol, REMOTE, 7));
        let asked = ["tcp", "udp"].map(asks).map(|all| all.map(Running::answer));
        let wanted = ["remote 172.17.1.9", "remote 172.17.2.9", "remote 192.0.2.1"];
        assert_eq!(asked, [wanted; 2].map(|all| all.map(str::to_owned)), "{why}");
        assert_eq!(ip_forward(self.world), "2", "{why}");
        for stray in strays {
            assert_ne!(stray.end().status, 0, "{why}");
        }
    }

    fn attach(&self) {
        self.world.alice().netsetgo(format!("-pid {}", self.pod)).done();
    }
}

#[test]
fn a_bridge_of_others_is_routed_whether_it_was_there_before_the_first_attach_or_not() {
    let world = World::new();
    let bridges = Bridges::new(&world);
    bridges.are_routed("after the first attach");
    bridges.attach();
    world.alice().attached();
    bridges.are_routed("after further attaches");
    // From one to the other as well.
    bridges.guests[1].user().serves("late", "7");
    assert_eq!(bridges.guests[0].user().asks("tcp", "172.17.2.9", 7), "late 172.17.1.9");
    // A new connection that comes in by a plain interface is not for them.
    assert_eq!(bridges.remote.user().asks("tcp", "172.17.2.9", 7), "nothing");
}

#[test]
fn a_bridge_of_others_is_routed_after_a_flush_and_a_prune() {
    let world = World::new();
    let bridges = Bridges::new(&world);
    for harm in ["nft flush ruleset", "nft delete table inet netsetgo", "nft flush ruleset"] {
        world.sh(harm);
        world.alice().netsetgo("-prune").done();
        bridges.are_routed(&format!("{harm}, and a prune"));
        world.sh(harm);
        bridges.attach();
        bridges.are_routed(&format!("{harm}, and an attach"));
    }
}

#[test]
fn a_bridge_of_others_is_routed_after_each_change_of_the_policy() {
    let world = World::new();
    let bridges = Bridges::new(&world);
    for network in [
        "isolation = \"none\"",
        "isolation = \"container\"",
        "host_access = \"all\"",
        "dns = [\"192.0.2.53\"]",
        "dns = [\"192.0.2.53\", \"192.0.2.54\"]\nhost_access = \"all\"",
        "nat = false",
        "",
    ] {
        world.policy(&policy(network));
        bridges.attach();
        bridges.are_routed(network);
    }
}

#[test]
fn a_bridge_of_others_is_routed_after_an_upgrade() {
    let world = World::new();
    world.names_protocols();
    let bridges = Bridges::new(&world);
    let good = content(&world);
    for older in [
        // The rules have other comments, or one of them is missing.
        "nft list ruleset | sed 's/ comment \"/ comment \"formerly /' >/run/older",
        "nft list ruleset | sed '0,/ ct direction reply accept/{/ ct direction reply accept/d}' >/run/older",
    ] {
        world.sh(&format!("{older}; nft flush ruleset; nft -f /run/older"));
        assert_ne!(content(&world), good, "{older}");
        bridges.attach();
        bridges.are_routed(older);
        same(&content(&world), &good, older);
    }
}

#[test]
fn a_bridge_of_others_is_routed_once_the_tables_of_an_earlier_version_are_replaced() {
    let world = World::with_policy(&policy("address = \"10.10.10.1/29\""));
    let bridges = Bridges::new(&world);
    let good = content(&world);
    std::fs::write(world.path("/run/earlier"), include_str!("earlier.nft")).unwrap();
    for how in ["attach", "prune"] {
        world.sh("nft flush ruleset; nft -f /run/earlier");
        match how {
            "attach" => bridges.attach(),
            _ => drop(world.alice().netsetgo("-prune").done()),
        }
        same(&content(&world), &good, how);
        bridges.are_routed(how);
    }
}

#[test]
fn a_port_that_others_forward_leads_on_where_the_host_is_no_router() {
    let world = World::new();
    let (a, _b) = neighbours(&world);
    world.alice().attached();
    world.sh("nft 'add table ip theirs
                   add chain ip theirs arriving { type nat hook prerouting priority -100; }
                   add rule ip theirs arriving tcp dport 7000 dnat to 172.16.2.9:7'");
    assert_eq!(a.user().asks("tcp", "172.16.1.1", 7000), "b 172.16.1.9");
    assert_eq!(across(&a), "nothing");
}

#[test]
fn a_router_stays_one() {
    for bridged in [false, true] {
        let world = World::new();
        let (a, _b) = neighbours(&world);
        if bridged {
            bridge(&world, "br-a", "to-a", "172.16.1.1");
        }
        world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
        assert_eq!(across(&a), "b 172.16.1.9");
        let pod = world.alice().attached();
        assert_eq!(across(&a), "b 172.16.1.9");
        assert_eq!(pod.inside().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
        assert_eq!(ip_forward(&world), "1");
        // It is none into the containers' network.
        pod.inside().serves("pod", "80");
        assert_eq!(a.user().asks("tcp", "10.10.10.2", 80), "nothing");
    }
}

#[test]
fn to_write_1_makes_the_host_a_router_with_the_next_attach() {
    let world = World::new();
    let (a, _b) = neighbours(&world);
    let pod = world.alice().attached();
    assert_eq!((ip_forward(&world).as_str(), across(&a).as_str()), ("2", "nothing"));
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!((ip_forward(&world).as_str(), across(&a).as_str()), ("1", "b 172.16.1.9"));
    // And to write 0 makes it none again.
    world.sh("echo 0 >/proc/sys/net/ipv4/ip_forward");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!((ip_forward(&world).as_str(), across(&a).as_str()), ("2", "nothing"));
    assert_eq!(pod.inside().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
}

#[test]
fn frames_within_a_bridge_of_the_hosts_still_pass() {
    let world = World::new();
    let (a, b) = neighbours(&world);
    bridge(&world, "lan", "to-a", "172.16.1.1");
    world.sh("ip address flush dev to-b; ip link set to-b master lan
              echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables");
    b.sh("ip address add 172.16.1.8/24 dev eth0");
    let within = || a.user().asks("udp", "172.16.1.8", 7);
    assert_eq!(within(), "b 172.16.1.9");
    let pod = world.alice().attached();
    assert_eq!(within(), "b 172.16.1.9");
    world.sh("nft flush ruleset");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(within(), "b 172.16.1.9");
    // As do those within the containers' own bridge.
    let other = world.alice().attached();
    other.inside().serves("other", "80");
    assert_eq!(pod.inside().asks("tcp", "10.10.10.3", 80), "other 10.10.10.2");
}

#[test]
fn forwarding_that_cannot_be_switched_on_is_an_error_that_says_how() {
    let world = World::new();
    let neighbour = world.alice().attached();
    let pod = world.alice().container();
    world.sh("echo 0 >/proc/sys/net/ipv4/ip_forward
              mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
    let line = world.alice().failed(format!("-pid {pod}"), "/proc/sys/net/ipv4/ip_forward");
    assert!(line.contains("nat = false"), "{line}");
    assert_eq!(neighbour.address(), "10.10.10.2/24");
    world.sh("umount /proc/sys");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(ip_forward(&world), "2");
}

/// A guest behind a bridge as Docker makes it.
fn docker(world: &World) -> Remote<'_> {
    let guest = world.neighbour("guest", "172.17.0.1", "172.17.0.2");
    guest.sh("ip route add default via 172.17.0.1");
    bridge(world, "docker0", "guest", "172.17.0.1");
    guest
}

/// Docker's rule for its guests.
const MASQUERADE: &str = "nft 'add table ip nat
    add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }
    add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != docker0 masquerade'";

#[test]
fn a_bridge_that_comes_later_is_routed_as_its_owner_wants_it() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    let guest = docker(&world);
    world.sh(MASQUERADE);
    for _ in 0..2 {
        for protocol in ["tcp", "udp"] {
            assert_eq!(guest.user().asks(protocol, REMOTE, 7), "remote 192.0.2.1");
        }
        world.alice().netsetgo(format!("-pid {pod}")).done();
        world.alice().attached();
    }
    assert_eq!(ip_forward(&world), "2");
}

#[test]
fn a_bridge_that_came_later_is_still_routed_when_the_firewall_was_healed() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    let guest = docker(&world);
    world.sh(MASQUERADE);
    assert_eq!(guest.user().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
    // As when Docker has been started, firewalld restarted, and Docker puts its rules back.
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.sh(&format!("nft flush ruleset; {MASQUERADE}"));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(guest.user().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
}
