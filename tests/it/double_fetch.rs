//! A frame whose bytes change while the host reads it: what the filter saw is what counts.

use std::cell::RefCell;

use crate::way_out::{count, counted};
use crate::world::{Container, FLIPPING, HOST, REMOTE, User, World};

/// How often each is tried. Without the rules against it, far fewer tries are enough.
const TRIES: u32 = 3000;

/// A host on which alice and bob may attach, with these lines about the network.
fn world(network: &str) -> World {
    World::with_policy(&format!(
        "[network]\n{network}\n[[allow]]\nuser = \"alice\"\n[[allow]]\nuser = \"bob\"\n"
    ))
}

/// A container that is able to do this.
#[track_caller]
fn attacker<'w>(user: &User<'w>) -> Container<'w> {
    let pod = user.attached();
    pod.prepares_to_flip();
    pod
}

/// Does something with the firewall of what is routed seeing what is bridged, and without.
#[track_caller]
fn both_ways_through_the_bridge(world: &World, act: impl Fn()) {
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        act();
    }
}

/// Goes to the rules for each kind of frame, and to an error's, before anything is made private.
#[track_caller]
fn read_twice_again(world: &World) {
    world.sh("nft 'insert rule bridge netsetgo sent ether type ip jump sent_ipv4
              insert rule bridge netsetgo sent ether type arp jump sent_arp
              insert rule bridge netsetgo icmp_error @nh,352,32 0x0a0a0a02 accept'");
}

/// A socket that is connected to the remote host, from a port of its own. It has asked once, and says
/// "none" or what else has come each time that it is asked.
fn connected(address: &str, port: u16, remote: &str, remote_port: u16) -> String {
    format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('{address}', {port}))
s.connect(('{remote}', {remote_port}))
s.settimeout(0.1)
s.send(b'?')
print(s.recv(64), flush=True)
for _ in sys.stdin:
    try: print(s.recv(64), flush=True)
    except OSError as error: print(type(error).__name__, flush=True)"
    )
}

/// What such a socket says as long as nothing has come.
const NOTHING: &str = "TimeoutError";

#[test]
fn a_source_that_changes_after_it_was_read_deceives_no_socket_of_the_host_or_of_another_user() {
    let world = world("");
    let remote = world.internet();
    remote.user().serves("remote", "53");
    let (pod, other) = (attacker(&world.alice()), world.bob().attached());
    let mut host = world.root().converses(&connected(HOST, 45000, REMOTE, 53));
    let mut theirs = other.inside().converses(&connected("", 40001, REMOTE, 53));
    count(&world.root(), "iifname brg0 ip saddr != 10.10.10.2");
    let own = "to_host(ip('10.10.10.2', '192.0.2.9', 17, udp(1, 7, b'own')))";
    let as_bob = "to_host(ip('10.10.10.3', '192.0.2.9', 17, udp(1, 7, b'own')))";
    let answer = |source: &str, port: u16| {
        format!("to_host(ip('{source}', '192.0.2.1', 17, udp(53, {port}, b'forged')))")
    };
    both_ways_through_the_bridge(&world, || {
        for way in FLIPPING {
            pod.flips(way, 50, as_bob, as_bob);
            pod.flips(way, TRIES, own, as_bob);
            for port in [45000, 40001] {
                pod.flips(way, TRIES, &answer("10.10.10.2", port), &answer(REMOTE, port));
            }
        }
    });
    assert_eq!([host.again().as_str(), &theirs.again()], [NOTHING; 2]);
    assert_eq!(counted(&world.root()), 0);
    for way in FLIPPING {
        count_anew(&remote.user(), "udp dport 7");
        pod.flips(way, 50, own, own);
        world.until("what does not change to arrive", || counted(&remote.user()) > 0);
    }
    // It is these rules that matter.
    read_twice_again(&world);
    world.until("a frame as another user's", || {
        pod.flips("vxlan", TRIES, own, as_bob);
        counted(&world.root()) > 0
    });
}

/// Counts again, from nothing.
#[track_caller]
fn count_anew(user: &User<'_>, like_this: &str) {
    let _ = user.sh("nft delete table inet seen 2>/dev/null");
    count(user, like_this);
}

#[test]
fn a_destination_that_changes_after_it_was_read_reaches_no_other_users_container() {
    let world = world("");
    let remote = world.internet();
    let (pod, other) = (attacker(&world.alice()), world.bob().attached());
    // Both have the same checksum. What is sent to another network is not for a container.
    let to = |address: &str| format!("to_host(ip('10.10.10.2', '{address}', 17, udp(1, 9, b'x')))");
    let (allowed, forbidden) = (to("10.3.10.10"), to("10.10.10.3"));
    count(&remote.user(), "ip daddr 10.3.10.10 udp dport 9");
    count(&other.inside(), "ip saddr 10.10.10.2");
    count_forwarded(&world, "ip saddr 10.10.10.2 ip daddr 10.10.10.3");
    both_ways_through_the_bridge(&world, || {
        for way in FLIPPING {
            pod.flips(way, 50, &allowed, &allowed);
            pod.flips(way, 50, &forbidden, &forbidden);
            pod.flips(way, 2 * TRIES, &allowed, &forbidden);
        }
    });
    assert_eq!(forwarded(&world), 0);
    assert_eq!(counted(&other.inside()), 0);
    world.until("what does not change to arrive", || counted(&remote.user()) > 0);
    read_twice_again(&world);
    world.until("a frame for another user's container", || {
        pod.flips("vxlan", TRIES, &allowed, &forbidden);
        counted(&other.inside()) > 0
    });
}

/// Counts what the host forwards.
#[track_caller]
fn count_forwarded(world: &World, like_this: &str) {
    world.sh(&format!(
        "nft 'add table inet routed; add counter inet routed hits
              add chain inet routed forward {{ type filter hook forward priority -400; }}
              add rule inet routed forward {like_this} counter name hits'"
    ));
}

#[track_caller]
fn forwarded(world: &World) -> u32 {
    let counter = world.sh("nft list counter inet routed hits");
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_arp_message_that_changes_after_it_was_read_is_not_believed_by_the_host() {
    let world = world("");
    let _remote = world.internet();
    let (pod, other) = (attacker(&world.alice()), world.bob().attached());
    other.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    let neighbour = || {
        let line = world.sh("ip neigh show 10.10.10.3 dev brg0");
        line.split_whitespace().find(|word| word.contains(':')).map(str::to_owned)
    };
    let rightful = Some("02:4e:0a:0a:0a:03".to_owned());
    assert_eq!(neighbour(), rightful);
    world.sh("nft 'add table arp seen; add counter arp seen own; add counter arp seen forged
              add chain arp seen in { type filter hook input priority 0; }
              add rule arp seen in arp saddr ip 10.10.10.2 counter name own
              add rule arp seen in arp saddr ip 10.10.10.3 arp saddr ether 02:4e:0a:0a:0a:02 \
                  counter name forged'");
    let seen = |name: &str| {
        let counter = world.sh(&format!("nft list counter arp seen {name}"));
        !counter.contains("packets 0 ")
    };
    let says = |sender: &str| format!("arp(2, '{sender}', '10.10.10.1')");
    let (own, forged) = (says("10.10.10.2"), says("10.10.10.3"));
    both_ways_through_the_bridge(&world, || {
        for way in FLIPPING {
            pod.flips(way, 50, &own, &own);
            pod.flips(way, 50, &forged, &forged);
            pod.flips(way, 2 * TRIES, &own, &forged);
            // An answer that is not the first within a second is not taken.
            assert_eq!(neighbour(), rightful, "{way}");
        }
    });
    assert!(seen("own") && !seen("forged"));
    read_twice_again(&world);
    world.until("a message that changes", || {
        pod.flips("vxlan", TRIES, &own, &forged);
        seen("forged")
    });
}

/// A socket of the host's at each of these ports. It says at which of them datagrams have come
/// from which ports, since it was asked before.
fn listening(ports: &str) -> String {
    format!(
        "import threading
seen = {{}}
def listen(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.bind(('10.10.10.1', port))
    while True:
        source = s.recvfrom(2000)[1][1]
        seen[f'{{source}}-{{port}}'] = True
for port in [{ports}]: threading.Thread(target=listen, args=(port,), daemon=True).start()
time.sleep(0.1)
print('ready', flush=True)
for _ in sys.stdin:
    time.sleep(0.1)
    print(*sorted(seen), flush=True)
    seen.clear()"
    )
}

#[test]
fn a_port_that_changes_after_it_was_read_reaches_nothing_else_of_the_host() {
    let world = world("dns = [\"10.10.10.1\"]");
    let _remote = world.internet();
    let pod = attacker(&world.alice());
    pod.inside().serves("pod", "7");
    let mut host = world.root().converses(&listening("53, 9"));
    // What answers this flow of the host's comes in.
    let _flow = world.root().converses(&connected("10.10.10.1", 45000, "10.10.10.2", 7));
    let datagram = |source: u16, target: u16| {
        format!("to_host(ip('10.10.10.2', '10.10.10.1', 17, udp({source}, {target}, b'x')))")
    };
    let pairs = [(datagram(7, 45000), datagram(7, 9)), (datagram(1068, 53), datagram(67, 53))];
    both_ways_through_the_bridge(&world, || {
        for way in FLIPPING {
            for (allowed, forbidden) in &pairs {
                pod.flips(way, 50, allowed, allowed);
                pod.flips(way, 50, forbidden, forbidden);
                pod.flips(way, TRIES, allowed, forbidden);
            }
        }
    });
    assert_eq!(host.again(), "1068-53");
    read_twice_again(&world);
    world.until("an answer of a DHCP server", || {
        let (allowed, forbidden) = &pairs[1];
        pod.flips("vxlan", TRIES, allowed, forbidden);
        host.again().contains("67-53")
    });
}

#[test]
fn an_error_about_another_packet_than_the_one_that_was_read_reaches_no_socket() {
    let world = world("");
    let lan = world.neighbour("lan0", "10.2.10.1", "10.2.10.10");
    lan.user().serves("lan", "53");
    let pod = attacker(&world.alice());
    let host =
        RefCell::new(world.root().converses(&connected("10.2.10.1", 45000, "10.2.10.10", 53)));
    // Both have the same checksums, inside and outside.
    let about = |target: &str| {
        format!(
            "to_host(ip('10.10.10.2', '10.2.10.1', 1,
                refusal(ip('10.2.10.1', '{target}', 17, udp(45000, 53)))))"
        )
    };
    let (own, forged) = (about("10.10.10.2"), about("10.2.10.10"));
    count(&world.root(), "ip saddr 10.10.10.2 icmp type destination-unreachable");
    both_ways_through_the_bridge(&world, || {
        for way in FLIPPING {
            count_anew(&world.root(), "ip saddr 10.10.10.2 icmp type destination-unreachable");
            pod.flips(way, 50, &own, &own);
            assert_ne!(counted(&world.root()), 0, "{way}");
            pod.flips(way, 2 * TRIES, &own, &forged);
            assert_eq!(host.borrow_mut().again(), NOTHING, "{way}");
        }
    });
    read_twice_again(&world);
    world.until("an error about another packet", || {
        pod.flips("vxlan", TRIES, &own, &forged);
        host.borrow_mut().again() == "ConnectionRefusedError"
    });
}
