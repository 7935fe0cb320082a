//! What leaves a container: TCP, UDP and ping, and no other protocol that the policy does not name.

use crate::way_out::{count, counted, pings};
use crate::world::{ALICE, Container, HOST, REMOTE, User, World};

const ESP: u8 = 50;
const SCTP: u8 = 132;
/// Protocols without ports, with ports that the kernel knows, and ones that nobody knows (IANA's protocol
/// numbers): IGMP, IPIP, 6in4, GRE, ESP, AH, OSPF, VRRP, L2TP, SCTP, UDP-Lite, two experimental ones, raw.
const OTHERS: [u8; 14] = [2, 4, 41, 47, ESP, 51, 89, 112, 115, SCTP, 136, 253, 254, 255];

/// Has a container send a packet of each of these protocols to the remote host.
#[track_caller]
fn sends(pod: &Container<'_>, protocols: &[u8]) {
    pod.inside()
        .python(&format!(
            "raw = wire()
data = {{132: sctp(40000, 7), 136: udp_lite(40000, 7, (own(), '{REMOTE}'))}}
for protocol in {protocols:?}:
    raw.send(to_host(ip(own(), '{REMOTE}', protocol, data.get(protocol, bytes(32)))))
    time.sleep(0.01)"
        ))
        .done();
}

/// Waits until all that was sent before has come or was dropped.
#[track_caller]
fn settled(pod: &Container<'_>) {
    pings(&pod.inside(), REMOTE, true);
}

/// A raw socket of that protocol that says how often "secret" came, each time that it is asked.
fn listener(protocol: u8) -> String {
    format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, {protocol})
s.settimeout(0.3)
print('ready', flush=True)
for _ in sys.stdin:
    heard = 0
    try:
        while True: heard += b'secret' in s.recv(2000)
    except OSError: print(heard, flush=True)"
    )
}

/// Sends "secret" to an address by a raw socket.
#[track_caller]
fn tells(user: &User<'_>, protocol: u8, address: &str) {
    user.python(&format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, {protocol})
s.sendto(b'secret for the host', ('{address}', 0))"
    ))
    .done();
}

#[test]
fn a_protocol_that_the_policy_does_not_name_does_not_leave() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    count(&remote.user(), "ip protocol != { tcp, udp, icmp }");
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        sends(&pod, &OTHERS);
        settled(&pod);
        assert_eq!(counted(&remote.user()), 0);
    }
    // The host keeps no flow of these in mind either.
    assert_eq!(world.sh("conntrack -L 2>/dev/null | grep -Ecv '^(tcp|udp|icmp) ' || true"), "0\n");
}

#[test]
fn a_container_takes_over_nothing_of_the_hosts_own_peer() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    let mut host = world.root().converses(&listener(ESP));
    let mut inside = pod.inside().converses(&listener(ESP));
    // Whoever was first has the flow.
    sends(&pod, &[ESP]);
    settled(&pod);
    tells(&remote.user(), ESP, HOST);
    assert_eq!([host.again(), inside.again()], ["1", "0"]);
}

#[test]
fn a_protocol_that_the_policy_names_leaves_with_the_hosts_address() {
    let world = World::with_policy(&format!("[network]\nprotocols = [\"sctp\", \"esp\"]\n{ALICE}"));
    let remote = world.internet();
    let pod = world.alice().attached();
    count(&remote.user(), &format!("ip saddr {HOST} ip protocol {{ esp, sctp }}"));
    sends(&pod, &[ESP, SCTP]);
    world.until("both packets", || counted(&remote.user()) == 2);
    let others: Vec<_> = OTHERS.into_iter().filter(|other| ![ESP, SCTP].contains(other)).collect();
    remote.sh("nft delete table inet seen");
    count(&remote.user(), "ip protocol != { tcp, udp, icmp }");
    sends(&pod, &others);
    settled(&pod);
    assert_eq!(counted(&remote.user()), 0);
    // And no longer, once the policy does not name them.
    world.policy(ALICE);
    let next = world.alice().attached();
    sends(&next, &[ESP, SCTP]);
    settled(&next);
    assert_eq!(counted(&remote.user()), 0);
}

#[test]
fn of_icmp_only_ping_and_errors_leave() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    count(&remote.user(), "icmp type != { echo-request, echo-reply }");
    // Router advertisement and solicitation, timestamp, information, address mask: and their answers.
    pod.inside()
        .python(&format!(
            "raw = wire()
for kind in 9, 10, 13, 14, 15, 16, 17, 18:
    for to in '{REMOTE}', '{HOST}':
        raw.send(to_host(ip(own(), to, 1, icmp(kind, 0, bytes(4), bytes(12)))))
    time.sleep(0.005)"
        ))
        .done();
    settled(&pod);
    assert_eq!(counted(&remote.user()), 0);
}

#[test]
fn a_packet_with_ipv4_options_goes_nowhere() {
    let world = World::with_policy(&format!(
        "[network]\nisolation = \"none\"\nhost_access = \"all\"\n{ALICE}"
    ));
    let remote = world.internet();
    let (pod, other) = (world.alice().attached(), world.alice().attached());
    for user in [&world.root(), &remote.user(), &other.inside()] {
        count(user, "udp dport 9 ip hdrlength > 5");
    }
    // Nothing at all, a route to be recorded, time stamps, a strict and a loose source route, router alert.
    pod.inside()
        .python(&format!(
            "raw = wire()
own_mac = mac(own())
hop = socket.inet_aton('10.10.10.3')
for options in (b'\\1' * 4, b'\\7\\7\\4' + bytes(5), b'\\x44\\x08\\5\\0' + bytes(4),
        b'\\x89\\7\\4' + hop + b'\\0', b'\\x83\\7\\4' + hop + b'\\0', b'\\x94\\4\\0\\0', b'\\0' * 40):
    for to, address in ('10.10.10.1', '{REMOTE}'), ('10.10.10.1', '10.10.10.1'), ('10.10.10.3', '10.10.10.3'):
        packet = ip(own(), address, 17, udp(9, 9, b'x'), options=options)
        raw.send(ethernet(mac(to), own_mac, 0x0800, packet))
        time.sleep(0.002)"
        ))
        .done();
    settled(&pod);
    for user in [&world.root(), &remote.user(), &other.inside()] {
        assert_eq!(counted(user), 0);
    }
}
