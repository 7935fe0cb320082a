//! Published ports: who reaches them, who must not, and what outlives a container.

use crate::world::{ALICE, HOST, World};

/// What a policy says that grants alice these host ports as well.
fn publishing(ports: &str) -> String {
    format!("{ALICE}publish = [{ports}]\n")
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    let world = World::with_policy(&publishing("\"8000-8999\""));
    let remote = world.internet();
    let alice = world.alice();
    let pod = alice.container();
    alice.netsetgo(format!("-pid {pod} -publish 8080:80 -publish 8080:80/udp")).done();
    pod.inside().serves("pod", "80");
    let other = alice.attached();
    for protocol in ["tcp", "udp"] {
        assert_eq!(remote.user().asks(protocol, HOST, 8080), "pod 192.0.2.9");
        for address in [HOST, "127.0.0.1", "10.10.10.1"] {
            assert!(world.root().asks(protocol, address, 8080).starts_with("pod "), "{address}");
        }
        for address in [HOST, "10.10.10.1"] {
            assert!(other.inside().asks(protocol, address, 8080).starts_with("pod "));
            assert!(pod.inside().asks(protocol, address, 8080).starts_with("pod "));
        }
    }
}
