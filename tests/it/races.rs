//! Many runs at once, and runs that end in the midst of it.

use std::collections::BTreeSet;

use nix::libc;

use crate::world::{ALICE, Container, Stage, Trace, World, json, places};

/// That no process of the helper is left.
#[track_caller]
fn no_helper_is_left(world: &World) {
    world.until("every helper to end", || {
        world.sh("grep -lx netsetgo /proc/[0-9]*/comm 2>/dev/null || true").is_empty()
    });
}

#[test]
fn two_hundred_attaches_at_once_by_four_users_keep_every_rule() {
    // Alice, bob and carol have 50 containers each and may have 16, 40 and 50; dave may have none.
    let quotas = [("alice", 16), ("bob", 40), ("carol", 50), ("dave", 0)];
    let policy: String = quotas
        .iter()
        .map(|(user, links)| format!("[[allow]]\nuser = \"{user}\"\nlinks = {links}\n"))
        .collect();
    let world = World::with_policy(&policy);
    world.sh("mkdir -m 777 /tmp/ready /tmp/said; mkfifo -m 666 /tmp/gate");
    let pods: Vec<_> = quotas.iter().map(|(user, _)| world.user(user).containers(50)).collect();
    let runs: Vec<_> = pods
        .iter()
        .zip(quotas)
        .map(|(pods, (user, _))| {
            let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
            world.user(user).start(&format!(
                "for pid in {}; do
                     (: >/tmp/ready/$pid; : </tmp/gate
                      netsetgo -pid $pid -wait 0 -json >/tmp/said/$pid.out 2>/tmp/said/$pid.err
                      echo $? >/tmp/said/$pid.status) &
                 done; wait",
                pids.join(" ")
            ))
        })
        .collect();
    // All stand at the gate, which opens for all of them together.
    let open = world.root().start("until [ $(ls /tmp/ready | wc -l) = 200 ]; do sleep 0.05; done; exec sleep infinity >/tmp/gate");
    for run in runs {
        run.end().done();
    }
    drop(open);

    let said = |pid: u32, what: &str| {
        std::fs::read_to_string(world.path(&format!("/tmp/said/{pid}.{what}"))).unwrap()
    };
    let mut addresses = BTreeSet::new();
    for (pods, (user, links)) in pods.iter().zip(quotas) {
        let mut attached = 0;
        for pod in pods {
            match said(pod.pid, "status").trim() {
                "0" => {
                    attached += 1;
                    let address = pod.address();
                    assert_eq!(json(&said(pod.pid, "out"))["ips"][0]["address"], *address);
                    assert!(addresses.insert(address.clone()), "{address} twice");
                }
                "3" => {
                    let line = said(pod.pid, "err");
                    let why = if links == 0 { "not allowed" } else { "quota" };
                    assert!(
                        line.starts_with("netsetgo: refused: ") && line.contains(why),
                        "{line}"
                    );
                    assert_eq!(pod.links(), ["lo"]);
                }
                _ => panic!("{user}: {}", said(pod.pid, "err")),
            }
        }
        assert_eq!(attached, links, "{user}");
    }
    // No run was fast enough to leave a gap.
    assert_eq!(addresses.len(), 106);
    assert_eq!(world.leases().len(), 106);
    let ports = world.ip("link show master brg0");
    assert_eq!(ports.as_array().unwrap().len(), 106);
    world.has_its_bridge();
    no_helper_is_left(&world);
}

#[test]
fn killed_at_a_random_instant_300_times_nothing_remains() {
    let world = World::with_policy(&format!("{ALICE}links = 8\n"));
    let alice = world.alice();
    let pods = alice.containers(10);
    let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
    // Every other time it starts from nothing; otherwise there may be something from the last run.
    let script = format!(
        "set -- {}; exec 2>/dev/null
         for delay in $(shuf -i 0-6000 -n 300); do
             pid=$1; shift; set -- \"$@\" $pid
             netsetgo -pid $pid -wait 0 & helper=$!
             busybox usleep $delay
             kill -9 $helper; wait $helper
             links=$(ls -d /proc/sys/net/ipv4/conf/ns* | wc -l)
             if [ $links -gt 8 ]; then echo $links links; fi
             if [ $((delay % 2)) = 0 ]; then
                 nsenter -t $pid -U -n --preserve-credentials ip link del veth1
             fi
         done; true",
        pids.join(" ")
    );
    assert_eq!(alice.sh(&script).done(), "");
    no_helper_is_left(&world);
    // What was left half done does not stand in the way.
    for pod in &pods {
        let _ = pod.inside().sh("ip link del veth1");
    }
    world.until_leases_are(&[]);
    for pod in &pods[..8] {
        alice.netsetgo(format!("-pid {pod} -wait 0")).done();
        pod.address();
    }
    world.has_its_bridge();
    for pod in &pods {
        pod.kill();
    }
    world.until_leases_are(&[]);
    assert_eq!(world.ip("link show master brg0"), json("[]"));
}

#[test]
fn killed_before_any_of_its_changes_the_next_run_completes_them() {
    let world = World::new();
    let alice = world.alice();
    let changes =
        |stage: &Stage| [libc::SYS_sendto, libc::SYS_write, libc::SYS_setns].contains(&stage.call);
    let first = alice.container();
    let places = places(&alice, format!("netsetgo -pid {first}"), changes);
    assert!(places.len() > 10, "{places:?}");
    for place in places {
        // From nothing, each time.
        world.sh("pkill -9 sleep; ip link del brg0 2>/dev/null || true");
        world.until_leases_are(&[]);
        let pod = alice.container();
        let run = Trace::of(&alice, format!("netsetgo -pid {pod}"));
        if let Some(frozen) = run.freeze(|stage| stage.is(&place)) {
            frozen.kill();
        }
        no_helper_is_left(&world);
        assert!(world.leases().len() <= 1, "{place:?}");
        alice.netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24", "{place:?}");
        world.has_its_bridge();
        pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
    }
}

#[test]
fn one_container_attached_by_many_runs_at_once_gets_one_veth_pair() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.container();
    let script = format!(
        "for run in $(seq 20); do
             (netsetgo -pid {pod} -wait 0; echo $? >/tmp/status.$run) &
         done; wait; sort /tmp/status.* | uniq -c"
    );
    assert_eq!(alice.sh(&script).done().trim(), "20 0");
    assert_eq!(world.leases(), ["ns1000-0"]);
    assert_eq!(pod.address(), "10.10.10.2/24");
    pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
}
