//! What is left of published ports when their container is gone: it must lead nobody to the
//! container that gets its address next.

use std::collections::BTreeSet;

use nix::libc;

use crate::publish::{published, three_users};
use crate::world::{
    Container, Conversation, Frozen, HOST, Outcome, Part, REMOTE, Remote, Trace, User, World,
};

/// What every container of these tests has that comes first.
const ADDRESS: &str = "10.10.10.2";

/// Those that lead to an address.
fn leading_to(world: &World, address: &str) -> Vec<String> {
    let place = format!(" {address} . ");
    world.elements().into_iter().filter(|element| element.contains(&place)).collect()
}

/// The elements by which port `host` leads to port 80 of what hangs on the host's link `link`.
fn one_port(link: &str, host: u16, address: &str) -> Vec<String> {
    vec![
        format!("live: 6 . {host} . {address} . 80"),
        format!("ports: 6 . {host} comment \"{link}\" : {address} . 80"),
    ]
}

/// Asks for that address, which another user's container had.
const AT: &str = "-containerAddress 10.10.10.2/24";

/// Starts a container, which gets the address of the one before, and attaches it.
#[track_caller]
fn next<'w>(user: &User<'w>, publish: &str) -> Container<'w> {
    published(user, &format!("{AT} {publish}"))
}

/// Takes the wire out of a container from inside, if it has one.
fn unwire(pod: &Container<'_>) {
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
fn a_dead_containers_clients_reach_nobody() {
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
        let mut steps = 0;
        let run = Trace::of(&bob, format!("netsetgo -pid {heir} -wait 0 {AT}"));
        let killed = run.freeze(|stage| {
            steps += usize::from(stage.part == Part::Parent && stage.call == libc::SYS_sendto);
            steps == step
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
fn a_dead_containers_clients_are_overheard_by_nobody() {
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
fn with_nat_switched_off_since_old_ports_lead_to_nobody_all_the_same() {
    let world = three_users();
    next(&world.alice(), "-publish 8080:80").kill();
    world.until_leases_are(&[]);
    world.policy("[network]\nnat = false\n[[allow]]\nuser = \"bob\"\n");
    next(&world.bob(), "");
    assert_eq!(leading_to(&world, ADDRESS), Vec::<String>::new());
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
fn a_flow_that_goes_on_reaches_whoever_publishes_the_port_anew() {
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
    let list = "nft list ruleset | grep -v ' : 0x0\\|\"ns[0-9]*-\\*\"'";
    let rules = world.sh(list);
    world.sh("nft flush ruleset");
    alice.netsetgo("-prune").done();
    assert_eq!(world.sh(list), rules, "all but the users and who had which address");
}

#[test]
fn an_owner_gets_his_port_back_before_the_next_lessee_has_come_to_take_it_out() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    next(&alice, "-publish 8080:80 -publish 127.0.0.1:8081:80").kill();
    world.until_leases_are(&[]);
    let heir = bob.container();
    let run = Trace::of(&bob, format!("netsetgo -pid {heir} {AT}"));
    run.freeze(|_| !world.leases().is_empty()).unwrap().kill();
    assert_eq!(leading_to(&world, ADDRESS).len(), 4);
    let again = published(&alice, "-wait 0 -publish 8080:80 -publish 8081:80");
    assert_eq!(leading_to(&world, ADDRESS), Vec::<String>::new());
    assert_eq!(leading_to(&world, &again.address().replace("/24", "")).len(), 4);
}

#[test]
fn what_fifty_containers_leave_is_no_more_than_what_one_does() {
    let world = three_users();
    let size = || world.ruleset().lines().count();
    // Both users are known to the firewall.
    next(&world.bob(), "").kill();
    world.until_leases_are(&[]);
    next(&world.alice(), "-publish 8000:80 -publish 127.0.0.1:8100:80/udp").kill();
    world.until_leases_are(&[]);
    let one = size();
    world.alice().netsetgo("-prune").done();
    let none = size();
    assert!(none < one);
    for count in 0..50 {
        let user = [world.alice(), world.bob()][count % 2].clone();
        let (port, other) = (8000 + count, 8100 + count);
        next(&user, &format!("-publish {port}:80 -publish 127.0.0.1:{other}:80/udp")).kill();
        world.until_leases_are(&[]);
        assert_eq!(size(), one, "{count}");
    }
    world.alice().netsetgo("-prune").done();
    assert_eq!(size(), none);
}

#[test]
fn a_user_publishes_no_more_than_there_is_room_for() {
    let world = three_users();
    let alice = world.alice();
    let pod = published(&alice, "-publish 8080:80");
    // Every 127.x.y.z is an address of the host's.
    for part in 1..=3 {
        let many: Vec<_> = (0..1000)
            .map(|n| format!("-publish 127.{part}.{}.{}:8081:80", n / 250, n % 250))
            .collect();
        let _ = alice.netsetgo(format!("-pid {pod} -wait 0 {}", many.join(" ")));
    }
    let count = world.elements().len();
    assert!(count < 3000, "{count} elements for one granted port of one container");
}

#[test]
fn containers_at_ever_new_addresses_leave_no_more_than_there_is_room_for() {
    let world = three_users();
    let alice = world.alice();
    for part in 2..=8 {
        let publish = format!("-publish 127.0.0.{part}:8000-8999:1-1000");
        published(&alice, &format!("-containerAddress 10.10.10.{part}/24 {publish}")).kill();
        world.until_leases_are(&[]);
    }
    let count = world.published().len();
    assert!(count <= 5000, "{count} elements for containers that are all gone");
}

#[test]
fn runs_at_once_publish_no_more_than_there_is_room_for_either() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.attached();
    let many = |part: u8| {
        let each = |n| format!("-publish 127.{part}.0.{n}:8001-8006:1-6");
        let all: Vec<_> = (1..=100).map(each).collect();
        format!("netsetgo -pid {pod} -wait 0 {}", all.join(" "))
    };
    // It has just seen that the container publishes nothing yet: its first write is to
    // route_localnet, then it reads the generation, and then looks for the mark.
    let (mut written, mut asked) = (false, 0);
    let run = Trace::of(&alice, many(1));
    let frozen = run.freeze(|stage| {
        written |= (stage.part, stage.call) == (Part::Parent, libc::SYS_write);
        asked += usize::from(written && stage.call == libc::SYS_sendto);
        asked == 2
    });
    alice.sh(&many(2)).done();
    assert_eq!(world.published().len(), 600);
    let outcome = frozen.unwrap().thaw();
    assert_eq!(world.published().len(), 600, "{outcome:?}");
}

/// Stops a run of the helper's after each of its requests to the kernel and each of its writes, and
/// does something then. The containers that this starts it gives back, to be ended before the next.
#[track_caller]
fn at_each_step<'w>(
    world: &'w World,
    user: &User<'w>,
    arguments: &str,
    mut before: impl FnMut(),
    mut act: impl FnMut(Frozen, &Container<'w>) -> Vec<Container<'w>>,
) {
    for step in 1.. {
        before();
        let pod = user.container();
        let run = Trace::of(user, format!("netsetgo -pid {pod} -wait 0 {arguments}"));
        let mut steps = 0;
        let frozen = run.freeze(|stage| {
            let is_step = [libc::SYS_sendto, libc::SYS_write].contains(&stage.call);
            steps += usize::from(is_step && stage.part == Part::Parent);
            steps == step
        });
        let Some(frozen) = frozen else {
            assert!(step > 10, "only {step} steps");
            return;
        };
        for other in act(frozen, &pod) {
            other.kill();
        }
        pod.kill();
        world.until_leases_are(&[]);
    }
}

/// Lets a stopped run go on. Answers how that ended, and the same with where it was stopped.
#[track_caller]
fn let_go(frozen: Frozen) -> (Outcome, String) {
    let stage = frozen.stage;
    let outcome = frozen.thaw();
    let why = format!("{stage:?}: {outcome:?}");
    let line = if outcome.status == 0 { outcome.err.is_empty() } else { outcome.is_one_line() };
    assert!(line, "{why}");
    (outcome, why)
}

/// Asserts that this host port leads to a container's port 80, and nothing else to it.
#[track_caller]
fn only_this_leads_to(world: &World, pod: &Container<'_>, port: u16, why: &str) {
    let address = pod.address().replace("/24", "");
    let seen = leading_to(world, &address);
    let link = world.ip("link show master brg0");
    let mac = pod.link("veth1")["link_index"].clone();
    let link = link.as_array().unwrap().iter().find(|link| link["ifindex"] == mac).unwrap();
    let link = link["ifname"].as_str().unwrap();
    assert_eq!(seen, one_port(link, port, &address), "{why}");
    assert!(world.elements().contains(&format!("publishing: {address}")), "{why}");
}

/// Whether a container is attached.
fn is_attached(pod: &Container<'_>) -> bool {
    pod.links().contains(&"veth1".to_owned())
}

#[test]
fn a_helper_stopped_anywhere_and_let_go_leads_nobody_to_the_next_lessee() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            let heir = next(&bob, "-publish 8090:80");
            let (_, why) = let_go(frozen);
            only_this_leads_to(&world, &heir, 8090, &why);
            if is_attached(pod) {
                only_this_leads_to(&world, pod, 8080, &why);
                return vec![heir];
            }
            let again = published(&alice, "-publish 8080:80");
            only_this_leads_to(&world, &again, 8080, &why);
            vec![heir, again]
        },
    );
}

#[test]
fn a_helper_killed_anywhere_leads_nobody_to_the_next_lessee() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            let why = format!("{:?}", frozen.stage);
            frozen.kill();
            pod.kill();
            world.until_leases_are(&[]);
            let heir = next(&bob, "-publish 8090:80");
            only_this_leads_to(&world, &heir, 8090, &why);
            let again = published(&alice, "-publish 8080:80");
            only_this_leads_to(&world, &again, 8080, &why);
            vec![heir, again]
        },
    );
}

#[test]
fn a_helper_killed_anywhere_leaves_what_a_further_run_completes() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    // Bob's at the same address had a port as well.
    let before = || {
        next(&bob, "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, &format!("{AT} -publish 8080:80"), before, |frozen, pod| {
        let why = format!("{:?}", frozen.stage);
        frozen.kill();
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(&world, pod, 8080, &why);
        let again = published(&bob, "-publish 8090:80");
        only_this_leads_to(&world, &again, 8090, &why);
        vec![again]
    });
}

#[test]
fn a_helper_stopped_anywhere_takes_out_nothing_of_the_next_lessees() {
    let world = three_users();
    let (alice, bob, carol) = (world.alice(), world.bob(), world.user("carol"));
    let before = || {
        next(&alice, "-publish 8080:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &bob, &format!("{AT} -publish 8090:80"), before, |frozen, pod| {
        unwire(pod);
        let heir = next(&carol, "-publish 8085:80");
        let (_, why) = let_go(frozen);
        only_this_leads_to(&world, &heir, 8085, &why);
        vec![heir]
    });
}

#[test]
fn a_helper_stopped_anywhere_while_its_container_is_attached_anew_leaves_nothing_to_the_next() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            alice.netsetgo(format!("-pid {pod} -wait 0 {AT}")).done();
            let (_, why) = let_go(frozen);
            pod.kill();
            world.until_leases_are(&[]);
            let heir = next(&bob, "-publish 8090:80");
            only_this_leads_to(&world, &heir, 8090, &why);
            vec![heir]
        },
    );
}

#[test]
fn a_helper_stopped_anywhere_opens_no_other_wire_of_its_owners() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let address = "10.10.10.7";
    let at = format!("-wait 0 -containerAddress {address}/24");
    // What a wire leads to that is open has to be its own.
    let opened = || {
        let links = world.ip("link show up master brg0");
        let mut links = links.as_array().unwrap().iter();
        links.any(|link| link["address"] == "fe:4e:0a:0a:0a:07")
    };
    for step in 1.. {
        published(&bob, &format!("{at} -publish 8090:80")).kill();
        world.until_leases_are(&[]);
        let (pod, heir) = (alice.container(), alice.container());
        let mut steps = 0;
        let run = Trace::of(&alice, format!("netsetgo -pid {pod} -wait 0"));
        let frozen = run.freeze(|stage| {
            if stage.part == Part::Child || stage.call != libc::SYS_sendto {
                return false;
            }
            steps += 1;
            if steps == step {
                // Another container of hers takes bob's address, and its run ends at once.
                let _ = pod.inside().sh("ip link del veth1");
                let others = world.leases();
                let heirs = Trace::of(&alice, format!("netsetgo -pid {heir} {at}"));
                heirs.freeze(|_| world.leases() != others).unwrap().kill();
            }
            steps > step && opened()
        });
        assert!(frozen.is_none(), "bob's port leads to alice's: {:?}", leading_to(&world, address));
        alice.netsetgo(format!("-pid {heir} {at}")).done();
        assert!(leading_to(&world, address).is_empty());
        pod.kill();
        heir.kill();
        world.until_leases_are(&[]);
        if steps < step {
            assert!(step > 10, "only {step} steps");
            break;
        }
    }
}

#[test]
fn a_helper_stopped_anywhere_keeps_what_another_run_published_for_its_container() {
    let world = three_users();
    let alice = world.alice();
    let before = || {
        next(&world.bob(), "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, "", before, |frozen, pod| {
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        let place = frozen.stage;
        frozen.thaw().done();
        only_this_leads_to(&world, pod, 8080, &format!("{place:?}"));
        Vec::new()
    });
}

#[test]
fn a_helper_stopped_anywhere_leaves_its_owners_other_wires_alone() {
    let world = three_users();
    let alice = world.alice();
    at_each_step(
        &world,
        &alice,
        &format!("{AT} -publish 8080:80"),
        || (),
        |frozen, pod| {
            unwire(pod);
            let other = next(&alice, "-publish 8090:80");
            let (_, why) = let_go(frozen);
            assert!(is_attached(&other), "{why}");
            only_this_leads_to(&world, &other, 8090, &why);
            vec![other]
        },
    );
}

#[test]
fn with_the_ruleset_flushed_meanwhile_a_further_run_heals_everything() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let before = || {
        next(&bob, "-publish 8090:80").kill();
        world.until_leases_are(&[]);
    };
    at_each_step(&world, &alice, &format!("{AT} -publish 8080:80"), before, |frozen, pod| {
        world.sh("nft flush ruleset");
        let (outcome, why) = let_go(frozen);
        match outcome.status {
            0 => assert!(outcome.err.is_empty(), "{why}"),
            1 => assert!(outcome.is_one_line() && !is_attached(pod), "{why}"),
            _ => panic!("{why}"),
        }
        alice.netsetgo(format!("-pid {pod} -publish 8080:80")).done();
        only_this_leads_to(&world, pod, 8080, &why);
        Vec::new()
    });
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
    assert_eq!(leading_to(&world, ADDRESS), Vec::<String>::new());
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
    assert_eq!(leading_to(&world, ADDRESS), one_port("ns1000-0", 8090, ADDRESS));
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
