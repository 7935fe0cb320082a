//! Published ports: what reaches them, and which are refused. What outlives a container is in
//! `leftover`.

use crate::world::{ALICE, Container, HOST, REMOTE, Running, User, World, json};

/// What a policy says that grants alice these host ports as well.
fn publishing(ports: &str) -> String {
    format!("{ALICE}publish = [{ports}]\n")
}

/// The host ports that a run reported, in order.
#[track_caller]
pub(crate) fn host_ports(report: &str) -> Vec<u16> {
    let report = json(report);
    let mappings = report["portMappings"].as_array().unwrap().iter();
    mappings.map(|mapping| mapping["hostPort"].as_u64().unwrap().try_into().unwrap()).collect()
}

/// A world on the Internet where alice, bob and carol may publish 8000 to 8999.
pub(crate) fn three_users() -> World {
    let allow =
        |user| format!("[[allow]]\nuser = \"{user}\"\npublish = [\"8000-8999\"]\nports = 2000\n");
    World::with_policy(&["alice", "bob", "carol"].map(allow).concat())
}

/// Starts a container that publishes.
#[track_caller]
pub(crate) fn published<'w>(user: &User<'w>, publish: &str) -> Container<'w> {
    let pod = user.container();
    user.netsetgo(format!("-pid {pod} {publish}")).done();
    pod
}

/// A program of the host that waits at port 8080 of an address.
fn listener<'w>(world: &'w World, protocol: &str, address: &str) -> Container<'w> {
    let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
    let (kind, listen) = match protocol {
        "tcp" => ("SOCK_STREAM", "s.listen()"),
        _ => ("SOCK_DGRAM", "pass"),
    };
    world.root().process(&format!(
        "exec python3 -c '
import os, socket, time
s = socket.socket(socket.{family}, socket.{kind})
s.bind((\"{address}\", 8080))
{listen}
print(os.getpid(), flush=True)
time.sleep(999)'"
    ))
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let world = World::with_policy(&publishing("\"8000-8999\""));
    let remote = world.internet();
    let alice = world.alice();
    let pod = alice.container();
    alice.netsetgo(format!("-pid {pod} -publish 8080:80 -publish 8080:80/udp")).done();
    pod.inside().serves("pod", "80");
    let other = alice.attached();
    for protocol in ["tcp", "udp"] {
        assert_eq!(remote.user().asks(protocol, HOST, 8080), "pod 192.0.2.9");
        for address in [HOST, "127.0.0.1", "10.10.10.1"] {
            assert!(world.root().asks(protocol, address, 8080).starts_with("pod "), "{address}");
        }
        for address in [HOST, "10.10.10.1"] {
            assert!(other.inside().asks(protocol, address, 8080).starts_with("pod "));
            assert!(pod.inside().asks(protocol, address, 8080).starts_with("pod "));
        }
    }
}

#[test]
fn the_ports_of_a_range_lead_to_one_port_each() {
    let world = World::with_policy(&publishing("\"8000-8999\""));
    let remote = world.internet();
    let pod = published(&world.alice(), "-publish 8998-8999:80-81 -publish 8998-8999:81-82/udp");
    for port in ["80", "81", "82"] {
        pod.inside().serves(port, port);
    }
    let asks = |protocol, port| remote.user().asks(protocol, HOST, port);
    assert_eq!(asks("tcp", 8998), "80 192.0.2.9");
    assert_eq!(asks("tcp", 8999), "81 192.0.2.9");
    assert_eq!(asks("udp", 8998), "81 192.0.2.9");
    assert_eq!(asks("udp", 8999), "82 192.0.2.9");
}

#[test]
fn what_is_published_on_one_address_is_reached_by_no_other() {
    let world = World::with_policy(&publishing("\"8000-8999\""));
    let remote = world.internet();
    remote.sh(&format!("ip route add default via {HOST}"));
    let places = [("127.0.0.1", 8001), ("10.10.10.1", 8002), (HOST, 8003)];
    let publish =
        places.map(|(ip, port)| format!("-publish {ip}:{port}:80 -publish {ip}:{port}:80/udp "));
    let pod = published(&world.alice(), &publish.concat());
    pod.inside().serves("pod", "80");
    let other = world.alice().attached();
    for (there, port) in places {
        for (asked, _) in places {
            for (who, inside) in
                [(world.root(), false), (other.inside(), true), (remote.user(), true)]
            {
                // From elsewhere 127.0.0.1 is another host's.
                if inside && asked == "127.0.0.1" {
                    continue;
                }
                let begun = ["tcp", "udp"].map(|protocol| who.starts_asking(protocol, asked, port));
                for told in begun.map(Running::answer) {
                    assert_eq!(told != "nothing", asked == there, "{asked}:{port}: {told}");
                }
            }
        }
    }
}

#[test]
fn no_interface_leads_to_the_hosts_own_127_0_0_1() {
    let world = World::with_policy(&publishing("\"8000-8999\""));
    let remote = world.internet();
    let pod = published(&world.alice(), "-publish 8001:80/udp -publish 127.0.0.1:8002:80/udp");
    pod.inside().serves("pod", "80");
    world.root().serves("host", "7");
    let other = world.alice().attached();
    let to_localhost = "ip address flush dev lo; ip link set lo up
         ip route del local 127.0.0.0/8 table local 2>/dev/null
         echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
         ip route add 127.0.0.1 via";
    other.sh(&format!("{to_localhost} 10.10.10.1"));
    remote.sh(&format!("{to_localhost} {HOST}"));
    world.sh("echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet");
    for who in [other.inside(), remote.user()] {
        for port in [7, 8001, 8002] {
            assert_eq!(who.asks("udp", "127.0.0.1", port), "nothing", "{port}");
        }
    }
    for (port, word) in [(7, "host 127"), (8001, "pod 10"), (8002, "pod 10")] {
        let heard = world.root().asks("udp", "127.0.0.1", port);
        assert!(heard.starts_with(word), "{heard}");
    }
}

#[test]
fn port_0_takes_the_lowest_free_one_and_keeps_it() {
    let world = World::with_policy(&publishing("\"8079-8082\""));
    let alice = world.alice();
    let other = published(&alice, "-publish 8079:80");
    let waiting = listener(&world, "tcp", "127.0.0.1");
    let pod = alice.container();
    for _ in 0..2 {
        let report = alice.netsetgo(format!("-pid {pod} -publish 0:80 -json")).done();
        assert_eq!(host_ports(&report), [8081]);
    }
    // What is free for one protocol, or on one address, is free.
    let publish = "-publish 0:80/udp -publish 10.10.10.1:0:80";
    let report = alice.netsetgo(format!("-pid {pod} {publish} -json")).done();
    assert_eq!(host_ports(&report), [8079, 8080]);
    let mapping = &json(&report)["portMappings"][1];
    assert_eq!((&mapping["hostIP"], &mapping["protocol"]), (&"10.10.10.1".into(), &"tcp".into()));
    // All that are left, at once.
    let report = alice.netsetgo(format!("-pid {pod} -publish 0:81 -publish 0:80 -json")).done();
    assert_eq!(host_ports(&report), [8082, 8081]);
    let late = alice.container();
    alice.failed(format!("-pid {late} -publish 0:80"), "none of the host ports");
    alice.failed(format!("-pid {late} -publish 0:80/udp -publish 0:80"), "none of the host ports");
    // What was taken and is free again is taken.
    waiting.kill();
    other.kill();
    world.until("the lease to go", || !world.leases().contains(&"ns1000-0".to_owned()));
    let report = alice.netsetgo(format!("-pid {late} -publish 0:80 -json")).done();
    assert_eq!(host_ports(&report), [8079]);
}

#[test]
fn port_0_is_none_of_those_that_are_named_beside_it() {
    let world = World::with_policy(&publishing("\"8000-8001\""));
    let alice = world.alice();
    for publish in ["-publish 8000:80 -publish 0:81", "-publish 0:81 -publish 8000:80"] {
        let pod = alice.container();
        let report = alice.netsetgo(format!("-pid {pod} {publish} -json")).done();
        let mut ports = host_ports(&report);
        ports.sort();
        assert_eq!(ports, [8000, 8001]);
        pod.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn a_port_is_refused_that_the_policy_does_not_grant() {
    let world = World::with_policy(&format!(
        "{}[[allow]]\nuser = \"bob\"\n",
        publishing("\"8000-8999\", \"443\"")
    ));
    let (alice, bob) = (world.alice(), world.bob());
    let (hers, his) = (alice.container(), bob.container());
    // On a host that has nothing of ours yet, and on one that has.
    for _ in 0..2 {
        for port in ["7999:80", "9000:80", "80:80", "65535:80/udp", "8999-9000:1-2"] {
            alice.refused(format!("-pid {hers} -publish {port}"), "not granted to uid 1000");
        }
        alice.refused(format!("-pid {hers} -publish 8080:80 -publish 80:80"), "port 80 is not");
        alice.refused(format!("-pid {hers} -publish 127.0.0.1:80:80"), "port 80 is not");
        for port in ["8080:80", "443:80"] {
            bob.refused(
                format!("-pid {his} -publish {port}"),
                "no host ports are granted to uid 1001",
            );
        }
        published(&alice, "-publish 443:443 -publish 8000-8001:80-81").kill();
        world.until_leases_are(&[]);
    }
    bob.refused(format!("-pid {his} -publish 0:80"), "no host ports are granted to uid 1001");
    let anything = world.root().container();
    world.root().netsetgo(format!("-pid {anything} -publish 1:1 -publish 65535:80/udp")).done();
}

#[test]
fn without_nat_nothing_is_published() {
    let world =
        World::with_policy(&format!("[network]\nnat = false\n{}", publishing("\"8000-8999\"")));
    for user in [world.alice(), world.root()] {
        let pod = user.container();
        for port in ["8080:80", "0:80", "127.0.0.1:8080:80"] {
            user.refused(format!("-pid {pod} -publish {port}"), "nat = false");
        }
        user.netsetgo(format!("-pid {pod}")).done();
        user.refused(format!("-pid {pod} -publish 8080:80"), "nat = false");
    }
    let table = world.sh("nft list table inet netsetgo");
    for part in ["type nat", "dnat ip to", "masquerade", "published\""] {
        assert!(!table.contains(part), "{part} in {table}");
    }
}

#[test]
fn a_port_is_refused_that_another_container_has() {
    let world = three_users();
    let _remote = world.internet();
    let (alice, bob) = (world.alice(), world.bob());
    published(&alice, "-publish 8080:80 -publish 192.0.2.1:8081:80 -publish 8082:80/udp");
    let own = alice.container();
    let his = bob.container();
    for taken in [
        "8080:80",
        "127.0.0.1:8080:80",
        "192.0.2.1:8080:1",
        "8081:80",
        "192.0.2.1:8081:80",
        "8082:1/udp",
    ] {
        bob.failed(
            format!("-pid {his} -wait 0 -publish {taken}"),
            "published already, for 10.10.10.2",
        );
        alice.failed(format!("-pid {own} -wait 0 -publish {taken}"), "published already");
        let many = format!("-publish 8500:1 -publish 8501:1/udp -publish {taken} -publish 0:1");
        bob.failed(format!("-pid {his} -wait 0 {many}"), "published already");
    }
    let free = "-publish 127.0.0.1:8081:80 -publish 8080:80/udp -publish 8082:80";
    bob.netsetgo(format!("-pid {his} {free}")).done();
}

#[test]
fn a_port_is_refused_that_a_program_of_the_host_waits_at() {
    let world = three_users();
    let _remote = world.internet();
    let alice = world.alice();
    let pod = alice.container();
    let refused = |publish: &str| {
        alice.failed(format!("-pid {pod} -publish {publish}"), "a program on this host listens on");
    };
    for address in ["0.0.0.0", "127.0.0.1", HOST, "::"] {
        for (protocol, other) in [("tcp", "udp"), ("udp", "tcp")] {
            let program = listener(&world, protocol, address);
            refused(&format!("8080:80/{protocol}"));
            refused(&format!("8500:80/{other} -publish 8080:80/{protocol}"));
            if address == HOST || address.starts_with("127") {
                refused(&format!("{address}:8080:80/{protocol}"));
                published(&alice, &format!("-publish 10.10.10.1:8080:80/{protocol}")).kill();
            } else {
                refused(&format!("127.0.0.1:8080:80/{protocol}"));
            }
            published(&alice, &format!("-publish 8080:80/{other}")).kill();
            program.kill();
            published(&alice, &format!("-publish 8080:80/{protocol}")).kill();
            world.until_leases_are(&[]);
        }
    }
}

#[test]
fn an_address_is_wrong_that_is_not_the_hosts() {
    let world = three_users();
    let _remote = world.internet();
    let alice = world.alice();
    let pod = alice.container();
    for round in 0..2 {
        for address in [
            "192.0.2.9",
            "192.0.2.255",
            "192.0.2.0",
            "224.0.0.1",
            "255.255.255.255",
            "8.8.8.8",
            "10.10.10.2",
            "10.10.10.255",
        ] {
            for port in ["8080", "0"] {
                alice.usage(
                    format!("-pid {pod} -publish 8500:1 -publish {address}:{port}:80"),
                    &format!("{address} is not an address of this host"),
                );
            }
        }
        if round == 0 {
            published(&alice, "-publish 10.10.10.1:8080:80");
        }
    }
}

#[test]
fn what_is_malformed_attaches_nothing() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.container();
    for (publish, part) in [
        ("8080", "no :"),
        ("8080:0", "container port"),
        ("65536:80", "host port"),
        ("8001-8000:80-81", "host port"),
        ("8000-8001:80", "equally long"),
        ("8080:80/sctp", "protocol"),
        ("host:8080:80", "IPv4 address"),
        ("8080:80 -publish 8080:81", "8080:81/tcp: given twice"),
        ("8080:80 -publish 127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp: given twice"),
        ("8000-8009:80-89 -publish 8009:1", "8009:1/tcp: given twice"),
        ("1-1025:1-1025", "more than 1024"),
    ] {
        alice.usage(format!("-pid {pod} -publish 8500:1 -publish {publish}"), part);
    }
}

#[test]
fn attached_again_it_keeps_its_ports_and_gets_further_ones() {
    let world = three_users();
    let alice = world.alice();
    let call = "-publish 8080:80 -publish 8080:80/udp -publish 127.0.0.1:8081:80 -publish 0:81";
    let pod = published(&alice, call);
    pod.inside().serves("pod", "80 81 82");
    let table = || world.ruleset();
    let before = table();
    alice.netsetgo(format!("-pid {pod} {call}")).done();
    alice.netsetgo(format!("-pid {pod}")).done();
    assert_eq!(table(), before);
    // To lead elsewhere from now on, or on more addresses, is to be published anew.
    for publish in ["8080:81", "127.0.0.1:8080:80", "8081:80", "127.0.0.1:8081:81"] {
        let call = format!("-pid {pod} -wait 0 -publish 8090:82 -publish {publish}");
        alice.failed(call, "published already, for 10.10.10.2");
    }
    alice.netsetgo(format!("-pid {pod} {call} -publish 8090:82")).done();
    for port in [8080, 8081, 8000, 8090] {
        assert!(world.root().asks("tcp", "127.0.0.1", port).starts_with("pod "), "{port}");
    }
}

#[test]
fn a_container_that_cannot_be_configured_publishes_nothing() {
    let world = three_users();
    let alice = world.alice();
    published(&alice, "-publish 8080:80");
    // It has a default route already.
    let pod = alice.container();
    pod.sh("ip link set lo up; ip route add default dev lo");
    let call = format!("-pid {pod} -publish 8090:80 -publish 127.0.0.1:8091:80");
    alice.failed(&call, "default route");
    pod.sh("ip route del default");
    alice.netsetgo(&call).done();
}

#[test]
fn ports_that_cannot_be_reported_are_not_published() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.container();
    let call = format!("-pid {pod} -publish 8090:80 -publish 127.0.0.1:8091:80");
    alice.netsetgo(format!("{call} -json >/dev/full")).failed("standard output");
    // What is left leads nowhere, and is in no other's way.
    assert_eq!(world.leases(), Vec::<String>::new());
    let other = alice.container();
    alice.netsetgo(format!("-pid {other} -publish 8090:80 -publish 127.0.0.1:8091:80")).done();
}

#[test]
fn what_an_attached_container_was_not_told_of_a_further_call_tells() {
    let world = three_users();
    let alice = world.alice();
    let pod = alice.attached();
    let call = format!("-pid {pod} -publish 0:80 -publish 127.0.0.1:0:80 -json");
    alice.netsetgo(format!("{call} >/dev/full")).failed("standard output");
    let left = world.published();
    let told = host_ports(&alice.netsetgo(&call).done());
    assert_eq!((told, world.published()), (vec![8000, 8001], left));
    alice.netsetgo(format!("-delete -pid {pod}")).done();
    assert_eq!(world.published(), [""; 0]);
}

#[test]
fn one_port_wanted_by_many_at_once_goes_to_one() {
    let world = three_users();
    let users = [world.alice(), world.bob()];
    let mut won = Vec::new();
    for user in &users {
        published(user, "");
    }
    let pods: Vec<_> = users.iter().flat_map(|user| user.containers(8)).collect();
    let runs: Vec<_> = pods
        .iter()
        .zip(users.iter().flat_map(|user| std::iter::repeat_n(user, 8)))
        .map(|(pod, user)| {
            user.start(&format!("exec netsetgo -pid {pod} -wait 0 -publish 8080:80"))
        })
        .collect();
    for (run, pod) in runs.into_iter().zip(&pods) {
        let outcome = run.end();
        if outcome.status == 0 {
            won.push(pod);
        } else {
            outcome.failed("published already");
            assert_eq!(pod.links(), ["lo"]);
        }
    }
    assert_eq!(won.len(), 1);
    won[0].inside().serves("won", "80");
    assert!(world.root().asks("tcp", "127.0.0.1", 8080).starts_with("won "));
}

#[test]
fn twenty_at_once_get_a_port_each() {
    let world = three_users();
    let _remote = world.internet();
    let users = [world.alice(), world.bob()];
    let pods: Vec<_> = users.iter().flat_map(|user| user.containers(10)).collect();
    let runs: Vec<_> = pods
        .iter()
        .zip(users.iter().flat_map(|user| std::iter::repeat_n(user, 10)))
        .map(|(pod, user)| user.start(&format!("exec netsetgo -pid {pod} -publish 0:80 -json")))
        .collect();
    let mut ports = Vec::new();
    for (run, pod) in runs.into_iter().zip(&pods) {
        let port = host_ports(&run.end().done())[0];
        assert!(!ports.contains(&port), "{port} twice");
        ports.push(port);
        pod.inside().serves(&format!("pod{pod}"), "80");
    }
    for (port, pod) in ports.into_iter().zip(&pods) {
        let heard = world.root().asks("tcp", HOST, port);
        assert!(heard.starts_with(&format!("pod{pod} ")), "{heard} at {port}");
    }
}

#[test]
fn a_container_takes_no_clients_of_anothers_port_by_sending_from_that_port() {
    let world = three_users();
    let remote = world.internet();
    let pod = published(&world.alice(), "-publish 8080:80/udp");
    pod.inside().serves("alice", "80");
    let other = world.bob().attached();
    other
        .inside()
        .sh(&format!(
            "exec python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"\", 8080))
s.sendto(b\"sent\", (\"{REMOTE}\", 7777))'"
        ))
        .done();
    other.inside().serves("bob", "8080");
    let answer = remote.sh(&format!(
        "exec python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.bind((\"\", 7777))
s.sendto(b\"?\", (\"{HOST}\", 8080))
print(s.recv(64).decode())'"
    ));
    assert!(answer.starts_with("alice"), "{answer}");
}

#[test]
fn clients_that_have_sent_before_a_port_is_published_reach_it_without_a_pause() {
    let world = three_users();
    let remote = world.internet();
    let alice = world.alice();
    // Without any port the host would not track what comes for it.
    published(&world.bob(), "-publish 8000:80");
    let pod = alice.attached();
    pod.inside().serves("pod", "80 81");
    let mut clients = vec![
        (8080, remote.user().holds("udp", HOST, 8080)),
        (8080, world.root().holds("udp", "127.0.0.1", 8080)),
        (8080, world.root().holds("udp", HOST, 8080)),
        (8081, remote.user().holds("udp", HOST, 8081)),
    ];
    alice.netsetgo(format!("-pid {pod} -publish 8080:80/udp -publish {HOST}:8081:81/udp")).done();
    for (port, client) in &mut clients {
        assert_eq!(client.first, "nothing");
        assert!(client.again().starts_with("pod "), "{port}");
    }
}

#[test]
fn a_client_follows_a_port_that_leads_to_another_port_of_the_same_address() {
    let world = three_users();
    let remote = world.internet();
    let alice = world.alice();
    let pod = published(&alice, "-publish 8080:80/udp");
    pod.inside().serves("before", "80");
    let mut client = remote.user().holds("udp", HOST, 8080);
    assert_eq!(client.first, format!("before {REMOTE}"));
    alice.netsetgo(format!("-delete -pid {pod}")).done();
    alice.netsetgo(format!("-pid {pod} -publish 8080:81/udp")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
    pod.inside().serves("after", "81");
    assert_eq!(client.again(), format!("after {REMOTE}"));
}

#[test]
fn a_port_that_is_published_takes_no_client_of_a_program_that_talks_to_it_there() {
    let world = three_users();
    let remote = world.internet();
    published(&world.bob(), "-publish 8000:80");
    // It waits for no other client any more, so the port is free to be published.
    let script = "exec python3 -c '
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"0.0.0.0\", 8080))
print(os.getpid(), flush=True)
_, client = s.recvfrom(64)
s.connect(client)
while True:
    s.send(b\"host\")
    s.recv(64)'";
    let _program = world.root().process(script);
    let mut client = remote.user().holds("udp", HOST, 8080);
    assert_eq!(client.first, "host");
    let pod = published(&world.alice(), "-publish 8080:80/udp");
    pod.inside().serves("pod", "80");
    assert_eq!(client.again(), "host");
    assert_eq!(remote.user().asks("udp", HOST, 8080), format!("pod {REMOTE}"));
}

#[test]
fn a_port_that_is_published_ends_no_flow_to_that_port_of_another_host() {
    let world = three_users();
    let remote = world.internet();
    // It answers with the port that it is asked from, which a flow keeps.
    let _server = remote.user().process(
        "exec python3 -c '
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"0.0.0.0\", 8080))
print(os.getpid(), flush=True)
while True:
    _, client = s.recvfrom(64)
    s.sendto(str(client[1]).encode(), client)'",
    );
    let bobs = world.bob().attached();
    let mut flows: Vec<_> = (0..4).map(|_| bobs.inside().holds("udp", REMOTE, 8080)).collect();
    published(&world.alice(), "-publish 8080:80/udp");
    for flow in &mut flows {
        assert_eq!(flow.again(), flow.first);
    }
}
