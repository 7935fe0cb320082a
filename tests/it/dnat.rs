//! DNAT of the admin: its clients stay the admin's, and `-publish` of such a port is refused.

use crate::publish::host_ports;
use crate::world::{ALICE, HOST, Remote, World};

/// A world on the Internet where alice may publish 8000 to 8999. The host is a router, and behind it is
/// a server of the admin's, at port 7 of 172.16.2.9.
fn forwarding() -> World {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    world
}

fn server(world: &World) -> Remote<'_> {
    let server = world.neighbour("to-b", "172.16.2.1", "172.16.2.9");
    server.sh("ip route add default via 172.16.2.1");
    server.user().serves("admins", "7");
    server
}

/// The same rule for port 8080, as nft and as iptables make it, and where it is.
const RULES: [(&str, &str); 2] = [
    (
        "nft 'add table inet admin
              add chain inet admin arriving { type nat hook prerouting priority -100; }
              add rule inet admin arriving tcp dport 8080 dnat ip to 172.16.2.9:7'",
        "table inet admin, chain arriving",
    ),
    (
        "iptables-nft -t nat -N FORWARDS
         iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j FORWARDS
         iptables-nft -t nat -A FORWARDS ! -i docker0 -p tcp -m tcp --dport 8080 \
                      -j DNAT --to-destination 172.16.2.9:7",
        "table ip nat, chain FORWARDS",
    ),
];

#[test]
fn a_port_that_dnat_of_the_admin_takes_is_refused_and_stays_the_admins() {
    for (rule, place) in RULES {
        for tables_are_there in [false, true] {
            for listens in [false, true] {
                let world = forwarding();
                let (remote, _server) = (world.internet(), server(&world));
                let alice = world.alice();
                if tables_are_there {
                    alice.attached();
                }
                world.sh(rule);
                if listens {
                    world.root().serves("listener", "8080");
                }
                let clients = || remote.user().asks("tcp", HOST, 8080);
                assert_eq!(clients(), "admins 192.0.2.9");
                let pod = alice.container();
                let complaint = match listens {
                    true => "a program on this host listens on port 8080".to_owned(),
                    false => format!(
                        "-publish 8080:80/tcp: host port 8080 is taken by DNAT of {place}; choose \
                         another port, or remove that rule"
                    ),
                };
                world.unchanged(|| {
                    alice.failed(
                        format!("-pid {pod} -publish 8081:80 -publish 8080:80"),
                        &complaint,
                    );
                });
                // Another port, and another protocol.
                let udp = if listens { "" } else { "-publish 8080:80/udp" };
                alice.netsetgo(format!("-pid {pod} -publish 8081:80 {udp}")).done();
                pod.inside().serves("pod", "80");
                assert_eq!(remote.user().asks("tcp", HOST, 8081), "pod 192.0.2.9");
                if !listens {
                    assert_eq!(remote.user().asks("udp", HOST, 8080), "pod 192.0.2.9");
                }
                assert_eq!(clients(), "admins 192.0.2.9");
            }
        }
    }
}

#[test]
fn dnat_that_comes_after_the_port_was_published_takes_it() {
    for (rule, place) in RULES {
        let world = forwarding();
        let (remote, _server) = (world.internet(), server(&world));
        let alice = world.alice();
        let pod = alice.container();
        let publish = format!("-pid {pod} -publish 8080:80");
        alice.netsetgo(&publish).done();
        pod.inside().serves("pod", "80");
        assert_eq!(remote.user().asks("tcp", HOST, 8080), "pod 192.0.2.9");
        world.sh(rule);
        assert_eq!(remote.user().asks("tcp", HOST, 8080), "admins 192.0.2.9");
        // What is published already is no error. A container that has not published it cannot.
        alice.netsetgo(&publish).done();
        alice.netsetgo(format!("-delete -pid {pod}")).done();
        alice.failed(format!("-pid {} -publish 8080:80", alice.container()), place);
    }
}

#[test]
fn port_0_skips_what_dnat_of_the_admin_takes() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8004\"]\n"));
    world.sh("nft 'add table ip admin
                   add chain ip admin arriving { type nat hook prerouting priority -100; }
                   add rule ip admin arriving tcp dport { 8000, 8002-8003 } redirect to :7'");
    let alice = world.alice();
    let pod = alice.container();
    let publish = "-publish 0:80 -publish 0:81 -publish 0:80/udp -json";
    let report = alice.netsetgo(format!("-pid {pod} {publish}")).done();
    assert_eq!(host_ports(&report), [8001, 8004, 8000]);
    let late = alice.container();
    alice.failed(format!("-pid {late} -publish 0:80"), "none of the host ports");
}

/// Loads each rule, by this shell command with the rule in place of RULE, and publishes: the first ports
/// are taken, the others are not.
#[track_caller]
fn each_takes(loads: &str, rules: &[(&str, &str, &str)]) {
    let world = forwarding();
    let _remote = world.internet();
    let alice = world.alice();
    let pod = alice.attached();
    for (rule, taken, free) in rules {
        world.sh(&loads.replace("RULE", rule));
        for publish in taken.split_whitespace() {
            let outcome = alice.netsetgo(format!("-pid {pod} -publish {publish}"));
            let refused = outcome.status == 1 && outcome.err.contains("is taken by DNAT of");
            assert!(refused, "{rule}: {publish}: {outcome:?}");
        }
        let free: Vec<_> =
            free.split_whitespace().map(|free| format!(" -publish {free}")).collect();
        let outcome = alice.netsetgo(format!("-pid {pod}{}", free.concat()));
        assert!(outcome.status == 0 && outcome.err.is_empty(), "{rule}: {outcome:?}");
        world.sh("nft list tables | grep -vw netsetgo | sed 's/^/delete /' | nft -f -");
        alice.netsetgo(format!("-delete -pid {pod}")).done();
        alice.netsetgo(format!("-pid {pod}")).done();
    }
}

#[test]
fn rules_of_nft_take_what_they_compare() {
    each_takes(
        "nft -f - <<'END'
table inet admin {
    set ports { type inet_service; flags interval; elements = { 8000-8009, 8020 }; }
    map services { type inet_service : ipv4_addr . inet_service; elements = { 8000 : 10.9.9.9 . 1 }; }
    map both { type inet_proto . inet_service : ipv4_addr; elements = { udp . 8000 : 10.9.9.9 }; }
    map at { type ipv4_addr . inet_service : ipv4_addr; elements = { 192.0.2.1 . 8000 : 10.9.9.9 }; }
    chain elsewhere { dnat ip to 10.9.9.9; }
    chain at_a_port { tcp dport 8100 dnat ip to 10.9.9.9; }
    chain arriving {
        type nat hook prerouting priority -100
        RULE
    }
}
END",
        &[
            ("tcp dport 8000 dnat ip to 10.9.9.9", "8000:1 192.0.2.1:8000:1", "8001:1 8000:1/udp"),
            ("udp dport 8000 redirect to :7", "8000:1/udp", "8000:1"),
            ("iifname eth0 tcp dport 8000 dnat ip to 10.9.9.9", "8000:1", "8001:1"),
            ("iifname != \"br-*\" ip saddr 10.0.0.1 tcp dport 8000 redirect", "8000:1", "8001:1"),
            ("counter fib daddr type local tcp dport 8000 redirect", "8000:1", "8001:1"),
            ("tcp dport 8001-8003 redirect to :7", "8001:1 8003:1 8002-8004:2-4", "8000:1 8004:1"),
            ("tcp dport < 8002 redirect to :7", "8001:1", "8002:1"),
            ("tcp dport > 8002 redirect to :7", "8003:1", "8002:1"),
            ("tcp dport { 8000, 8003 } redirect to :7", "8000:1 8003:1", "8001:1"),
            ("tcp dport { 8000, 8003-8005 } redirect to :7", "8000:1 8004:1", "8001:1 8006:1"),
            ("tcp dport @ports redirect to :7", "8005:1 8020:1", "8010:1 8021:1"),
            ("tcp dport != @ports tcp dport 8005-8010 redirect", "8010:1", "8005:1 8011:1"),
            ("dnat ip to tcp dport map @services", "8000:1", "8001:1 8000:1/udp"),
            ("dnat ip to meta l4proto . th dport map @both", "8000:1/udp", "8000:1 8001:1/udp"),
            (
                "dnat ip to ip daddr . tcp dport map @at",
                "8000:1 192.0.2.1:8000:1",
                "10.10.10.1:8000:1 127.0.0.1:8000:1 8001:1",
            ),
            ("meta l4proto { tcp, udp } th dport 8000 redirect", "8000:1 8000:1/udp", "8001:1"),
            ("ip protocol udp @th,16,16 8000 redirect", "8000:1/udp", "8000:1"),
            (
                "ip daddr 192.0.2.1 tcp dport 8000 redirect",
                "8000:1 192.0.2.1:8000:1",
                "127.0.0.1:8000:1 10.10.10.1:8000:1",
            ),
            (
                "ip daddr 192.0.0.0/14 tcp dport 8000 redirect",
                "8000:1 192.0.2.1:8000:1",
                "127.0.0.1:8000:1 8001:1",
            ),
            ("ip daddr != 127.0.0.0/8 tcp dport 8000 redirect", "8000:1", "127.0.0.1:8000:1"),
            ("tcp dport 8000 jump elsewhere", "8000:1", "8001:1"),
            ("tcp dport 8099-8101 jump at_a_port", "8100:1", "8099:1"),
            ("jump at_a_port", "8100:1", "8099:1"),
        ],
    );
}

#[test]
fn rules_of_nft_take_nothing_else() {
    each_takes(
        "nft -f - <<'END'
table inet admin {
    chain arriving { type nat hook prerouting priority -100; RULE; }
    chain leaving { type nat hook postrouting priority 100; }
    chain input { type filter hook input priority 0; tcp dport 8002 accept; }
    chain raw { type filter hook prerouting priority -300; tcp dport 8003 notrack; }
}
table ip6 admin {
    chain arriving { type nat hook prerouting priority -100; tcp dport 8000 redirect to :7; }
}
table inet asleep {
    flags dormant
    chain arriving { type nat hook prerouting priority -100; tcp dport 8000 redirect to :7; }
}
END",
        &[
            // Not a port of the host, and no particular port.
            ("ip daddr 203.0.113.1 tcp dport 8000 redirect", "", "8000:1 192.0.2.1:8001:1"),
            ("meta nfproto ipv6 tcp dport 8000 redirect", "", "8000:1 8002:1 8003:1"),
            ("ip6 daddr fd00::1 tcp dport 8000 dnat ip6 to fd00::2", "", "8000:1"),
            ("iifname eth1 dnat ip to 10.9.9.9", "", "8000:1"),
            ("tcp dport != 22 dnat ip to 10.9.9.9", "", "8000:1"),
            ("tcp sport 8000 redirect to :7", "", "8000:1"),
            ("tcp dport 8000 accept", "", "8000:1"),
            ("tcp dport 8000 counter", "", "8000:1"),
            ("tcp dport vmap { 8000 : accept }", "", "8000:1"),
            // What has to do with no port at all, and is judged by nobody.
            ("meta mark set numgen random mod 8 offset 7", "", "8000:1"),
            ("tcp option maxseg exists tcp flags syn ct mark set 7", "", "8000:1"),
            ("meta mark set jhash ip saddr . tcp sport mod 7 seed 5", "", "8000:1"),
            (
                "limit rate 3/minute log prefix \"x\" socket mark 7 rt ip nexthop 10.9.9.9",
                "",
                "8000:1",
            ),
        ],
    );
}

#[test]
fn rules_of_iptables_take_what_they_compare() {
    each_takes(
        "iptables-nft-restore <<'END'
*nat
:DOCKER - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXT-A - [0:0]
:KUBE-SEP-A - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-EXT-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.9.9.9:80
-A RULE
COMMIT
END",
        &[
            (
                "DOCKER ! -i docker0 -p tcp -m tcp --dport 8000 -j DNAT --to-destination 172.17.0.2:80",
                "8000:1 127.0.0.1:8000:1",
                "8001:1 8000:1/udp",
            ),
            (
                "DOCKER -d 127.0.0.1/32 ! -i docker0 -p udp -m udp --dport 8000 -j DNAT --to-destination 172.17.0.2:80",
                "8000:1/udp 127.0.0.1:8000:1/udp",
                "192.0.2.1:8000:1/udp 8000:1",
            ),
            (
                "PREROUTING -p tcp --dport 8001:8003 -j REDIRECT --to-ports 7",
                "8001:1 8003:1",
                "8000:1 8004:1",
            ),
            (
                "KUBE-NODEPORTS -p tcp -m comment --comment default/web -m tcp --dport 8000 -j KUBE-EXT-A",
                "8000:1",
                "8001:1 8000:1/udp",
            ),
            (
                "OUTPUT -p tcp --dport 8000 -m owner --uid-owner 7 -j REDIRECT --to-ports 7",
                "8000:1",
                "8001:1",
            ),
            ("PREROUTING -p tcp --sport 8000 -j REDIRECT --to-ports 7", "", "8000:1"),
            ("PREROUTING -p tcp --dport 8000 -j RETURN", "", "8000:1"),
            (
                "PREROUTING -p tcp -m string --string x --algo bm -m mark --mark 7 -j REDIRECT --to-ports 7",
                "",
                "8000:1",
            ),
        ],
    );
}
