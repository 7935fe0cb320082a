//! What one container, or one user, can take of what all share: no more than the policy says.

use std::time::Instant;

use crate::publish::{host_ports, published};
use crate::world::{Container, Conversation, HOST, REMOTE, Remote, User, World};

/// Alice and bob may attach and publish, with these lines about the network and about both.
fn world(network: &str, each: &str) -> World {
    let allow =
        |user, ports| format!("[[allow]]\nuser = \"{user}\"\npublish = [\"{ports}\"]\n{each}\n");
    let users = [allow("alice", "8000-8999"), allow("bob", "9000-9999")].concat();
    World::with_policy(&format!("[network]\n{network}\n{users}"))
}

/// How many connections the host keeps in mind that began at this address.
fn connections(world: &World, address: &str) -> u32 {
    let listed = format!("conntrack -L -s {address} 2>/dev/null | wc -l");
    world.sh(&listed).trim_end().parse().unwrap()
}

/// How many of so many sockets are answered by the server of `peer.py` at this port, over UDP, each from a
/// port of its own.
#[track_caller]
fn answered(user: &User<'_>, count: u32, port: u16) -> u32 {
    let answered = user.python(&format!(
        "sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range({count})]
answered = 0
for each in sockets:
    each.settimeout(0.3)
    each.connect(('{REMOTE}', {port}))
    try:
        each.send(b'?')
        answered += each.recv(64) != b''
    except OSError: pass
print(answered)"
    ));
    answered.done().trim_end().parse().unwrap()
}

/// A server at ports 7 of the remote host that answers with the port that a question came from.
#[track_caller]
fn tells_ports(remote: &Remote<'_>) -> Conversation {
    remote.user().converses(
        "import threading
def tcp(listener):
    while True:
        connection, sender = listener.accept()
        connection.sendall(str(sender[1]).encode())
        connection.close()
listener = socket.create_server(('', 7))
threading.Thread(target=tcp, args=(listener,), daemon=True).start()
def udp(s):
    while True:
        _, sender = s.recvfrom(64)
        s.sendto(str(sender[1]).encode(), sender)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 7))
threading.Thread(target=udp, args=(s,), daemon=True).start()
print('ready', flush=True)
sys.stdin.read()",
    )
}

/// From which port a client's question comes to that server, over TCP or UDP, if it leaves from this one.
#[track_caller]
fn seen_port(user: &User<'_>, kind: &str, port: u16) -> u16 {
    let told = user.python(&format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_{kind})
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.settimeout(5)
s.bind(('', {port}))
s.connect(('{REMOTE}', 7))
if '{kind}' == 'DGRAM': s.send(b'?')
print(s.recv(64).decode())"
    ));
    told.done().trim_end().parse().unwrap()
}

#[test]
fn a_container_has_as_many_connections_at_once_as_the_policy_says_whatever_they_are() {
    let world = world("connections = 50\ndns = [\"10.10.10.1\"]", "");
    let remote = world.internet();
    remote.user().serves("remote", "7");
    world.root().serves("host", "53");
    let (pod, own) = (world.alice().attached(), published(&world.alice(), "-publish 8080:80/udp"));
    own.inside().serves("own", "80");
    // Bridged frames, too, are connections to the host then.
    world.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables");
    let mut held = pod.inside().holds("tcp", REMOTE, 7);
    for flood in [
        format!("ip(own(), '{REMOTE}', 17, udp(2000 + n, 1000 + n))"),
        // No host answers there.
        "ip(own(), '198.51.100.1', 6, tcp((own(), '198.51.100.1'), (2000 + n, 7), 1, 0, 2))"
            .to_owned(),
        format!("ip(own(), '{REMOTE}', 1, icmp(8, 0, struct.pack('!HH', n, 1), bytes(16)))"),
        "ip(own(), '10.10.10.1', 1, icmp(8, 0, struct.pack('!HH', n, 1), bytes(16)))".to_owned(),
        "ip(own(), '10.10.10.1', 17, udp(2000 + n, 53, b'?'))".to_owned(),
        "ip(own(), '10.10.10.1', 17, udp(2000 + n, 8080, b'?'))".to_owned(),
        "ip(own(), '10.10.10.3', 17, udp(2000 + n, 80, b'?'))".to_owned(),
        "ip(own(), '10.10.10.3', 17, udp(2000 + n, 81, b'?'))".to_owned(),
    ] {
        pod.inside()
            .python(&format!(
                "raw = wire()
for n in range(150):
    packet = {flood}
    to = '10.10.10.3' if packet[16:20] == socket.inet_aton('10.10.10.3') else '10.10.10.1'
    raw.send(ethernet(mac(to), mac(own()), 0x0800, packet))
    if n % 16 == 0: time.sleep(0.002)"
            ))
            .done();
        let now = connections(&world, "10.10.10.2");
        assert!((1..=50).contains(&now), "{now} by {flood}");
        // The next kind is tried with none of these.
        world.sh("for kind in udp icmp 'tcp --state SYN_SENT'; do
                      conntrack -D -s 10.10.10.2 -p $kind >/dev/null 2>&1 || true
                  done");
    }
    // What it had goes on.
    assert_eq!(held.again(), "remote 192.0.2.1");
    // Another one has as many again.
    assert_eq!(answered(&own.inside(), 40, 7), 40);
}

#[test]
fn a_container_that_is_over_its_limit_gets_no_further_connection_until_one_has_ended() {
    let world = world("connections = 20", "");
    let remote = world.internet();
    remote.user().serves("remote", "7 8");
    let pod = world.alice().attached();
    assert_eq!(answered(&pod.inside(), 25, 7), 20);
    assert_eq!(pod.inside().asks("udp", REMOTE, 8), "nothing");
    assert_eq!(world.alice().attached().inside().asks("udp", REMOTE, 7), "remote 192.0.2.1");
    world.sh("conntrack -D -s 10.10.10.2 -p udp --dport 7 >/dev/null 2>&1");
    assert_eq!(pod.inside().asks("udp", REMOTE, 8), "remote 192.0.2.1");
}

#[test]
fn connections_that_have_ended_do_not_count() {
    let world = world("", "");
    let remote = world.internet();
    let _server = tells_ports(&remote);
    let pod = world.alice().attached();
    // A first packet that is dropped is sent again after a second.
    let slow = pod.inside().python(&format!(
        "slow = 0
for n in range(6000):
    begin = time.monotonic()
    with socket.create_connection(('{REMOTE}', 7), 5) as s:
        slow += time.monotonic() - begin > 0.9
        while s.recv(64): pass
print(slow)"
    ));
    assert_eq!(slow.done(), "0\n");
}

#[test]
fn a_container_has_as_many_connections_to_one_remote_port_as_the_policy_says() {
    let world = world("connections_to_port = 20", "");
    let remote = world.internet();
    remote.user().serves("remote", "7 8");
    let pod = world.alice().attached();
    assert_eq!(answered(&pod.inside(), 25, 7), 20);
    assert_eq!(answered(&pod.inside(), 15, 8), 15);
    // TCP has its own.
    assert_eq!(pod.inside().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
    // And so has every other container.
    let own = world.alice().attached();
    assert_eq!(answered(&own.inside(), 15, 7), 15);
}

/// How many fragments the host has tried to put together.
fn reassembled(world: &World) -> u32 {
    let seen = world.sh("awk '/^Ip:/ { if (!c) { for (i = 1; i <= NF; i++) if ($i == \"ReasmReqds\") c = i } else print $c }' /proc/net/snmp");
    seen.trim_end().parse().unwrap()
}

/// Sends first fragments to the remote host, which no second ones follow.
#[track_caller]
fn floods_with_fragments(pod: &Container<'_>, count: u32) {
    pod.inside()
        .python(&format!(
            "raw = wire()
for ident in range({count}):
    raw.send(to_host(ip(own(), '{REMOTE}', 17, bytes(1400), 1 + ident, MORE)))"
        ))
        .done();
}

/// How many large datagrams of the remote host's arrive at a socket of the host.
#[track_caller]
fn large_ones_for_the_host(remote: &Remote<'_>, host: &mut Conversation) -> String {
    remote
        .user()
        .python(&format!(
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(10): s.sendto(bytes(4000), ('{HOST}', 7777))"
        ))
        .done();
    host.again()
}

#[test]
fn a_flood_of_fragments_leaves_those_of_others_to_be_put_together() {
    let world = world("", "");
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pods = [world.alice().attached(), world.alice().attached()];
    let other = world.bob().attached();
    let mut host = world.root().converses(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 7777))
s.settimeout(0.5)
print('ready', flush=True)
for _ in sys.stdin:
    count = 0
    try:
        while s.recv(5000): count += 1
    except OSError: print(count, flush=True)",
    );
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        let before = reassembled(&world);
        pods.iter().for_each(|pod| floods_with_fragments(pod, 3000));
        let tried = reassembled(&world) - before;
        assert!((1..150).contains(&tried), "{tried}");
        assert_eq!(large_ones_for_the_host(&remote, &mut host), "10");
        // Three fragments each.
        let large = other.inside().python(&format!(
            "answers = 0
for _ in range(2):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(bytes(3000), ('{REMOTE}', 7))
    try: answers += s.recv(64) != b''
    except OSError: pass
print(answers)"
        ));
        assert_eq!(large.done(), "2\n");
    }
}

#[test]
fn with_no_fragments_in_the_policy_large_datagrams_come_in_and_do_not_leave() {
    let world = world("fragments = 0", "");
    let remote = world.internet();
    let _server = remote.user().converses(
        "import threading
def answer():
    while True: s.sendto(bytes(4000), s.recvfrom(9000)[1])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 7))
threading.Thread(target=answer, daemon=True).start()
print('ready', flush=True)
sys.stdin.read()",
    );
    let pod = world.alice().attached();
    for switch in [0, 1] {
        world.sh(&format!("echo {switch} >/proc/sys/net/bridge/bridge-nf-call-iptables"));
        let sizes = pod.inside().python(&format!(
            "for size in 1000, 3000:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(bytes(size), ('{REMOTE}', 7))
    try: print(len(s.recv(9000)))
    except OSError: print('nothing')"
        ));
        assert_eq!(sizes.done(), "4000\nnothing\n", "{switch}");
    }
}

#[test]
fn a_container_keeps_the_port_that_it_sends_from_where_that_is_free() {
    let world = world("", "");
    let remote = world.internet();
    let _server = tells_ports(&remote);
    let (pod, other) = (world.alice().attached(), world.bob().attached());
    for kind in ["DGRAM", "STREAM"] {
        for port in [32768, 40000, 49152, 60999] {
            assert_eq!(seen_port(&pod.inside(), kind, port), port, "{kind}");
        }
        for port in [1, 1023, 8080, 32767, 61000, 65535] {
            let seen = seen_port(&pod.inside(), kind, port);
            assert!((32768..=60999).contains(&seen), "{kind} {port}: {seen}");
        }
        // Two from the same port, and the host itself.
        assert_eq!(seen_port(&world.root(), kind, 50000), 50000);
        for from in [&pod, &other] {
            let seen = seen_port(&from.inside(), kind, 50000);
            assert!((32768..=60999).contains(&seen) && seen != 50000, "{kind}: {seen}");
        }
    }
}

#[test]
fn two_containers_that_send_from_the_same_port_get_their_own_answers() {
    let world = world("", "");
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let pods = [world.alice().attached(), world.bob().attached()];
    let mut held: Vec<_> = pods
        .iter()
        .map(|pod| {
            pod.inside().converses(&format!(
                "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.bind(('', 40000))
s.connect(('{REMOTE}', 7))
s.send(b'?')
print(s.recv(64).decode().strip(), flush=True)
for _ in sys.stdin:
    s.send(b'?')
    print(s.recv(64).decode().strip(), flush=True)"
            ))
        })
        .collect();
    for _ in 0..3 {
        for each in &mut held {
            assert_eq!(each.again(), "remote 192.0.2.1");
        }
    }
}

#[test]
fn a_container_that_floods_keeps_no_other_users_from_working() {
    let world = world("", "");
    let remote = world.internet();
    remote.user().serves("remote", "7 53");
    let (flooder, other) = (world.alice().attached(), world.bob().attached());
    // From every port to one remote port, and short connections to another.
    let udp = flooder.inside().starts_python(&format!(
        "raw = wire()
own_mac = mac(own())
for _ in range(2):
    for port in range(1024, 65536):
        packet = ip(own(), '{REMOTE}', 17, udp(port, 53, b'?'))
        raw.send(ethernet(mac('10.10.10.1'), own_mac, 0x0800, packet))
        if port % 64 == 0: time.sleep(0.001)"
    ));
    let tcp = flooder.inside().starts_python(&format!(
        "end = time.monotonic() + 4
while time.monotonic() < end:
    try: socket.create_connection(('{REMOTE}', 7), 0.2).close()
    except OSError: pass"
    ));
    std::thread::sleep(std::time::Duration::from_secs(1));
    for number in 0..4 {
        assert_eq!(answered(&other.inside(), 20, 53), 20, "name service");
        assert_eq!(other.inside().asks("tcp", REMOTE, 7), "remote 192.0.2.1");
        let pod = published(&world.bob(), &format!("-publish {}:80", 9000 + number));
        assert_eq!(pod.inside().asks("udp", REMOTE, 53), "remote 192.0.2.1");
        assert_eq!(world.root().asks("udp", REMOTE, 53), "remote 192.0.2.1");
    }
    let _ = (udp.end(), tcp.end());
    let now = connections(&world, "10.10.10.2");
    flooder.kill();
    // 4096 of them, and what has ended but is not forgotten yet.
    assert!(now < 12000, "{now}");
    assert_eq!(answered(&other.inside(), 20, 53), 20);
}

#[test]
fn a_user_publishes_as_many_ports_at_once_as_the_policy_says() {
    let world = world("", "");
    let (alice, bob) = (world.alice(), world.bob());
    let all = published(&alice, "-publish 8000-8063:1-64");
    let pod = alice.attached();
    for publish in ["8100:80", "0:80", "8100:80/udp", "127.0.0.1:8100:80"] {
        let refusal = alice.refused(format!("-pid {pod} -wait 0 -publish {publish}"), "64");
        assert!(refusal.contains("ports"), "{refusal}");
    }
    alice.refused(format!("-pid {all} -wait 0 -publish 8100:80"), "64");
    // What it has already is no further port.
    alice.netsetgo(format!("-pid {all} -publish 8000-8063:1-64")).done();
    // Another user has a quota of his own.
    let his = published(&bob, "-publish 9000-9063:1-64");
    bob.refused(format!("-pid {his} -wait 0 -publish 9100:80"), "64");
    // Those of a container that has ended do not count.
    all.kill();
    world.until("the lease to go", || !world.leases().contains(&"ns1000-0".to_owned()));
    alice.netsetgo(format!("-pid {pod} -publish 8100-8163:1-64")).done();
}

#[test]
fn more_ports_at_once_than_the_quota_attach_nothing() {
    let world = world("", "ports = 3");
    let alice = world.alice();
    let pod = alice.container();
    for publish in [
        "8000-8003:1-4",
        "8000-8001:1-2 -publish 8002:1/udp -publish 127.0.0.1:8003:1",
        "8000-8064:1-65",
    ] {
        let refusal = alice.refused(format!("-pid {pod} -wait 0 -publish {publish}"), "3");
        assert!(refusal.contains("ports"), "{refusal}");
    }
    alice.netsetgo(format!("-pid {pod} -publish 8000-8002:1-3")).done();
}

#[test]
fn many_runs_at_once_do_not_publish_more_than_the_quota() {
    let world = world("", "ports = 3");
    let alice = world.alice();
    let pods = alice.containers(8);
    let runs: Vec<_> = pods
        .iter()
        .zip(8000..)
        .map(|(pod, port)| alice.start(&format!("exec netsetgo -pid {pod} -publish {port}:80")))
        .collect();
    let ends: Vec<_> = runs.into_iter().map(|run| run.end().status).collect();
    assert!(world.published().len() <= 3, "{ends:?}: {:?}", world.published());
    let done = ends.iter().filter(|status| **status == 0).count();
    assert_eq!(world.published().len(), done, "{ends:?}");
}

#[test]
fn a_port_that_is_chosen_is_none_that_containers_send_from() {
    let world = world("", "");
    let pod = world.root().container();
    let report = world.root().netsetgo(format!("-pid {pod} -publish 0:80 -publish 0:81/udp -json"));
    let ports = host_ports(&report.done());
    assert!(ports.iter().all(|port| (61000..=65535).contains(port)), "{ports:?}");
    assert_eq!(ports.len(), 2);
    // A user's is one of those that the policy grants.
    let hers = world.alice().container();
    let report = world.alice().netsetgo(format!("-pid {hers} -publish 0:80 -json")).done();
    assert_eq!(host_ports(&report), [8000]);
}

#[test]
fn a_user_who_goes_from_address_to_address_sends_no_more_fragments() {
    let world = world("", "");
    let _remote = world.internet();
    let (alice, pod) = (world.alice(), world.alice().container());
    let (before, begin) = (reassembled(&world), Instant::now());
    for number in 100..130 {
        alice.netsetgo(format!("-pid {pod} -containerAddress 10.10.10.{number}/24")).done();
        floods_with_fragments(&pod, 20);
        alice.netsetgo(format!("-delete -pid {pod}")).done();
    }
    let tried = reassembled(&world) - before;
    // 16 a second, and as many as in four seconds at once.
    let most = 64 + 20 + 16 * u32::try_from(begin.elapsed().as_secs()).unwrap();
    assert!(tried < most, "{tried} and not {most}");
}

#[test]
fn connections_that_have_ended_do_not_fill_what_the_host_keeps_in_mind() {
    let world = world("", "");
    let remote = world.internet();
    remote.user().serves("remote", "7 8 9 10");
    let pod = world.alice().attached();
    // The remote host answers, and the container then resets each. These do not count as connections,
    // but the host remembers them.
    let flood = pod.inside().python(&format!(
        "raw, here = wire(), own()
head = mac('10.10.10.1') + mac(here) + b'\\x08\\0'
end, n = time.monotonic() + 4, 0
while time.monotonic() < end:
    ports = 1024 + n // 4, 7 + n % 4
    raw.send(head + ip(here, '{REMOTE}', 6, tcp((here, '{REMOTE}'), ports, 1, 0, 2)))
    n += 1
    if n % 4 == 0: time.sleep(0.001)
print(n)"
    ));
    let sent: u32 = flood.done().trim_end().parse().unwrap();
    assert!(sent > 3000, "{sent}");
    let now = connections(&world, "10.10.10.2");
    // Those of the last second may still be there.
    assert!((1..sent / 2).contains(&now), "{now} of {sent}");
}
