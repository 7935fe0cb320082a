//! What the admin's own DNAT sends elsewhere stays there, though a user publishes the same port.

use crate::publish::three_users;
use crate::world::{HOST, Remote, User, World};

/// The admin sends port 8080 of this host to another host, where no process of this one waits.
const ADMINS: &str = "nft 'add table inet admin
    add chain inet admin in { type nat hook prerouting priority dstnat; }
    add chain inet admin out { type nat hook output priority -100; }
    add chain inet admin after { type nat hook postrouting priority srcnat; }
    add rule inet admin in ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 8080 \
        dnat ip to 172.16.5.9:80
    add rule inet admin out ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 8080 \
        dnat ip to 172.16.5.9:80
    add rule inet admin after ip daddr 172.16.5.9 masquerade'";

/// Asserts that clients of the port reach the admin's host.
#[track_caller]
fn stays_the_admins(world: &World, remote: &Remote<'_>) {
    let clients: [User<'_>; 2] = [remote.user(), world.root()];
    for client in clients {
        for protocol in ["tcp", "udp"] {
            let heard = client.asks(protocol, HOST, 8080);
            assert_eq!(heard, "lan 172.16.5.1", "{protocol}");
        }
    }
}

#[test]
fn a_port_that_the_admin_forwards_keeps_its_clients_though_a_user_publishes_it() {
    for admin_first in [true, false] {
        let world = three_users();
        let remote = world.internet();
        let lan = world.neighbour("lan0", "172.16.5.1", "172.16.5.9");
        lan.sh("ip route add default via 172.16.5.1");
        lan.user().serves("lan", "80");
        world.sh("echo 1 >/proc/sys/net/ipv4/ip_forward");
        if admin_first {
            world.sh(ADMINS);
        } else {
            world.alice().attached();
            world.sh(ADMINS);
        }
        stays_the_admins(&world, &remote);
        let pod = world.alice().container();
        world.alice().netsetgo(format!("-pid {pod}")).done();
        pod.inside().serves("pod", "80");
        // It may be refused or not.
        for publish in
            ["8080:80 -publish 8080:80/udp", "192.0.2.1:8080:80", "192.0.2.1:8080:80/udp"]
        {
            let outcome = world.alice().netsetgo(format!("-pid {pod} -wait 0 -publish {publish}"));
            assert!(outcome.status == 0 || outcome.is_one_line(), "{outcome:?}");
            stays_the_admins(&world, &remote);
        }
        // A port beside it is published as ever.
        world.alice().netsetgo(format!("-pid {pod} -publish 8081:80")).done();
        assert_eq!(remote.user().asks("tcp", HOST, 8081), "pod 192.0.2.9");
    }
}
