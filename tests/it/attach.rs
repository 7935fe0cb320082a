//! What a user gets: an interface, an address, a route, and a neighbour.

use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;

use crate::world::{ALICE, Container, Trace, World, json};

/// Asserts that a process inside reaches this address.
#[track_caller]
pub(crate) fn reaches(container: &Container<'_>, address: &str) {
    container.sh(&format!("busybox ping -c 1 -W 10 {address} >/dev/null"));
}

/// The flags of a link, as `ip` shows them.
pub(crate) fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP")
}

/// The one default route inside.
#[track_caller]
fn default_route(container: &Container<'_>) -> Value {
    let routes = container.ip("-4 route show default");
    assert_eq!(routes.as_array().unwrap().len(), 1, "{routes}");
    routes[0].clone()
}

#[test]
fn a_container_gets_an_address_a_default_route_and_the_gateway_answers() {
    let world = World::new();
    let pod = world.alice().attached();
    assert_eq!(pod.links(), ["lo", "veth1"]);
    assert_eq!(pod.address(), "10.10.10.2/24");
    assert!(is_up(&pod.link("veth1")));
    let route = default_route(&pod);
    assert_eq!((&route["gateway"], &route["dev"]), (&"10.10.10.1".into(), &"veth1".into()));
    reaches(&pod, "10.10.10.1");
}

#[test]
fn containers_that_are_not_kept_apart_reach_each_other_across_users() {
    let none = "[network]\nisolation = \"none\"\n";
    let world = World::with_policy(&format!("{none}{ALICE}[[allow]]\nuser = \"bob\"\n"));
    let first = world.alice().attached();
    let second = world.alice().attached();
    let third = world.bob().attached();
    assert_eq!(second.address(), "10.10.10.3/24");
    assert_eq!(third.address(), "10.10.10.4/24");
    reaches(&first, "10.10.10.3");
    reaches(&second, "10.10.10.4");
    reaches(&third, "10.10.10.2");
    assert_eq!(world.leases(), ["ns1000-0", "ns1000-1", "ns1001-0"]);
}

#[test]
fn killing_a_container_frees_everything_by_itself() {
    let world = World::with_policy(&format!("{ALICE}links = 1\n"));
    for _ in 0..3 {
        let pod = world.alice().container();
        // While the last one's lease is dying, the next one waits for it.
        world.alice().netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24");
        assert_eq!(world.leases(), ["ns1000-0"]);
        pod.kill();
    }
    world.until_leases_are(&[]);
    assert_eq!(world.ip("link show master brg0"), json("[]"));
}

#[test]
fn the_lowest_address_and_slot_that_are_free_are_given_again() {
    let world = World::new();
    let alice = world.alice();
    let pods = [alice.attached(), alice.attached(), alice.attached()];
    pods[1].kill();
    world.until_leases_are(&["ns1000-0", "ns1000-2"]);
    let pod = alice.attached();
    // A hole is taken or passed over, but an address is never given twice.
    let addresses = [pods[0].address(), pods[2].address()];
    assert!(!addresses.contains(&pod.address()));
    for pod in [&pods[0], &pods[2], &pod] {
        pod.kill();
    }
    world.until_leases_are(&[]);
    assert_eq!(alice.attached().address(), "10.10.10.2/24");
}

#[test]
fn deleting_the_interface_inside_gives_the_lease_back() {
    let world = World::new();
    let pod = world.alice().attached();
    pod.sh("ip link del veth1");
    world.until_leases_are(&[]);
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn the_veth_pair_is_what_the_lease_says() {
    let world = World::new();
    let pod = world.alice().attached();
    let (host, inside) = (world.link("ns1000-0"), pod.link("veth1"));
    assert_eq!(host["ifindex"], 0x4a0a_0a02);
    assert_eq!(host["address"], "fe:4e:0a:0a:0a:02");
    assert_eq!(inside["address"], "02:4e:0a:0a:0a:02");
    assert_eq!(host["master"], "brg0");
    assert!(is_up(&host));
    for end in [&host, &inside] {
        assert_eq!(end["linkinfo"]["info_kind"], "veth");
        assert_eq!(end["mtu"], 1500);
        assert_eq!((&end["num_tx_queues"], &end["num_rx_queues"]), (&1.into(), &1.into()));
    }
    assert_eq!(host["link_index"], inside["ifindex"]);
    assert_eq!(inside["link_index"], host["ifindex"]);
}

#[test]
fn a_port_is_opened_when_the_other_end_is_up() {
    // Else the kernel finds the one up and without a carrier, and takes it out of service again.
    let world = World::new();
    world.sh(": >/run/links; ip -o monitor link >/run/links 2>&1 & echo $! >/run/monitor
              until grep -q probe /run/links; do
                  ip link add probe type bridge; ip link del probe
              done");
    let pods: Vec<_> = (0..10).map(|_| world.alice().attached()).collect();
    let told = world.sh("ip link add last type bridge
                         until grep -q ' last: ' /run/links; do sleep 0.01; done
                         kill $(cat /run/monitor); cat /run/links");
    for slot in 0..pods.len() {
        let name = format!(" ns1000-{slot}@");
        let of_it = told.lines().filter(|line| line.contains(&name));
        let up: Vec<_> = of_it.filter(|line| line.contains(",UP")).collect();
        assert!(!up.is_empty(), "{told}");
        assert!(up.iter().all(|line| line.contains(",LOWER_UP")), "{up:#?}");
    }
}

#[test]
fn an_address_beyond_the_bits_of_an_index_is_leased_as_well() {
    let policy = format!("[network]\naddress = \"192.168.200.1/24\"\n{ALICE}");
    let world = World::with_policy(&policy);
    let pod = world.alice().attached();
    assert_eq!(pod.address(), "192.168.200.2/24");
    assert_eq!(world.link("ns1000-0")["ifindex"], 0x40a8_c802);
    // And found again.
    world.alice().netsetgo(format!("-pid {pod}")).done();
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn the_bridge_is_hardened() {
    let world = World::new();
    world.alice().attached();
    world.has_its_bridge();
}

#[test]
fn no_port_can_change_the_bridges_mtu() {
    let world = World::with_policy(&format!("[network]\nmtu = 1400\n{ALICE}"));
    let pod = world.alice().attached();
    let small = world.alice().container();
    world.alice().netsetgo(format!("-pid {small} -mtu 1280")).done();
    world.lan("low");
    world.sh("ip link set low mtu 1000; ip link set low master brg0");
    assert_eq!(world.link("brg0")["mtu"], 1400);
    assert_eq!(pod.link("veth1")["mtu"], 1400);
    assert_eq!(small.link("veth1")["mtu"], 1280);
    for lease in world.leases() {
        assert_eq!(world.link(&lease)["mtu"], 1400);
    }
}

#[test]
fn a_bridge_that_an_administrator_made_is_used_as_it_is() {
    let world = World::new();
    world.sh("ip link add brg0 address 02:00:00:00:00:07 type bridge mcast_snooping 1
         ip address add 192.168.9.1/24 dev brg0; ip address add 10.10.10.1/24 dev brg0
         ip link set brg0 mtu 1300; ip link set brg0 up");
    let seen = || {
        let link = world.ip("-4 address show dev brg0")[0].take();
        ["address", "mtu", "addr_info"].map(|field| link[field].to_string())
    };
    let made = seen();
    let pod = world.alice().attached();
    assert_eq!(pod.address(), "10.10.10.2/24");
    assert_eq!(pod.link("veth1")["mtu"], 1300);
    assert_eq!(seen(), made);
    reaches(&pod, "10.10.10.1");
}

#[test]
fn a_half_made_bridge_is_completed() {
    for made in [
        "ip link add brg0 type bridge",
        "ip link add brg0 type bridge; ip link set brg0 up",
        "ip link add brg0 type bridge; ip address add 10.10.10.1/24 dev brg0",
    ] {
        let world = World::new();
        world.sh(made);
        let pod = world.alice().attached();
        reaches(&pod, "10.10.10.1");
        assert!(is_up(&world.link("brg0")), "{made}");
    }
}

#[test]
fn attaching_again_reports_the_same_lease() {
    let world = World::new();
    let pod = world.alice().container();
    let attach = || json(&world.alice().netsetgo(format!("-pid {pod} -json")).done());
    let first = attach();
    assert_eq!(world.unchanged(attach), first);
    // Another process of the same container is the same container.
    let other = world.alice().process(&format!(
        "exec nsenter -t {pod} -U -n --preserve-credentials sh -c 'echo $$; exec sleep infinity'"
    ));
    let mut again = json(&world.alice().netsetgo(format!("-pid {other} -json")).done());
    again["interfaces"][2]["sandbox"] = first["interfaces"][2]["sandbox"].clone();
    assert_eq!(again, first);
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn attaching_again_mends_what_was_left_half_done() {
    let world = World::new();
    let pod = world.alice().attached();
    for harm in [
        "ip route del default",
        "ip address flush dev veth1",
        "ip link set veth1 down",
        "ip address flush dev veth1; ip link set veth1 down",
    ] {
        pod.sh(harm);
        world.alice().netsetgo(format!("-pid {pod}")).done();
        assert_eq!(pod.address(), "10.10.10.2/24", "{harm}");
        assert_eq!(default_route(&pod)["gateway"], "10.10.10.1", "{harm}");
        reaches(&pod, "10.10.10.1");
    }
    assert_eq!(world.leases(), ["ns1000-0"]);
}

#[test]
fn json_is_a_cni_result_that_agrees_with_what_is_there() {
    let world = World::new();
    let pod = world.alice().container();
    let printed = world.alice().netsetgo(format!("-pid {pod} -json")).done();
    let expected = serde_json::json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "brg0", "mac": world.link("brg0")["address"]},
            {"name": "ns1000-0", "mac": world.link("ns1000-0")["address"]},
            {
                "name": "veth1",
                "mac": pod.link("veth1")["address"],
                "sandbox": format!("/proc/{pod}/ns/net"),
            },
        ],
        "ips": [{"address": pod.address(), "gateway": "10.10.10.1", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.10.10.1"}],
        "dns": {},
    });
    assert_eq!(json(&printed), expected);
    assert_eq!(printed.lines().count(), 1);
}

#[test]
fn the_result_is_printed_in_one_write() {
    let world = World::new();
    let pod = world.alice().attached();
    let mut writes = 0;
    let run = Trace::of(&world.alice(), format!("netsetgo -pid {pod} -json"));
    let printed = run.watch(|stage| writes += usize::from(stage.call == libc::SYS_write)).done();
    assert_eq!((writes, printed.lines().count()), (1, 1));
}

#[test]
fn nothing_is_printed_unless_asked_for() {
    let world = World::new();
    let pod = world.alice().container();
    for _ in 0..2 {
        assert_eq!(world.alice().netsetgo(format!("-pid {pod}")).done(), "");
    }
}

#[test]
fn options_name_the_containers_end_and_set_its_mtu() {
    let world = World::new();
    let alice = world.alice();
    for (options, name, mtu) in [
        ("-ifname eth0", "eth0", 1500),
        ("--ifname=123456789012345", "123456789012345", 1500),
        ("-vethNamePrefix net", "net1", 1500),
        ("-vethNamePrefix net -ifname eth0 -mtu 1280", "eth0", 1280),
        ("-mtu=68", "veth1", 68),
    ] {
        let pod = alice.container();
        alice.netsetgo(format!("-pid {pod} {options}")).done();
        assert_eq!(pod.links(), ["lo", name], "{options}");
        assert_eq!(pod.link(name)["mtu"], mtu, "{options}");
    }
    // What a user asks for does not name anything on the host.
    let names: Vec<_> = (0..5).map(|slot| format!("ns1000-{slot}")).collect();
    assert_eq!(world.leases(), names);
}

#[test]
fn loopback_is_left_alone_unless_asked_for() {
    let world = World::new();
    let pod = world.alice().attached();
    assert!(!is_up(&pod.link("lo")));
    world.alice().netsetgo(format!("-pid {pod} -lo")).done();
    assert!(is_up(&pod.link("lo")));
    reaches(&pod, "127.0.0.1");
}

#[test]
fn an_address_that_is_asked_for_is_given() {
    let world = World::new();
    let alice = world.alice();
    let pods = ["10.10.10.254/24", "10.10.10.3/24", "10.10.10.2/24"].map(|address| {
        let pod = alice.container();
        alice.netsetgo(format!("-pid {pod} -containerAddress {address}")).done();
        assert_eq!(pod.address(), address);
        pod
    });
    reaches(&pods[0], "10.10.10.3");
    assert!(!pods.iter().any(|pod| pod.address() == alice.attached().address()));
}

#[test]
fn roots_call_names_everything_as_netsetgo_does() {
    let world = World::without_policy();
    let pod = world.alice().container();
    let call = format!(
        "-bridgeAddress 10.10.10.1/24 -bridgeName tower -containerAddress 10.10.10.2/24 -pid {pod} \
         -vethNamePrefix veth"
    );
    for _ in 0..2 {
        world.root().netsetgo(&call).done();
        let (bridge, host) = (world.ip("address show dev tower"), world.link("veth0"));
        assert_eq!(bridge[0]["linkinfo"]["info_kind"], "bridge");
        assert_eq!(bridge[0]["addr_info"][0]["local"], "10.10.10.1");
        assert_eq!(host["master"], "tower");
        assert!(is_up(&host));
        assert_eq!(pod.links(), ["lo", "veth1"]);
        assert_eq!(pod.address(), "10.10.10.2/24");
        assert_eq!(default_route(&pod)["gateway"], "10.10.10.1");
        reaches(&pod, "10.10.10.1");
    }
}

#[test]
fn root_attaches_namespaces_of_anybody_without_a_policy() {
    let world = World::without_policy();
    world.sh("ip netns add roots");
    let pods = [world.alice().container(), world.bob().container()];
    world.root().netsetgo("-netns /run/netns/roots").done();
    for pod in &pods {
        world.root().netsetgo(format!("-pid {pod}")).done();
    }
    assert_eq!(world.leases(), ["ns0-0", "ns0-1", "ns0-2"]);
    reaches(&pods[0], "10.10.10.2");
    reaches(&pods[1], "10.10.10.3");
}

#[test]
fn the_thirty_seventh_container_has_a_slot_of_two_digits() {
    let world = World::with_policy(&format!("{ALICE}links = 37\n"));
    let pods = world.alice().containers(37);
    for pod in &pods {
        world.alice().netsetgo(format!("-pid {pod} -wait 0")).done();
    }
    assert_eq!(pods[36].address(), "10.10.10.38/24");
    let names = (0..37).map(|slot| match slot {
        36 => "ns1000-10".to_owned(),
        _ => format!("ns1000-{}", char::from_digit(slot, 36).unwrap()),
    });
    for name in names {
        assert!(world.leases().contains(&name), "{name}");
    }
    let more = world.alice().container();
    world.alice().refused(format!("-pid {more} -wait 0"), "quota");
}

#[test]
fn the_largest_user_id_there_is_has_room_in_a_name() {
    let world = World::with_policy("[[allow]]\nuid = 4294967294\nlinks = 1023\n");
    let user = world.user("4294967294");
    let pod = user.attached();
    assert_eq!(world.leases(), ["ns4294967294-0"]);
    reaches(&pod, "10.10.10.1");
}

#[test]
fn a_name_or_an_index_that_something_else_has_on_the_host_is_passed_over() {
    let world = World::new();
    // The first slot by name, the second by another name, and the first address by its index.
    world.sh("ip link add ns1000-0 type bridge
         ip link add other type bridge; ip link property add dev other altname ns1000-1
         ip link add third index 1242171906 type bridge");
    let pod = world.alice().container();
    let result = json(&world.alice().netsetgo(format!("-pid {pod} -json")).done());
    assert_eq!(result["interfaces"][1]["name"], "ns1000-2");
    assert_eq!(pod.address(), "10.10.10.3/24");
}

#[test]
fn the_bridge_may_have_any_address_of_its_subnet() {
    for (bridge, first) in [
        ("10.10.10.254/24", "10.10.10.1/24"),
        ("10.10.10.2/24", "10.10.10.1/24"),
        ("10.10.9.255/22", "10.10.8.1/22"),
        ("172.16.0.2/30", "172.16.0.1/30"),
    ] {
        let world = World::with_policy(&format!("[network]\naddress = \"{bridge}\"\n{ALICE}"));
        let pod = world.alice().attached();
        assert_eq!(pod.address(), first);
        reaches(&pod, bridge.split_once('/').unwrap().0);
    }
}

/// Runs a command with a full pipe as its standard output, which does not block. The reader begins to
/// read after so many seconds and prints what was written, or never reads.
const FULL_PIPE: &str = "
import os, subprocess, sys, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True: os.write(writer, bytes(4096))
except BlockingIOError: pass
run = subprocess.Popen(sys.argv[2:], stdout=writer)
os.close(writer)
if sys.argv[1] != \"never\":
    time.sleep(float(sys.argv[1]))
    sys.stdout.write(open(reader).read().lstrip(chr(0)))
sys.exit(run.wait())
";

#[test]
fn a_full_standard_output_that_does_not_block_is_waited_for() {
    let world = World::new();
    let alice = world.alice();
    std::fs::write(world.path("/run/full_pipe.py"), FULL_PIPE).unwrap();
    let attach = |reader: &str, pod: &Container<'_>| {
        alice.sh(&format!("exec python3 /run/full_pipe.py {reader} netsetgo -pid {pod} -json"))
    };
    for delay in ["0", "0.5"] {
        let pod = alice.container();
        let result = json(&attach(delay, &pod).done());
        assert_eq!(result["ips"][0]["address"], pod.address());
    }
    let (pod, leases, start) = (alice.container(), world.leases(), Instant::now());
    attach("never", &pod).failed("standard output");
    let took = start.elapsed();
    assert_eq!((world.leases(), pod.links()), (leases, vec!["lo".to_owned()]));
    assert!(took > Duration::from_secs(4) && took < Duration::from_secs(30), "{took:?}");
}
