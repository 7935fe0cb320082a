//! The published holes of programs of this kind, replayed: lxc-user-nic's, which is setuid root and
//! does a similar work for LXC, and pkexec's. What else rules them out is tested where it belongs;
//! see the tables in `docs/security.md`.

use crate::hook::{hook, state};
use crate::publish::three_users;
use crate::world::{ALICE, User, World};

/// The words for whatever is not to be had.
const NOT_YOURS: &str = "not yours, or gone";

#[test]
fn cve_2017_5985_no_interface_is_made_or_named_where_the_caller_has_no_right() {
    let world = World::new();
    let alice = world.alice();
    // Her own process, in a namespace of root's and in one of bob's: that is what was not checked.
    world.sh("ip netns add roots");
    let bobs = world.bob().container();
    for file in ["/run/netns/roots".to_owned(), format!("/proc/{bobs}/ns/net")] {
        let lent = world.root().process(&format!(
            "exec nsenter --net={file} setpriv --reuid alice --regid alice --clear-groups \
             sh -c 'echo $$; exec sleep infinity'"
        ));
        for options in ["", "-ifname eth0", "-vethNamePrefix lo", "-delete", "-delete -ifname lo"] {
            alice.refused(format!("-pid {lent} -wait 0 {options}"), NOT_YOURS);
            alice.refused(format!("-netns {file} -wait 0 {options}"), NOT_YOURS);
        }
    }
}

#[test]
fn cve_2018_6556_to_delete_by_a_path_opens_nothing_and_wakes_nobody() {
    let world = World::new();
    let alice = world.alice();
    alice.sh("mkfifo /tmp/fifo").done();
    world.sh("mkfifo -m 600 /run/roots-fifo; ln -s /run/roots-fifo /tmp/link");
    let waiting = [
        alice.process("echo $$; exec 3>/tmp/fifo; exit 1"),
        world.root().process("echo $$; exec 3>/run/roots-fifo; exit 1"),
    ];
    // Devices that do something when a process opens them that may.
    for path in ["/tmp/fifo", "/run/roots-fifo", "/tmp/link", "/dev/ptmx", "/dev/tty", "/dev/kmsg"]
    {
        alice.refused(format!("-delete -netns {path}"), NOT_YOURS);
        alice.refused(format!("-netns {path}"), NOT_YOURS);
    }
    for waiting in waiting {
        let alive = world.sh(&format!("grep State: /proc/{waiting}/status"));
        assert!(alive.contains('S'), "{alive}");
    }
}

#[test]
fn cve_2022_47952_a_hidden_file_reads_like_none_to_delete_as_well() {
    let world = World::new();
    world.sh("mkdir -m 700 /run/secret /run/secret/inner; touch /run/secret/there
         ln -s /run/secret/there /tmp/led; ln -s /run/secret/missing /tmp/misled");
    for call in ["-delete -netns", "-netns"] {
        let line = |path: &str| {
            let said = world.alice().refused(format!("{call} {path}"), NOT_YOURS);
            said.replace(path, "PATH")
        };
        let missing = line("/run/secret/missing");
        for path in
            ["/run/secret/there", "/run/secret/inner", "/run/secret/inner/x", "/run/secret/there/x"]
        {
            assert_eq!(line(path), missing);
        }
        assert_eq!(line("/tmp/led"), line("/tmp/misled"));
    }
}

#[test]
fn cve_2026_39402_nobody_detaches_anothers_interface_whatever_he_calls_his_own() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let pod = bob.container();
    let created = state("created", "web", pod.pid.into(), serde_json::json!({}));
    hook(&bob, "-publish 8080:80", &created).done();
    let [victim] = world.leases().try_into().unwrap();
    let seen = world.link(&victim);
    let (index, mac) = (seen["ifindex"].as_u64().unwrap(), seen["address"].as_str().unwrap());
    let elements = world.elements();
    // By the name of bob's end on the host, under which alice has one inside, with its index, its
    // address and its alias; by the name of bob's container; and by an attach of hers that fails.
    let fake = alice.container();
    fake.sh(&format!(
        "ip link add {victim} index {index} address {mac} type veth peer name veth1
         ip link set {victim} alias web; own=$(readlink /proc/self/ns/net)
         unshare -n sleep infinity >/dev/null 2>&1 &
         while [ $(readlink /proc/$!/ns/net) = $own ]; do sleep 0.01; done
         ip link set {victim} netns $!
         ip link add {victim} alias web type bridge; ip route add blackhole default"
    ));
    for name in ["veth1", &victim] {
        alice.failed(
            format!("-delete -pid {fake} -ifname {name}"),
            "netsetgo did not make it for you",
        );
        alice.failed(format!("-pid {fake} -ifname {name}"), "netsetgo did not make it for you");
    }
    for name in ["brg0", "ns1001", "ns1001-1"] {
        world.unchanged(|| alice.netsetgo(format!("-delete -pid {fake} -ifname {name}"))).done();
    }
    let failed = alice.netsetgo(format!("-pid {fake} -ifname eth0 -publish 8080:80 -wait 0"));
    failed.failed("published already");
    alice.netsetgo(format!("-pid {fake} -ifname eth0 -wait 0")).failed("default route");
    let stopped = state("stopped", "web", 0.into(), serde_json::json!({}));
    hook(&alice, "-wait 0", &stopped).done();
    alice.netsetgo("-prune").done();
    assert_eq!(world.leases(), [victim.as_str()]);
    assert_eq!(world.elements(), elements);
    pod.sh("busybox ping -c 1 -W 10 10.10.10.1 >/dev/null");
}

#[test]
fn users_whose_names_and_numbers_begin_alike_have_quotas_of_their_own() {
    // lxc-user-nic compared as many characters as the shorter name had.
    let users = [("al", 100), ("ali", 10), ("alice", 1000), ("alice2", 10000), ("alice-0", 1)];
    let allow = |(user, _)| format!("[[allow]]\nuser = \"{user}\"\nlinks = 1\n");
    let world = World::with_policy(&users.map(allow).concat());
    for (user, uid) in users.iter().filter(|(user, _)| *user != "alice") {
        world.sh(&format!("echo {user}:x:{uid}:{uid}::/:/bin/sh >>/etc/passwd"));
    }
    let by_number = |uid: u32| -> User<'_> { world.user(&uid.to_string()) };
    for (attached, (_, uid)) in users.into_iter().enumerate() {
        let user = by_number(uid);
        let (first, second) = (user.container(), user.container());
        user.netsetgo(format!("-pid {first} -wait 0")).done();
        user.refused(format!("-pid {second} -wait 0"), "quota");
        assert_eq!(world.leases().len(), attached + 1);
        assert!(world.leases().contains(&format!("ns{uid}-0")));
    }
    // Nor does a name that is a part of one get what that has.
    world.policy(ALICE);
    for (_, uid) in users.into_iter().filter(|(user, _)| *user != "alice") {
        let user = by_number(uid);
        user.refused(format!("-pid {}", user.container()), "not allowed");
    }
}

#[test]
fn cve_2021_4034_without_any_argument_the_environment_is_not_taken_for_some() {
    let world = World::new();
    let pod = world.alice().container();
    for variable in [format!("-pid={pod}"), "-check".to_owned(), "-prune".to_owned()] {
        let program = format!(
            "import ctypes\n\
             execve = ctypes.CDLL(None).execve\n\
             none = (ctypes.c_char_p * 1)(None)\n\
             some = (ctypes.c_char_p * 4)(b\"{variable}\", b\"{variable}\", b\"PATH=GCONV_PATH=.\", None)\n\
             execve(b\"/usr/local/bin/netsetgo\", none, some)"
        );
        let run = || world.alice().sh(&format!("exec python3 -c '{program}'"));
        world.unchanged(run).usage("say which container");
    }
}
