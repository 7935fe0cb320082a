//! The way out: what a container reaches, and what does not reach it.

use crate::world::{REMOTE, World};

#[test]
fn a_container_reaches_a_remote_host_which_sees_the_hosts_address() {
    let world = World::new();
    let remote = world.internet();
    let pod = world.alice().attached();
    remote.user().serves("remote", "7");
    for protocol in ["tcp", "udp"] {
        assert_eq!(pod.inside().asks(protocol, REMOTE, 7), "remote 192.0.2.1");
    }
    pod.sh(&format!("busybox ping -c 1 -W 10 {REMOTE} >/dev/null"));
}
