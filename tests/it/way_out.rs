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
pub(crate) fn counted(user: &User<'_>) -> u32 {
    let counter = user.sh("nft list counter inet seen hits").done();
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// The host's `ip_forward`.
pub(crate) fn ip_forward(world: &World) -> String {
    world.sh("cat /proc/sys/net/ipv4/ip_forward").trim_end().to_owned()
}

/// The firewall, as nft lists it; not the table's own comment, which stays as it is while the table
/// does.
pub(crate) fn firewall(world: &World) -> String {
    let text = world
        .sh("(nft list table inet netsetgo; nft list table bridge netsetgo) | grep -v ' expires '");
    text.lines().filter(|line| !line.starts_with("\tcomment ")).collect::<Vec<_>>().join("\n")
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
fn a_container_leaves_from_the_ports_of_clients_whatever_port_it_sends_from() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    for (protocol, kind) in [("tcp", "STREAM"), ("udp", "DGRAM")] {
        count(&remote.user(), &format!("{protocol} dport 7 {protocol} sport != 32768-49151"));
        for port in [1, 8080, 32767, 49152, 60999] {
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
        for protocol in ["tcp", "udp"] {
            assert_eq!(pod.inside().asks(protocol, REMOTE, 7), "nothing");
        }
        pings(&pod.inside(), REMOTE, false);
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
fn a_port_that_somebody_else_forwards_leads_on_where_the_host_is_no_router() {
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
    assert_eq!(chains, "arriving for_host passed_on sent sent_arp sent_ipv4\n");
    assert_eq!(ip_forward(&world), "0");
    assert_eq!(answer(&pod), "nothing");
    pings(&pod.inside(), "10.10.10.1", true);
    pings(&world.root(), "10.10.10.2", true);
    pings(&pod.inside(), "10.10.10.3", true);
    for user in [world.alice(), world.root()] {
        user.refused(format!("-pid {other} -publish 8080:80"), "nat = false");
    }
    // What the administrator forwards himself is his own business.
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.alice().attached();
    assert_eq!(answer(&pod), "remote 10.10.10.2");
}

#[test]
fn every_rule_and_set_says_what_it_is_for() {
    let world = World::new();
    world.alice().attached();
    let text = world.sh("nft list table inet netsetgo");
    assert!(text.lines().nth(1).unwrap().starts_with("\tcomment "), "{text}");
    // Within a chain, all but where it hangs; within a set, one line of it.
    let mut blocks = 0;
    for block in text.split("\n\n").chain([text.as_str()]) {
        let name = block.lines().find(|line| line.ends_with('{')).unwrap().trim();
        blocks += 1;
        if name.starts_with("chain") {
            let rules = block.lines().filter(|line| line.starts_with("\t\t"));
            for rule in rules.filter(|line| !line.trim().starts_with("type ")) {
                assert!(rule.contains(" comment \""), "{rule}");
            }
        } else {
            assert!(block.contains("\n\t\tcomment \""), "{block}");
        }
    }
    assert!(blocks > 15, "{text}");
}

/// What is done to the firewall by those who do not know it, or do not want it.
const HARM: [&str; 21] = [
    "nft flush ruleset",
    "nft flush table inet netsetgo",
    "nft delete table inet netsetgo",
    "nft flush set inet netsetgo bridges",
    "nft flush set inet netsetgo within",
    "nft flush set inet netsetgo subnets",
    "nft delete element inet netsetgo subnets '{ 10.10.10.0/24 }'",
    "nft flush chain inet netsetgo behind_host",
    "nft flush chain inet netsetgo arriving",
    // The first of the rules that masquerade; a rule more, at either end; and another in its place.
    "nft delete rule inet netsetgo behind_host handle $handle",
    "nft insert rule inet netsetgo forwarded drop",
    "nft add rule inet netsetgo behind_host accept",
    "nft replace rule inet netsetgo behind_host handle $handle accept",
    "nft replace rule inet netsetgo behind_host handle $handle accept comment '\"containers have the \
     host'\\''s address outside\"'",
    "nft add table inet netsetgo '{ flags dormant; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo'",
    // The same names, for something else.
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add set inet netsetgo bridges { type ipv4_addr; }
          add set inet netsetgo live { type ifname; }
          add map inet netsetgo ports { type mark : verdict; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add set inet netsetgo ports { type inet_proto . inet_service; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add chain inet netsetgo forwarded { type filter hook input priority 0; }
          add chain inet netsetgo published { type filter hook input priority 0; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add chain inet netsetgo arriving
          add chain inet netsetgo behind_host { type nat hook postrouting priority 7; }'",
    "echo 0 >/proc/sys/net/ipv4/ip_forward",
];

#[test]
fn a_firewall_that_somebody_broke_is_healed_by_the_next_attach() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    let pod = alice.attached();
    let good = firewall(&world);
    for harm in HARM {
        world.sh(&format!(
            "handle=$(nft -a list chain inet netsetgo behind_host | sed -n 's/.*handle //p' | sed -n 2p)
             {harm}"
        ));
        let other = alice.attached();
        assert_eq!(firewall(&world), good, "{harm}");
        assert_eq!(answer(&pod), "remote 192.0.2.1", "{harm}");
        assert_eq!(answer(&other), "remote 192.0.2.1", "{harm}");
        other.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    // Attaching the same one again is as good.
    world.sh("nft flush ruleset");
    alice.netsetgo(format!("-pid {pod}")).done();
    assert_eq!(firewall(&world), good);
}

#[test]
fn a_bridge_that_came_later_is_still_routed_when_the_firewall_was_healed() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = world.alice().attached();
    let guest = world.neighbour("guest", "172.17.0.1", "172.17.0.2");
    guest.sh("ip route add default via 172.17.0.1");
    bridge(&world, "docker0", "guest", "172.17.0.1");
    let masquerade = "nft 'add table ip nat
        add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }
        add rule ip nat POSTROUTING ip saddr 172.17.0.0/16 oifname != docker0 masquerade'";
    world.sh(masquerade);
    assert_eq!(guest.user().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
    // As when Docker has been started, firewalld restarted, and Docker puts its rules back.
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world.sh(&format!("nft flush ruleset; {masquerade}"));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(guest.user().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
}

#[test]
fn a_saved_ruleset_can_be_loaded_again() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    let pod = alice.container();
    alice
        .netsetgo(format!(
            "-pid {pod} -publish 8080-8082:80-82 -publish {HOST}:8090:80 -publish 127.0.0.1:8091:80/udp"
        ))
        .done();
    pod.inside().serves("pod", "80");
    let saved = world.sh("nft list ruleset | grep -v ' expires ' | tee /run/saved");
    world.sh("nft flush ruleset; nft -f /run/saved");
    assert_eq!(world.ruleset(), saved);
    let works = || {
        assert_eq!(answer(&pod), "remote 192.0.2.1");
        assert_eq!(remote.user().asks("tcp", HOST, 8080), "pod 192.0.2.9");
        assert_eq!(remote.user().asks("tcp", HOST, 8090), "pod 192.0.2.9");
        assert!(world.root().asks("udp", "127.0.0.1", 8091).starts_with("pod "));
    };
    works();
    // The next attach finds its own again in what nft wrote.
    alice.netsetgo(format!("-pid {pod}")).done();
    assert_eq!(world.ruleset(), saved);
    works();
    // And what is there may be loaded once more over it.
    world.sh("nft -f /run/saved");
    alice.attached();
    works();
}

#[test]
fn a_ruleset_does_not_grow() {
    let policy = format!(
        "[network]\naddress = \"10.10.8.1/22\"\n{ALICE}links = 1023\npublish = [\"8000-8999\"]\n"
    );
    let world = World::with_policy(&policy);
    let alice = world.alice();
    let pod = alice.attached();
    let one = world.ruleset();
    for publish in
        ["", "-publish $((8000 + number)):80 -publish 127.0.0.1:$((8000 + number)):80/udp"]
    {
        let pods = alice.containers(300);
        let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
        alice
            .sh(&format!(
                "number=0
                 for pid in {}; do
                     netsetgo -pid $pid -wait 60 {publish} || exit
                     number=$((number + 1))
                 done",
                pids.join(" ")
            ))
            .done();
        assert_eq!(world.leases().len(), 301);
        assert_eq!(world.ruleset() == one, publish.is_empty());
        world.sh(&format!("kill -9 {}", pids.join(" ")));
        world.until_leases_are(&["ns1000-0"]);
        alice.netsetgo("-prune").done();
        assert_eq!(world.ruleset(), one);
        alice.netsetgo(format!("-pid {pod}")).done();
    }
}

#[test]
fn two_first_attaches_at_once_make_one_firewall() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    alice.attached().kill();
    world.until_leases_are(&[]);
    let good = world.ruleset();
    for _ in 0..10 {
        world.sh("ip link del brg0; nft flush ruleset; echo 0 >/proc/sys/net/ipv4/ip_forward");
        let pods = alice.containers(2);
        let script = format!(
            "netsetgo -pid {} & first=$!; netsetgo -pid {} && wait $first",
            pods[0], pods[1]
        );
        alice.sh(&script).done();
        assert_eq!(world.ruleset(), good);
        assert_eq!(ip_forward(&world), "2");
        for pod in &pods {
            assert_eq!(answer(pod), "remote 192.0.2.1");
            pod.kill();
        }
        world.until_leases_are(&[]);
    }
}

/// A forward chain of somebody else's that drops what it does not know, and lets the rest be as
/// Docker and many a tutorial have it.
pub(crate) fn forward_chain(world: &World, family: &str, table: &str, chain: &str) {
    world.sh(&format!(
        "nft 'add table {family} {table}
         add chain {family} {table} {chain} {{ type filter hook forward priority 0; policy drop; }}
         add rule {family} {table} {chain} ct state established,related accept
         add rule {family} {table} {chain} iifname docker0 accept'"
    ));
}

#[test]
fn another_firewall_in_the_way_is_named_with_the_command_that_mends_it() {
    for (family, table, chain) in
        [("ip", "filter", "FORWARD"), ("inet", "filter", "forward"), ("inet", "fw-2", "my.fwd")]
    {
        let world = World::new();
        let remote = world.internet();
        remote.user().serves("remote", "7");
        forward_chain(&world, family, table, chain);
        let list = format!("nft list table {family} {table}");
        let theirs = world.sh(&list);
        let pod = world.alice().container();
        let outcome = world.alice().netsetgo(format!("-pid {pod} -json"));
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert!(outcome.is_one_line(), "{outcome:?}");
        assert!(outcome.err.starts_with("netsetgo: warning: "), "{outcome:?}");
        assert_eq!(crate::world::json(&outcome.out)["ips"][0]["address"], "10.10.10.2/24");
        // It is so, nothing of theirs has been edited, and every attach says it.
        assert_eq!(answer(&pod), "nothing");
        assert_eq!(world.sh(&list), theirs);
        let again = world.alice().netsetgo(format!("-pid {pod}"));
        assert_eq!((again.status, &again.err), (0, &outcome.err));
        // The command is taken as it stands.
        let (_, command) = outcome.err.rsplit_once("let it through: ").unwrap();
        world.sh(command);
        assert_eq!(answer(&pod), "remote 192.0.2.1");
        pings(&pod.inside(), REMOTE, true);
        world.alice().netsetgo(format!("-pid {pod}")).done();
    }
}

#[test]
fn two_other_firewalls_are_named_one_after_the_other() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    forward_chain(&world, "ip", "filter", "FORWARD");
    forward_chain(&world, "inet", "filter", "forward");
    let pod = world.alice().container();
    for _ in 0..2 {
        let outcome = world.alice().netsetgo(format!("-pid {pod}"));
        assert!(outcome.status == 0 && outcome.is_one_line(), "{outcome:?}");
        assert_eq!(answer(&pod), "nothing");
        let (_, command) = outcome.err.rsplit_once("let it through: ").unwrap();
        world.sh(command);
    }
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}

/// Somebody else's forward chain with the policy drop and these rules, which let containers
/// through: there is a way out, and no warning.
#[track_caller]
fn lets_through(rules: &[&str]) {
    let mut warned = Vec::new();
    for rules in rules {
        let world = World::new();
        let remote = world.internet();
        remote.user().serves("remote", "7");
        // For the bridge to be there: nft looks an index up.
        let pod = world.alice().attached();
        let rules: String =
            rules.split("; ").map(|rule| format!("add rule ip filter FORWARD {rule}\n")).collect();
        world.sh(&format!(
            "nft 'add table ip filter
             add chain ip filter FORWARD {{ type filter hook forward priority 0; policy drop; }}
             {rules}'"
        ));
        assert_eq!(answer(&pod), "remote 192.0.2.1", "{rules}");
        let outcome = world.alice().netsetgo(format!("-pid {pod}"));
        assert_eq!(outcome.status, 0, "{outcome:?}");
        if !outcome.err.is_empty() {
            warned.push(rules);
        }
        world.sh("nft delete chain ip filter FORWARD");
    }
    assert!(warned.is_empty(), "a warning for nothing: {warned:#?}");
}

#[test]
fn a_firewall_that_names_the_bridge_is_no_matter_for_a_warning() {
    lets_through(&[
        "iifname brg0 accept; oifname brg0 accept",
        "iifname { brg0, eth7 } accept; oifname { brg0, eth7 } accept",
        "iifname vmap { brg0 : accept }; oifname vmap { brg0 : accept }",
        "oifname brg0 accept; ip saddr 10.10.10.0/24 accept",
        "iif brg0 accept; oif brg0 accept",
        "iifname \"brg*\" accept; oifname \"brg*\" accept",
    ]);
}

#[test]
fn a_firewall_that_lets_the_subnet_through_is_no_matter_for_a_warning() {
    lets_through(&[
        "ip saddr 10.10.10.0/24 accept; ip daddr 10.10.10.0/24 accept",
        "ct state established,related accept; ip saddr 10.0.0.0/8 accept",
    ]);
}

#[test]
fn chains_that_do_not_drop_what_is_forwarded_are_no_matter_for_a_warning() {
    let world = World::new();
    world.sh("nft 'add table ip filter
        add chain ip filter INPUT { type filter hook input priority 0; policy drop; }
        add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }
        add rule ip filter FORWARD iifname docker0 drop
        add chain ip filter loose
        add table ip6 filter
        add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }
        add table bridge filter
        add chain bridge filter FORWARD { type filter hook forward priority 0; policy accept; }
        add table netdev filter; add table arp filter'");
    world.alice().attached();
}

#[test]
fn without_nat_another_firewall_is_no_matter_for_a_warning() {
    let world = World::with_policy(&format!("[network]\nnat = false\n{ALICE}"));
    forward_chain(&world, "ip", "filter", "FORWARD");
    world.alice().attached();
}

#[test]
fn no_wire_reaches_the_hosts_127_0_0_1() {
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
        for from in [remote.user(), other.inside()] {
            for port in [8080, 9] {
                assert_eq!(from.asks(protocol, "127.0.0.1", port), "nothing", "{protocol} {port}");
            }
        }
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
fn no_wire_speaks_for_127_0_0_1() {
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
    // Nobody is at that port.
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

#[test]
fn a_large_ruleset_of_somebody_elses_is_read_to_its_end() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let chains: String = (0..2000)
        .map(|n| format!("add chain inet big c{n}\nadd rule inet big c{n} tcp dport {n} accept comment \"number {n}\"\n"))
        .collect();
    let script = format!(
        "add table inet big\n{chains}\
         add chain inet big forward {{ type filter hook forward priority 0; policy drop; }}\n\
         add rule inet big forward iifname brg0 accept\nadd rule inet big forward oifname brg0 accept\n"
    );
    std::fs::write(world.path("/run/big"), script).unwrap();
    world.sh("nft -f /run/big");
    let pod = world.alice().attached();
    assert_eq!(answer(&pod), "remote 192.0.2.1");
    world.sh("nft flush chain inet big forward");
    let outcome = world.alice().netsetgo(format!("-pid {pod}"));
    assert!(outcome.status == 0 && outcome.is_one_line(), "{outcome:?}");
    assert!(outcome.err.contains("table inet big, chain forward"), "{outcome:?}");
}

#[test]
fn somebody_who_keeps_changing_the_ruleset_keeps_nobody_from_attaching() {
    let world = World::with_policy(&format!("{ALICE}links = 60\npublish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    // Some hundred times a second, over one connection.
    let _busy = world.root().start(
        "nft 'add table inet busy; add set inet busy s { type ipv4_addr; }'
         while busybox usleep 2000; do
             echo 'add element inet busy s { 10.0.0.1 }; delete element inet busy s { 10.0.0.1 }'
         done | nft -i >/dev/null 2>&1",
    );
    world.until("the changes to begin", || world.sh("nft list tables").contains("busy"));
    for publish in ["", "-publish 0:80 -publish 127.0.0.1:0:80/udp"] {
        for pod in alice.containers(30) {
            alice.netsetgo(format!("-pid {pod} {publish}")).done();
        }
    }
    assert_eq!(world.leases().len(), 60);
}

#[test]
fn a_table_of_the_same_name_in_another_family_is_not_touched() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    world.sh("nft 'add table ip netsetgo; add chain ip netsetgo forwarded
              add rule ip netsetgo forwarded drop; add set ip netsetgo bridges { type mark; }'");
    let theirs = world.sh("nft list table ip netsetgo");
    let pod = world.alice().attached();
    assert_eq!(world.sh("nft list table ip netsetgo"), theirs);
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}
