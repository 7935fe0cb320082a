//! A container that wants to be the host's IPv6 router.

use crate::world::{Container, World};

/// The program that sends a router advertisement.
const ADVERTISE: &str = include_str!("world/advertise.py");

/// Every Ethernet address by which a frame could reach the host: all nodes, everybody, and the
/// link-local groups that a bridge does not forward by itself.
fn destinations() -> Vec<String> {
    let groups = (0..16).map(|last| format!("01:80:c2:00:00:{last:02x}"));
    ["33:33:00:00:00:01", "ff:ff:ff:ff:ff:ff"]
        .into_iter()
        .map(str::to_owned)
        .chain(groups)
        .collect()
}

fn advertise(world: &World, container: &Container<'_>, to: &str) {
    std::fs::write(world.path("/tmp/advertise.py"), ADVERTISE).unwrap();
    container.sh(&format!("exec python3 /tmp/advertise.py {to}"));
}

/// The host's IPv6 routes that were advertised to it.
fn advertised(world: &World) -> String {
    world.sh("ip -6 route show proto ra")
}

#[test]
fn no_advertisement_from_a_container_reaches_the_host() {
    for mtu in [1280, 1281, 1500] {
        let world = World::with_policy(&format!(
            "[network]\nmtu = {mtu}\n[[allow]]\nuser = \"alice\"\nlinks = 2\n"
        ));
        let (container, _other) = (world.alice().attached(), world.alice().attached());
        // Nor without the firewall, which drops all IPv6 of a container's.
        for harm in ["true", "nft flush ruleset"] {
            world.sh(harm);
            for destination in destinations() {
                advertise(&world, &container, &destination);
            }
            // What the bridge forwards has gone through it once this arrives.
            container.sh("busybox ping -c 1 -W 10 10.10.10.3 >/dev/null");
            assert_eq!(advertised(&world), "", "with an MTU of {mtu}, {harm}");
        }
        for link in ["brg0", "ns1000-0", "ns1000-1"] {
            assert_eq!(world.sh(&format!("ip -6 addr show dev {link}")), "");
        }
    }
}

#[test]
fn an_advertisement_would_be_taken_from_a_port_that_is_not_kept_from_it() {
    let world = World::new();
    let container = world.alice().attached();
    // The firewall drops what gets past the bridge, too.
    world.sh("ip link set ns1000-0 type bridge_slave group_fwd_mask 0
              nft delete table inet netsetgo");
    world.until("the advertisement to be taken", || {
        advertise(&world, &container, "01:80:c2:00:00:02");
        advertised(&world).contains("default via fe80::1 dev ns1000-0")
    });
}
