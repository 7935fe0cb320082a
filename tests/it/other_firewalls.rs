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
        let place = format!("(table {family} {table}, chain {chain})");
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

/// What another firewall does to the packets of containers, and whether the check says so.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    /// They are dropped, and the check says so.
    Blocked,
    /// They are dropped, and the check cannot tell.
    Unseen,
    /// They get out, and the check says nothing.
    Open,
}

/// Loads each ruleset, after the shell command that reads it, and compares what the check says with what
/// happens.
#[track_caller]
fn each_is(loads_with: &str, rulesets: &[(Is, &str)]) {
    let world = World::with_policy(COMPLETE);
    let remote = world.internet();
    remote.user().serves("remote", "7");
    let alice = world.alice();
    // The bridge is there, as nft looks indices up.
    let pod = alice.attached();
    for (expected, rules) in rulesets {
        world.sh(&format!("{loads_with} <<'END'\n{rules}\nEND"));
        let is = match (answer(&pod).as_str(), warnings(&alice).len()) {
            ("nothing", 1) => Is::Blocked,
            ("nothing", 0) => Is::Unseen,
            ("remote 192.0.2.1", 0) => Is::Open,
            other => panic!("{other:?}: {rules}"),
        };
        assert_eq!(is, *expected, "{rules}");
        world.sh("nft list tables | grep -vw netsetgo | sed 's/^/delete /' | nft -f -");
    }
}

/// A table whose chain at the hook forward begins with these words, and goes on with these rules.
fn chain(words: &str, rules: &str) -> String {
    let hook = "type filter hook forward priority filter";
    format!("table inet other {{\nchain forward {{\n{hook}; {words}\n{rules}\n}}\n}}")
}

/// Likewise, with the policy drop.
fn closed(rules: &str) -> String {
    chain("policy drop;", &rules.replace("; ", "\n"))
}

#[track_caller]
fn each_closed_is(expected: Is, rules: &[&str]) {
    let rulesets: Vec<_> = rules.iter().map(|rules| closed(rules)).collect();
    let rulesets: Vec<_> = rulesets.iter().map(|rules| (expected, rules.as_str())).collect();
    each_is("nft -f -", &rulesets);
}

#[test]
fn a_firewall_that_accepts_answers_alone_is_found() {
    each_closed_is(
        Is::Blocked,
        &[
            "",
            "ct state established,related accept",
            "ct state { established, related } accept",
            "ct state vmap { established : accept, related : accept, invalid : drop }",
            "ct state != new accept",
            "ct state established,related accept; reject with icmpx admin-prohibited",
            "ct state established accept; limit rate 3/minute log prefix \"no \"; counter drop",
        ],
    );
}

#[test]
fn a_firewall_that_accepts_other_interfaces_alone_is_found() {
    each_closed_is(
        Is::Blocked,
        &[
            "ct state established,related accept; iifname docker0 accept",
            "iifname { docker0, eth0 } accept; iif lo accept",
            "iifname \"br-*\" accept; iifname != brg0 accept",
            "iifname vmap { eth0 : accept, docker0 : accept }",
            "iifname != { brg0, docker0 } accept",
            "iifname docker0 oifname eth0 accept; meta nfproto ipv6 accept; icmp type 8 accept",
            "iifname eth0 oifname brg0 accept; udp dport 53 accept",
            "oifname { docker0, brg0 } accept; oif lo accept; oifname \"br*\" accept",
            "iifname . oifname { docker0 . eth0, eth0 . brg0 } accept",
        ],
    );
}

#[test]
fn a_firewall_that_accepts_all_but_something_else_is_open() {
    each_closed_is(
        Is::Open,
        &[
            "iifname != \"eth0\" accept; ct state established,related accept",
            "iifname \"eth0\" ct state new drop; accept",
            "iif != eth0 accept; ct state { established, related } accept",
            "ct state vmap { established : accept, invalid : drop }; iifname != { eth0, eth1 } accept",
            "ct state new,established accept",
            "ct state invalid drop; meta l4proto { tcp, udp } accept",
            "meta nfproto ipv4 accept",
            "tcp dport { 7, 80 } accept; ct state established accept",
        ],
    );
}

#[test]
fn a_firewall_that_lets_the_bridge_through_is_open() {
    each_closed_is(
        Is::Open,
        &[
            "iifname brg0 accept; oifname brg0 accept",
            "iifname { brg0, eth7 } accept; oifname { brg0, eth7 } accept",
            "iifname vmap { brg0 : accept }; oifname vmap { brg0 : accept }",
            "oifname brg0 accept; ip saddr 10.10.10.0/24 accept",
            "iif brg0 accept; oif brg0 accept",
            "iifname \"brg*\" accept; oifname \"brg*\" accept",
            "ip saddr 10.10.10.0/24 accept; ip daddr 10.10.10.0/24 accept",
            "ct state established,related accept; ip saddr 10.0.0.0/8 accept",
        ],
    );
}

#[test]
fn what_cannot_be_told_is_no_finding() {
    each_closed_is(
        Is::Unseen,
        &[
            "ip saddr 192.168.0.0/16 accept",
            "meta mark 7 accept",
            "iifname . ip saddr { docker0 . 10.0.0.1 } accept",
            "fib daddr type local accept",
            "tcp dport vmap { 80 : accept }",
        ],
    );
}

#[test]
fn chains_are_followed() {
    let table = |first: &str, policy: &str, chains: &str| {
        let base = chain(&format!("policy {policy};"), first);
        base.replace("table inet other {", &format!("table inet other {{\n{chains}\n"))
    };
    let answers = "chain answers { ct state established accept; }";
    let containers = "chain containers { iifname brg0 accept; }";
    let others = "chain others { iifname docker0 accept; return; }";
    let end = "chain end { counter; drop; }";
    let both = [answers, containers, others, end].join("\n");
    let jump = |first: &str, policy: &str| table(first, policy, &both);
    let found = [
        jump("jump answers\njump others", "drop"),
        jump("jump answers\ngoto others", "drop"),
        jump("jump answers\njump end\niifname docker0 jump containers", "drop"),
        jump(
            "jump answers\nudp dport 7 jump containers\niifname vmap { eth0 : goto others }",
            "drop",
        ),
    ];
    let open = [
        jump("jump answers\njump others\njump containers", "drop"),
        jump("jump answers\ngoto containers\ndrop", "accept"),
        jump("jump answers\niifname docker0 jump end", "accept"),
        jump("jump answers\nudp dport 53 jump end", "accept"),
        jump("jump answers\ntcp dport 7 jump containers", "drop"),
        jump("jump answers\niifname vmap { brg0 : jump containers }", "drop"),
    ];
    // Only a policy is reported, and the order of rules does not count.
    let unseen = [
        jump("jump answers\njump others\ngoto end", "accept"),
        jump("jump answers\niifname brg0 jump end", "accept"),
        jump("jump answers\ngoto others\njump containers", "drop"),
        jump("jump answers\njump end\njump containers", "drop"),
    ];
    let each = |is: Is, rulesets: &[String]| -> Vec<(Is, String)> {
        rulesets.iter().map(|rules| (is, rules.clone())).collect()
    };
    let rulesets = [each(Is::Blocked, &found), each(Is::Open, &open), each(Is::Unseen, &unseen)];
    let rulesets: Vec<_> =
        rulesets.iter().flatten().map(|(is, rules)| (*is, rules.as_str())).collect();
    each_is("nft -f -", &rulesets);
}

/// As firewalld 1.3 has it in Debian 12, for the default zone `public` with eth0 in it.
const FIREWALLD: &str = "
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        jump filter_FORWARD_POLICIES_pre
        jump filter_FORWARD_ZONES
        jump filter_FORWARD_POLICIES_post
        ct state { invalid } drop
        reject with icmpx type admin-prohibited
    }
    chain filter_FORWARD_POLICIES_pre { }
    chain filter_FORWARD_POLICIES_post { }
    chain filter_FORWARD_ZONES {
        ZONE
        iifname \"eth0\" goto filter_FWD_public
        goto filter_FWD_public
    }
    chain filter_FWD_public {
        jump filter_FWD_public_pre
        jump filter_FWD_public_log
        jump filter_FWD_public_deny
        jump filter_FWD_public_allow
        jump filter_FWD_public_post
        reject with icmpx type admin-prohibited
    }
    chain filter_FWD_public_pre { }
    chain filter_FWD_public_log { }
    chain filter_FWD_public_deny { }
    chain filter_FWD_public_allow { oifname \"eth1\" accept; }
    chain filter_FWD_public_post { }
    chain filter_FWD_trusted {
        jump filter_FWD_public_pre
        accept
    }
}";

#[test]
fn firewalld_rejects_by_a_rule_which_is_not_seen() {
    let (closed, open) = (
        FIREWALLD.replace("        ZONE\n", ""),
        FIREWALLD.replace("        ZONE\n", "iifname brg0 goto filter_FWD_trusted\n"),
    );
    each_is("nft -f -", &[(Is::Unseen, &closed), (Is::Open, &open)]);
}

/// As ufw 0.36 of Debian 12 has it, with what a user adds.
fn ufw(user: &str) -> String {
    format!(
        "*filter
:FORWARD DROP [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-user-forward - [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp --icmp-type destination-unreachable -j ACCEPT
-A ufw-before-forward -p icmp --icmp-type time-exceeded -j ACCEPT
-A ufw-before-forward -p icmp --icmp-type parameter-problem -j ACCEPT
-A ufw-before-forward -p icmp --icmp-type echo-request -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
-A ufw-after-logging-forward -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"
{user}
COMMIT"
    )
}

#[test]
fn ufw_is_found_until_it_routes_the_bridge() {
    let rejecting = ufw("-A ufw-reject-forward -j REJECT");
    let routing = ufw("-A ufw-user-forward -i brg0 -j ACCEPT");
    let accepting = ufw("-A ufw-track-forward -p tcp -m conntrack --ctstate NEW -j ACCEPT
-A ufw-track-forward -p udp -m conntrack --ctstate NEW -j ACCEPT");
    each_is(
        "iptables-nft-restore",
        &[
            (Is::Blocked, &ufw("")),
            (Is::Blocked, &rejecting),
            (Is::Open, &routing),
            (Is::Open, &accepting),
        ],
    );
}

/// As Docker 27 has it, with what a user adds.
fn docker(user: &str) -> String {
    format!(
        "*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
{user}
-A DOCKER-USER -j RETURN
COMMIT"
    )
}

#[test]
fn docker_is_found_until_its_users_chain_accepts_the_bridge() {
    let accepting = "-A DOCKER-USER -i brg0 -m comment --comment containers -j ACCEPT
-A DOCKER-USER -o brg0 -j ACCEPT";
    let publishing =
        "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT";
    each_is(
        "iptables-nft-restore",
        &[
            (Is::Blocked, &docker("")),
            (Is::Open, &docker(accepting)),
            (Is::Blocked, &docker(publishing)),
        ],
    );
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
        add table inet asleep { flags dormant; }
        add chain inet asleep forward { type filter hook forward priority 0; policy drop; }
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
    let remote = world.internet();
    remote.user().serves("remote", "7");
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
    let pod = alice.attached();
    assert_eq!(answer(&pod), "nothing");
    warning(&alice, "chain forward)");
}
