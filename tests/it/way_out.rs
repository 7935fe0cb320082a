//! The way out: what a container reaches, and what does not reach it.

use crate::world::{ALICE, Container, HOST, REMOTE, Running, User, World};

/// Counts the packets that arrive where `user` is, before anybody drops them, and are like this.
pub(crate) fn count(user: &User<'_>, like_this: &str) {
    user.sh(&format!(
        "nft 'add table inet seen; add counter inet seen hits
              add chain inet seen arriving {{ type filter hook prerouting priority -400; }}
              add rule inet seen arriving {like_this} counter name hits'"
    ))
    .done();
}

/// How many have been counted.
#[track_caller]
pub(crate) fn counted(user: &User<'_>) -> u32 {
    let counter = user.sh("nft list counter inet seen hits").done();
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// The host's `ip_forward`.
pub(crate) fn ip_forward(world: &World) -> String {
    world.sh("cat /proc/sys/net/ipv4/ip_forward").trim_end().to_owned()
}

/// What a container gets by TCP of the remote host, which has to serve there.
pub(crate) fn answer(pod: &Container<'_>) -> String {
    pod.inside().asks("tcp", REMOTE, 7)
}

/// Asserts that `from` reaches that address by ICMP, or that it does not.
#[track_caller]
pub(crate) fn pings(from: &User<'_>, address: &str, reaches: bool) {
    assert_eq!(starts_pinging(from, address).end().status == 0, reaches, "{address}");
}

/// Begins to find out whether `from` reaches that address by ICMP: if so, it ends with 0.
pub(crate) fn starts_pinging(from: &User<'_>, address: &str) -> Running {
    from.start(&format!("exec busybox ping -c 1 -W 2 {address} >/dev/null 2>&1"))
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
fn a_container_leaves_from_the_ports_of_clients_whatever_port_it_sends_from() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    for (protocol, kind) in [("tcp", "STREAM"), ("udp", "DGRAM")] {
        count(&remote.user(), &format!("{protocol} dport 7 {protocol} sport != 32768-60999"));
        for port in [1, 8080, 32767, 61000, 65535] {
            pod.sh(&format!(
                "exec python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_{kind})
s.settimeout(5)
s.bind((\"\", {port}))
s.connect((\"{REMOTE}\", 7))
s.send(b\"?\\n\")
assert s.recv(64).startswith(b\"remote \")'"
            ));
        }
        assert_eq!(counted(&remote.user()), 0, "{protocol}");
    }
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
    let ask = || {
        let begun = ["tcp", "udp"].map(|protocol| pod.inside().starts_asking(protocol, REMOTE, 7));
        pings(&pod.inside(), REMOTE, false);
        assert_eq!(begun.map(Running::answer), ["nothing"; 2]);
        assert_eq!(counted(&remote.user()), 0);
    };
    ask();
    assert_eq!(counted(&world.root()), 0);
    // Should it get as far as the host, it gets no further.
    world.sh("nft delete table bridge netsetgo");
    ask();
    assert!(counted(&world.root()) > 0, "it was not sent");
    pod.sh("ip route replace default via 10.10.10.1");
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}

#[test]
fn ipv6_of_a_container_is_not_forwarded_even_by_a_router() {
    let world = World::with_policy(&format!("[network]\nhost_access = \"all\"\n{ALICE}"));
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
    for reaches_host in [false, true] {
        pings(&pod.inside(), "2001:db8:2::1", reaches_host);
        pings(&remote.user(), "2001:db8:1::1", true);
        pings(&pod.inside(), "2001:db8:1::9", false);
        pings(&remote.user(), "2001:db8:2::2", false);
        // Without it a container's IPv6 gets as far as the host.
        world.sh("nft delete table bridge netsetgo 2>/dev/null || true");
    }
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

#[test]
fn without_nat_nothing_that_is_routed_is_touched() {
    let world =
        World::with_policy(&format!("[network]\nnat = false\n{ALICE}publish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    remote.sh(&format!("ip route add 10.10.10.0/24 via {HOST}"));
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    let other = world.alice().attached();
    // What there is of a firewall is for the containers' ports, and the host itself.
    let chains = world.sh("nft list chains | awk '$1 == \"chain\" { print $2 }' | sort | xargs");
    assert_eq!(
        chains,
        "arriving beginning for_host fragment icmp_error in_fragments leaving own_ipv4 passed_on sent \
         sent_arp sent_icmp sent_ipv4\n"
    );
    assert_eq!(ip_forward(&world), "0");
    assert_eq!(answer(&pod), "nothing");
    pings(&pod.inside(), "10.10.10.1", true);
    pings(&world.root(), "10.10.10.2", true);
    pings(&pod.inside(), "10.10.10.3", true);
    for user in [world.alice(), world.root()] {
        user.refused(format!("-pid {other} -publish 8080:80"), "nat = false");
    }
    // What the admin lets be forwarded is not touched.
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.alice().attached();
    assert_eq!(answer(&pod), "remote 10.10.10.2");
}

#[test]
fn nothing_from_outside_reaches_the_hosts_127_0_0_1() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    world.root().serves("host", "9");
    world.sh("for each in all eth0; do echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter; done
              echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet");
    // For the remote host, 127.0.0.1 is the host's.
    let astray = |gateway: &str, interface: &str| {
        format!(
            "ip address flush dev lo; ip route add 127.0.0.0/8 via {gateway} dev {interface}
             echo 1 >/proc/sys/net/ipv4/conf/{interface}/route_localnet
             for each in all {interface}; do echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter; done"
        )
    };
    remote.sh(&astray(HOST, "eth0"));
    // So it is, by the kernel alone.
    assert_eq!(remote.user().asks("tcp", "127.0.0.1", 9), "host 192.0.2.9");

    let pod = world.alice().container();
    world
        .alice()
        .netsetgo(format!("-pid {pod} -publish 127.0.0.1:8080:80 -publish 127.0.0.1:8080:80/udp"))
        .done();
    pod.inside().serves("pod", "80");
    let other = world.alice().attached();
    world.sh(&format!("nsenter -t {other} -n sh -c '{}'", astray("10.10.10.1", "veth1")));
    for protocol in ["tcp", "udp"] {
        assert!(world.root().asks(protocol, "127.0.0.1", 8080).starts_with("pod "));
        assert!(world.root().asks(protocol, "127.0.0.1", 9).starts_with("host "));
        let begun = [remote.user(), other.inside()]
            .map(|from| [8080, 9].map(|port| from.starts_asking(protocol, "127.0.0.1", port)));
        let told = begun.map(|ports| ports.map(Running::answer));
        assert_eq!(told, [["nothing"; 2]; 2], "{protocol}");
    }
    pings(&remote.user(), "127.0.0.1", false);
    pings(&other.inside(), "127.0.0.1", false);
    // It was the firewall that stood in the way.
    world.sh("nft flush ruleset");
    for from in [remote.user(), other.inside()] {
        assert!(from.asks("tcp", "127.0.0.1", 9).starts_with("host "));
    }
}

#[test]
fn nothing_from_outside_speaks_for_127_0_0_1() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    let pod = world.alice().container();
    world.alice().netsetgo(format!("-pid {pod} -publish 127.0.0.1:8080:80")).done();
    // All that the kernel has against it is switched off.
    world.sh("for each in all eth0 brg0; do
                  cd /proc/sys/net/ipv4/conf/$each
                  echo 0 >rp_filter; echo 1 >route_localnet; echo 1 >accept_local
              done");
    std::fs::write(world.path("/run/stray.py"), STRAY).unwrap();
    // What the host gets, where it would hand it to a program.
    world.sh("nft 'add table inet seen; add counter inet seen hits
              add chain inet seen input { type filter hook input priority 0; }
              add rule inet seen input iifname != lo ip saddr 127.0.0.1 counter name hits'");
    let send = || {
        remote.sh(&format!("python3 /run/stray.py 127.0.0.1 {HOST} 2"));
        pod.sh("python3 /run/stray.py 127.0.0.1 10.10.10.1 2");
        // Behind which they arrive.
        pings(&remote.user(), HOST, true);
        pings(&pod.inside(), "10.10.10.1", true);
    };
    send();
    // A container's does not get there at all; should it, it is dropped as well.
    world.sh("nft delete table bridge netsetgo");
    send();
    assert_eq!(counted(&world.root()), 0);
    world.sh("nft delete table inet netsetgo");
    send();
    assert_eq!(counted(&world.root()), 2);
}

#[test]
fn errors_about_what_a_container_sent_come_in() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    count(&pod.inside(), &format!("ip saddr {REMOTE} icmp type destination-unreachable"));
    // No process waits at that port.
    assert_eq!(pod.inside().asks("udp", REMOTE, 77), "nothing");
    assert_eq!(counted(&pod.inside()), 1);
    // Nor can the remote host send such errors by itself.
    remote.sh(&format!("ip route add 10.10.10.0/24 via {HOST}"));
    pings(&remote.user(), "10.10.10.2", false);
    assert_eq!(counted(&pod.inside()), 1);
}

#[test]
fn a_subnet_that_is_changed_in_the_policy_gets_out_as_a_whole() {
    let mut cut_off = Vec::new();
    for (before, after, asked) in [
        ("10.10.8.1/24", "10.10.8.1/22", "10.10.9.5/22"),
        ("10.10.9.1/24", "10.10.8.1/22", "10.10.11.5/22"),
        ("10.10.8.1/22", "10.10.9.1/24", "10.10.9.5/24"),
        ("10.10.8.1/24", "10.10.8.1/25", "10.10.8.5/25"),
        ("10.10.8.1/24", "10.10.9.1/24", "10.10.9.5/24"),
        ("10.10.9.1/24", "10.10.8.1/24", "10.10.8.5/24"),
        ("10.10.8.1/24", "192.168.255.1/24", "192.168.255.5/24"),
    ] {
        let policy = |address| format!("[network]\naddress = \"{address}\"\n{ALICE}");
        let world = World::with_policy(&policy(before));
        let remote = world.internet();
        remote.user().serves("remote", "7");
        let pod = world.alice().attached();
        assert_eq!(answer(&pod), "remote 192.0.2.1");
        pod.kill();
        world.until_leases_are(&[]);
        world.sh("ip link del brg0");
        world.policy(&policy(after));
        let pod = world.alice().container();
        world.alice().netsetgo(format!("-pid {pod} -containerAddress {asked}")).done();
        if answer(&pod) != "remote 192.0.2.1" {
            cut_off.push((before, after));
        }
    }
    assert!(cut_off.is_empty(), "no way out: {cut_off:?}");
}

#[test]
fn a_subnet_that_is_changed_takes_nothing_from_other_bridges() {
    let policy = |address| format!("[network]\naddress = \"{address}\"\n{ALICE}");
    let world = World::with_policy(&policy("10.10.9.1/24"));
    let remote = world.internet();
    remote.user().serves("remote", "7");
    world.alice().attached().kill();
    let pod = world.alice().container();
    let tower = "-bridgeName tower -bridgeAddress 10.10.20.1/24 -publish 8080:80";
    world.root().netsetgo(format!("-pid {pod} {tower}")).done();
    pod.inside().serves("pod", "80");
    assert_eq!(answer(&pod), "remote 192.0.2.1");
    world.until_leases_are(&["ns0-0"]);
    world.sh("ip link del brg0");
    world.policy(&policy("10.10.8.1/22"));
    let other = world.alice().attached();
    assert_eq!(answer(&other), "remote 192.0.2.1");
    assert_eq!(answer(&pod), "remote 192.0.2.1");
    assert_eq!(remote.user().asks("tcp", HOST, 8080), "pod 192.0.2.9");
}

#[test]
fn every_bridge_of_containers_has_its_way_out() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let first = world.alice().attached();
    let mut pods = vec![first];
    // Some are neighbours in number, which makes them one range.
    for (bridge, address) in
        [("tower", "10.10.11.1/24"), ("annex", "10.10.9.1/24"), ("shed", "192.168.0.1/22")]
    {
        let pod = world.alice().container();
        let network = format!("-bridgeName {bridge} -bridgeAddress {address}");
        world.root().netsetgo(format!("-pid {pod} {network}")).done();
        pods.push(pod);
        let before = world.ruleset();
        world.root().netsetgo(format!("-pid {} {network}", pods.last().unwrap())).done();
        world.alice().netsetgo(format!("-pid {}", pods[0])).done();
        assert_eq!(world.ruleset(), before);
    }
    for pod in &pods {
        assert_eq!(answer(pod), "remote 192.0.2.1");
    }
    world.sh("nft flush ruleset");
    world.alice().netsetgo(format!("-pid {}", pods[0])).done();
    assert_eq!(answer(&pods[0]), "remote 192.0.2.1");
}
