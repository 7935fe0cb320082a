//! What cannot be done: exit status 1, and nothing is left of the attempt.

use crate::world::{ALICE, World, closed_takes_nothing};

/// Lets alice attach containers to the bridge with this address.
fn policy(address: &str) -> String {
    format!("[network]\naddress = \"{address}\"\n{ALICE}links = 1023\n")
}

#[test]
fn a_bridge_name_that_something_else_has_is_an_error() {
    let world = World::new();
    let pod = world.alice().container();
    world.lan("brg0");
    world.alice().failed(format!("-pid {pod}"), "not a bridge");
    world.sh("ip link del brg0; ip tuntap add brg0 mode tap");
    world.alice().failed(format!("-pid {pod}"), "not a bridge");
    // An alternative name is a name, too.
    world.sh("ip link set brg0 name other; ip link property add dev other altname brg0");
    world.alice().failed(format!("-pid {pod}"), "not a bridge");
}

#[test]
fn a_bridge_with_another_address_is_an_error() {
    let world = World::new();
    let pod = world.alice().container();
    world.sh("ip link add brg0 type bridge; ip address add 192.168.7.1/24 dev brg0");
    world.alice().failed(format!("-pid {pod}"), "address");
    world.sh("ip address flush dev brg0; ip address add 10.10.10.1/16 dev brg0");
    world.alice().failed(format!("-pid {pod}"), "address");
}

#[test]
fn a_subnet_that_another_interface_routes_is_not_taken_from_it() {
    let world = World::new();
    let pod = world.alice().container();
    world.lan("lan");
    for route in ["10.10.10.0/24", "10.10.10.128/25", "10.10.0.0/16", "10.10.10.77", "10.0.0.0/8"] {
        world.sh(&format!("ip route add {route} dev lan"));
        world.alice().failed(format!("-pid {pod}"), "overlap");
        world.sh(&format!("ip route del {route} dev lan"));
    }
    world.sh("ip address add 10.10.10.9/29 dev lan");
    world.alice().failed(format!("-pid {pod}"), "overlap");
    world.sh("ip address flush dev lan");
    // In whatever table the route is.
    world.sh("ip route add 10.10.10.0/24 dev lan table 77");
    world.alice().failed(format!("-pid {pod}"), "overlap");
}

#[test]
fn a_default_route_overlaps_nothing() {
    let world = World::new();
    world.lan("lan");
    world.sh("ip address add 192.168.7.2/24 dev lan
         ip route add default via 192.168.7.1
         ip route add 0.0.0.0/1 dev lan; ip route add 128.0.0.0/1 dev lan
         ip route add blackhole 10.10.0.0/16; ip route add 10.10.11.0/24 dev lan");
    world.alice().attached();
}

#[test]
fn an_address_that_no_container_can_have_is_an_error() {
    let world = World::new();
    let pod = world.alice().container();
    for (address, why) in [
        ("10.10.11.2/24", "subnet"),
        ("10.10.10.2/25", "prefix"),
        ("10.10.10.2/16", "prefix"),
        ("10.10.10.0/24", "network"),
        ("10.10.10.255/24", "broadcast"),
        ("10.10.10.1/24", "bridge"),
        ("0.0.0.0/24", "subnet"),
        ("127.0.0.1/24", "subnet"),
    ] {
        world.alice().failed(format!("-pid {pod} -containerAddress {address}"), why);
    }
}

#[test]
fn an_address_that_is_leased_is_an_error() {
    let world = World::new();
    let (first, second) = (world.alice().attached(), world.alice().container());
    let asked = "-containerAddress 10.10.10.2/24 -wait 0.05";
    world.alice().failed(format!("-pid {second} {asked}"), "leased");
    first.kill();
    world.until_leases_are(&[]);
    world.alice().netsetgo(format!("-pid {second} {asked}")).done();
    assert_eq!(second.address(), "10.10.10.2/24");
}

#[test]
fn a_dying_lease_is_waited_for() {
    let world = World::with_policy(&format!("[network]\naddress = \"10.10.10.1/30\"\n{ALICE}"));
    let alice = world.alice();
    // Of one address, asked for or not; and of the last slot.
    for (links, asked) in [(2, ""), (2, "-containerAddress 10.10.10.2/30"), (1, "")] {
        world.policy(&format!("[network]\naddress = \"10.10.10.1/30\"\n{ALICE}links = {links}\n"));
        let (dying, pod) = (alice.attached(), alice.container());
        let script = format!("(sleep 0.2; kill -9 {dying}) & netsetgo -pid {pod} -wait 60 {asked}");
        alice.sh(&script).done();
        assert_eq!(pod.address(), "10.10.10.2/30");
        pod.kill();
        world.until_leases_are(&[]);
    }
}

#[test]
fn an_attached_container_keeps_its_address() {
    let world = World::new();
    let pod = world.alice().attached();
    world.alice().failed(format!("-pid {pod} -containerAddress 10.10.10.9/24"), "10.10.10.2");
    world.alice().netsetgo(format!("-pid {pod} -containerAddress 10.10.10.2/24")).done();
}

#[test]
fn an_interface_inside_that_is_not_ours_is_an_error() {
    let world = World::new();
    let alice = world.alice();
    // The bridge is there already, so that nothing at all may change.
    let neighbour = alice.attached();
    for kind in ["bridge", "veth peer name other"] {
        let pod = alice.container();
        pod.sh(&format!("ip link add veth1 type {kind}"));
        alice.failed(format!("-pid {pod}"), "inside");
    }
    let pod = alice.container();
    pod.sh("ip link add other type bridge; ip link property add dev other altname veth1");
    alice.failed(format!("-pid {pod}"), "inside");
    let pod = alice.container();
    alice.failed(format!("-pid {pod} -ifname lo"), "inside");
    assert_eq!(neighbour.links(), ["lo", "veth1"]);
}

#[test]
fn an_interface_inside_that_poses_as_ours_is_an_error() {
    let world = World::new();
    let alice = world.alice();
    let (real, fake) = (alice.attached(), alice.container());
    // Everything that the inside can say of the first container's veth pair: names, addresses, and a
    // peer of that very index, which may even be in another namespace.
    let seen = real.link("veth1");
    let (mac, index) = (seen["address"].as_str().unwrap(), seen["ifindex"].as_u64().unwrap());
    let peer = world.link("ns1000-0")["ifindex"].as_u64().unwrap();
    fake.sh(&format!(
        "ip link add ns1000-0 index {peer} type veth peer name veth1 address {mac}
         ip link set ns1000-0 up; ip link set veth1 up; ip address add 10.10.10.2/24 dev veth1"
    ));
    let posed = (fake.link("veth1")["ifindex"].take(), fake.link("ns1000-0")["ifindex"].take());
    assert_eq!(posed, (index.into(), peer.into()));
    alice.failed(format!("-pid {fake}"), "inside");
    fake.sh("own=$(readlink /proc/self/ns/net); unshare -n sleep infinity >/dev/null 2>&1 &
         while [ $(readlink /proc/$!/ns/net) = $own ]; do sleep 0.01; done
         ip link set ns1000-0 netns $!");
    alice.failed(format!("-pid {fake}"), "inside");
}

#[test]
fn the_veth_pair_of_another_user_is_not_reported_as_the_callers() {
    let world = World::new();
    let pod = world.alice().container();
    world.root().netsetgo(format!("-pid {pod}")).done();
    world.alice().failed(format!("-pid {pod}"), "inside");
}

#[test]
fn a_full_subnet_is_an_error() {
    let world = World::with_policy(&policy("10.10.10.1/29"));
    let alice = world.alice();
    let pods: Vec<_> = (0..5).map(|_| alice.attached()).collect();
    let addresses: Vec<_> = pods.iter().map(|pod| pod.address()).collect();
    let expected: Vec<_> = (2..=6).map(|last| format!("10.10.10.{last}/29")).collect();
    assert_eq!(addresses, expected);
    let sixth = alice.container();
    alice.failed(format!("-pid {sixth} -wait 0.05"), "every address is leased");
}

#[test]
fn a_subnet_that_one_bridge_cannot_serve_is_an_error() {
    for address in ["10.10.0.1/21", "10.0.0.1/8", "0.0.0.1/0", "10.10.10.0/31", "10.10.10.1/32"] {
        let world = World::with_policy(&policy(address));
        let pod = world.alice().container();
        world.alice().failed(format!("-pid {pod}"), address);
    }
}

#[test]
fn a_bridge_address_that_no_host_can_have_is_an_error() {
    for address in
        ["10.10.10.0/24", "10.10.10.255/24", "127.0.0.1/24", "224.0.0.1/24", "0.0.0.1/24"]
    {
        let world = World::with_policy(&policy(address));
        let pod = world.alice().container();
        world.alice().failed(format!("-pid {pod}"), address);
    }
}

#[test]
fn an_mtu_above_the_bridges_is_an_error() {
    let world = World::new();
    let pod = world.alice().container();
    world.alice().failed(format!("-pid {pod} -mtu 1501"), "1500");
    world.alice().attached();
    world.alice().failed(format!("-pid {pod} -mtu 1501"), "1500");
    world.alice().failed(format!("-pid {pod} -mtu 65535"), "1500");
}

#[test]
fn a_fork_beyond_the_process_limit_is_an_error_before_any_change() {
    let world = World::new();
    let pod = world.alice().container();
    world.alice().by("prlimit --nproc=1:1").failed(format!("-pid {pod}"), "too many processes");
}

#[test]
fn a_container_that_has_a_default_route_keeps_it_and_gets_no_interface() {
    let world = World::new();
    let neighbour = world.alice().attached();
    let pod = world.alice().container();
    pod.sh("ip link add lan type bridge; ip link set lan up; ip route add default dev lan");
    world.alice().failed(format!("-pid {pod}"), "default route");
    assert_eq!(world.leases(), ["ns1000-0"]);
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

#[test]
fn standard_output_that_takes_nothing_is_an_error() {
    let world = World::new();
    let alice = world.alice();
    let neighbour = alice.attached();
    // The last is a pipe that no process reads.
    let pipe = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); \
                os.execvp(sys.argv[1], sys.argv[1:])";
    for (before, after) in [
        ("", ">/dev/full"),
        ("", ">&-"),
        ("", "</dev/null 1<&0"),
        (&format!("python3 -c '{pipe}'"), ""),
    ] {
        let pod = alice.container();
        let attach = format!("{before} netsetgo -pid {pod} -json {after}");
        if after != ">&-" || closed_takes_nothing() {
            world.undone(|| alice.sh(&attach)).failed("standard output");
        }
        // Where nothing is to be said, nothing is amiss.
        alice.netsetgo(format!("-pid {pod} {after}")).done();
        pod.kill();
        world.until_leases_are(&["ns1000-0"]);
    }
    for option in ["-help", "-version"] {
        alice.failed(format!("{option} >/dev/full"), "standard output");
        if closed_takes_nothing() {
            alice.failed(format!("{option} >&-"), "standard output");
        }
    }
    assert_eq!(neighbour.address(), "10.10.10.2/24");
}

#[test]
fn a_host_name_that_is_taken_is_an_error_for_root() {
    let world = World::new();
    let pod = world.alice().container();
    world.root().netsetgo(format!("-pid {pod} -vethNamePrefix net")).done();
    let other = world.alice().container();
    world.root().failed(format!("-pid {other} -vethNamePrefix net -wait 0"), "net0");
}
