//! Name service: what a container is told.

use std::fs;

use nix::libc;
use serde_json::{Value, json as value};

use crate::world::{ALICE, Container, Trace, World, closed_takes_nothing, json};

const OWN: &str = "/etc/resolv.conf";
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// A host with this `/etc/resolv.conf`.
fn world(resolv_conf: &str) -> World {
    let world = World::new();
    fs::write(world.path(OWN), resolv_conf).unwrap();
    world
}

/// The same, with systemd-resolved's own beside it.
fn world_with_upstream(resolv_conf: &str, upstream: &str) -> World {
    let world = world(resolv_conf);
    world.sh("mkdir -p /run/systemd/resolve");
    fs::write(world.path(UPSTREAM), upstream).unwrap();
    world
}

/// What `-resolvconf` prints for a container of alice's.
#[track_caller]
fn resolvconf(world: &World) -> String {
    let pod = world.alice().container();
    world.alice().netsetgo(format!("-pid {pod} -resolvconf")).done()
}

/// What `-json` says of name service, likewise.
#[track_caller]
fn dns(world: &World) -> Value {
    let pod = world.alice().container();
    json(&world.alice().netsetgo(format!("-pid {pod} -json")).done())["dns"].take()
}

/// Asserts that `-resolvconf` fails before anything is changed, and what `-json` says.
#[track_caller]
fn knows_no_server(world: &World, says: &Value) {
    let pod = world.alice().container();
    let line = world.alice().failed(format!("-pid {pod} -resolvconf"), "-resolvconf");
    assert!(line.contains("dns = ["), "{line}");
    assert_eq!(world.leases(), [""; 0]);
    assert_eq!(dns(world), *says);
}

#[test]
fn the_policy_names_the_servers() {
    let world =
        World::with_policy(&format!("[network]\ndns = [\"192.0.2.53\", \"10.10.10.1\"]\n{ALICE}"));
    // Whatever the host itself asks.
    for own in ["nameserver 198.51.100.1\nsearch host.example\n", "nameserver 127.0.0.53\n", ""] {
        fs::write(world.path(OWN), own).unwrap();
        assert_eq!(resolvconf(&world), "nameserver 192.0.2.53\nnameserver 10.10.10.1\n");
        assert_eq!(dns(&world), value!({"nameservers": ["192.0.2.53", "10.10.10.1"]}));
    }
    world.sh("rm /etc/resolv.conf; mkfifo /etc/resolv.conf");
    assert_eq!(dns(&world), value!({"nameservers": ["192.0.2.53", "10.10.10.1"]}));
}

#[test]
fn otherwise_they_are_the_hosts() {
    let world = world(
        "# made by hand\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n\
         search one.example two.example\noptions edns0 timeout:1\n",
    );
    assert_eq!(
        resolvconf(&world),
        "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch one.example two.example\n\
         options edns0 timeout:1\n"
    );
    assert_eq!(
        dns(&world),
        value!({
            "nameservers": ["192.0.2.53", "192.0.2.54"],
            "search": ["one.example", "two.example"],
            "options": ["edns0", "timeout:1"],
        })
    );
}

#[test]
fn a_server_that_a_container_cannot_reach_is_left_out() {
    let world = world(
        "nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n\
         nameserver 0.0.0.0\nnameserver 192.0.2.53\nnameserver 127.7.7.7\nnameserver localhost\n",
    );
    // And no stub is asked for what it knows while there is one that can be reached.
    world.sh("mkdir -p /run/systemd/resolve; echo nameserver 192.0.2.99 >/run/systemd/resolve/resolv.conf");
    assert_eq!(resolvconf(&world), "nameserver 192.0.2.53\n");
    assert_eq!(dns(&world), value!({"nameservers": ["192.0.2.53"]}));
}

#[test]
fn behind_a_stub_on_the_loopback_the_upstream_servers_are_named() {
    for stub in ["127.0.0.53", "127.0.0.1", "::1"] {
        let world = world_with_upstream(
            &format!("nameserver {stub}\noptions edns0 trust-ad\nsearch stub.example\n"),
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch up.example\n",
        );
        assert_eq!(resolvconf(&world), "nameserver 192.0.2.53\nsearch up.example\n");
        assert_eq!(dns(&world), value!({"nameservers": ["192.0.2.53"], "search": ["up.example"]}));
    }
}

#[test]
fn where_no_server_is_known_resolvconf_fails_and_changes_nothing() {
    for own in ["", "# nothing\n", "nameserver 127.0.0.53\n", "nameserver 2001:db8::53\n"] {
        knows_no_server(&world(own), &value!({}));
    }
    knows_no_server(&World::new(), &value!({}));
    let policy = World::with_policy(&format!("[network]\ndns = []\n{ALICE}"));
    knows_no_server(&policy, &value!({}));
    for upstream in ["", "nameserver 127.0.0.1\n", "nameserver ::1\n"] {
        knows_no_server(&world_with_upstream("nameserver 127.0.0.53\n", upstream), &value!({}));
    }
    // There is no stub, so nothing is behind it.
    let own = "nameserver 2001:db8::53\nsearch own.example\n";
    let world = world_with_upstream(own, "nameserver 192.0.2.53\n");
    knows_no_server(&world, &value!({"search": ["own.example"]}));
}

#[test]
fn either_json_or_a_resolv_conf_is_printed_and_not_both() {
    let world = world("nameserver 192.0.2.53\n");
    let pod = world.alice().container();
    world.alice().usage(format!("-pid {pod} -json -resolvconf"), "-resolvconf");
    world.alice().usage(format!("-pid {pod} -resolvconf -resolvconf"), "resolvconf");
}

#[test]
fn attaching_again_prints_the_same_resolv_conf() {
    let world = world("nameserver 192.0.2.53\n");
    let pod = world.alice().container();
    let attach = || world.alice().netsetgo(format!("-pid {pod} -resolvconf")).done();
    assert_eq!(attach(), "nameserver 192.0.2.53\n");
    assert_eq!(world.unchanged(attach), "nameserver 192.0.2.53\n");
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn a_runner_writes_it_into_the_containers_files() {
    let world = world("nameserver 192.0.2.53\n");
    let alice = world.alice();
    let pod = alice.container();
    alice.sh(&format!("netsetgo -pid {pod} -resolvconf >/tmp/resolv.conf")).done();
    assert_eq!(world.sh("cat /tmp/resolv.conf"), "nameserver 192.0.2.53\n");
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn a_resolv_conf_is_printed_in_one_write() {
    let world = world("nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch a.example\n");
    let pod = world.alice().attached();
    let mut writes = 0;
    let run = Trace::of(&world.alice(), format!("netsetgo -pid {pod} -resolvconf"));
    let printed = run.watch(|stage| writes += usize::from(stage.call == libc::SYS_write)).done();
    assert_eq!((writes, printed.lines().count()), (1, 3));
}

#[test]
fn a_resolv_conf_that_cannot_be_printed_is_an_error_and_leaves_no_veth_pair() {
    let world = world("nameserver 192.0.2.53\n");
    let alice = world.alice();
    // For the bridge and the firewall to be there.
    let neighbour = alice.attached();
    let closed = if closed_takes_nothing() { ">&-" } else { ">/dev/full" };
    for closed in [">/dev/full", closed, "</dev/null 1<&0"] {
        let pod = alice.container();
        let attach = format!("netsetgo -pid {pod} -resolvconf {closed}");
        world.undone(|| alice.sh(&attach)).failed("standard output");
        assert_eq!(pod.links(), ["lo"]);
        // Nor does it take away what was there.
        alice.netsetgo(format!("-pid {pod}")).done();
        world.undone(|| alice.sh(&attach)).failed("standard output");
        assert_eq!(pod.address(), "10.10.10.3/24");
        pod.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

/// Attaches without asking for name service, which takes no `resolv.conf`, and then again with
/// `-resolvconf`, which has to come to an end. Answers what that is.
#[track_caller]
fn comes_to_an_end(world: &World, pod: &Container<'_>) -> crate::world::Outcome {
    world.alice().netsetgo(format!("-pid {pod}")).done();
    let outcome = world.alice().sh(&format!("exec timeout 5 netsetgo -pid {pod} -resolvconf"));
    assert!([0, 1].contains(&outcome.status), "{outcome:?}");
    outcome
}

#[test]
fn a_resolv_conf_that_is_no_file_holds_no_run_up() {
    let world = World::new();
    let pod = world.alice().container();
    for make in ["mkfifo -m 644", "mkdir -m 755", "ln -s /dev/zero", "ln -s /dev/tty", "ln -s loop"]
    {
        world.sh(&format!("{make} {OWN}"));
        comes_to_an_end(&world, &pod).failed("");
        world.sh(&format!("rm -r {OWN}"));
        // As what a stub refers to.
        world.sh(&format!(
            "echo nameserver 127.0.0.53 >{OWN}; mkdir -p /run/systemd/resolve; {make} {UPSTREAM}"
        ));
        comes_to_an_end(&world, &pod).failed("");
        world.sh(&format!("rm -r {OWN} {UPSTREAM}"));
    }
}

#[test]
fn a_resolv_conf_that_the_caller_may_not_read_is_not_read_for_him() {
    let world = world("nameserver 192.0.2.53\n");
    world.sh("chmod 600 /etc/resolv.conf");
    let pod = world.alice().container();
    for print in ["-json", "-resolvconf"] {
        world.alice().failed(format!("-pid {pod} {print}"), "/etc/resolv.conf");
    }
    assert_eq!(
        world.root().netsetgo(format!("-pid {pod} -resolvconf")).done(),
        "nameserver 192.0.2.53\n"
    );
}

#[test]
fn a_huge_resolv_conf_gives_whole_servers_or_none() {
    let world = World::new();
    let pod = world.alice().container();
    // 64 MiB that say nothing, before and after what says something.
    let say = "echo nameserver 192.0.2.53";
    let pad = "busybox yes '# nothing at all' | head -c 67108864";
    world.sh(&format!("({say}; {pad}) >{OWN}"));
    assert_eq!(comes_to_an_end(&world, &pod).done(), "nameserver 192.0.2.53\n");
    world.sh(&format!("({pad}; echo; {say}) >{OWN}"));
    comes_to_an_end(&world, &pod).failed("");
    // Wherever the reader stops, it does not take a part of an address for one.
    for kept in ["nameserver 192.0.2.5", "nameserver 192.0.2.53\nsearch one.exa"] {
        for size in [4096, 16384, 65536, 1 << 20] {
            let whole = format!(
                "{}\n{}\n{}",
                "#".repeat(size - 1 - kept.len()),
                "nameserver 192.0.2.53\nsearch one.example",
                "#".repeat(size)
            );
            fs::write(world.path(OWN), whole).unwrap();
            let outcome = comes_to_an_end(&world, &pod);
            for line in outcome.out.lines() {
                assert!(
                    ["nameserver 192.0.2.53", "search one.example"].contains(&line),
                    "{line:?} of a file cut after {size} bytes"
                );
            }
        }
    }
}

#[test]
fn a_resolv_conf_of_any_bytes_gives_only_what_can_be_printed() {
    let world = World::new();
    let pod = world.alice().container();
    world.sh(r"printf 'nameserver 192.0.2.53\r\nsearch \033[2J \351t\351 fine.example\0\n\0\377\nnameserver \377\noptions \007 edns0\n' >/etc/resolv.conf");
    let said = comes_to_an_end(&world, &pod).done();
    assert!(said.bytes().all(|byte| byte == b'\n' || (32..127).contains(&byte)), "{said:?}");
    assert!(said.starts_with("nameserver 192.0.2.53\n"), "{said:?}");
    assert!(said.contains("edns0"), "{said:?}");
}
