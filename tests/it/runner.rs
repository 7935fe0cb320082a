//! The example container, as a user runs it: `examples/container.rs`.

use std::fs;
use std::path::Path;

use crate::world::{Outcome, User, World};

/// A host with the example installed beside the helper.
fn world() -> World {
    let world = World::new();
    let example = Path::new(env!("CARGO_BIN_EXE_netsetgo")).with_file_name("examples/container");
    assert!(example.exists(), "cargo build --example container makes {example:?}");
    let installed = world.path("/usr/local/bin/container");
    fs::copy(example, installed).unwrap();
    world.sh("chmod 755 /usr/local/bin/container");
    world
}

/// Runs a script in a container of its own.
fn run(user: &User<'_>, options: &str, script: &str) -> Outcome {
    user.sh(&format!("container run {options} sh -c '{script}'"))
}

#[test]
fn a_command_starts_once_its_network_is_there() {
    let world = world();
    let script =
        "ip -4 addr show dev veth1; ip route; busybox ping -c 1 -W 10 10.10.10.1; id -u; hostname";
    let outcome = run(&world.alice(), "", script);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    for sign in
        ["10.10.10.2/24", "default via 10.10.10.1 dev veth1", " 0% packet loss", "\n0\ncontainer\n"]
    {
        assert!(outcome.out.contains(sign), "{sign}: {outcome:?}");
    }
    assert_eq!(outcome.err, "container: 10.10.10.2/24 by way of 10.10.10.1\n");
    world.until_leases_are(&[]);
}

#[test]
fn its_exit_status_is_the_commands() {
    let world = world();
    for (script, status) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0)] {
        assert_eq!(run(&world.alice(), "", script).status, status, "{script}");
    }
    assert_eq!(world.alice().sh("container run /none").status, 127);
    assert_eq!(world.alice().sh("container run /etc/passwd").status, 126);
    world.until_leases_are(&[]);
}

#[test]
fn another_root_directory_gets_the_hosts_nameservers() {
    let world = world();
    fs::write(world.path("/etc/resolv.conf"), "nameserver 127.0.0.53\nnameserver 192.0.2.1\n")
        .unwrap();
    world
        .alice()
        .sh("mkdir -p /tmp/root/bin /tmp/root/etc; cp /bin/busybox /tmp/root/bin/sh
             echo outside >/tmp/outside; ln -s /tmp/outside /tmp/root/etc/resolv.conf")
        .done();
    let outcome =
        run(&world.alice(), "--rootfs /tmp/root", "cat /etc/resolv.conf; echo /*; ls /proc/1/exe");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.out, "nameserver 192.0.2.1\n/bin /etc /proc\n/proc/1/exe\n");
    // A link in the image is replaced and not followed.
    assert_eq!(world.sh("cat /tmp/outside"), "outside\n");
}

#[test]
fn what_the_helper_refuses_is_passed_on_and_the_command_does_not_start() {
    let world = world();
    let outcome = run(&world.bob(), "", "echo started >&2");
    assert_eq!(outcome.status, 125);
    assert!(outcome.err.starts_with("netsetgo: refused: "), "{outcome:?}");
    assert!(!outcome.err.contains("started"), "{outcome:?}");
    let missing = run(&world.alice().by("env NETSETGO=/none"), "", "echo started >&2");
    assert_eq!(missing.status, 125);
    assert!(!missing.err.contains("started"), "{missing:?}");
}

#[test]
fn a_runner_that_is_killed_takes_its_container_along() {
    let world = world();
    let alice = world.alice();
    let runner = alice.process(
        "container run sh -c 'echo ready; exec sleep infinity' >/tmp/said 2>/dev/null & echo $!; wait",
    );
    world.until("the command to start", || {
        fs::read_to_string(world.path("/tmp/said")).is_ok_and(|said| said == "ready\n")
    });
    assert_eq!(world.leases(), ["ns1000-0"]);
    world.sh(&format!("kill -9 {runner}"));
    world.until_leases_are(&[]);
}

#[test]
fn a_call_that_makes_no_sense_is_answered_with_the_usage() {
    let world = world();
    for call in ["", "run", "run --rootfs", "run --rootfs /", "run -x", "walk sh"] {
        let outcome = world.alice().sh(&format!("container {call}"));
        assert_eq!(outcome.status, 125, "{call}");
        assert!(outcome.err.starts_with("container: usage: "), "{outcome:?}");
    }
}
