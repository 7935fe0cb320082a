//! Which containers reach which others, and what of the host they reach.

use crate::publish::published;
use crate::way_out::{counted, starts_pinging};
use crate::world::{BROADCAST, Container, Frame, HOST, REMOTE, Running, User, World, mac_of};

/// The bridge's address.
const BRIDGE: &str = "10.10.10.1";

/// A policy for alice and bob, with these lines about the network.
fn policy(network: &str) -> String {
    let allow = |user| format!("[[allow]]\nuser = \"{user}\"\npublish = [\"8000-8999\"]\n");
    format!("[network]\n{network}\n{}", ["alice", "bob"].map(allow).concat())
}

fn world(network: &str) -> World {
    World::with_policy(&policy(network))
}

/// Whether the firewall of what is routed sees what is bridged.
fn nf_call(world: &World, switch: u8) {
    world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
}

/// A container that serves at port 80.
#[track_caller]
fn server<'w>(user: &User<'w>) -> Container<'w> {
    let pod = user.attached();
    pod.inside().serves("pod", "80");
    pod
}

/// Whether a container reaches an address: by TCP, UDP and ICMP, of which all have to agree.
#[track_caller]
fn reaches(from: &Container<'_>, address: &str) -> bool {
    reach([(from, address)])[0]
}

/// The same of several at once.
#[track_caller]
fn reach<const N: usize>(wanted: [(&Container<'_>, &str); N]) -> [bool; N] {
    let ways = wanted.map(|(from, address)| (address, Ways::of(from, address, 80)));
    ways.map(|(address, ways)| {
        let ways = ways.open();
        assert!(ways.iter().all(|way| *way == ways[0]), "{address}: {ways:?}");
        ways[0]
    })
}

/// The ways from a container to an address: TCP and UDP at a port, and ICMP.
struct Ways {
    asks: [Running; 2],
    ping: Running,
}

impl Ways {
    /// Begins to try them.
    fn of(from: &Container<'_>, address: &str, port: u16) -> Ways {
        let inside = from.inside();
        let asks = ["tcp", "udp"].map(|protocol| inside.starts_asking(protocol, address, port));
        Ways { asks, ping: starts_pinging(&inside, address) }
    }

    /// Which of them are open.
    #[track_caller]
    fn open(self) -> [bool; 3] {
        let [tcp, udp] = self.asks.map(|ask| ask.answer() != "nothing");
        [tcp, udp, self.ping.end().status == 0]
    }
}

/// Of alice's first container, whether it reaches her second and bob's, and bob's hers.
#[track_caller]
fn who_reaches_whom(pods: &[Container<'_>]) -> [bool; 3] {
    reach(
        [(0, "10.10.10.3"), (0, "10.10.10.4"), (2, "10.10.10.2")]
            .map(|(from, to)| (&pods[from], to)),
    )
}

fn three<'w>(world: &'w World) -> Vec<Container<'w>> {
    vec![server(&world.alice()), server(&world.alice()), server(&world.bob())]
}

#[test]
fn containers_reach_those_that_the_policy_lets_them_reach() {
    for (isolation, reached) in [
        ("", [true, false, false]),
        ("isolation = \"user\"", [true, false, false]),
        ("isolation = \"container\"", [false; 3]),
        ("isolation = \"none\"", [true; 3]),
    ] {
        for nat in ["", "nat = false\n"] {
            let world = world(&format!("{nat}{isolation}"));
            let pods = three(&world);
            for switch in [0, 1] {
                nf_call(&world, switch);
                assert_eq!(who_reaches_whom(&pods), reached, "{nat}{isolation}, {switch}");
            }
        }
    }
}

#[test]
fn what_is_not_for_another_users_container_is_not_heard_by_it() {
    for (isolation, heard) in [("user", false), ("none", true)] {
        let world = world(&format!("isolation = \"{isolation}\""));
        let (pod, own, other) =
            (world.alice().attached(), world.alice().attached(), world.bob().attached());
        let (mac, address) = (mac_of("10.10.10.2"), "10.10.10.2");
        let theirs = mac_of("10.10.10.4");
        let frames = [
            Frame::arp(BROADCAST, mac, 1, (mac, address), "10.10.10.4"),
            Frame::arp(theirs, mac, 2, (mac, address), "10.10.10.4"),
            Frame::udp(BROADCAST, mac, address, "10.10.10.255", 7777),
            Frame::udp([1, 0, 0x5e, 0, 0, 0xfb], mac, address, "224.0.0.251", 7777),
            Frame::udp([1, 0x80, 0xc2, 0, 0, 0x0e], mac, address, "10.10.10.4", 7777),
            Frame::udp(theirs, mac, address, "10.10.10.4", 7777),
        ];
        let last = Frame::udp(mac_of("10.10.10.3"), mac, address, "10.10.10.3", 7777);
        let ears = [own.inside().listens("veth1"), other.inside().listens("veth1")];
        pod.sends(&frames, &last);
        let [hers, his] = ears;
        // Hers hears the last, and his has been sent to before.
        let (hers, his) = (hers.everything(), his.by_now());
        assert_eq!(hers, ["0", "2", "3", "4", "last"]);
        assert_eq!(his == ["0", "1", "2", "3", "4", "5"], heard, "{isolation}: {his:?}");
        assert!(heard || his.is_empty(), "{his:?}");
    }
}

#[test]
fn the_host_is_no_way_round() {
    for isolation in ["user", "container"] {
        for nat in [true, false] {
            let world = world(&format!("isolation = \"{isolation}\"\nnat = {nat}"));
            let (pod, other) = (server(&world.alice()), server(&world.bob()));
            world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
                      for each in all brg0; do echo 0 >/proc/sys/net/ipv4/conf/$each/send_redirects; done");
            pod.sh("ip route add 10.10.10.3/32 via 10.10.10.1");
            other.sh("ip route add 10.10.10.2/32 via 10.10.10.1");
            for switch in [0, 1] {
                nf_call(&world, switch);
                assert!(!reaches(&pod, "10.10.10.3"), "{isolation}, {nat}, {switch}");
            }
            // It was the rule against that.
            world.sh("handle=$(nft -a list chain bridge netsetgo sent_ipv4 |
                          sed -n 's/.*@addresses drop.*handle //p')
                      nft delete rule bridge netsetgo sent_ipv4 handle $handle");
            for switch in [0, 1] {
                nf_call(&world, switch);
                assert!(reaches(&pod, "10.10.10.3"), "{isolation}, {nat}, {switch}");
            }
        }
    }
}

#[test]
fn published_ports_are_reached_whatever_the_isolation() {
    for isolation in ["user", "container", "none"] {
        let world = world(&format!("isolation = \"{isolation}\""));
        let remote = world.internet();
        let pod = published(&world.alice(), "-publish 8080:80 -publish 8080:80/udp");
        pod.inside().serves("pod", "80");
        let (own, other) = (world.alice().attached(), world.bob().attached());
        for switch in [0, 1] {
            nf_call(&world, switch);
            for protocol in ["tcp", "udp"] {
                for address in [BRIDGE, HOST] {
                    for from in [&pod, &own, &other] {
                        let heard = from.inside().asks(protocol, address, 8080);
                        assert!(
                            heard.starts_with("pod "),
                            "{isolation} {switch} {address}: {heard}"
                        );
                    }
                }
                assert_eq!(remote.user().asks(protocol, HOST, 8080), "pod 192.0.2.9");
                let held = other.inside().holds(protocol, BRIDGE, 8080).again();
                assert!(held.starts_with("pod "), "{held}");
                // Nor is there another way because of this one.
                let direct = other.inside().asks(protocol, "10.10.10.2", 80);
                assert_eq!(direct != "nothing", isolation == "none", "{isolation} {switch}");
            }
        }
        // Also where the host does not know yet where to send it.
        world.sh("ip neigh flush dev brg0");
        assert!(other.inside().asks("tcp", BRIDGE, 8080).starts_with("pod "));
    }
}

#[test]
fn a_policy_that_is_changed_holds_for_all_from_the_next_attach_on() {
    let world = world("");
    let pods = three(&world);
    for (isolation, reached) in [
        ("none", [true; 3]),
        ("container", [false; 3]),
        ("user", [true, false, false]),
        ("none", [true; 3]),
        ("user", [true, false, false]),
    ] {
        world.policy(&policy(&format!("isolation = \"{isolation}\"")));
        world.bob().netsetgo(format!("-pid {}", pods[2])).done();
        // An address that did not answer before is not asked for again at once.
        pods.iter().for_each(|pod| drop(pod.sh("ip neigh flush dev veth1")));
        assert_eq!(who_reaches_whom(&pods), reached, "{isolation}");
    }
    // Or the admin says where it is.
    world.policy(&policy("isolation = \"container\""));
    world.root().netsetgo("-prune").done();
    assert_eq!(who_reaches_whom(&pods), [false; 3]);
}

#[test]
fn containers_of_one_user_reach_each_other_when_another_healed_the_firewall() {
    let world = world("");
    let pods = three(&world);
    for harm in [
        "nft flush ruleset",
        "nft delete table bridge netsetgo",
        "nft flush set bridge netsetgo users",
        "nft flush chain bridge netsetgo passed_on",
        "nft flush set bridge netsetgo addresses",
        "nft add element bridge netsetgo addresses '{ 10.10.10.1 }'",
        "nft flush set bridge netsetgo leases",
        "nft insert rule bridge netsetgo sent accept",
        "nft flush set inet netsetgo bridges",
        "nft flush chain inet netsetgo for_host",
        "nft add table bridge netsetgo '{ flags dormant; }'",
        "nft 'delete table bridge netsetgo; add table bridge netsetgo
              add set bridge netsetgo leases { type mark; }'",
        "nft 'delete table bridge netsetgo; add table bridge netsetgo
              add chain bridge netsetgo sent { type filter hook input priority 7; }'",
    ] {
        let good = world.ruleset();
        world.sh(harm);
        world.bob().netsetgo(format!("-pid {}", pods[2])).done();
        assert_eq!(who_reaches_whom(&pods), [true, false, false], "{harm}");
        let text = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("\tcomment")).map(str::to_owned).collect()
        };
        let (mut before, mut after) = (text(&good), text(&world.ruleset()));
        before.sort();
        after.sort();
        assert_eq!(after, before, "{harm}");
    }
}

#[test]
fn a_saved_ruleset_can_be_loaded_when_its_containers_are_gone() {
    let world = world("dns = [\"10.10.10.1\"]");
    world.names_protocols();
    let users = [world.alice(), world.alice(), world.bob()];
    let pods: Vec<_> = users.iter().map(User::attached).collect();
    world.sh("nft list ruleset >/run/saved");
    for pod in &pods {
        pod.kill();
    }
    world.until_leases_are(&[]);
    // What is loaded is what is listed, however often.
    let saved = world.ruleset();
    for _ in 0..3 {
        world.sh("nft flush ruleset; nft -f /run/saved; nft list ruleset >/run/saved");
        assert_eq!(world.ruleset(), saved);
    }
    assert_eq!(who_reaches_whom(&three(&world)), [true, false, false]);
    assert_eq!(world.ruleset(), saved);
}

#[test]
fn a_user_is_put_into_the_firewall_once() {
    let world = world("");
    let users = || world.sh("nft list set bridge netsetgo users").matches("-*\" . ").count();
    world.alice().attached();
    assert_eq!(users(), 1);
    world.alice().attached();
    world.bob().attached();
    assert_eq!(users(), 2);
    let before = world.ruleset();
    world.bob().attached();
    world.alice().attached();
    assert_eq!(world.ruleset(), before);
}

#[test]
fn roots_containers_are_those_of_a_user_too() {
    let world = world("");
    let attached = |options: &str| {
        let pod = world.root().container();
        world.root().netsetgo(format!("-pid {pod} {options}")).done();
        pod.inside().serves("pod", "80");
        pod
    };
    let (first, second) = (attached(""), attached(""));
    let hers = server(&world.alice());
    // A host end that the admin named otherwise belongs to no user: not to her, and not to him.
    let named = attached("-vethNamePrefix tower -ifname veth1");
    assert_eq!(world.leases().len() + 1, 4);
    let told = reach([
        (&first, "10.10.10.3"),
        (&second, "10.10.10.2"),
        (&first, "10.10.10.4"),
        (&hers, "10.10.10.2"),
        (&named, "10.10.10.2"),
        (&first, "10.10.10.5"),
        (&hers, "10.10.10.5"),
    ]);
    assert_eq!(told, [true, true, false, false, false, false, false]);
}

#[test]
fn users_whose_numbers_begin_alike_are_not_the_same() {
    let world =
        World::with_policy("[[allow]]\nuid = 1000\n[[allow]]\nuid = 10000\n[[allow]]\nuid = 100\n");
    let pods = ["1000", "10000", "100"].map(|uid| server(&world.user(uid)));
    let to = ["10.10.10.2", "10.10.10.3", "10.10.10.4"];
    assert_eq!(pods.each_ref().map(Container::address), to.map(|address| format!("{address}/24")));
    let [a, b, c] = &pods;
    let told = reach([(a, to[1]), (a, to[2]), (b, to[0]), (b, to[2]), (c, to[0]), (c, to[1])]);
    assert_eq!(told, [false; 6]);
}

/// What a container gets of the host: of a service on all its addresses, and with ping, at the bridge's
/// address and at another one.
#[track_caller]
fn of_the_host(pod: &Container<'_>) -> [bool; 6] {
    let ways = [BRIDGE, HOST].map(|address| Ways::of(pod, address, 9));
    let [[a, b, c], [d, e, f]] = ways.map(Ways::open);
    [a, b, c, d, e, f]
}

/// What is answered over UDP comes from the address that is nearest, not from the one that was asked.
const ALL: [bool; 6] = [true, true, true, true, false, true];
const PING_ALONE: [bool; 6] = [false, false, true, false, false, false];

#[test]
fn of_the_host_a_container_reaches_ping_and_published_ports() {
    for (network, reached) in [
        ("", PING_ALONE),
        ("host_access = \"published\"", PING_ALONE),
        ("nat = false", PING_ALONE),
        ("host_access = \"all\"", ALL),
        ("host_access = \"all\"\nnat = false", ALL),
    ] {
        let world = world(network);
        let remote = world.internet();
        world.root().serves("host", "9 53");
        remote.user().serves("remote", "7");
        let pod = server(&world.alice());
        for switch in [0, 1] {
            nf_call(&world, switch);
            assert_eq!(of_the_host(&pod), reached, "{network}, {switch}");
            // Whatever the host itself begins is answered.
            for protocol in ["tcp", "udp"] {
                assert_eq!(world.root().asks(protocol, "10.10.10.2", 80), "pod 10.10.10.1");
            }
            world.sh("busybox ping -c 1 -W 10 10.10.10.2 >/dev/null");
            // Others reach the host as before.
            assert_eq!(remote.user().asks("tcp", HOST, 9), "host 192.0.2.9");
            // This is not about what leaves the host.
            let out = pod.inside().asks("tcp", REMOTE, 7);
            assert_eq!(out != "nothing", !network.contains("nat"), "{network}: {out}");
        }
        assert_eq!(pod.inside().asks("udp", BRIDGE, 53) == "nothing", reached == PING_ALONE);
    }
}

#[test]
fn a_name_server_that_the_policy_names_is_reached_though_it_is_the_host() {
    let world = world(&format!("dns = [\"{BRIDGE}\", \"9.9.9.9\", \"{BRIDGE}\"]"));
    let _remote = world.internet();
    world.root().serves("host", "9 53");
    let pod = world.alice().attached();
    let asks = |places: &[(&str, u16)]| -> Vec<[bool; 2]> {
        let begin = |(address, port): &(&str, u16)| Ways::of(&pod, address, *port);
        let begun: Vec<_> = places.iter().map(begin).collect();
        begun.into_iter().map(|ways| ways.open()).map(|[tcp, udp, _]| [tcp, udp]).collect()
    };
    assert_eq!(asks(&[(BRIDGE, 53), (BRIDGE, 9), (HOST, 53)]), [[true; 2], [false; 2], [false; 2]]);
    let before = world.ruleset();
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(world.ruleset(), before);
    // One that it no longer names is not.
    world.policy(&policy(""));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(asks(&[(BRIDGE, 53)]), [[false; 2]]);
}

#[test]
fn hosts_of_an_administrators_lan_reach_the_host_by_the_containers_bridge() {
    let world = world("");
    let lan = world.lan_at_the_bridge();
    world.root().serves("host", "9");
    let pod = server(&world.alice());
    for switch in [0, 1] {
        nf_call(&world, switch);
        assert_eq!(lan.user().asks("tcp", BRIDGE, 9), "host 10.10.10.200");
        assert_eq!(lan.user().asks("udp", "10.10.10.2", 80), "pod 10.10.10.200");
        assert_eq!(pod.inside().asks("tcp", BRIDGE, 9), "nothing");
    }
}

#[test]
fn a_container_whose_bridge_was_deleted_is_not_heard_by_the_host() {
    for network in ["host_access = \"all\"", "nat = false"] {
        let world = world(network);
        let _remote = world.internet();
        let pod = world.alice().attached();
        world.sh("for each in all default eth0 ns1000-0; do
                      echo 0 >/proc/sys/net/ipv4/conf/$each/rp_filter
                  done
                  nft 'add table inet seen; add counter inet seen hits
                       add chain inet seen input { type filter hook input priority 0; }
                       add rule inet seen input udp dport 9 counter name hits'");
        let send = || {
            pod.sh(&format!("bash -c 'for try in 1 2; do echo x >/dev/udp/{HOST}/9; done'"));
        };
        world.sh("ip link delete brg0");
        // It sends to its own port of the former bridge, whose MAC it can guess.
        pod.sh("ip neighbour replace 10.10.10.1 lladdr fe:4e:0a:0a:0a:02 dev veth1");
        send();
        assert_eq!(counted(&world.root()), 0, "{network}");
        world.sh("nft delete table inet netsetgo");
        send();
        assert_eq!(counted(&world.root()), 2, "{network}");
    }
}

#[test]
fn without_nat_any_more_what_protects_the_host_stays() {
    let world = world("");
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pod = published(&world.alice(), "-publish 8080:80");
    pod.inside().serves("pod", "80");
    let before = world.ruleset();
    world.policy(&policy("nat = false"));
    let other = world.alice().attached();
    assert_eq!(world.ruleset(), before);
    assert_eq!(remote.user().asks("tcp", HOST, 8080), "pod 192.0.2.9");
    assert_eq!(other.inside().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
    // And with it again there is all that there was.
    world.sh("nft flush ruleset");
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert!(!world.ruleset().contains("masquerade to"));
    world.policy(&policy(""));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(other.inside().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
    let rules = || world.sh("nft -a list ruleset");
    let once = rules();
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(rules(), once, "it is made once");
}
