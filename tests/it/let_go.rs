//! Taking a veth pair away whose container has no process any more: by its address, by the container's
//! id, by a runtime's hook, or as root all of a user's.

use nix::libc;
use serde_json::{Value, json};

use crate::hook::{hook, state};
use crate::publish::{published, three_users};
use crate::world::{Container, HOST, Remote, Stage, Trace, User, World, places};

/// Attaches a container as a runtime does that calls it by this id.
fn created<'w>(user: &User<'w>, id: &str, options: &str) -> Container<'w> {
    let pod = user.container();
    hook(user, options, &state("created", id, json!(pod.pid), json!({}))).done();
    pod
}

/// Kills the container while a client of its port 80, which is published as 8080, reads nothing more: what
/// is not sent yet keeps the network namespace, and with it link and port.
fn killed_with_a_slow_client<'w>(pod: &Container<'w>, remote: &Remote<'w>) -> Container<'w> {
    let server = pod.inside().process(
        "exec python3 -c '
import os, socket
server = socket.socket()
server.bind((\"\", 80))
server.listen()
print(os.getpid(), flush=True)
client, _ = server.accept()
client.sendall(bytes(3000000))'",
    );
    let client = remote.user().process(&format!(
        "exec python3 -c '
import os, socket, time
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
client.connect((\"{HOST}\", 8080))
client.recv(1)
print(os.getpid(), flush=True)
time.sleep(999)'"
    ));
    server.kill();
    pod.kill();
    client
}

/// The network namespace of the container outlives its process.
fn killed_but_kept(world: &World, pod: &Container<'_>) {
    world.sh(&format!("touch /run/kept.{pod}; mount --bind /proc/{pod}/ns/net /run/kept.{pod}"));
    pod.kill();
}

#[test]
fn a_dead_container_that_a_slow_client_holds_is_let_go_at_once_by_its_owner() {
    let world = three_users();
    let remote = world.internet();
    let alice = world.alice();
    let ways: [&dyn Fn(); 3] = [
        &|| drop(alice.netsetgo("-delete -address 10.10.10.2").done()),
        &|| drop(alice.netsetgo("-delete -id web").done()),
        &|| drop(hook(&alice, "-wait 0", &state("stopped", "web", Value::Null, json!({}))).done()),
    ];
    for way in ways {
        let pod = created(&alice, "web", "-publish 8080:80 -containerAddress 10.10.10.2/24");
        let _client = killed_with_a_slow_client(&pod, &remote);
        let next = alice.container();
        let again =
            format!("-pid {next} -publish 8080:80 -containerAddress 10.10.10.2/24 -wait 0.2");
        alice.failed(&again, "leased to another");
        way();
        assert_eq!((world.leases(), world.elements().len()), (Vec::new(), 0));
        alice.netsetgo(&again).done();
        next.kill();
        world.until_leases_are(&[]);
        world.sh("netsetgo -prune");
    }
}

#[test]
fn what_is_another_users_is_answered_like_what_is_not_there() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let bobs = created(&bob, "web", "-publish 8080:80");
    let roots = world.root().container();
    world.root().netsetgo(format!("-pid {} -vethNamePrefix ns1000-", roots)).done();
    world.root().netsetgo(format!("-delete -pid {} -vethNamePrefix ns1000-", roots)).done();
    world.root().netsetgo(format!("-pid {} -vethNamePrefix up", roots)).done();
    for not_alices in [
        "-address 10.10.10.2",
        "-address 10.10.10.3/24",
        "-address 10.10.10.99",
        // The same index as bob's, and the bridge's own.
        "-address 74.10.10.2",
        "-address 10.10.10.1",
        "-address 0.0.0.0",
        "-id web",
        "-id nosuch",
        "-id ''",
    ] {
        let outcome = world.unchanged(|| alice.netsetgo(format!("-delete {not_alices}")));
        if not_alices == "-id ''" {
            outcome.usage("empty");
        } else {
            assert_eq!(outcome.done(), "", "{not_alices}");
        }
    }
    let stopped = state("stopped", "web", Value::Null, json!({}));
    world.unchanged(|| hook(&alice, "", &stopped)).done();
    // What a runtime of root's calls so is not bob's.
    world.unchanged(|| hook(&world.root(), "", &stopped)).done();
    world.unchanged(|| world.root().netsetgo("-delete -id web")).done();
    for anyone in ["bob", "1001", "root", "nosuch", "alice", "1000"] {
        alice.refused(format!("-delete -user {anyone}"), "-user: only root");
    }
    assert_eq!(bobs.address(), "10.10.10.2/24");
}

#[test]
fn root_takes_any_away_by_its_address_and_all_of_a_users() {
    let world = three_users();
    let (alice, bob, root) = (world.alice(), world.bob(), world.root());
    let pods = [published(&alice, "-publish 8080:80"), published(&bob, "-publish 8081:80")];
    root.netsetgo("-delete -address 10.10.10.3/24").done();
    assert_eq!(world.leases(), ["ns1000-0"]);
    assert_eq!((pods[1].links(), world.published().len()), (vec!["lo".to_owned()], 1));
    for user in ["alice", "1000"] {
        // One of each: a port that is open, one that is closed yet, one whose process is gone, and published
        // ports whose link is gone.
        let open = published(&alice, "-publish 8082:80");
        let (closed, dead, gone) = (alice.container(), alice.attached(), alice.container());
        let run = Trace::of(&alice, format!("netsetgo -pid {closed} -publish 8084:80"));
        let created = |_: Stage| world.leases().len() > 3;
        run.freeze(created).unwrap().kill();
        alice.netsetgo(format!("-pid {gone} -publish 8083:80")).done();
        gone.sh("ip link del veth1");
        killed_but_kept(&world, &dead);
        let bobs = published(&bob, "-publish 8085:80");
        root.usage("-delete -user nosuch", "/etc/passwd");
        root.netsetgo(format!("-delete -user {user}")).done();
        assert_eq!(world.leases(), ["ns1001-0"]);
        assert_eq!(world.published().len(), 1);
        assert_eq!((open.links(), closed.links()), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
        world.unchanged(|| root.netsetgo(format!("-delete -user {user}"))).done();
        assert_eq!(bobs.links(), ["lo", "veth1"]);
        bobs.kill();
        world.until_leases_are(&[]);
        alice.netsetgo(format!("-pid {} -publish 8080:80", pods[0])).done();
    }
}

#[test]
fn what_a_user_owns_can_be_deleted_whatever_the_policy_grants_by_now() {
    let world = three_users();
    let alice = world.alice();
    for policy in ["[[allow]]\nuser = \"alice\"\nlinks = 0\n", "[[allow]]\nuser = \"bob\"\n", ""] {
        for call in ["-pid PID", "-address 10.10.10.2", "-id web", "-hook"] {
            world.policy("[[allow]]\nuser = \"alice\"\npublish = [\"8000-8999\"]\n");
            let pod = created(&alice, "web", "-publish 8080:80");
            match policy {
                "" => world.sh("rm /etc/netsetgo.toml"),
                text => {
                    world.policy(text);
                    String::new()
                }
            };
            alice.refused(format!("-pid {pod}"), "");
            match call {
                "-hook" => {
                    killed_but_kept(&world, &pod);
                    hook(&alice, "", &state("stopped", "web", Value::Null, json!({}))).done();
                }
                _ => {
                    let call = call.replace("PID", &pod.to_string());
                    alice.netsetgo(format!("-delete {call}")).done();
                }
            }
            assert_eq!(
                (world.leases(), world.elements().len()),
                (Vec::new(), 0),
                "{policy} {call}"
            );
        }
    }
    // By what the host knows, not even a policy that reads is needed.
    world.policy(crate::world::ALICE);
    let pod = alice.attached();
    world.policy("nonsense");
    alice.netsetgo("-delete -address 10.10.10.2").done();
    assert_eq!(pod.links(), ["lo"]);
}

#[test]
fn what_has_been_done_to_the_host_meanwhile_does_not_stand_in_the_way() {
    for harm in [
        "nft flush ruleset",
        "nft delete table inet netsetgo",
        "ip link del brg0",
        "ip link set ns1000-0 nomaster; ip link set ns1000-0 down",
        // Another user's link has the same group.
        "for link in ns1000-0 ns1001-0; do ip link set $link group 1073741831; done",
    ] {
        let world = three_users();
        let (pod, bobs) = (published(&world.alice(), "-publish 8080:80"), world.bob().attached());
        world.sh(harm);
        world.alice().netsetgo("-delete -address 10.10.10.2").done();
        assert_eq!(
            (pod.links(), world.leases()),
            (vec!["lo".to_owned()], vec!["ns1001-0".to_owned()])
        );
        assert_eq!(world.published(), [""; 0], "{harm}");
        assert_eq!(bobs.links(), ["lo", "veth1"], "{harm}");
    }
}

#[test]
fn a_run_that_is_stopped_anywhere_takes_nothing_that_came_later() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    const AT: &str = "-containerAddress 10.10.10.2/24 -publish 8080:80";
    let call = "netsetgo -delete -id web";
    let acts = |stage: &Stage| {
        [libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_exit_group].contains(&stage.call)
    };
    created(&alice, "web", AT);
    let places = places(&alice, call, acts);
    assert!(places.len() > 10, "only {} stages", places.len());
    assert_eq!((world.leases(), world.elements().len()), (Vec::new(), 0));
    for place in places {
        // The next is another user's, or another of the same user, of the same name.
        for heir in [&bob, &alice] {
            let pod = created(&alice, "web", AT);
            let Some(frozen) = Trace::of(&alice, call).freeze(|stage| stage.is(&place)) else {
                continue;
            };
            let other = bob.container();
            bob.netsetgo(format!("-pid {other} -wait 0")).done();
            bob.netsetgo("-delete -address 10.10.10.3").done();
            alice.netsetgo(format!("-delete -pid {pod}")).done();
            assert_eq!((world.leases(), world.elements().len()), (Vec::new(), 0), "{place:?}");
            let next = published(heir, AT);
            let outcome = world.unchanged(|| frozen.thaw());
            assert_eq!(outcome.status, 0, "{place:?}: {outcome:?}");
            heir.netsetgo(format!("-delete -pid {next}")).done();
            [pod, other, next].iter().for_each(Container::kill);
        }
    }
}
