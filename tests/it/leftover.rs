//! What is left of published ports when their container is gone: it must lead nobody to the
//! container that gets its address next.

use std::collections::BTreeSet;

use nix::libc;

use crate::publish::{published, three_users};
use crate::world::{
    Choice, Container, Conversation, HOST, Part, REMOTE, Remote, Trace, User, WITHOUT_MEMORY, World,
};

/// What every container of these tests has that comes first.
const ADDRESS: &str = "10.10.10.2";

/// Those [elements](World::elements) that lead to an address.
pub(crate) fn leading_to(elements: &BTreeSet<String>, address: &str) -> Vec<String> {
    let place = format!(" {address} . ");
    elements.iter().filter(|element| element.contains(&place)).cloned().collect()
}

/// The elements by which port `host` leads to port 80 of what hangs on the host's link `link`.
pub(crate) fn one_port(link: &str, host: u16, address: &str) -> Vec<String> {
    vec![
        format!("live: 6 . {host} . {address} . 80"),
        format!("ports: 6 . {host} comment \"{link}\" : {address} . 80"),
    ]
}

/// Asks for that address, which another user's container had.
pub(crate) const AT: &str = "-containerAddress 10.10.10.2/24";

/// Starts a container, which gets the address of the one before, and attaches it.
#[track_caller]
pub(crate) fn next<'w>(user: &User<'w>, publish: &str) -> Container<'w> {
    published(user, &format!("{AT} {publish}"))
}

/// Takes the wire out of a container from inside, if it has one.
pub(crate) fn unwire(pod: &Container<'_>) {
    let _ = pod.inside().sh("ip link del veth1");
    assert_eq!(pod.links(), ["lo"]);
}

/// Ends containers, each with everybody who is inside.
#[track_caller]
fn end(world: &World, pods: &[&Container<'_>]) {
    for pod in pods {
        world.sh(&format!(
            "namespace=$(readlink /proc/{pod}/ns/net)
             for process in /proc/[0-9]*; do
                 if [ \"$(readlink $process/ns/net)\" = \"$namespace\" ]; then
                     kill -9 ${{process#/proc/}}
                 fi
             done"
        ));
        pod.kill();
    }
}

#[test]
fn a_dead_containers_clients_reach_no_container() {
    let world = three_users();
    let remote = world.internet();
    let (alice, bob, carol) = (world.alice(), world.bob(), world.user("carol"));
    // A further port of the bridge keeps it up.
    let other = carol.container();
    let publish = "-publish 8080:80 -publish 8080:80/udp \
        -publish 192.0.2.1:8081:80 -publish 192.0.2.1:8081:80/udp";
    let alike = "-publish 8090:80 -publish 8090:80/udp -publish 10.10.10.1:8081:80 \
        -publish 10.10.10.1:8081:80/udp -publish 10.10.10.1:8080:80 \
        -publish 10.10.10.1:8080:80/udp";
    for (how, theirs) in [("kill", ""), ("unwire", ""), ("kill", alike), ("unwire", alike)] {
        let pod = next(&alice, publish);
        let _ = carol.netsetgo(format!("-pid {other}")).done();
        pod.inside().serves("alice", "80");
        let mut clients = Vec::new();
        for who in [remote.user(), world.root(), other.inside()] {
            for (protocol, port) in [("tcp", 8080), ("udp", 8080), ("tcp", 8081), ("udp", 8081)] {
                let client = who.holds(protocol, HOST, port);
                assert!(client.first.starts_with("alice "), "{}", client.first);
                clients.push((client, protocol, port));
            }
        }
        match how {
            "kill" => end(&world, &[&pod]),
            _ => unwire(&pod),
        }
        world.until("alice's lease to go", || world.leases() == ["ns1002-0"]);
        let heir = next(&bob, theirs);
        heir.inside().serves("bob", "80");
        std::thread::scope(|scope| {
            for (client, protocol, port) in &mut clients {
                scope.spawn(move || {
                    let heard = client.again();
                    assert_eq!(heard, "nothing", "{protocol} {port}, {how}, {theirs}");
                });
            }
        });
        for port in [8080, 8081] {
            assert_eq!(remote.user().asks("tcp", HOST, port), "nothing");
        }
        // Those that are his are reached all the while.
        if !theirs.is_empty() {
            assert_eq!(remote.user().asks("udp", HOST, 8090), "bob 192.0.2.9");
            assert!(other.inside().asks("tcp", "10.10.10.1", 8080).starts_with("bob "));
        }
        // And the dead one's can be published again by their owner, as far as they are free.
        let again = published(&alice, "-publish 192.0.2.1:8081:80 -publish 192.0.2.1:8080:80");
        again.inside().serves("again", "80");
        assert_eq!(remote.user().asks("tcp", HOST, 8080), "again 192.0.2.9");
        assert_eq!(remote.user().asks("tcp", HOST, 8081), "again 192.0.2.9");
        end(&world, &[&heir, &again]);
        if how == "unwire" {
            end(&world, &[&pod]);
        }
        world.until("all leases to go", || world.leases() == ["ns1002-0"]);
    }
}

/// Sends a datagram to the host's port 8080.
#[track_caller]
fn send_secret(who: &User<'_>) {
    who.sh(&format!(
        "exec python3 -c 'import socket; \
         socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"secret\", (\"{HOST}\", 8080))'"
    ))
    .done();
}

/// Has the host hold a datagram for port 80 of a container that is gone, until somebody has its
/// address.
#[track_caller]
fn queue(world: &World) {
    world.sh(&format!("ip neigh del {ADDRESS} dev brg0 2>/dev/null || true"));
    send_secret(&world.root());
    let seen = world.sh(&format!("ip neigh show {ADDRESS} dev brg0"));
    assert!(seen.contains("INCOMPLETE"), "nothing is queued: {seen:?}");
}

/// How many datagrams have come to a container, once it has talked with the host.
#[track_caller]
pub(crate) fn datagrams(pod: &Container<'_>) -> u32 {
    pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    let counted = pod.sh("grep ^Udp: /proc/net/snmp | tail -n 1");
    // InDatagrams and NoPorts.
    counted.split_whitespace().skip(1).take(2).map(|count| count.parse::<u32>().unwrap()).sum()
}

#[test]
fn what_waits_for_a_dead_containers_address_is_not_delivered_to_the_next() {
    let world = three_users();
    let _remote = world.internet();
    let other = world.user("carol").container();
    for prune in ["true", "netsetgo -prune"] {
        let pod = next(&world.alice(), "-publish 8080:80/udp");
        world.user("carol").netsetgo(format!("-pid {other}")).done();
        assert_eq!(datagrams(&pod), 0);
        pod.kill();
        world.until("alice's lease to go", || world.leases() == ["ns1002-0"]);
        let heir = world.bob().container();
        queue(&world);
        world.bob().sh(prune).done();
        world.bob().netsetgo(format!("-pid {heir} {AT}")).done();
        assert_eq!(datagrams(&heir), 0, "after {prune}");
        heir.kill();
        world.until("bob's lease to go", || world.leases() == ["ns1002-0"]);
    }
}

#[test]
fn a_run_killed_anywhere_leaves_nothing_that_waits_for_the_next() {
    let world = three_users();
    let _remote = world.internet();
    let (alice, bob) = (world.alice(), world.bob());
    let other = world.user("carol").container();
    for step in 1.. {
        next(&alice, "-publish 8080:80/udp").kill();
        world.until("alice's lease to go", || !world.leases().contains(&"ns1000-0".to_owned()));
        // A further port of the bridge keeps it up.
        world
            .user("carol")
            .netsetgo(format!("-pid {other} -containerAddress 10.10.10.9/24"))
            .done();
        let heir = bob.container();
        queue(&world);
        let (mut steps, mut choice) = (0, Choice::of_kills());
        let run = Trace::of(&bob, format!("netsetgo -pid {heir} -wait 0 {AT}"));
        let killed = run.freeze(|stage| {
            let is_step = stage.part == Part::Parent
                && stage.call == libc::SYS_sendto
                && choice.takes(&stage);
            steps += usize::from(is_step);
            is_step && steps == step
        });
        let ended = killed.is_none();
        if let Some(frozen) = killed {
            frozen.kill();
        }
        bob.netsetgo(format!("-pid {heir} {AT}")).done();
        assert_eq!(datagrams(&heir), 0, "killed after step {step}");
        heir.kill();
        world.until("bob's lease to go", || world.leases() == ["ns1002-0"]);
        if ended {
            break;
        }
    }
}

#[test]
fn a_dead_containers_clients_are_overheard_by_no_container() {
    let world = three_users();
    let remote = world.internet();
    let listening = world.bob().attached();
    let pod = published(&world.alice(), "-publish 8080:80/udp");
    pod.inside().serves("alice", "80");
    assert_eq!(remote.user().asks("udp", HOST, 8080), "alice 192.0.2.9");
    end(&world, &[&pod]);
    world.until_leases_are(&["ns1001-0"]);
    let overheard = listening.inside().start(
        "exec python3 -c '
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.settimeout(1)
open(\"/tmp/ready\", \"w\")
try:
    while b\"secret\" not in s.recv(2048): pass
    print(\"overheard\")
except OSError: pass'",
    );
    let ready = world.path("/tmp/ready");
    world.until("somebody to listen", || ready.exists());
    send_secret(&remote.user());
    assert_eq!(overheard.end().done(), "");
}

#[test]
fn with_nat_switched_off_since_old_ports_lead_nowhere_all_the_same() {
    let world = three_users();
    next(&world.alice(), "-publish 8080:80").kill();
    world.until_leases_are(&[]);
    world.policy("[network]\nnat = false\n[[allow]]\nuser = \"bob\"\n");
    next(&world.bob(), "");
    assert_eq!(leading_to(&world.elements(), ADDRESS), Vec::<String>::new());
}

/// Has a remote host send an error about a datagram from `HOST:8080` to its own port 7777, as if
/// nobody waited there.
#[track_caller]
fn port_unreachable(remote: &Remote<'_>) {
    remote.sh(&format!(
        "exec python3 -c '
import socket, struct
def summed(data):
    total = sum(struct.unpack(f\"!{{len(data) // 2}}H\", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff
def ip(check):
    return struct.pack(\"!BBHHHBBH4s4s\", 0x45, 0, 30, 0, 0, 64, 17, check,
        socket.inet_aton(\"{HOST}\"), socket.inet_aton(\"{REMOTE}\"))
about = ip(summed(ip(0))) + struct.pack(\"!HHHH\", 8080, 7777, 10, 0) + b\"??\"
check = summed(struct.pack(\"!BBHI\", 3, 3, 0, 0) + about)
error = struct.pack(\"!BBHI\", 3, 3, check, 0) + about
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).sendto(error, (\"{HOST}\", 0))'"
    ));
}

/// How many ICMP errors have come to a container that say that nobody waits at a port.
#[track_caller]
fn unreachables(pod: &Container<'_>) -> u32 {
    pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    pod.sh("awk '/^Icmp:/ && $2 ~ /[0-9]/ { print $5 }' /proc/net/snmp").trim().parse().unwrap()
}

#[test]
fn errors_about_a_dead_containers_answers_are_not_delivered_to_the_next() {
    let world = three_users();
    let remote = world.internet();
    let pod = next(&world.alice(), "-publish 8080:80/udp");
    pod.inside().serves("alice", "80");
    remote.sh(&format!(
        "exec python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"\", 7777))
s.sendto(b\"?\", (\"{HOST}\", 8080))
s.recv(64)'"
    ));
    // One about a living container's is delivered.
    port_unreachable(&remote);
    assert_eq!(unreachables(&pod), 1);
    end(&world, &[&pod]);
    world.until_leases_are(&[]);
    let heir = next(&world.bob(), "");
    port_unreachable(&remote);
    assert_eq!(unreachables(&heir), 0);
}

#[test]
fn a_flow_that_goes_on_reaches_the_container_that_publishes_the_port_anew() {
    let world = three_users();
    let remote = world.internet();
    let (alice, bob) = (world.alice(), world.bob());
    let pod = next(&alice, "-publish 8080:80/udp");
    pod.inside().serves("alice", "80");
    let mut client: Conversation = remote.user().holds("udp", HOST, 8080);
    assert_eq!(client.first, "alice 192.0.2.9");
    end(&world, &[&pod]);
    world.until_leases_are(&[]);
    next(&bob, "");
    let again = published(&alice, "-publish 8080:80/udp");
    again.inside().serves("again", "80");
    assert_eq!(client.again(), "again 192.0.2.9");
}

#[test]
fn pruning_takes_out_what_the_dead_left_and_nothing_else() {
    let world = three_users();
    let _remote = world.internet();
    let (alice, bob) = (world.alice(), world.bob());
    // Where there is nothing, there is nothing to do.
    assert_eq!(bob.netsetgo("-prune").done(), "");
    world.sh("! nft list table inet netsetgo 2>/dev/null");
    let publish = |port: u16| {
        format!("-publish {port}:80 -publish {port}:80/udp -publish 192.0.2.1:{}:80", port + 1)
    };
    let pods: Vec<_> = [8080, 8090, 8100, 8110].map(|p| published(&alice, &publish(p))).into();
    let before = world.elements();
    assert_eq!(before.len(), 4 * 7);
    alice.netsetgo("-prune").done();
    assert_eq!(world.elements(), before);
    pods[0].kill();
    unwire(&pods[2]);
    world.until_leases_are(&["ns1000-1", "ns1000-3"]);
    // Not by whom the policy does not know, and nothing is changed.
    world.user("dave").refused("-prune", "uid 1003: not allowed");
    assert_eq!(world.elements(), before);
    bob.netsetgo("-prune").done();
    let mut living = before;
    living.retain(|element| !element.contains("10.10.10.2") && !element.contains("10.10.10.4"));
    assert_eq!(living.len(), 2 * 7);
    assert_eq!(world.elements(), living);
    pods[1].kill();
    pods[3].kill();
    world.until_leases_are(&[]);
    world.root().netsetgo("-prune").done();
    assert_eq!(world.elements(), BTreeSet::new());
    // Where somebody has flushed the rules they are put back, as forwarding is still on.
    let list = format!("nft list ruleset | sed -E '{WITHOUT_MEMORY}' | grep -v '\"ns[0-9]*-\\*\"'");
    let rules = world.sh(&list);
    world.sh("nft flush ruleset");
    alice.netsetgo("-prune").done();
    assert_eq!(world.sh(&list), rules, "all but the users and who had which address");
}

#[test]
fn an_owner_gets_the_port_back_before_the_next_lessee_has_come_to_take_it_out() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    next(&alice, "-publish 8080:80 -publish 127.0.0.1:8081:80").kill();
    world.until_leases_are(&[]);
    let heir = bob.container();
    let run = Trace::of(&bob, format!("netsetgo -pid {heir} {AT}"));
    run.freeze(|_| !world.leases().is_empty()).unwrap().kill();
    assert_eq!(leading_to(&world.elements(), ADDRESS).len(), 4);
    let again = published(&alice, "-wait 0 -publish 8080:80 -publish 8081:80");
    assert_eq!(leading_to(&world.elements(), ADDRESS), Vec::<String>::new());
    assert_eq!(leading_to(&world.elements(), &again.address().replace("/24", "")).len(), 4);
}

#[test]
fn a_dead_containers_ports_are_removed_by_the_next_run_that_meets_them() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let publish = "-publish 8080:80 -publish 127.0.0.1:8081:80/udp";
    let dies = || {
        next(&alice, publish).kill();
        world.until_leases_are(&[]);
    };
    let none = || assert_eq!(world.elements(), BTreeSet::new());
    // By the run that gets the address,
    dies();
    let heir = next(&bob, "");
    none();
    heir.kill();
    world.until_leases_are(&[]);
    // by the one that publishes a port of theirs,
    dies();
    let other = published(&bob, "-containerAddress 10.10.10.9/24 -publish 8080-8081:80-81");
    assert_eq!(leading_to(&world.elements(), ADDRESS), Vec::<String>::new());
    // and by -delete. A run that fails has published nothing.
    bob.netsetgo(format!("-delete -pid {other}")).done();
    none();
    let pod = alice.container();
    let elsewhere = "ip link set lo up; ip route replace default dev lo";
    pod.sh(elsewhere);
    alice.failed(format!("-pid {pod} {publish}"), "default route");
    none();
    pod.sh("ip route del default");
    alice.netsetgo(format!("-pid {pod} {AT} -publish 8090:80")).done();
    pod.sh(elsewhere);
    alice.failed(format!("-pid {pod} {publish}"), "default route");
    assert_eq!(leading_to(&world.elements(), ADDRESS), one_port("ns1000-0", 8090, ADDRESS));
}

#[test]
fn what_waits_for_a_deleted_containers_address_is_not_delivered_to_the_next() {
    let world = three_users();
    let _remote = world.internet();
    let other = world.user("carol").container();
    let pod = next(&world.alice(), "-publish 8080:80/udp");
    world.user("carol").netsetgo(format!("-pid {other}")).done();
    // It has its wire still, but does not answer.
    pod.sh("ip link set veth1 down");
    queue(&world);
    world.alice().netsetgo(format!("-delete -pid {pod}")).done();
    let heir = next(&world.bob(), "");
    assert_eq!(datagrams(&heir), 0);
}

#[test]
fn who_sends_from_anothers_mac_does_not_hear_what_is_for_it() {
    let world = three_users();
    next(&world.alice(), "");
    let forger = world.bob().attached();
    let entry = || world.sh("bridge fdb show br brg0 | grep 02:4e:0a:0a:0a:02");
    assert!(entry().contains("dev ns1000-0 "), "{}", entry());
    forger.sh("ip link set veth1 address 02:4e:0a:0a:0a:02");
    let _ = forger.inside().sh("busybox ping -c 1 -W 1 10.10.10.1");
    assert!(!entry().contains("ns1001-0"), "{}", entry());
}
