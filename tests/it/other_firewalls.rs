//! Other firewalls: what they drop stays dropped. `-check` says so, with the command that mends it; an
//! attach says nothing of it.

use crate::check::findings;
use crate::way_out::{answer, pings};
use crate::world::{REMOTE, User, World};

/// A policy under which `-check` has nothing else to warn of.
const COMPLETE: &str = "[network]\ndns = [\"192.0.2.53\"]\n[[allow]]\nuser = \"alice\"\n";

/// What `-check` warns of. It has to succeed.
#[track_caller]
fn warnings(user: &User<'_>) -> Vec<String> {
    let outcome = user.netsetgo("-check");
    assert!(outcome.status == 0 && outcome.err.is_empty(), "{outcome:?}");
    let warned = findings(&outcome).into_iter().filter(|(word, _)| *word == "warn");
    warned.map(|(_, what)| what.to_owned()).collect()
}

/// The only warning of `-check`, which has this phrase.
#[track_caller]
fn warning(user: &User<'_>, phrase: &str) -> String {
    let warnings = warnings(user);
    let [warning] = &warnings[..] else { panic!("not one warning: {warnings:?}") };
    assert!(warning.contains(phrase), "no {phrase:?} in {warning:?}");
    warning.clone()
}

/// The command that a warning names.
#[track_caller]
fn remedy(warning: &str) -> &str {
    warning.rsplit_once("let it through: ").unwrap().1
}

/// Another forward chain, which drops what it does not know, and lets the rest through as Docker and
/// many a tutorial have it.
fn forward_chain(world: &World, family: &str, table: &str, chain: &str) {
    world.sh(&format!(
        "nft 'add table {family} {table}
         add chain {family} {table} {chain} {{ type filter hook forward priority 0; policy drop; }}
         add rule {family} {table} {chain} ct state established,related accept
         add rule {family} {table} {chain} iifname docker0 accept'"
    ));
}

#[test]
fn another_firewall_in_the_way_is_named_with_the_command_that_mends_it() {
    for (family, table, chain) in
        [("ip", "filter", "FORWARD"), ("inet", "filter", "forward"), ("inet", "fw-2", "my.fwd")]
    {
        let world = World::with_policy(COMPLETE);
        let remote = world.internet();
        remote.user().serves("remote", "7");
        forward_chain(&world, family, table, chain);
        let list = format!("nft list table {family} {table}");
        let theirs = world.sh(&list);
        let alice = world.alice();
        let place = format!("(table {family} {table}, chain {chain}, policy drop)");
        let before = warning(&alice, &place);
        // An attach succeeds and says nothing.
        let pod = alice.attached();
        assert_eq!(answer(&pod), "nothing");
        // None of their rules has been changed, and each check says the same.
        assert_eq!(world.sh(&list), theirs);
        assert_eq!(warning(&alice, &place), before);
        // The command is taken as it stands.
        world.sh(remedy(&before));
        assert_eq!(answer(&pod), "remote 192.0.2.1");
        pings(&pod.inside(), REMOTE, true);
        assert_eq!(warnings(&alice), [""; 0]);
    }
}

#[test]
fn two_other_firewalls_are_named_until_both_let_containers_through() {
    let world = World::with_policy(COMPLETE);
    let remote = world.internet();
    remote.user().serves("remote", "7");
    forward_chain(&world, "ip", "filter", "FORWARD");
    forward_chain(&world, "inet", "filter", "forward");
    let alice = world.alice();
    let pod = alice.attached();
    let mut rounds = 0;
    while let Some(warning) = warnings(&alice).first() {
        assert_eq!(answer(&pod), "nothing");
        world.sh(remedy(warning));
        rounds += 1;
        assert!(rounds <= 2, "{warning}");
    }
    assert_eq!(answer(&pod), "remote 192.0.2.1");
}

/// Another forward chain with the policy drop and these rules, which let containers through: there is
/// no warning.
#[track_caller]
fn lets_through(rules: &[&str]) {
    let mut warned = Vec::new();
    for rules in rules {
        let world = World::with_policy(COMPLETE);
        let remote = world.internet();
        remote.user().serves("remote", "7");
        // For the bridge to be there: nft looks an index up.
        let pod = world.alice().attached();
        let rules: String =
            rules.split("; ").map(|rule| format!("add rule ip filter FORWARD {rule}\n")).collect();
        world.sh(&format!(
            "nft 'add table ip filter
             add chain ip filter FORWARD {{ type filter hook forward priority 0; policy drop; }}
             {rules}'"
        ));
        assert_eq!(answer(&pod), "remote 192.0.2.1", "{rules}");
        if !warnings(&world.alice()).is_empty() {
            warned.push(rules);
        }
    }
    assert!(warned.is_empty(), "a warning for nothing: {warned:#?}");
}

#[test]
fn a_firewall_that_names_the_bridge_is_no_matter_for_a_warning() {
    lets_through(&[
        "iifname brg0 accept; oifname brg0 accept",
        "iifname { brg0, eth7 } accept; oifname { brg0, eth7 } accept",
        "iifname vmap { brg0 : accept }; oifname vmap { brg0 : accept }",
        "oifname brg0 accept; ip saddr 10.10.10.0/24 accept",
        "iif brg0 accept; oif brg0 accept",
        "iifname \"brg*\" accept; oifname \"brg*\" accept",
    ]);
}

#[test]
fn a_firewall_that_lets_the_subnet_through_is_no_matter_for_a_warning() {
    lets_through(&[
        "ip saddr 10.10.10.0/24 accept; ip daddr 10.10.10.0/24 accept",
        "ct state established,related accept; ip saddr 10.0.0.0/8 accept",
    ]);
}

#[test]
fn chains_that_do_not_drop_what_is_forwarded_are_no_matter_for_a_warning() {
    let world = World::with_policy(COMPLETE);
    world.sh("nft 'add table ip filter
        add chain ip filter INPUT { type filter hook input priority 0; policy drop; }
        add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }
        add rule ip filter FORWARD iifname docker0 drop
        add chain ip filter loose
        add table ip6 filter
        add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }
        add table bridge filter
        add chain bridge filter FORWARD { type filter hook forward priority 0; policy accept; }
        add table netdev filter; add table arp filter'");
    for _ in 0..2 {
        assert_eq!(warnings(&world.alice()), [""; 0]);
    }
}

#[test]
fn without_nat_another_firewall_is_no_matter_for_a_warning() {
    let world = World::with_policy(&COMPLETE.replace("dns", "nat = false\ndns"));
    forward_chain(&world, "ip", "filter", "FORWARD");
    warning(&world.alice(), "nat = false");
}

#[test]
fn a_large_ruleset_of_others_is_read_to_its_end() {
    let world = World::with_policy(COMPLETE);
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let chains: String = (0..2000)
        .map(|n| format!("add chain inet big c{n}\nadd rule inet big c{n} tcp dport {n} accept comment \"number {n}\"\n"))
        .collect();
    let script = format!(
        "add table inet big\n{chains}\
         add chain inet big forward {{ type filter hook forward priority 0; policy drop; }}\n\
         add rule inet big forward iifname brg0 accept\nadd rule inet big forward oifname brg0 accept\n"
    );
    std::fs::write(world.path("/run/big"), script).unwrap();
    world.sh("nft -f /run/big");
    let pod = world.alice().attached();
    assert_eq!(answer(&pod), "remote 192.0.2.1");
    assert_eq!(warnings(&world.alice()), [""; 0]);
    world.sh("nft flush chain inet big forward");
    warning(&world.alice(), "table inet big, chain forward");
}

#[test]
fn another_firewall_that_knows_a_former_bridge_is_named() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    let pod = alice.attached();
    // By its index.
    world.sh("nft 'add table ip filter
        add chain ip filter forward { type filter hook forward priority 0; policy drop; }
        add rule ip filter forward iif brg0 accept; add rule ip filter forward oif brg0 accept'");
    assert_eq!(warnings(&alice), [""; 0]);
    pod.kill();
    world.until_leases_are(&[]);
    world.sh("ip link del brg0");
    alice.attached();
    warning(&alice, "chain forward, policy drop");
}
