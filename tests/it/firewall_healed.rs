//! The firewall: whatever of it was changed or taken away, the next attach heals it.

use crate::way_out::{answer, ip_forward};
use crate::world::{ALICE, HOST, Part, Stage, Trace, User, WITHOUT_MEMORY, World};

/// The firewall, as nft lists it; but not the table's own comment, which stays as it is while the table
/// does, and not what [`World::ruleset`] leaves out.
pub(crate) fn firewall(world: &World) -> String {
    let text = world.sh(&format!(
        "(nft list table inet netsetgo; nft list table bridge netsetgo) |
         sed -E '/^\\tcomment /d; {WITHOUT_MEMORY}'"
    ));
    text.trim_end().to_owned()
}

/// The firewall's rules and elements, whatever empty chains and sets there are.
pub(crate) fn content(world: &World) -> String {
    let inner = |line: &&str| line.starts_with("\t\t") && !line.starts_with("\t\ttype ");
    let text = firewall(world);
    let mut lines: Vec<_> = text.lines().filter(inner).collect();
    // Chains are listed in the order in which they were made.
    lines.sort_unstable();
    lines.join("\n")
}

/// The rules alone.
pub(crate) fn rules(world: &World) -> String {
    let rule = |line: &&str| line.contains(" comment \"") && !line.contains("elements = ");
    content(world).lines().filter(rule).collect::<Vec<_>>().join("\n")
}

/// Asserts that two firewalls are the same.
#[track_caller]
pub(crate) fn same(seen: &str, wanted: &str, why: &str) {
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines().filter(|line| !b.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    let differ = (only(seen, wanted), only(wanted, seen));
    assert!(seen == wanted, "{why}: there is {:#?}, and not {:#?}", differ.0, differ.1);
}

/// The policy's network, for alice and bob.
fn policy(network: &str) -> String {
    let allow = |user| format!("[[allow]]\nuser = \"{user}\"\npublish = [\"8000-8999\"]\n");
    format!("[network]\n{network}\n{}", ["alice", "bob"].map(allow).concat())
}

/// Of the messages that the helper is about to send, the types of those to nf_tables.
fn messages(stage: Stage) -> Vec<u8> {
    const NF_TABLES: u8 = 10;
    if stage.part == Part::Child {
        return Vec::new();
    }
    let all = stage.messages().into_iter();
    all.filter(|[_, whose]| *whose == NF_TABLES).map(|[kind, _]| kind).collect()
}

/// How many requests to change something a run sends to nf_tables. The run has to succeed.
#[track_caller]
fn changes(user: &User<'_>, arguments: &str) -> usize {
    let mut changes = 0;
    // Types come in threes: new, get, delete (`nf_tables_msg_types`, `linux/netfilter/nf_tables.h`).
    let count = |stage| changes += messages(stage).into_iter().filter(|kind| kind % 3 != 1).count();
    let _ = Trace::of(user, format!("netsetgo {arguments}")).watch(count).done();
    changes
}

#[test]
fn a_firewall_that_is_whole_is_not_written_again() {
    let world = World::with_policy(&policy(""));
    let (alice, bob) = (world.alice(), world.bob());
    let attach = |user: &User<'_>| changes(user, &format!("-pid {}", user.container()));
    let pod = alice.container();
    let again = format!("-pid {pod}");
    assert!(changes(&alice, &again) > 0);
    assert_eq!(changes(&alice, &again), 0);
    // A user who comes for the first time is put into a set. Each new address is put into two maps and a
    // set, with the user's limit.
    assert!(attach(&bob) > 0);
    assert_eq!(attach(&bob), 4);
    // The address of a former container of the same user is taken as it is.
    alice.netsetgo(format!("-delete {again}")).done();
    let listed = world.sh("nft -a list ruleset");
    assert_eq!(changes(&alice, &again), 0);
    assert_eq!(changes(&alice, "-prune"), 0);
    assert_eq!(changes(&alice, &format!("-delete {again}")), 0);
    // What is published is written, and is deleted with the container's network.
    assert!(changes(&alice, &format!("{again} -publish 8080:80")) > 0);
    assert!(changes(&alice, &format!("-delete {again}")) > 0);
    same(&world.sh("nft -a list ruleset"), &listed, "after all that");
}

/// What is done to the firewall by an admin who does not know it, or does not want it.
const HARM: [&str; 32] = [
    "nft flush ruleset",
    "nft flush table inet netsetgo",
    "nft flush table bridge netsetgo",
    "nft delete table inet netsetgo",
    "nft delete table bridge netsetgo",
    "nft flush set inet netsetgo bridges",
    "nft flush set inet netsetgo within",
    "nft flush set inet netsetgo subnets",
    "nft delete element inet netsetgo subnets '{ 10.10.10.0/24 }'",
    "nft flush set bridge netsetgo leases",
    "nft flush set bridge netsetgo addresses",
    "nft flush set bridge netsetgo users",
    "nft flush chain inet netsetgo behind_host",
    "nft flush chain inet netsetgo arriving",
    "nft flush chain inet netsetgo no_router",
    "nft flush chain bridge netsetgo sent",
    // A rule less, a rule more, another in its place, and another order.
    "nft delete rule inet netsetgo behind_host handle $masquerade",
    "nft delete rule inet netsetgo arriving handle $first",
    "nft insert rule inet netsetgo forwarded drop",
    "nft insert rule inet netsetgo forwarded accept",
    "nft insert rule bridge netsetgo sent accept",
    "nft add rule inet netsetgo behind_host accept",
    "nft add rule bridge netsetgo passed_on accept",
    "nft replace rule inet netsetgo behind_host handle $masquerade accept",
    "nft replace rule inet netsetgo behind_host handle $masquerade accept comment \"\\\"$comment\\\"\"",
    "nft delete rule inet netsetgo coming_in handle $answers
     nft add rule inet netsetgo coming_in ct direction reply accept comment answers",
    "nft add table inet netsetgo '{ flags dormant; }'",
    "nft add table bridge netsetgo '{ flags dormant; }'",
    // The same names, for something else.
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add set inet netsetgo bridges { type ipv4_addr; }
          add set inet netsetgo live { type ifname; }
          add map inet netsetgo ports { type mark : verdict; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add chain inet netsetgo forwarded { type filter hook input priority 0; }
          add chain inet netsetgo published { type filter hook input priority 0; }'",
    "nft 'delete table inet netsetgo; add table inet netsetgo
          add chain inet netsetgo arriving
          add chain inet netsetgo behind_host { type nat hook postrouting priority 7; }'",
    "echo 0 >/proc/sys/net/ipv4/ip_forward",
];

#[test]
fn a_firewall_that_the_admin_broke_is_healed_by_the_next_attach() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    let pod = alice.attached();
    let good = firewall(&world);
    let state = || (world.ruleset(), ip_forward(&world));
    let whole = state();
    let break_it = |harm: &str| {
        world.sh(&format!(
            "handles() {{ nft -a list chain inet netsetgo $1 | sed -n 's/.*comment.*handle //p'; }}
             first=$(handles arriving | sed -n 1p)
             answers=$(handles coming_in | sed -n 1p)
             masquerade=$(handles behind_host | sed -n 1p)
             comment=$(nft list chain inet netsetgo behind_host |
                 sed -n 's/.*comment \"\\(.*\\)\".*/\\1/p' | sed -n 1p)
             {harm}"
        ));
        assert_ne!(state(), whole, "no harm: {harm}");
    };
    for harm in HARM {
        // By an attach of a container that is attached already, and by that of another.
        break_it(harm);
        alice.netsetgo(format!("-pid {pod}")).done();
        same(&firewall(&world), &good, harm);
        break_it(harm);
        let other = alice.attached();
        same(&firewall(&world), &good, harm);
        assert_eq!(ip_forward(&world), "2", "{harm}");
        for pod in [&pod, &other] {
            assert_eq!(answer(pod), "remote 192.0.2.1", "{harm}");
        }
        other.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
}

#[test]
fn a_policy_that_was_changed_is_applied_by_the_next_attach() {
    const OTHER: &str = "address = \"10.10.20.1/24\"";
    for (before, after) in [
        ("", "isolation = \"none\""),
        ("isolation = \"none\"", "isolation = \"container\""),
        ("isolation = \"container\"", ""),
        ("host_access = \"all\"", ""),
        ("", "host_access = \"all\""),
        ("nat = false", ""),
        ("", "dns = [\"192.0.2.53\"]"),
        ("dns = [\"192.0.2.53\", \"192.0.2.54\"]", "dns = [\"192.0.2.53\"]"),
        ("", OTHER),
        (OTHER, "address = \"10.10.20.1/22\""),
    ] {
        let why = format!("{before:?}, {after:?}");
        let fresh = World::with_policy(&policy(after));
        fresh.alice().attached();
        let wanted = content(&fresh);
        let world = World::with_policy(&policy(before));
        let alice = world.alice();
        alice.attached().kill();
        world.until_leases_are(&[]);
        assert_ne!(content(&world), wanted, "{why}");
        world.policy(&policy(after));
        if after.starts_with("address") {
            // The bridge is the same one.
            world.sh("ip address flush dev brg0");
        }
        alice.attached();
        same(&content(&world), &wanted, &why);
        assert_eq!(ip_forward(&world), ip_forward(&fresh), "{why}");
    }
}

#[test]
fn whether_the_host_is_a_router_is_found_out_by_each_attach() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.attached();
    let ours = firewall(&world);
    let after_writing = |value: &str| {
        world.sh(&format!("echo {value} >/proc/sys/net/ipv4/ip_forward"));
        alice.netsetgo(format!("-pid {pod}")).done();
        (ip_forward(&world), firewall(&world))
    };
    for _ in 0..2 {
        let (switch, router) = after_writing("1");
        assert_eq!(switch, "1");
        assert_ne!(router, ours);
        assert!(!router.contains("jump no_router"), "{router}");
        assert_eq!(after_writing("0"), ("2".to_owned(), ours.clone()));
    }
}

#[test]
fn a_saved_ruleset_can_be_loaded_again() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    world.names_protocols();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    let pod = alice.container();
    alice
        .netsetgo(format!(
            "-pid {pod} -publish 8080-8082:80-82 -publish {HOST}:8090:80 -publish 127.0.0.1:8091:80/udp"
        ))
        .done();
    pod.inside().serves("pod", "80");
    world.sh("nft list ruleset >/run/saved");
    let saved = world.ruleset();
    world.sh("nft flush ruleset; nft -f /run/saved");
    assert_eq!(world.ruleset(), saved);
    let works = || {
        assert_eq!(answer(&pod), "remote 192.0.2.1");
        assert_eq!(remote.user().asks("tcp", HOST, 8080), "pod 192.0.2.9");
        assert_eq!(remote.user().asks("tcp", HOST, 8090), "pod 192.0.2.9");
        assert!(world.root().asks("udp", "127.0.0.1", 8091).starts_with("pod "));
    };
    works();
    // The next attach finds its own again in what nft wrote.
    alice.netsetgo(format!("-pid {pod}")).done();
    assert_eq!(world.ruleset(), saved);
    works();
    // And what is there may be loaded once more over it.
    world.sh("nft -f /run/saved");
    alice.attached();
    works();
}

#[test]
fn a_saved_ruleset_that_has_a_rule_less_is_healed() {
    let world = World::new();
    world.names_protocols();
    let alice = world.alice();
    let pod = alice.attached();
    let good = firewall(&world);
    world.sh("(echo flush ruleset; nft list ruleset) >/run/saved
              sed '0,/iifname @bridges.*drop/{/iifname @bridges.*drop/d}' /run/saved >/run/broken
              ! cmp -s /run/saved /run/broken
              nft -f /run/broken");
    assert_ne!(firewall(&world), good);
    alice.netsetgo(format!("-pid {pod}")).done();
    same(&firewall(&world), &good, "a rule less");
}

#[test]
fn what_is_changed_while_a_run_is_stopped_anywhere_is_healed_by_the_next() {
    let world = World::with_policy(&policy(""));
    let alice = world.alice();
    let pod = alice.attached();
    let good = rules(&world);
    let attach = format!("-pid {pod}");
    for publish in ["", "-publish 8080:80"] {
        for place in 1.. {
            // For the port to be published anew.
            world.sh("nft flush map inet netsetgo ports; nft flush set inet netsetgo live");
            let mut sent = 0;
            let run = Trace::of(&alice, format!("netsetgo {attach} {publish}"));
            let frozen = run.freeze(|stage| {
                let sends = !messages(stage).is_empty();
                sent += usize::from(sends);
                sends && sent == place
            });
            let Some(frozen) = frozen else {
                assert!(place > 3, "only {place} places");
                break;
            };
            world.sh("nft flush chain inet netsetgo arriving");
            frozen.thaw().done();
            alice.netsetgo(&attach).done();
            same(&rules(&world), &good, &format!("{publish}, {place}"));
        }
    }
}

#[test]
fn two_first_attaches_at_once_make_one_firewall() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    alice.attached().kill();
    world.until_leases_are(&[]);
    let good = world.ruleset();
    for _ in 0..10 {
        world.sh("ip link del brg0; nft flush ruleset; echo 0 >/proc/sys/net/ipv4/ip_forward");
        let pods = alice.containers(2);
        let script = format!(
            "netsetgo -pid {} & first=$!; netsetgo -pid {} && wait $first",
            pods[0], pods[1]
        );
        alice.sh(&script).done();
        assert_eq!(world.ruleset(), good);
        assert_eq!(ip_forward(&world), "2");
        for pod in &pods {
            assert_eq!(answer(pod), "remote 192.0.2.1");
            pod.kill();
        }
        world.until_leases_are(&[]);
    }
}

#[test]
fn a_ruleset_that_others_keep_changing_keeps_no_user_from_attaching() {
    let world = World::with_policy(&format!("{ALICE}links = 60\npublish = [\"8000-8999\"]\n"));
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    // Some hundred times a second, over one connection.
    let _busy = world.root().start(
        "nft 'add table inet busy; add set inet busy s { type ipv4_addr; }'
         while busybox usleep 2000; do
             echo 'add element inet busy s { 10.0.0.1 }; delete element inet busy s { 10.0.0.1 }'
         done | nft -i >/dev/null 2>&1",
    );
    world.until("the changes to begin", || world.sh("nft list tables").contains("busy"));
    for publish in ["", "-publish 0:80 -publish 127.0.0.1:0:80/udp"] {
        for pod in alice.containers(30) {
            alice.netsetgo(format!("-pid {pod} {publish}")).done();
        }
    }
    assert_eq!(world.leases().len(), 60);
}

#[test]
fn every_rule_and_set_says_what_it_is_for() {
    let world = World::new();
    world.alice().attached();
    let text = world.sh("nft list table inet netsetgo");
    assert!(text.lines().nth(1).unwrap().starts_with("\tcomment "), "{text}");
    // Within a chain, all but where it hangs; within a set, one line of it.
    let mut blocks = 0;
    for block in text.split("\n\n").chain([text.as_str()]) {
        let name = block.lines().find(|line| line.ends_with('{')).unwrap().trim();
        blocks += 1;
        if name.starts_with("chain") {
            let rules = block.lines().filter(|line| line.starts_with("\t\t"));
            for rule in rules.filter(|line| !line.trim().starts_with("type ")) {
                assert!(rule.contains(" comment \""), "{rule}");
            }
        } else if !name.starts_with("limit uid") && !name.starts_with("table") {
            assert!(block.contains("\n\t\tcomment \""), "{block}");
        }
    }
    assert!(blocks > 15, "{text}");
}

#[test]
fn a_table_of_the_same_name_in_another_family_is_not_touched() {
    let world = World::new();
    let remote = world.internet();
    remote.user().serves("remote", "7");
    world.sh("nft 'add table ip netsetgo; add chain ip netsetgo forwarded
              add rule ip netsetgo forwarded drop; add set ip netsetgo bridges { type mark; }'");
    let theirs = world.sh("nft list table ip netsetgo");
    let pod = world.alice().attached();
    assert_eq!(world.sh("nft list table ip netsetgo"), theirs);
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}

#[test]
fn tables_of_another_version_are_made_anew() {
    for publish in ["", "-publish 8080:80"] {
        let world = World::with_policy(&policy(""));
        // As an earlier version made them: other keys, other flags, a set that is gone.
        world.sh(
            "nft 'table inet netsetgo {
                 set seen { type mark . mark . mark; flags timeout; }
                 set publishing { type ipv4_addr; flags timeout; elements = { 10.10.10.2 } }
                 map ports { type inet_proto . inet_service : ipv4_addr . inet_service; flags timeout
                             elements = { tcp . 8080 : 10.10.10.2 . 80 } }
                 set live { type inet_proto . inet_service . ipv4_addr . inet_service; flags timeout; }
                 chain leaving { type filter hook postrouting priority filter; }
             }'",
        );
        let pod = world.alice().container();
        world.alice().netsetgo(format!("-pid {pod} {publish}")).done();
        let fresh = World::with_policy(&policy(""));
        let other = fresh.alice().container();
        fresh.alice().netsetgo(format!("-pid {other} {publish}")).done();
        same(&content(&world), &content(&fresh), publish);
    }
}
