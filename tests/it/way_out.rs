//! The way out: what a container reaches, and what does not reach it.

use crate::world::{ALICE, Container, HOST, REMOTE, Remote, User, World};

/// Counts the packets that arrive where `user` is, before anybody drops them, and are like this.
fn count(user: &User<'_>, like_this: &str) {
    user.sh(&format!(
        "nft 'add table inet seen; add counter inet seen hits
              add chain inet seen arriving {{ type filter hook prerouting priority -400; }}
              add rule inet seen arriving {like_this} counter name hits'"
    ))
    .done();
}

/// How many have been counted.
#[track_caller]
fn counted(user: &User<'_>) -> u32 {
    let counter = user.sh("nft list counter inet seen hits").done();
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// The host's `ip_forward`.
fn ip_forward(world: &World) -> String {
    world.sh("cat /proc/sys/net/ipv4/ip_forward").trim_end().to_owned()
}

/// What a container gets by TCP of the remote host, which has to serve there.
fn answer(pod: &Container<'_>) -> String {
    pod.inside().asks("tcp", REMOTE, 7)
}

/// Asserts that `from` reaches that address by ICMP, or that it does not.
#[track_caller]
fn pings(from: &User<'_>, address: &str, reaches: bool) {
    let ping = from.sh(&format!("exec busybox ping -c 1 -W 2 {address} >/dev/null 2>&1"));
    assert_eq!(ping.status == 0, reaches, "{address}");
}

#[test]
fn a_container_reaches_a_remote_host_which_sees_the_hosts_address() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    remote.user().serves("remote", "7");
    for protocol in ["tcp", "udp"] {
        assert_eq!(pod.inside().asks(protocol, REMOTE, 7), "remote 192.0.2.1");
    }
    pings(&pod.inside(), REMOTE, true);
}

#[test]
fn a_remote_host_with_a_route_reaches_no_container() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    pod.inside().serves("pod", "80");
    remote.sh(&format!("ip route add 10.10.10.0/24 via {HOST}"));
    count(&pod.inside(), &format!("ip saddr {REMOTE}"));
    for protocol in ["tcp", "udp"] {
        assert_eq!(world.root().asks(protocol, "10.10.10.2", 80), "pod 10.10.10.1");
        assert_eq!(remote.user().asks(protocol, "10.10.10.2", 80), "nothing");
    }
    pings(&world.root(), "10.10.10.2", true);
    pings(&remote.user(), "10.10.10.2", false);
    assert_eq!(counted(&pod.inside()), 0);
    // Nor while it has a connection to that very host; its answers come in.
    remote.user().serves("remote", "7");
    let mut held = pod.inside().holds("tcp", REMOTE, 7);
    assert_eq!(held.first, "remote 192.0.2.1");
    let answers = counted(&pod.inside());
    assert!(answers > 0);
    assert_eq!(remote.user().asks("tcp", "10.10.10.2", 80), "nothing");
    assert_eq!(counted(&pod.inside()), answers);
    assert_eq!(held.again(), "remote 192.0.2.1");
}

#[test]
fn every_network_of_the_host_sees_the_hosts_address_there() {
    let world = World::new();
    world.internet();
    let lan = world.neighbour("lan0", "172.16.5.1", "172.16.5.9");
    lan.sh("ip route add default via 172.16.5.1");
    lan.user().serves("lan", "7");
    let pod = world.alice().attached();
    count(&lan.user(), "ip saddr 10.10.10.0/24");
    for protocol in ["tcp", "udp"] {
        assert_eq!(pod.inside().asks(protocol, "172.16.5.9", 7), "lan 172.16.5.1");
    }
    pings(&pod.inside(), "172.16.5.9", true);
    assert_eq!(counted(&lan.user()), 0);
}

/// A program that sends one packet from the first address to the second: with TCP flags, or, as 0,
/// a datagram with a wrong checksum. Neither belongs to any connection.
const STRAY: &str = r#"
import socket, struct, sys
def sum16(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return 0xffff & ~((total & 0xffff) + (total >> 16))
source, target, flags = socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2]), int(sys.argv[3])
if flags:
    tcp = lambda check: struct.pack("!HHIIBBHHH", 7777, 7, 1, 1, 0x50, flags, 512, check, 0)
    data = tcp(sum16(source + target + struct.pack("!HH", 6, 20) + tcp(0)))
else:
    data = struct.pack("!HHHH", 7777, 7, 8, 1)
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 1, 0, 64, 6 if flags else 17, 0, source, target)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(header + data, (sys.argv[2], 0))
"#;

#[test]
fn a_packet_of_no_connection_does_not_show_the_containers_address_either() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    std::fs::write(world.path("/run/stray.py"), STRAY).unwrap();
    count(&remote.user(), "ip saddr 10.10.10.0/24");
    // SYN and ACK, RST, FIN alone, nothing that TCP knows, and a bad datagram.
    for flags in [0x12, 0x04, 0x01, 0x3f, 0] {
        pod.sh(&format!("python3 /run/stray.py 10.10.10.2 {REMOTE} {flags}"));
    }
    pings(&pod.inside(), REMOTE, true);
    assert_eq!(counted(&remote.user()), 0);
}

#[test]
fn an_address_that_is_not_of_the_subnet_gets_nothing_out() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    remote.user().serves("remote", "7");
    world.sh("for each in all default eth0 brg0; do echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter; done");
    count(&world.root(), "iifname brg0 ip saddr 198.51.100.7");
    count(&remote.user(), "meta l4proto { tcp, udp, icmp }");
    pod.sh("ip address add 198.51.100.7/32 dev veth1
            ip route replace default via 10.10.10.1 src 198.51.100.7");
    for protocol in ["tcp", "udp"] {
        assert_eq!(pod.inside().asks(protocol, REMOTE, 7), "nothing");
    }
    pings(&pod.inside(), REMOTE, false);
    assert!(counted(&world.root()) > 0, "it was not sent");
    assert_eq!(counted(&remote.user()), 0);
    pod.sh("ip route replace default via 10.10.10.1");
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}

#[test]
fn ipv6_of_a_container_is_not_forwarded_even_by_a_router() {
    let world = World::new();
    let remote = world.internet();
    world.sh("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
              ip address add 2001:db8:1::1/64 dev eth0 nodad");
    remote.sh("ip address add 2001:db8:1::9/64 dev eth0 nodad
               ip route add default via 2001:db8:1::1");
    let pod = world.alice().attached();
    world.sh("ip address add 2001:db8:2::1/64 dev brg0 nodad");
    pod.sh("ip address add 2001:db8:2::2/64 dev veth1 nodad
            ip route add default via 2001:db8:2::1");
    count(&remote.user(), "ip6 saddr 2001:db8:2::2");
    count(&pod.inside(), "ip6 saddr 2001:db8:1::9");
    pings(&pod.inside(), "2001:db8:2::1", true);
    pings(&remote.user(), "2001:db8:1::1", true);
    pings(&pod.inside(), "2001:db8:1::9", false);
    pings(&remote.user(), "2001:db8:2::2", false);
    assert_eq!(counted(&remote.user()) + counted(&pod.inside()), 0);
}

#[test]
fn containers_of_one_bridge_do_not_reach_those_of_another() {
    let world = World::new();
    let pod = world.alice().attached();
    let other = world.alice().container();
    world
        .root()
        .netsetgo(format!("-pid {other} -bridgeName tower -bridgeAddress 10.10.20.1/24"))
        .done();
    other.inside().serves("other", "80");
    count(&other.inside(), "ip saddr 10.10.10.0/24");
    assert_eq!(pod.inside().asks("tcp", "10.10.20.2", 80), "nothing");
    assert_eq!(counted(&other.inside()), 0);
}

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
    for bridged in [false, true] {
        let world = World::new();
        let (a, b) = neighbours(&world);
        if bridged {
            bridge(&world, "br-a", "to-a", "172.16.1.1");
            bridge(&world, "br-b", "to-b", "172.16.2.1");
        }
        count(&b.user(), "ip saddr 172.16.1.9");
        let pod = world.alice().attached();
        // The container gets there, the neighbour not.
        assert_eq!(pod.inside().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
        assert_eq!(across(&a), "nothing");
        pings(&a.user(), "172.16.2.9", false);
        assert_eq!(counted(&b.user()), 0, "bridged: {bridged}");
        assert_eq!(ip_forward(&world), "2");
        // Nor after another attach, or with the ruleset flushed in between.
        world.alice().attached();
        assert_eq!(across(&a), "nothing");
        world.sh("nft flush ruleset");
        world.alice().attached();
        assert_eq!(across(&a), "nothing");
        assert_eq!(counted(&b.user()), 0, "bridged: {bridged}");
        // The host's own business is nobody's but its own.
        assert_eq!(world.root().asks("tcp", "172.16.2.9", 7), "b 172.16.2.1");
    }
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
fn whoever_writes_1_makes_the_host_a_router_with_the_next_attach() {
    let world = World::new();
    let (a, _b) = neighbours(&world);
    let pod = world.alice().attached();
    assert_eq!((ip_forward(&world).as_str(), across(&a).as_str()), ("2", "nothing"));
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!((ip_forward(&world).as_str(), across(&a).as_str()), ("1", "b 172.16.1.9"));
    // And whoever writes 0 makes it none again.
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
fn a_bridge_that_comes_later_is_routed_as_its_owner_wants_it() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    let guest = world.neighbour("guest", "172.17.0.1", "172.17.0.2");
    guest.sh("ip route add default via 172.17.0.1");
    bridge(&world, "docker0", "guest", "172.17.0.1");
    world.sh("nft 'add table ip nat
        add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }
        add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != docker0 masquerade'");
    for _ in 0..2 {
        for protocol in ["tcp", "udp"] {
            assert_eq!(guest.user().asks(protocol, REMOTE, 7), "remote 192.0.2.1");
        }
        world.alice().netsetgo(format!("-pid {pod}")).done();
        world.alice().attached();
    }
    assert_eq!(ip_forward(&world), "2");
}
