//! The seal: a firewall that somebody has looked over, and nobody has changed since, is not looked
//! over again. Whatever was changed is seen all the same.

use std::fmt::Display;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::libc;

use crate::way_out::{firewall, forward_chain, ip_forward};
use crate::world::{Container, Part, Stage, Trace, User, World};

/// What a run asks of nf_tables, counted by its messages.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    /// For all rules or chains of a table.
    looks: usize,
    /// To change something.
    changes: usize,
}

/// Where the firewall is sealed.
const NOTHING: Asked = Asked { looks: 0, changes: 0 };

impl Asked {
    /// Counts what is about to be sent.
    fn count(&mut self, stage: Stage) {
        for kind in messages(stage) {
            // Three by three: new, get, delete.
            self.changes += usize::from(kind % 3 != 1);
            self.looks += usize::from([GET_CHAIN, GET_RULE].contains(&kind));
        }
    }
}

/// Types of messages (`nf_tables_msg_types`, `linux/netfilter/nf_tables.h`).
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;

/// Of the messages that the helper is about to send, the types of those to nf_tables.
fn messages(stage: Stage) -> Vec<u8> {
    const NF_TABLES: u8 = 10;
    if (stage.part, stage.call) != (Part::Parent, libc::SYS_sendto) {
        return Vec::new();
    }
    let call = fs::read_to_string(format!("/proc/{}/syscall", stage.pid)).unwrap();
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
    let arguments: Vec<_> = call.split_whitespace().skip(1).map(number).collect();
    let mut sent = vec![0; arguments[2].try_into().unwrap()];
    let memory = File::open(format!("/proc/{}/mem", stage.pid)).unwrap();
    memory.read_exact_at(&mut sent, arguments[1]).unwrap();
    let mut kinds = Vec::new();
    let mut rest = &sent[..];
    // Each has its length and its type first, and of that the upper half says whose it is.
    while let [a, b, c, d, kind, whose, ..] = *rest {
        let length: usize = u32::from_ne_bytes([a, b, c, d]).try_into().unwrap();
        kinds.extend((whose == NF_TABLES).then_some(kind));
        rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
    }
    kinds
}

/// What an attach of this container asks for, which has to succeed.
#[track_caller]
fn asked(user: &User<'_>, arguments: &str) -> Asked {
    let mut asked = Asked::default();
    let _ =
        Trace::of(user, format!("netsetgo {arguments}")).watch(|stage| asked.count(stage)).done();
    asked
}

/// Attaches a container until the firewall is sealed.
#[track_caller]
fn seal(user: &User<'_>, pod: impl Display) {
    // The first may have something to heal, the second has to look.
    for _ in 0..2 {
        user.netsetgo(format!("-pid {pod}")).done();
    }
    assert_eq!(asked(user, &format!("-pid {pod}")), NOTHING, "the firewall is not sealed");
}

/// A container under a firewall that is sealed.
#[track_caller]
fn under_seal<'w>(user: &User<'w>) -> Container<'w> {
    let pod = user.attached();
    seal(user, &pod);
    pod
}

/// The policy's network, for alice and bob.
fn policy(network: &str) -> String {
    let allow = |user| format!("[[allow]]\nuser = \"{user}\"\npublish = [\"8000-8999\"]\n");
    format!("[network]\n{network}\n{}", ["alice", "bob"].map(allow).concat())
}

/// The last seal: the generation of the ruleset, and what it is of.
#[track_caller]
fn last_seal(world: &World) -> (u32, String) {
    let set = world.sh("nft list set inet netsetgo seen");
    let words: Vec<_> = set.split_whitespace().collect();
    let seals = words.windows(6).filter(|words| words[5] == "expires").map(|words| {
        let generation = u32::from_str_radix(words[0].trim_start_matches("0x"), 16).unwrap();
        (generation, words[2..5].join(" "))
    });
    seals.max().expect("a seal")
}

/// Asserts that two firewalls are the same.
#[track_caller]
fn same(seen: &str, wanted: &str, why: &str) {
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines().filter(|line| !b.lines().any(|other| other == *line)).map(str::to_owned).collect()
    };
    let differ = (only(seen, wanted), only(wanted, seen));
    assert!(seen == wanted, "{why}: there is {:#?}, and not {:#?}", differ.0, differ.1);
}

#[test]
fn a_firewall_that_nobody_has_changed_is_looked_over_once() {
    let world = World::with_policy(&policy(""));
    let (alice, bob) = (world.alice(), world.bob());
    let pod = alice.attached();
    let second = asked(&alice, &format!("-pid {pod}"));
    assert!(second.looks > 0 && second.changes == 1, "{second:?}");
    for _ in 0..2 {
        assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
        assert_eq!(asked(&alice, &format!("-pid {}", alice.container())), NOTHING);
    }
    // Who comes for the first time is put into a set, with the seal, and nobody looks.
    let first = asked(&bob, &format!("-pid {}", bob.container()));
    assert!(first.looks == 0 && first.changes > 0, "{first:?}");
    assert_eq!(asked(&bob, &format!("-pid {}", bob.container())), NOTHING);
    assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
}

#[test]
fn a_seal_is_kept_by_whoever_publishes() {
    let world = World::with_policy(&policy(""));
    let (alice, bob) = (world.alice(), world.bob());
    let pod = under_seal(&alice);
    let others = under_seal(&bob);
    for (user, pod, publish) in [
        (&alice, &pod, "8080:80"),
        (&alice, &pod, "8081:80/udp"),
        (&bob, &others, "127.0.0.1:8082-8084:80-82"),
        (&bob, &bob.container(), "8090:80"),
    ] {
        let publishing = asked(user, &format!("-pid {pod} -publish {publish}"));
        assert!(publishing.looks == 0 && publishing.changes > 0, "{publish}: {publishing:?}");
        assert_eq!(asked(&alice, &format!("-pid {}", alice.container())), NOTHING, "{publish}");
    }
    assert_eq!(world.published().len(), 6);
}

/// What is done to the firewall after it was sealed.
const HARM: [&str; 16] = [
    "nft delete rule inet netsetgo arriving handle $handle",
    "nft insert rule inet netsetgo arriving handle $handle accept",
    "nft insert rule inet netsetgo forwarded accept",
    "nft insert rule bridge netsetgo sent accept",
    "nft add rule bridge netsetgo passed_on accept",
    "nft flush chain inet netsetgo no_router",
    "nft flush chain bridge netsetgo sent",
    "nft flush set inet netsetgo bridges",
    "nft flush set inet netsetgo within",
    "nft flush set inet netsetgo subnets",
    "nft flush set bridge netsetgo leases",
    "nft flush set bridge netsetgo addresses",
    "nft flush set bridge netsetgo users",
    "nft flush ruleset",
    "nft add table inet netsetgo '{ flags dormant; }'",
    "nft add table bridge netsetgo '{ flags dormant; }'",
];

#[test]
fn whatever_is_changed_after_the_seal_is_healed_by_the_next_attach() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    let good = firewall(&world);
    let whole = world.ruleset();
    for harm in HARM {
        world.sh(&format!(
            "handle=$(nft -a list chain inet netsetgo arriving | sed -n 's/.*drop.*handle //p' | sed -n 1p)
             {harm}"
        ));
        let harmed = world.ruleset();
        assert_ne!(harmed, whole, "no harm: {harm}");
        alice.netsetgo(format!("-pid {pod}")).done();
        same(&firewall(&world), &good, harm);
        seal(&alice, &pod);
    }
}

#[test]
fn no_seal_outlives_a_change_that_was_taken_back() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    world.sh("nft insert rule inet netsetgo forwarded accept");
    world.sh("nft delete rule inet netsetgo forwarded handle $(
                  nft -a list chain inet netsetgo forwarded | sed -n 's/.*accept # handle //p' | sed -n 1p)");
    let again = asked(&alice, &format!("-pid {pod}"));
    assert!(again.looks > 0 && again.changes == 1, "{again:?}");
    assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
}

/// The firewall's rules and elements, whatever empty chains and sets there are.
fn content(world: &World) -> String {
    let inner = |line: &&str| line.starts_with("\t\t") && !line.starts_with("\t\ttype ");
    let text = firewall(world);
    let mut lines: Vec<_> = text.lines().filter(inner).collect();
    // Chains are listed as they were made.
    lines.sort_unstable();
    lines.join("\n")
}

/// The rules alone.
fn rules(world: &World) -> String {
    let rule = |line: &&str| line.contains(" comment \"") && !line.contains("elements = ");
    content(world).lines().filter(rule).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_policy_that_is_changed_breaks_the_seal() {
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
        let fresh = World::with_policy(&policy(after));
        fresh.alice().attached();
        let world = World::with_policy(&policy(before));
        let alice = world.alice();
        under_seal(&alice).kill();
        world.until_leases_are(&[]);
        let (sealed, wanted) = (content(&world), content(&fresh));
        world.policy(&policy(after));
        if after.starts_with("address") {
            // The bridge is the same one.
            world.sh("ip address flush dev brg0");
        }
        assert_ne!(sealed, wanted, "{before:?}, {after:?}");
        alice.attached();
        same(&content(&world), &wanted, &format!("{before:?}, {after:?}"));
        assert_eq!(ip_forward(&world), ip_forward(&fresh));
    }
}

#[test]
fn a_seal_is_of_one_network_alone() {
    let world = World::new();
    let pod = under_seal(&world.alice());
    let other = world.root().container();
    let tower = format!("{other} -bridgeName tower -bridgeAddress 10.10.20.1/24");
    let first = asked(&world.root(), &format!("-pid {tower}"));
    assert!(first.looks > 0 && first.changes > 0, "{first:?}");
    other.inside().serves("other", "80");
    assert_eq!(world.root().asks("tcp", "10.10.20.2", 80), "other 10.10.20.1");
    seal(&world.root(), tower);
    // Nor does that one's count for the first.
    let next = asked(&world.alice(), &format!("-pid {pod}"));
    assert!(next.looks > 0 && next.changes == 1, "{next:?}");
}

#[test]
fn a_switch_that_is_set_back_breaks_the_seal() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    let (ours, no_router) =
        (firewall(&world), "drop comment \"the host routes for containers alone");
    let write = |value| world.sh(&format!("echo {value} >/proc/sys/net/ipv4/ip_forward"));
    let state = || (ip_forward(&world), firewall(&world));
    let attach = || alice.netsetgo(format!("-pid {pod}")).done();
    write("0");
    attach();
    assert_eq!(state(), ("2".to_owned(), ours.clone()));
    seal(&alice, &pod);
    write("1");
    attach();
    let router = firewall(&world);
    assert_ne!(router, ours, "{no_router}");
    seal(&alice, &pod);
    assert_eq!(state(), ("1".to_owned(), router));
    for value in ["0", "2"] {
        write("1");
        attach();
        seal(&alice, &pod);
        write(value);
        attach();
        assert_eq!(state(), ("2".to_owned(), ours.clone()), "{value}");
    }
}

/// Attaches under another firewall that is in the way: there is a warning.
#[track_caller]
fn warned(user: &User<'_>, arguments: &str) {
    let outcome = user.netsetgo(arguments);
    assert!(outcome.status == 0 && outcome.is_one_line(), "{outcome:?}");
    assert!(outcome.err.contains("chain forward, policy drop"), "{outcome:?}");
}

#[test]
fn another_firewall_that_comes_after_the_seal_is_named_by_every_attach() {
    let world = World::with_policy(&policy(""));
    let (alice, bob) = (world.alice(), world.bob());
    let pod = under_seal(&alice);
    forward_chain(&world, "inet", "filter", "forward");
    for _ in 0..3 {
        warned(&alice, &format!("-pid {pod}"));
        warned(&alice, &format!("-pid {}", alice.container()));
    }
    // Nor is it sealed by transactions of netsetgo's own: a user more, ports, and none.
    let others = bob.container();
    for arguments in ["", "-publish 8080:80", "-publish 8081:80/udp", ""] {
        warned(&bob, &format!("-pid {others} {arguments}"));
        warned(&alice, &format!("-pid {pod}"));
    }
    bob.netsetgo(format!("-delete -pid {others}")).done();
    alice.netsetgo("-prune").done();
    warned(&alice, &format!("-pid {pod}"));
    // Once it lets containers through, it may be sealed.
    world.sh("nft 'insert rule inet filter forward iifname brg0 accept
                   insert rule inet filter forward oifname brg0 accept'");
    let first = asked(&alice, &format!("-pid {pod}"));
    assert!(first.looks > 0, "{first:?}");
    assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
}

#[test]
fn another_firewall_that_knows_a_former_bridge_is_named() {
    let world = World::new();
    let alice = world.alice();
    let pod = alice.attached();
    // By its index.
    world.sh("nft 'add table ip filter
        add chain ip filter forward { type filter hook forward priority 0; policy drop; }
        add rule ip filter forward iif brg0 accept; add rule ip filter forward oif brg0 accept'");
    seal(&alice, &pod);
    pod.kill();
    world.until_leases_are(&[]);
    world.sh("ip link del brg0");
    for _ in 0..3 {
        warned(&alice, &format!("-pid {}", alice.container()));
    }
}

#[test]
fn a_saved_ruleset_that_is_loaded_is_not_sealed_by_what_was_saved() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    let good = firewall(&world);
    // With a rule less, and its seals.
    world.sh("(echo flush ruleset; nft list ruleset) >/run/saved
              sed '0,/iifname @bridges.*drop/{/iifname @bridges.*drop/d}' /run/saved >/run/broken
              if cmp -s /run/saved /run/broken; then exit 1; fi");
    for file in ["saved", "broken"] {
        world.sh(&format!("nft -f /run/{file}; nft list set inet netsetgo seen | grep -q expires"));
        let first = asked(&alice, &format!("-pid {pod}"));
        assert!(first.looks > 0 && first.changes > 0, "{file}: {first:?}");
        same(&firewall(&world), &good, file);
        seal(&alice, &pod);
    }
}

/// Breaks the firewall, and forges a seal of that in the same transaction. Only who may change the
/// rules can do that.
fn forge(world: &World) {
    let (generation, of) = last_seal(world);
    world.sh(&format!(
        "nft 'flush chain inet netsetgo forwarded; flush set inet netsetgo seen
              add element inet netsetgo seen {{ {} . {of} }}'",
        generation + 1
    ));
}

#[test]
fn a_seal_of_another_boot_is_none() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    let good = firewall(&world);
    forge(&world);
    // By all that it says, it is one.
    assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
    assert_ne!(firewall(&world), good);
    world.sh("cp /proc/sys/kernel/random/uuid /run/boot_id
              mount --bind /run/boot_id /proc/sys/kernel/random/boot_id");
    alice.netsetgo(format!("-pid {pod}")).done();
    same(&firewall(&world), &good, "another boot");
    seal(&alice, &pod);
}

#[test]
fn a_seal_that_has_expired_is_none() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    assert!(world.sh("nft list set inet netsetgo seen").contains("timeout 5m"));
    let (generation, of) = last_seal(&world);
    world.sh(&format!(
        "nft 'flush set inet netsetgo seen
              add element inet netsetgo seen {{ {} . {of} timeout 3s }}'",
        generation + 1
    ));
    assert_eq!(asked(&alice, &format!("-pid {pod}")), NOTHING);
    world.sh("sleep 3");
    let again = asked(&alice, &format!("-pid {pod}"));
    assert!(again.looks > 0 && again.changes == 1, "{again:?}");
}

#[test]
fn a_user_cannot_write_a_seal() {
    let world = World::new();
    let alice = world.alice();
    let pod = under_seal(&alice);
    let (generation, of) = last_seal(&world);
    let write = format!("nft add element inet netsetgo seen {{ {} . {of} }}", generation + 1);
    assert_ne!(alice.sh(&write).status, 0);
    // What he writes as root of his container is there.
    world.sh("nft list table inet netsetgo >/run/table");
    pod.sh(&format!("nft -f /run/table; {write}"));
    world.sh("nft flush chain inet netsetgo forwarded");
    let next = asked(&alice, &format!("-pid {pod}"));
    assert!(next.looks > 0 && next.changes > 0, "{next:?}");
}

#[test]
fn a_run_stopped_between_its_look_and_its_seal_seals_nothing_that_was_changed_since() {
    let world = World::with_policy(&policy(""));
    let alice = world.alice();
    let pod = under_seal(&alice);
    let good = rules(&world);
    let attach = format!("-pid {pod}");
    // One that has to look, one that takes the seal along, and one that does neither.
    for (unseal, publish) in [(true, ""), (false, "-publish 8080:80"), (true, "-publish 8080:80")] {
        let mut left = 0;
        for place in 1.. {
            world.sh("nft flush map inet netsetgo ports; nft flush set inet netsetgo live");
            // What was healed has been seen by nobody yet.
            alice.netsetgo(&attach).done();
            if unseal {
                world.sh("nft 'add table inet other; delete table inet other'");
            }
            let mut sent = 0;
            let frozen =
                Trace::of(&alice, format!("netsetgo {attach} {publish}")).freeze(|stage| {
                    let sends = !messages(stage).is_empty();
                    sent += usize::from(sends);
                    sends && sent == place
                });
            let Some(frozen) = frozen else { break };
            world.sh("nft flush chain inet netsetgo arriving");
            frozen.thaw().done();
            left += usize::from(rules(&world) != good);
            alice.netsetgo(&attach).done();
            same(&rules(&world), &good, &format!("{unseal}, {publish}, {place}"));
        }
        // Not all of them came before the look.
        assert!(left > 3, "{left}");
    }
}
