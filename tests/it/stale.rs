//! A run decides by what it has read, and its caller can stop it for as long as the caller likes. Meanwhile
//! the admin changes the policy or forwarding, or flushes the ruleset. What the run then does is what the
//! present state allows.

use std::fs;

use crate::firewall_healed::{rules, same};
use crate::way_out::ip_forward;
use crate::world::{ALICE, Container, Frozen, Outcome, Part, Stage, Trace, World, places};

const CHANGED: &str = "the admin has changed it during this call; call netsetgo again";

/// A policy for alice and bob, with these keys of the network, and for alice with these keys of hers.
fn policy(network: &str, alice: &str) -> String {
    let entry = |user, keys| format!("[[allow]]\nuser = \"{user}\"\n{keys}\n");
    format!("[network]\n{network}\n{}{}", entry("alice", alice), entry("bob", ""))
}

/// Replaces the policy at once, as editors do. Otherwise a stopped run may read a half of each.
fn replace(world: &World, policy: &str) {
    let new = world.path("/etc/new");
    fs::write(&new, policy).unwrap();
    fs::rename(new, world.path("/etc/netsetgo.toml")).unwrap();
}

const LAX: &str = "isolation = \"none\"\nhost_access = \"all\"";
const PORTS: &str = "publish = [\"8000-8999\"]";

/// Stops the helper's own process at each place of a run for alice's container, or at a choice of them.
/// `before` makes the container, and `then` ends it.
#[track_caller]
fn stopped_anywhere<'w>(
    world: &'w World,
    arguments: &str,
    before: impl Fn() -> Container<'w>,
    then: impl Fn(Frozen, &Container<'w>),
) {
    let alice = world.alice();
    let call = |pod: &Container<'_>| {
        format!("netsetgo {} -wait 0", arguments.replace("POD", &pod.to_string()))
    };
    let end = |pod: Container<'_>| {
        pod.kill();
        world.until("its lease to go", || hers(world).is_empty());
    };
    let first = before();
    let places = places(&alice, call(&first), |stage: &Stage| stage.part == Part::Parent);
    assert!(places.len() > 10, "only {} places", places.len());
    end(first);
    for place in places {
        let pod = before();
        if let Some(frozen) = Trace::of(&alice, call(&pod)).freeze(|stage| stage.is(&place)) {
            then(frozen, &pod);
        }
        end(pod);
    }
}

/// Alice's leases.
fn hers(world: &World) -> Vec<String> {
    let mut leases = world.leases();
    leases.retain(|name| name.starts_with("ns1000-"));
    leases
}

/// Whether one of them has an open bridge port.
fn is_open(world: &World) -> bool {
    world.sh("ip -brief link show up type veth").contains("ns1000-")
}

/// Lets a stopped run go on. How it ends is told in one line.
#[track_caller]
fn let_go(frozen: Frozen) -> Outcome {
    let outcome = frozen.thaw();
    assert!([0, 1, 3].contains(&outcome.status), "{outcome:?}");
    assert!(outcome.status == 0 || outcome.is_one_line(), "{outcome:?}");
    outcome
}

#[test]
fn stopped_anywhere_a_run_does_nothing_that_the_policy_forbids_since() {
    for (tight, publish, granted) in [
        (policy(LAX, "links = 0"), "", false),
        (policy(LAX, "publish = []"), "-publish 8080:80", false),
        // Here she may still have all that.
        (policy("", PORTS), "-publish 8080:80", true),
    ] {
        let fresh = World::with_policy(&tight);
        fresh.bob().attached();
        let good = rules(&fresh);
        let world = World::with_policy(&policy(LAX, PORTS));
        world.bob().attached();
        let before = || {
            replace(&world, &policy(LAX, PORTS));
            world.root().netsetgo("-prune").done();
            world.alice().container()
        };
        stopped_anywhere(&world, &format!("-pid POD {publish}"), before, |frozen, _| {
            let had = (is_open(&world), world.published());
            replace(&world, &tight);
            world.root().netsetgo("-prune").done();
            let place = frozen.stage;
            let outcome = let_go(frozen);
            let why = format!("{place:?}, {tight}: {outcome:?}");
            same(&rules(&world), &good, &why);
            if !granted {
                assert!(had.0 || outcome.status != 0 && !is_open(&world), "{why}");
                assert!(world.published().iter().all(|port| had.1.contains(port)), "{why}");
            }
        });
    }
}

#[test]
fn stopped_anywhere_a_run_publishes_nothing_for_an_attached_container_that_is_not_granted_since() {
    let world = World::with_policy(&policy(LAX, PORTS));
    let before = || {
        replace(&world, &policy(LAX, PORTS));
        world.alice().attached()
    };
    for tight in [policy(LAX, "links = 0"), policy("", "publish = []")] {
        stopped_anywhere(&world, "-pid POD -publish 8080:80", before, |frozen, _| {
            let had = world.published();
            replace(&world, &tight);
            world.root().netsetgo("-prune").done();
            let place = frozen.stage;
            let outcome = let_go(frozen);
            let new = world.published().into_iter().find(|port| !had.contains(port));
            assert_eq!(new, None, "{place:?}, {tight}: {outcome:?}");
        });
    }
}

#[test]
fn stopped_anywhere_a_run_takes_its_containers_network_away_whatever_the_policy_says_since() {
    let world = World::with_policy(&policy("", PORTS));
    let before = || {
        replace(&world, &policy("", PORTS));
        crate::publish::published(&world.alice(), "-publish 8080:80")
    };
    stopped_anywhere(&world, "-delete -pid POD", before, |frozen, pod| {
        replace(&world, &policy(LAX, "links = 0"));
        world.root().netsetgo("-prune").done();
        let place = frozen.stage;
        let outcome = let_go(frozen);
        assert_eq!(outcome.status, 0, "{place:?}: {outcome:?}");
        assert_eq!((hers(&world), world.published()), (Vec::new(), Vec::new()), "{place:?}");
        assert_eq!(pod.links(), ["lo"], "{place:?}");
    });
}

/// Who looks at the switch while a run is stopped.
#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    /// Root's `-prune`, while the first attach of all is stopped.
    Root,
    /// An attach of bob's, while one is stopped that finds the tables for a host that is no router.
    Bob,
    /// Nobody; likewise.
    Nobody,
}

/// Stops an attach anywhere, while the admin writes another number to `ip_forward`. `seen` is how the host
/// is found in the end.
#[track_caller]
fn forwarding_is_the_admins(
    meanwhile: Meanwhile,
    was: u8,
    becomes: u8,
    seen: impl Fn(&World) -> bool,
) {
    let world = World::with_policy(&policy("", ""));
    let bob = world.bob();
    let his = bob.container();
    let write =
        |number: u8| drop(world.sh(&format!("echo {number} >/proc/sys/net/ipv4/ip_forward")));
    let before = || {
        if meanwhile == Meanwhile::Root {
            let _ = world.root().sh("ip link del brg0");
            world.sh("nft flush ruleset");
        } else {
            write(0);
            bob.netsetgo(format!("-pid {his}")).done();
        }
        write(was);
        world.alice().container()
    };
    stopped_anywhere(&world, "-pid POD", before, |frozen, pod| {
        write(becomes);
        match meanwhile {
            Meanwhile::Root => drop(world.root().netsetgo("-prune").done()),
            Meanwhile::Bob => drop(bob.netsetgo(format!("-pid {his}")).done()),
            Meanwhile::Nobody => {}
        }
        let place = frozen.stage;
        let outcome = let_go(frozen);
        assert_eq!(outcome.status, 0, "{place:?}: {outcome:?}");
        let state = || format!("{place:?}: ip_forward {}, {}", ip_forward(&world), rules(&world));
        assert!(seen(&world), "{}", state());
        // And stays so.
        world.alice().netsetgo(format!("-pid {pod}")).done();
        assert!(seen(&world), "after another attach: {}", state());
        world.root().netsetgo("-prune").done();
        assert!(seen(&world), "after a prune: {}", state());
        assert_eq!(ip_forward(&world), if becomes == 1 { "1" } else { "2" }, "{}", state());
    });
}

/// Whether the host routes for others.
fn is_router(world: &World) -> bool {
    !rules(world).contains("jump no_router") && ip_forward(world) != "0"
}

#[test]
fn stopped_anywhere_a_run_leaves_a_host_a_router_that_becomes_one_meanwhile() {
    for meanwhile in [Meanwhile::Root, Meanwhile::Bob] {
        forwarding_is_the_admins(meanwhile, 0, 1, is_router);
    }
}

#[test]
fn stopped_anywhere_a_run_makes_no_router_of_a_host_that_is_none_any_more() {
    for meanwhile in [Meanwhile::Root, Meanwhile::Bob, Meanwhile::Nobody] {
        forwarding_is_the_admins(meanwhile, 1, 0, |world| !is_router(world));
    }
}

#[test]
fn a_2_over_the_admins_1_leaves_a_router_one_and_roots_prune_writes_1_again() {
    let world = World::new();
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
    let pod = world.alice().attached();
    world.sh("echo 2 >/proc/sys/net/ipv4/ip_forward");
    for arguments in [format!("-pid {pod}"), "-prune".to_owned()] {
        world.alice().netsetgo(&arguments).done();
        assert!(is_router(&world) && ip_forward(&world) == "2", "{arguments}");
    }
    // Whatever else changes.
    replace(&world, &policy("isolation = \"none\"\nconnections = 7", ""));
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert!(is_router(&world));
    world.root().netsetgo("-prune").done();
    assert_eq!((is_router(&world), ip_forward(&world).as_str()), (true, "1"));
}

#[test]
fn with_forwarding_on_by_netsetgo_a_flush_makes_no_router_whatever_nat_is() {
    let world = World::new();
    let pod = world.alice().attached();
    replace(&world, &format!("[network]\nnat = false\n{ALICE}"));
    for arguments in [format!("-pid {pod}"), "-prune".to_owned()] {
        world.sh("nft flush ruleset");
        world.alice().netsetgo(&arguments).done();
        assert_eq!((is_router(&world), ip_forward(&world).as_str()), (false, "2"), "{arguments}");
    }
}

#[test]
fn stopped_anywhere_a_run_opens_no_port_without_the_tables() {
    let world = World::new();
    let alice = world.alice();
    alice.attached().kill();
    let good = rules(&world);
    stopped_anywhere(
        &world,
        "-pid POD",
        || alice.container(),
        |frozen, _| {
            let open = is_open(&world);
            world.sh("nft flush ruleset");
            let place = frozen.stage;
            let outcome = let_go(frozen);
            assert_eq!(outcome.status, 0, "{place:?}: {outcome:?}");
            if !open {
                same(&rules(&world), &good, &format!("{place:?}"));
            }
            alice.netsetgo("-prune").done();
        },
    );
}

/// A process of alice's in the host's namespace, which goes to one of its own when `/tmp/go` is there.
fn waiting(world: &World) -> Container<'_> {
    world.alice().process(
        "echo $$; exec >/dev/null; while [ ! -e /tmp/go ]; do busybox usleep 5000; done
         exec unshare -Urn sleep infinity",
    )
}

#[test]
fn a_run_that_waits_for_its_target_goes_by_the_policy_of_after_the_wait() {
    for (tight, phrase) in [(policy(LAX, "links = 0"), Some("not allowed")), (policy("", ""), None)]
    {
        let fresh = World::with_policy(&tight);
        fresh.bob().attached();
        let world = World::with_policy(&policy(LAX, ""));
        world.bob().attached();
        let target = waiting(&world);
        let run = world.alice().start(&format!("netsetgo -pid {target} -wait 3600"));
        std::thread::sleep(std::time::Duration::from_millis(200));
        replace(&world, &tight);
        world.root().netsetgo("-prune").done();
        world.sh("touch /tmp/go");
        match phrase {
            Some(phrase) => drop(run.end().refused(phrase)),
            None => drop(run.end().done()),
        }
        assert_eq!(hers(&world).len(), usize::from(phrase.is_none()));
        same(&rules(&world), &rules(&fresh), &tight);
    }
}

#[test]
fn a_policy_that_changed_is_an_error_that_says_so() {
    let world = World::with_policy(&policy(LAX, ""));
    let alice = world.alice();
    // An attach at an address of her own, which changes nothing of the firewall.
    alice.attached().kill();
    world.until_leases_are(&[]);
    let pod = alice.container();
    let frozen = until_it_has_a_lease(&world, "1000", &pod);
    replace(&world, &policy("", ""));
    frozen.thaw().failed(CHANGED);
    assert_eq!((hers(&world), pod.links()), (Vec::new(), vec!["lo".to_owned()]));
    alice.netsetgo(format!("-pid {pod}")).done();
}

/// A run for this container that is stopped when its lease is there and its port is closed.
#[track_caller]
fn until_it_has_a_lease(world: &World, user: &str, pod: &Container<'_>) -> Frozen {
    let before = world.leases();
    let run = Trace::of(&world.user(user), format!("netsetgo -pid {pod}"));
    run.freeze(|_| world.leases() != before).expect("a run that takes a lease")
}

#[test]
fn roots_prune_takes_closed_ports_away_that_are_not_granted_any_more() {
    let world = World::with_policy(&policy("", ""));
    let (alice, bob) = (world.alice(), world.bob());
    let old = alice.attached();
    let pods = [alice.container(), bob.container()];
    let runs = [("1000", &pods[0]), ("1001", &pods[1])]
        .map(|(user, pod)| until_it_has_a_lease(&world, user, pod));
    // One is in use.
    replace(&world, &policy("", "links = 1"));
    bob.netsetgo("-prune").done();
    assert_eq!(world.leases(), ["ns1000-0", "ns1000-1", "ns1001-0"]);
    world.root().netsetgo("-prune").done();
    assert_eq!(world.leases(), ["ns1000-0", "ns1001-0"]);
    let [hers, his] = runs;
    assert_ne!(hers.thaw().status, 0);
    his.thaw().done();
    // What has been attached stays so.
    replace(&world, &policy("", "links = 0"));
    world.root().netsetgo("-prune").done();
    assert_eq!(old.address(), "10.10.10.2/24");
}
