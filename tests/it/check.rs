//! Is this machine ready? What the check says has to be what an attach would say.

use nix::libc;

use crate::publish::{published, three_users};
use crate::world::{ALICE, Outcome, Stage, Trace, User, World, places};

/// A policy under which nothing is missing: alice may attach, and a name server is known.
const COMPLETE: &str = "[network]\ndns = [\"192.0.2.53\"]\n[[allow]]\nuser = \"alice\"\n";

/// The findings, each with its word; every line has to be one.
#[track_caller]
pub(crate) fn findings(outcome: &Outcome) -> Vec<(&str, &str)> {
    let split = |line| {
        let (word, what): (&str, &str) = str::split_at(line, 6);
        assert!(!what.contains(char::is_control), "{outcome:?}");
        (word.trim_end(), what)
    };
    let findings: Vec<_> = outcome.out.lines().map(split).collect();
    let words = ["ok", "warn", "fail"];
    assert!(findings.iter().all(|(word, _)| words.contains(word)), "{outcome:?}");
    findings
}

/// Asserts that an attach would work, and that nothing but this is warned of.
#[track_caller]
fn ready(user: &User<'_>, warnings: &[&str]) {
    let outcome = user.netsetgo("-check");
    assert!(outcome.status == 0 && outcome.err.is_empty(), "{outcome:?}");
    let findings = findings(&outcome);
    let warned: Vec<_> = findings.iter().filter(|(word, _)| *word == "warn").collect();
    assert_eq!(warned.len(), warnings.len(), "{outcome:?}");
    for ((_, finding), warning) in warned.iter().zip(warnings) {
        assert!(finding.contains(warning), "no {warning:?} in {outcome:?}");
    }
    assert!(findings.iter().all(|(word, _)| *word != "fail"), "{outcome:?}");
}

/// Asserts that just this is in the way, that the remedy stands beside it, that an attach fails for
/// the same reason, and that the check has changed nothing.
#[track_caller]
fn fails(world: &World, user: &User<'_>, what: &str, remedy: &str) {
    let outcome = world.unchanged(|| user.netsetgo("-check"));
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert!(outcome.is_one_line() && outcome.err.contains("not ready: 1 of"), "{outcome:?}");
    let failed: Vec<_> =
        findings(&outcome).into_iter().filter(|(word, _)| *word == "fail").collect();
    let [(_, failed)] = failed[..] else { panic!("not one failure: {outcome:?}") };
    assert!(failed.contains(what) && failed.contains(remedy), "{outcome:?}");
    let pod = user.container();
    let line = world.unchanged(|| user.netsetgo(format!("-pid {pod} -wait 0"))).err;
    let why = line.strip_prefix("netsetgo: ").unwrap().trim_end();
    assert!(failed.ends_with(why), "{failed:?}, but an attach says {why:?}");
}

/// That no process of the helper is left.
#[track_caller]
fn no_helper_is_left(world: &World) -> bool {
    world.sh("grep -lx netsetgo /proc/[0-9]*/comm 2>/dev/null || true").is_empty()
}

#[test]
fn on_a_good_host_all_is_well() {
    let world = World::with_policy(COMPLETE);
    for user in [world.alice(), world.root()] {
        ready(&user, &[]);
        ready(&user, &[]);
    }
    world.sh("rm /etc/netsetgo.toml; echo nameserver 192.0.2.53 >/etc/resolv.conf");
    ready(&world.root(), &[]);
}

#[test]
fn it_says_what_the_policy_grants_and_what_is_there() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    let says = |phrases: &[&str]| {
        let outcome = alice.netsetgo("-check");
        for phrase in phrases {
            assert!(outcome.out.contains(phrase), "no {phrase:?} in {outcome:?}");
        }
    };
    says(&[
        "uid 1000 may have 16 containers on brg0 (10.10.10.1/24, with nat), no host ports",
        "brg0 is not there yet",
        "ip_forward is 0",
        "told of 192.0.2.53",
    ]);
    says(&[
        "brg0 is up, with 10.10.10.1/24",
        "the tables netsetgo are complete, forwarding is for",
    ]);
    world.sh("nft flush ruleset");
    says(&["the tables netsetgo are missing or incomplete"]);
    world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; ip link set brg0 down");
    says(&["brg0 is half made"]);
    says(&["brg0 is up", "the tables netsetgo are complete, the host is a router"]);
    world.policy(&format!("{COMPLETE}links = 3\npublish = [\"80\", \"8000-8999\"]\n"));
    says(&["may have 3 containers", "host ports 80 8000-8999"]);
}

#[test]
fn after_the_trial_nothing_is_left_but_the_bridge_and_the_table() {
    let world = World::with_policy(&format!("{COMPLETE}links = 1\n"));
    let alice = world.alice();
    for _ in 0..5 {
        ready(&alice, &[]);
        assert_eq!(world.leases(), [""; 0]);
        assert!(no_helper_is_left(&world));
    }
    assert_eq!(world.sh("ip -brief link").lines().count(), 2);
    assert_eq!(world.sh("nft list tables"), "table inet netsetgo\ntable bridge netsetgo\n");
    world.has_its_bridge();
    world.unchanged(|| ready(&alice, &[]));
    // The one container that she may have is still to come.
    let pod = alice.container();
    alice.netsetgo(format!("-pid {pod} -wait 0")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn without_its_privilege_it_says_why() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    fails(&world, &alice.clone().by("setpriv --no-new-privs --"), "no_new_privs", "without it");
    world.sh("mount -o remount,nosuid /usr/local/bin");
    fails(&world, &alice, "nosuid mount", "install netsetgo elsewhere");
    world.sh("mount -o remount,suid /usr/local/bin; chmod 755 /usr/local/bin/netsetgo");
    fails(&world, &alice, "not installed setuid", "chown root and chmod 4755");
    world.sh("chmod 4755 /usr/local/bin/netsetgo");
    let inside = alice.container().inside();
    let outcome = world.unchanged(|| inside.netsetgo("-check"));
    assert_eq!(outcome.status, 1);
    assert!(outcome.out.contains("fail  installation: run inside a user namespace"), "{outcome:?}");
    ready(&alice, &[]);
}

#[test]
fn where_the_policy_is_in_the_way_it_says_how() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    fails(&world, &world.bob(), "uid 1001: not allowed", "ask the admin for an [[allow]] entry");
    world.sh("chmod 666 /etc/netsetgo.toml");
    fails(&world, &alice, "others can write it", "chmod 644");
    world.sh("chmod 644 /etc/netsetgo.toml");
    world.policy("[network]\nbrigde = \"x\"\n");
    fails(&world, &alice, "line 2, column 1", "unknown field");
    fails(&world, &world.root(), "line 2, column 1", "unknown field");
    world.policy(&COMPLETE.replace("dns", "address = \"10.10.0.1/16\"\ndns"));
    fails(&world, &alice, "not between /22 and /30", "");
    world.sh("rm /etc/netsetgo.toml");
    fails(&world, &alice, "missing, so only root may attach", "the admin writes it");
}

#[test]
fn where_the_hosts_network_is_in_the_way_it_says_how() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    world.lan("lan");
    for (harm, what, remedy, mend) in [
        (
            "ip route add 10.10.10.128/25 dev lan",
            "overlaps the route to 10.10.10.128/25",
            "choose a free subnet",
            "ip route del 10.10.10.128/25",
        ),
        (
            "ip link add brg0 type veth peer name x",
            "brg0: exists and is not a bridge",
            "choose another name",
            "ip link del brg0",
        ),
        (
            "ip link add brg0 type bridge; ip address add 10.10.11.1/24 dev brg0",
            "brg0: has another address",
            "give the bridge that address",
            "ip link del brg0",
        ),
    ] {
        world.sh(harm);
        fails(&world, &alice, what, remedy);
        world.sh(mend);
    }
    ready(&alice, &[]);
}

#[test]
fn a_quota_that_is_used_up_is_found_by_trying() {
    let world = World::with_policy(&format!("{COMPLETE}links = 1\n"));
    let alice = world.alice();
    alice.attached();
    fails(&world, &alice, "trial: refused: quota used up", "stop a container");
    // So are too many processes.
    let outcome = alice.clone().by("prlimit --nproc=1 --").sh("exec netsetgo -check");
    assert!(outcome.status == 1 && outcome.out.contains("fail  trial: "), "{outcome:?}");
    assert!(outcome.out.contains("EAGAIN"), "{outcome:?}");
}

#[test]
fn switches_that_keep_users_from_making_namespaces_are_found() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    // The machine's own are left alone: others are shown in their place.
    let show = |name: &str, value: &str, word: &str, phrases: &[&str]| {
        world.sh(&format!("echo {value} >/run/switch; mount --bind /run/switch /proc/sys/{name}"));
        let outcome = world.unchanged(|| alice.netsetgo("-check"));
        world.sh(&format!("umount /proc/sys/{name}"));
        let found = findings(&outcome);
        let line = found.iter().find(|(_, what)| what.starts_with("namespaces: ")).unwrap();
        assert_eq!(line.0, word, "{outcome:?}");
        assert!(phrases.iter().all(|phrase| line.1.contains(phrase)), "{outcome:?}");
        assert_eq!(outcome.status, i32::from(word == "fail"), "{outcome:?}");
    };
    ready(&alice, &[]);
    for kind in ["user", "net"] {
        let name = format!("user/max_{kind}_namespaces");
        let remedy = format!("sysctl -w user.max_{kind}_namespaces=15000");
        show(&name, "0", "fail", &["is 0", &remedy]);
        show(&name, "1", "ok", &[]);
    }
    // Those that not every kernel has.
    world.sh("mount -t tmpfs -o mode=755 tmpfs /proc/sys/kernel; cd /proc/sys/kernel
         touch unprivileged_userns_clone apparmor_restrict_unprivileged_userns");
    let debian = "kernel/unprivileged_userns_clone";
    show(debian, "0", "fail", &["sysctl -w kernel.unprivileged_userns_clone=1"]);
    show(debian, "1", "ok", &[]);
    let apparmor = "kernel/apparmor_restrict_unprivileged_userns";
    show(
        apparmor,
        "1",
        "warn",
        &["AppArmor", "userns,", &format!("{}=0", apparmor.replace('/', "."))],
    );
    show(apparmor, "0", "ok", &[]);
}

#[test]
fn what_a_user_may_miss_is_a_warning() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    // On standard error there is nothing of it, though the trial is an attach like any other.
    world.sh("nft 'add table ip other; add chain ip other ward { type filter hook forward priority 0; policy drop; }'");
    let firewall = "(table ip other, chain ward)";
    ready(&alice, &[firewall]);
    ready(&alice, &["nft insert rule ip other ward iifname brg0 accept"]);
    world.policy(&COMPLETE.replace("dns", "nat = false\ndns"));
    ready(&alice, &["nat = false"]);
    world.sh("nft delete table ip other");
    world.policy(ALICE);
    ready(&alice, &["name one in the policy (dns ="]);
    world.sh("echo 'nameserver 127.0.0.1' >/etc/resolv.conf");
    ready(&alice, &["name service: "]);
    world.sh("echo 'nameserver 192.0.2.53' >/etc/resolv.conf");
    ready(&alice, &[]);
    world.sh("chmod 755 /usr/local/bin/netsetgo; setcap cap_net_admin=ep /usr/local/bin/netsetgo");
    ready(&alice, &["without CAP_SYS_PTRACE", "trial: not tried"]);
    world.sh("setcap cap_net_admin,cap_sys_ptrace=ep /usr/local/bin/netsetgo");
    ready(&alice, &[]);
}

#[test]
fn a_program_that_hears_containers_below_every_filter_is_a_warning() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    let pod = alice.attached();
    for (protocol, bound, warned) in [
        ("3", "", true),
        ("3", "socket.bind((\"ns1000-0\", 0x800))", true),
        ("3", "socket.bind((\"lo\", 3))", false),
        ("3", "socket.bind((\"brg0\", 3))", false),
        // It gets nothing.
        ("0", "", false),
    ] {
        let program = world.root().process(&format!(
            "exec python3 -c '
import os, socket as s, time
socket = s.socket(s.AF_PACKET, s.SOCK_RAW, s.htons({protocol}))
{bound}
print(os.getpid(), flush=True)
time.sleep(999)'"
        ));
        let warnings = ["one of uid 0 gets what containers send"];
        ready(&alice, if warned { &warnings } else { &[] });
        program.kill();
    }
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn what_it_says_is_printed_in_one_write() {
    let world = World::with_policy(COMPLETE);
    for (user, status) in [(world.alice(), 0), (world.bob(), 1)] {
        let mut writes = Vec::new();
        let outcome = Trace::of(&user, "netsetgo -check").watch(|stage| {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", stage.pid)).unwrap();
            if stage.call == libc::SYS_write {
                writes.push(call.split_whitespace().nth(1).unwrap().to_owned());
            }
        });
        assert_eq!(outcome.status, status, "{outcome:?}");
        writes.retain(|descriptor| ["0x1", "0x2"].contains(&descriptor.as_str()));
        let expected: &[&str] = if status == 0 { &["0x1"] } else { &["0x1", "0x2"] };
        assert_eq!(writes, expected);
    }
}

#[test]
fn many_checks_at_once_disturb_no_other_run() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let pod = published(&alice, "-publish 8080:80");
    pod.inside().serves("pod", "80");
    let mut held = world.root().holds("tcp", "127.0.0.1", 8080);
    let elements = world.elements();
    let checks = [&alice, &bob].map(|user| {
        user.start("for run in $(seq 8); do netsetgo -check >/tmp/$$.$run & done; wait")
    });
    for _ in 0..10 {
        let pod = bob.container();
        bob.netsetgo(format!("-pid {pod}")).done();
        pod.address();
        assert!(held.again().starts_with("pod "));
        bob.netsetgo(format!("-delete -pid {pod}")).done();
        pod.kill();
    }
    for check in checks {
        check.end().done();
    }
    assert_eq!(world.sh("cat /tmp/*.* | grep -c 'and is gone'"), "16\n");
    assert!(held.again().starts_with("pod "));
    assert_eq!((world.leases(), world.elements()), (vec!["ns1000-0".to_owned()], elements));
}

#[test]
fn killed_anywhere_nothing_remains_of_it() {
    let world = World::with_policy(COMPLETE);
    let alice = world.alice();
    let acts = |stage: &Stage| {
        [libc::SYS_sendto, libc::SYS_setns, libc::SYS_unshare, libc::SYS_wait4, libc::SYS_clone]
            .contains(&stage.call)
    };
    let places = places(&alice, "netsetgo -check", acts);
    assert!(places.len() > 20, "only {} stages", places.len());
    for place in places {
        let run = Trace::of(&alice, "netsetgo -check");
        let Some(frozen) = run.freeze(|stage| stage.is(&place)) else { continue };
        // Only the process that stands there: the others have to notice.
        let Some(pid) = frozen.pid() else { continue };
        alice.sh(&format!("kill -9 {pid}")).done();
        let _ = frozen.thaw();
        world.until("all of it to end", || no_helper_is_left(&world));
        world.until_leases_are(&[]);
        ready(&alice, &[]);
    }
}
