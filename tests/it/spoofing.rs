//! What a container sends as another: it goes nowhere, not even into the bridge's table.

use std::net::Ipv4Addr;

use crate::world::{ALICE, BROADCAST, Container, Frame, Mac, REMOTE, Running, World, mac_of};

const OWN: &str = "10.10.10.2";
const OTHER: &str = "10.10.10.3";
const HOST: &str = "10.10.10.1";
const NOBODY: &str = "10.10.10.77";

/// No frames.
const NONE: [usize; 0] = [];

/// A world in which nothing but the filter against forged frames drops any.
fn open_world() -> World {
    World::with_policy(&format!("[network]\nisolation = \"none\"\nhost_access = \"all\"\n{ALICE}"))
}

/// What a container may send.
fn honest() -> Vec<Frame> {
    let own = mac_of(OWN);
    let mut frames = vec![
        Frame::arp(BROADCAST, own, 1, (own, OWN), OTHER),
        Frame::arp(BROADCAST, own, 1, (own, OWN), OWN),
        Frame::arp(BROADCAST, own, 2, (own, OWN), OWN),
        Frame::arp(mac_of(OTHER), own, 2, (own, OWN), OTHER),
        Frame::arp(mac_of(HOST), own, 2, (own, OWN), HOST),
        Frame::udp(BROADCAST, own, OWN, "255.255.255.255", 7777),
        Frame::udp(BROADCAST, own, OWN, "10.10.10.255", 7777),
        Frame::udp([1, 0, 0x5e, 0, 0, 0xfb], own, OWN, "224.0.0.251", 7777),
    ];
    frames.extend([OTHER, HOST].map(|ip| Frame::udp(mac_of(ip), own, OWN, ip, 7777)));
    frames
}

/// The three places that frames are sent to: an Ethernet address, and the IPv4 address that goes with it.
fn places() -> [(Mac, &'static str); 3] {
    [(mac_of(OTHER), OTHER), (mac_of(HOST), HOST), (BROADCAST, "10.10.10.255")]
}

/// What a container may not send: each with what it is.
fn forged() -> Vec<(String, Frame)> {
    let own = mac_of(OWN);
    let macs = [OTHER, HOST, NOBODY].map(mac_of);
    // Of its own host end, of a network card, and of one that differs in a bit.
    let macs =
        [&macs[..], &[[0xfe, 0x4e, 10, 10, 10, 2], [2, 0, 0, 0, 0, 1], mac_of("10.10.10.6")]]
            .concat();
    let mut all = Vec::new();
    let mut add = |what: String, frame: Frame| all.push((what, frame));
    for (to, target) in places() {
        for ip in [OTHER, HOST, NOBODY, "10.10.10.0", "10.10.10.255", "8.8.8.8", "0.0.0.0"] {
            add(format!("IPv4 from {ip} to {target}"), Frame::udp(to, own, ip, target, 7777));
            for operation in [1, 2] {
                let sender = (own, ip);
                let frame = Frame::arp(to, own, operation, sender, target);
                add(format!("ARP {operation} of {sender:x?} to {target}"), frame);
            }
        }
        for mac in &macs {
            add(format!("IPv4 from {mac:x?} to {target}"), Frame::udp(to, *mac, OWN, target, 7777));
            for operation in [1, 2] {
                for (outside, inside) in [(*mac, own), (own, *mac), (*mac, *mac)] {
                    let frame = Frame::arp(to, outside, operation, (inside, OWN), target);
                    add(format!("ARP {operation} of {inside:x?} by {outside:x?}"), frame);
                }
            }
            // Another container altogether.
            let ip = Ipv4Addr::from([mac[2], mac[3], mac[4], mac[5]]).to_string();
            add(format!("all of {ip} to {target}"), Frame::udp(to, *mac, &ip, target, 7777));
            let frame = Frame::arp(to, *mac, 2, (*mac, &ip), target);
            add(format!("ARP, all of {ip}, to {target}"), frame);
        }
        let rightful =
            [Frame::udp(to, own, OWN, target, 7777), Frame::arp(to, own, 2, (own, OWN), target)];
        let tags: [&[u8]; 7] = [
            &[0x81, 0x00, 0x00, 0x05],
            &[0x81, 0x00, 0x00, 0x00],
            &[0x81, 0x00, 0xe0, 0x01],
            &[0x88, 0xa8, 0x00, 0x05],
            &[0x88, 0xa8, 0x00, 0x00],
            &[0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x00, 0x00],
            &[0x81, 0x00, 0x00, 0x00, 0x81, 0x00, 0x00, 0x00],
        ];
        for tags in tags {
            for frame in &rightful {
                add(format!("tagged {tags:x?} to {target}"), frame.tagged(tags));
            }
        }
        add(format!("IPv6 to {target}"), Frame::ipv6(to, own));
        for kind in KINDS {
            let frame = Frame::new(to, own, &kind, &[0x42; 46]);
            add(format!("of type {kind:x?} to {target}"), frame);
        }
        // ARP of other networks, which has its addresses elsewhere.
        for start in
            [[0, 6, 8, 0, 6, 4], [0, 1, 8, 1, 6, 4], [0, 1, 8, 0, 8, 4], [0, 1, 8, 0, 6, 16]]
        {
            let says = [&start[..], &[0, 2], &own, &[10, 10, 10, 2], &[0; 10]].concat();
            add(format!("ARP {start:x?}"), Frame::new(to, own, &[0x08, 0x06], &says));
        }
        let dhcp = Frame::udp(to, own, OWN, target, 67);
        add(format!("a DHCP server to {target}"), dhcp);
    }
    // To the link-local groups, of which no bridge ever forwards :01.
    for last in (0..16).filter(|last| *last != 1) {
        let group = [0x01, 0x80, 0xc2, 0, 0, last];
        add(format!("STP to {group:x?}"), Frame::new(group, own, &[0, 38], &STP));
        add(format!("LLDP to {group:x?}"), Frame::new(group, own, &[0x88, 0xcc], &[0x42; 46]));
        let forged = Frame::udp(group, own, OTHER, "10.10.10.255", 7777);
        add(format!("IPv4 to {group:x?}"), forged);
        let tagged = Frame::udp(group, own, OWN, "10.10.10.255", 7777).tagged(&[0x81, 0, 0, 0]);
        add(format!("tagged to {group:x?}"), tagged);
    }
    all
}

/// Types of frames that are neither IPv4, ARP nor IPv6: RARP, PPPoE, EAPOL, LLDP, MACsec, loopback,
/// AppleTalk, PTP, TRILL, 802.1ah, and one of a length.
const KINDS: [[u8; 2]; 11] = [
    [0x80, 0x35],
    [0x88, 0x63],
    [0x88, 0x8e],
    [0x88, 0xcc],
    [0x88, 0xe5],
    [0x90, 0x00],
    [0x80, 0x9b],
    [0x88, 0xf7],
    [0x22, 0xf3],
    [0x88, 0xe7],
    [0x00, 0x2e],
];

/// The beginning of a bridge protocol data unit: LLC, and the protocol's identifier (802.1D).
const STP: [u8; 38] = {
    let mut unit = [0; 38];
    unit[0] = 0x42;
    unit[1] = 0x42;
    unit[2] = 0x03;
    unit
};

/// Has `pod` send frames. Gives the numbers of those that arrive: at the other container, at the host,
/// or at the host end of the other container.
#[track_caller]
fn arriving(
    world: &World,
    pod: &Container<'_>,
    other: &Container<'_>,
    all: &[Frame],
) -> Vec<usize> {
    let last = Frame::arp(BROADCAST, mac_of(OWN), 1, (mac_of(OWN), OWN), NOBODY);
    let ears = [other.inside().listens("veth1"), world.root().listens("brg0 ns1000-1")];
    pod.sends(all, &last);
    let mut heard: Vec<_> = ears.into_iter().flat_map(|ear| ear.heard()).collect();
    heard.sort_unstable();
    heard.dedup();
    heard
}

#[test]
fn what_a_container_sends_as_another_arrives_nowhere() {
    for nf_call in [1, 0] {
        let world = open_world();
        let (pod, other) = (world.alice().attached(), world.alice().attached());
        world.sh(&format!("echo {nf_call} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        let honest = honest();
        let all: Vec<_> = (0..honest.len()).collect();
        assert_eq!(arriving(&world, &pod, &other, &honest), all, "what is its own arrives");
        let (names, forged): (Vec<_>, Vec<_>) = forged().into_iter().unzip();
        let heard = arriving(&world, &pod, &other, &forged);
        let heard: Vec<_> = heard.into_iter().map(|number| &names[number]).collect();
        assert!(heard.is_empty(), "{heard:#?}");
        // Without the filter each is heard.
        world.sh("nft delete table bridge netsetgo");
        let heard = arriving(&world, &pod, &other, &forged);
        let lost: Vec<_> =
            (0..names.len()).filter(|number| !heard.contains(number)).map(|n| &names[n]).collect();
        assert!(lost.is_empty(), "{lost:#?}");
        // And with the next attach none.
        world.alice().netsetgo(format!("-pid {pod}")).done();
        assert_eq!(arriving(&world, &pod, &other, &forged), NONE);
    }
}

#[test]
fn what_a_container_claims_by_arp_is_not_believed() {
    let world = open_world();
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    let own = mac_of(OWN);
    let claims: Vec<_> = [(mac_of(OTHER), OTHER, HOST), (mac_of(HOST), HOST, OTHER)]
        .into_iter()
        .flat_map(|(to, target, claimed)| {
            [1, 2].map(|operation| Frame::arp(to, own, operation, (own, claimed), target))
        })
        .collect();
    let neighbours = || {
        let there = other.sh("ip neigh show 10.10.10.1");
        let here = world.sh("ip neigh show 10.10.10.3 dev brg0");
        [there, here]
            .map(|line| line.split_whitespace().find(|w| w.contains(':')).map(str::to_owned))
    };
    let rightful = ["02:4e:0a:0a:0a:01", "02:4e:0a:0a:0a:03"].map(|mac| Some(mac.to_owned()));
    other.sh(&format!("busybox ping -c 1 -W 10 {HOST} >/dev/null"));
    assert_eq!(neighbours(), rightful);
    arriving(&world, &pod, &other, &claims);
    assert_eq!(neighbours(), rightful);
    // Without the filter both believe it; the kernel takes no second answer within a second.
    world.sh("nft delete table bridge netsetgo");
    world.until("the claims to be believed", || {
        arriving(&world, &pod, &other, &claims);
        neighbours() == [(); 2].map(|()| Some("02:4e:0a:0a:0a:02".to_owned()))
    });
}

#[test]
fn a_container_that_takes_another_address_is_cut_off() {
    let world = open_world();
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    other.inside().serves("other", "7");
    world.root().serves("host", "7");
    let reaches = || {
        let asked = [OTHER, HOST].map(|ip| pod.inside().starts_asking("udp", ip, 7));
        asked.map(Running::answer)
    };
    let served = |as_whom: &str| [format!("other {as_whom}"), format!("host {as_whom}")];
    let nothing = || ["nothing".to_owned(), "nothing".to_owned()];
    assert_eq!(reaches(), served(OWN));
    let gone = "ip address del 10.10.10.2/24 dev veth1; ip address add 10.10.10.9/24 dev veth1";
    let moved = "ip link set veth1 down; ip link set veth1 address 02:4e:0a:0a:0a:09
                 ip link set veth1 up";
    pod.sh(gone);
    assert_eq!(reaches(), nothing());
    // All of another lease that is free, but for the port.
    pod.sh(moved);
    assert_eq!(reaches(), nothing());
    pod.sh("ip address del 10.10.10.9/24 dev veth1; ip address add 10.10.10.2/24 dev veth1");
    assert_eq!(reaches(), nothing());
    pod.sh("ip link set veth1 down; ip link set veth1 address 02:4e:0a:0a:0a:02
            ip link set veth1 up");
    assert_eq!(reaches(), served(OWN));
    // A second one beside its own is not leased either.
    pod.sh("ip address add 10.10.10.9/24 dev veth1; ip route replace 10.10.10.0/24 dev veth1 src 10.10.10.9");
    assert_eq!(reaches(), nothing());
    world.sh("nft delete table bridge netsetgo");
    assert_eq!(reaches(), served("10.10.10.9"));
}

#[test]
fn a_probe_for_an_address_is_not_heard_and_finds_it_free() {
    let world = open_world();
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    other.sh("ip link set veth1 up");
    let probe = |ip: &str| pod.inside().sh(&format!("busybox arping -D -c 2 -I veth1 {ip}")).status;
    assert_eq!([probe(OWN), probe(OTHER)], [0, 0]);
    world.sh("nft delete table bridge netsetgo");
    assert_eq!([probe(OWN), probe(OTHER)], [0, 1]);
}

/// How many entries the bridge's table has.
fn entries(world: &World) -> usize {
    world.sh("bridge fdb show br brg0").lines().count()
}

#[test]
fn a_container_cannot_fill_the_bridges_table_nor_take_anothers_place_in_it() {
    let world = open_world();
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    let strangers: Vec<_> = (0..200)
        .map(|n| Frame::udp(BROADCAST, [2, 0, 0, 0, 1, n], OWN, "10.10.10.255", 7))
        .collect();
    let before = entries(&world);
    arriving(&world, &pod, &other, &strangers);
    assert_eq!(entries(&world), before);
    // Neither without the filter, nor without what the port says.
    world.sh("nft delete table bridge netsetgo");
    arriving(&world, &pod, &other, &strangers);
    assert_eq!(entries(&world), before);
    world.alice().netsetgo(format!("-pid {pod}")).done();
    world.sh("ip link set ns1000-0 type bridge_slave learning on");
    arriving(&world, &pod, &other, &strangers);
    assert_eq!(entries(&world), before);
    world.sh("nft delete table bridge netsetgo");
    arriving(&world, &pod, &other, &strangers);
    assert!(entries(&world) >= before + 200);
}

#[test]
fn frames_of_others_at_a_bridge_of_the_administrators_pass() {
    let world = open_world();
    let lan = world.lan_at_the_bridge();
    let pod = world.alice().attached();
    pod.inside().serves("pod", "7");
    lan.user().serves("lan", "7");
    assert_eq!(lan.user().asks("tcp", "10.10.10.2", 7), "pod 10.10.10.200");
    assert_eq!(pod.inside().asks("tcp", "10.10.10.200", 7), "lan 10.10.10.2");
}

#[test]
fn a_host_at_a_port_of_the_admins_takes_no_containers_place_in_the_bridges_table() {
    let world = open_world();
    let lan = world.lan_at_the_bridge();
    let _pod = world.alice().attached();
    lan.sh("ip link set eth0 address 02:4e:0a:0a:0a:02");
    let entry = || {
        // No host answers: what is for this address goes to one of the two.
        let _ = lan.user().sh("busybox ping -c 1 -W 1 10.10.10.1");
        world.sh("bridge fdb show br brg0 | grep ^02:4e:0a:0a:0a:02")
    };
    assert!(entry().contains("dev ns1000-0 "), "{}", entry());
    // An entry that is static and no more moves.
    world.sh("bridge fdb replace 02:4e:0a:0a:0a:02 dev ns1000-0 master static");
    assert!(entry().contains("dev lan0 "), "{}", entry());
}

#[test]
fn without_nat_a_container_sends_as_itself_alone_all_the_same() {
    let world = World::with_policy(&format!(
        "[network]\nnat = false\nisolation = \"none\"\nhost_access = \"all\"\n{ALICE}"
    ));
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    let (_, forged): (Vec<_>, Vec<_>) = forged().into_iter().unzip();
    assert_eq!(arriving(&world, &pod, &other, &forged), NONE);
}

#[test]
fn link_local_multicast_of_a_container_stays_on_its_bridge() {
    let world = open_world();
    let remote = world.internet();
    let pod = world.alice().attached();
    world.sh("ip route add 224.0.0.0/4 dev eth0");
    let own = mac_of(OWN);
    // To the group's own Ethernet address, and to that of the router.
    let groups = ["224.0.0.251", "224.0.0.5", "224.0.0.1", "255.255.255.255", "192.0.2.255"];
    let mut frames: Vec<_> =
        groups.iter().map(|group| Frame::udp(mac_of(HOST), own, OWN, group, 7777)).collect();
    frames.extend(groups.map(|group| Frame::udp(BROADCAST, own, OWN, group, 7777)));
    // Which routes what is another's, so that this would arrive.
    let last = Frame::udp(mac_of(HOST), own, OWN, REMOTE, 7777);
    let ear = remote.user().listens("eth0");
    pod.sends(&frames, &last);
    assert_eq!(ear.heard(), NONE);
}
