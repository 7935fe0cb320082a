//! Which container has which address: what the list says has to be what `ip`, `nft` and `/proc` say.

use std::time::{Duration, Instant};

use nix::libc;
use serde_json::{Value, json};

use crate::publish::{published, three_users};
use crate::world::{self, ALICE, Container, Trace, User, World, closed_takes_nothing};

/// The list as JSON.
#[track_caller]
fn listed(user: &User<'_>) -> Value {
    world::json(&user.netsetgo("-list -json").done())
}

/// The rows of the table, by their words, without the head; and what stands below it.
#[track_caller]
fn table(user: &User<'_>) -> (Vec<Vec<String>>, Option<String>) {
    let text = user.netsetgo("-list").done();
    let mut lines: Vec<_> = text.lines().collect();
    let head = lines.remove(0);
    let columns = ["", "  USER", "  HOST INTERFACE", "  INTERFACE", "  CONTAINER", "  PORTS"];
    let begin = |column: &&str| head.find(column).map(|at| at + (column.len().min(2)));
    let begins: Vec<_> = columns.iter().map(begin).collect::<Option<_>>().unwrap();
    assert!(head.starts_with("ADDRESS ") && begins.is_sorted(), "{head}");
    let quota = lines.pop_if(|line| line.contains(" links used")).map(str::to_owned);
    let cells = |line: &str| {
        let ends = begins[1..].iter().copied().chain([line.len()]);
        let cell = |(begin, end): (&usize, usize)| line.get(*begin..end).unwrap().trim_end();
        begins.iter().zip(ends).map(cell).map(str::to_owned).collect()
    };
    (lines.into_iter().map(cells).collect(), quota)
}

#[test]
fn it_agrees_with_what_is_there() {
    let world = three_users();
    let (alice, bob) = (world.alice(), world.bob());
    let ports = "-ifname eth0 -publish 8080:80 -publish 127.0.0.1:8081-8082:81-82/udp";
    let web = alice.container();
    let state = json!({"id": "web", "status": "created", "pid": web.pid});
    alice.netsetgo(format!("-hook {ports} <<'END'\n{state}\nEND\n")).done();
    let (plain, bobs) = (alice.attached(), published(&bob, "-publish 8083:83"));
    world.root().netsetgo(format!("-pid {} -vethNamePrefix own", alice.container())).done();

    let list = listed(&alice);
    let leases = list["leases"].as_array().unwrap();
    let links = world.ip("link show type veth");
    assert_eq!(leases.len(), links.as_array().unwrap().len());
    for (lease, name) in leases.iter().zip(["ns1000-0", "ns1000-1", "ns1001-0", "own0"]) {
        let link = world.link(name);
        assert_eq!(lease["hostInterface"], name);
        // The address that its Ethernet address is made of.
        let mac = link["address"].as_str().unwrap().split(':').skip(2);
        let bytes: Vec<_> =
            mac.map(|byte| u8::from_str_radix(byte, 16).unwrap().to_string()).collect();
        assert_eq!(lease["address"], format!("{}/24", bytes.join(".")));
        assert_eq!(lease.get("container"), link.get("ifalias"));
    }
    for (lease, pod, user) in [(0, &web, "alice"), (1, &plain, "alice"), (2, &bobs, "bob")] {
        let (lease, name) = (&leases[lease], pod.links().remove(1));
        assert_eq!(lease["user"], user);
        let inside = pod.link(&name);
        let ip = inside["addr_info"][0]["local"].as_str().unwrap();
        assert_eq!(lease["address"], format!("{ip}/24"));
        // Only its owner sees what the interface is called inside.
        assert_eq!(lease.get("interface"), (user == "alice").then_some(&json!(name)));
        let pid = u32::try_from(lease["pid"].as_u64().unwrap()).unwrap();
        let namespace = world.sh(&format!("readlink /proc/{pid}/ns/net"));
        assert_eq!(namespace.trim(), pod.namespace("net"));
        let mut ports: Vec<_> = lease["portMappings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                let protocol = if port["protocol"] == "udp" { 17 } else { 6 };
                let at = port
                    .get("hostIP")
                    .map_or(String::new(), |ip| format!("{} . ", ip.as_str().unwrap()));
                let (host, container) = (&port["hostPort"], &port["containerPort"]);
                let link = lease["hostInterface"].as_str().unwrap();
                format!("{protocol} . {at}{host} comment \"{link}\" : {ip} . {container}")
            })
            .collect();
        ports.sort();
        let mut there = world.published();
        there.retain(|element| element.contains(&format!(" : {ip} . ")));
        assert_eq!(ports, there);
    }
    assert_eq!(leases[3]["user"], "root");
    assert_eq!(list["quota"], json!({"links": 16, "used": 2}));

    let (rows, quota) = table(&alice);
    let pid = |lease: usize| format!("pid {}", leases[lease]["pid"]);
    let ports = "8080:80/tcp 127.0.0.1:8081:81/udp 127.0.0.1:8082:82/udp";
    assert_eq!(rows[0], ["10.10.10.2/24", "alice", "ns1000-0", "eth0", "web", ports]);
    assert_eq!(rows[1], ["10.10.10.3/24", "alice", "ns1000-1", "veth1", &pid(1), "-"]);
    assert_eq!(rows[2], ["10.10.10.4/24", "bob", "ns1001-0", "-", &pid(2), "8083:83/tcp"]);
    assert_eq!(rows[3], ["10.10.10.5/24", "root", "own0", "own1", &pid(3), "-"]);
    assert_eq!(rows.len(), 4);
    assert_eq!(quota.unwrap(), "2 of your 16 links used");
}

#[test]
fn nothing_is_changed_by_it_and_nothing_needed_for_it() {
    let world = World::without_policy();
    let empty = json!({"leases": []});
    for user in [world.alice(), world.bob()] {
        world.unchanged(|| assert_eq!(listed(&user), empty));
        world.unchanged(|| assert_eq!(table(&user), (Vec::new(), None)));
    }
    world.unchanged(|| {
        assert_eq!(listed(&world.root())["quota"], json!({"links": 1023, "used": 0}))
    });
    assert_eq!(world.sh("ip -brief link").lines().count(), 1);
    world.policy(ALICE);
    let pod = world.alice().attached();
    for user in [world.alice(), world.bob(), world.root()] {
        for arguments in ["-list", "-list -json", "--list --json"] {
            world.unchanged(|| user.netsetgo(arguments)).done();
        }
    }
    assert_eq!(pod.address(), "10.10.10.2/24");
}

#[test]
fn every_user_may_list_and_without_privilege_only_the_ports_are_missing() {
    let world = three_users();
    published(&world.alice(), "-publish 8080:80");
    let whole = listed(&world.user("dave"))["leases"].take();
    assert_eq!(whole[0]["portMappings"][0]["hostPort"], 8080);
    // Whom the policy allows nothing, and where it does not read.
    for policy in ["", "nonsense", "[[allow]]\nuser = \"alice\"\nlinks = 0\n"] {
        world.policy(policy);
        assert_eq!(listed(&world.user("dave")), json!({"leases": whole}));
    }
    world.sh("rm /etc/netsetgo.toml");
    assert_eq!(listed(&world.user("4000000000")), json!({"leases": whole}));
    let mut without = whole.clone();
    without[0]["portMappings"] = json!([]);
    world.sh("cp /usr/local/bin/netsetgo /tmp/copy; chmod 755 /tmp/copy");
    let copy = |user: &User<'_>| world::json(&user.sh("exec /tmp/copy -list -json").done());
    assert_eq!(copy(&world.bob()), json!({"leases": without}));
    for by in ["setpriv --no-new-privs --", "unshare -U --", "unshare -Ur --"] {
        let user = world.bob().by(by);
        assert_eq!(listed(&user)["leases"], without, "{by}");
    }
    // What is missing is what is hidden: the others are seen by the very same list.
    without[0]["interface"] = json!("veth1");
    assert_eq!(copy(&world.alice())["leases"], without);
}

#[test]
fn every_link_is_read_without_a_capability() {
    let world = three_users();
    let pod = published(&world.alice(), "-publish 8080:80");
    let (mut looks, mut writes) = (0, 0);
    let run = Trace::of(&world.bob(), "netsetgo -list -json");
    let printed = run.watch(|stage| {
        if stage.call == libc::SYS_getdents64 {
            looks += 1;
            assert_eq!(stage.status("CapPrm"), "0000000000000000", "{stage:?}");
        }
        if stage.call == libc::SYS_openat && stage.status("NoNewPrivs") == "1" {
            assert_eq!(stage.status("CapEff"), "0000000000000000", "{stage:?}");
        }
        writes += usize::from(stage.call == libc::SYS_write);
    });
    let printed = world::json(&printed.done());
    assert_eq!(printed["leases"][0]["pid"], pod.pid);
    assert!(looks > 0 && writes == 1, "{looks} looks at /proc, {writes} writes");
}

#[test]
fn three_hundred_leases_are_listed_at_once() {
    let policy = format!("[network]\naddress = \"10.10.8.1/22\"\n{ALICE}links = 400\n");
    let world = World::with_policy(&policy);
    let alice = world.alice();
    let pods = alice.containers(300);
    let pids: Vec<_> = pods.iter().map(Container::to_string).collect();
    let script =
        format!("for pid in {}; do netsetgo -pid $pid -wait 0 || exit; done", pids.join(" "));
    alice.sh(&script).done();
    let start = Instant::now();
    let (rows, quota) = table(&alice);
    let took = start.elapsed();
    assert_eq!(rows.len(), 300);
    assert_eq!(quota.unwrap(), "300 of your 400 links used");
    for (row, pod) in rows.iter().zip(&pods) {
        assert_eq!(*row, [&pod.address(), "alice", &row[2], "veth1", &format!("pid {pod}"), "-"]);
    }
    assert!(took < Duration::from_secs(3), "it took {took:?}");
}

#[test]
fn what_another_wrote_does_not_break_the_table() {
    let world = World::new();
    let alice = world.alice();
    let (pod, other) = (alice.attached(), alice.attached());
    let (rows, _) = table(&alice);
    for alias in [
        r"a\nb",
        r"\033[2J\033]0;x\a",
        r"x  bob  ns1001-0",
        r"\t\r\v\f\b",
        r"\302\233[31m\342\200\256",
        r"\377\376",
        r"$(printf %0240d 7)",
    ] {
        let call = format!("a=$(printf \"{alias}.\"); ip link set ns1000-0 alias \"${{a%.}}\"");
        world.sh(&call);
        let text = alice.netsetgo("-list").done();
        assert!(
            text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)),
            "{text:?}"
        );
        let (seen, quota) = table(&alice);
        assert_eq!((seen.len(), quota.is_some()), (2, true), "{text}");
        assert_eq!(seen[1], rows[1], "{text}");
        assert_eq!((&seen[0][..4], &seen[0][5]), (&rows[0][..4], &rows[0][5]), "{text}");
        assert!(!seen[0][4].contains(' ') || seen[0][4].starts_with("pid "), "{text}");
        listed(&alice);
    }
    world.sh("ip link set ns1000-0 alias ''");
    assert_eq!(table(&alice).0, rows);
    // An interface may be called almost anything, and inside it is the container that says what.
    for name in [r"\033[2J\033[31m", r"\a\b", r"\302\233[31m", r"\377\376"] {
        pod.sh(&format!("ip link set veth1 down; ip link set veth1 name \"$(printf '{name}')\""));
        let text = alice.netsetgo("-list").done();
        assert!(
            text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)),
            "{text:?}"
        );
        let (seen, _) = table(&alice);
        assert_eq!((&seen[0][..3], &seen[1]), (&rows[0][..3], &rows[1]), "{text}");
        let text = alice.netsetgo("-list -json").done();
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        pod.sh(&format!("ip link set \"$(printf '{name}')\" name veth1"));
    }
    // Nor does an account's name.
    world.sh(r"sed -i 's/^alice:/al\x1b[31m ice:/' /etc/passwd; printf '\377\n' >>/etc/passwd");
    let text = world.bob().netsetgo("-list").done();
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text:?}");
    assert_eq!(other.address(), "10.10.10.3/24");
}

#[test]
fn what_only_looks_like_a_lease_is_none() {
    let world = World::new();
    let alice = world.alice();
    alice.attached();
    let list = listed(&alice);
    for made in [
        // The name alone.
        "ip link add ns1000-5 type veth peer name x",
        "ip link add ns1000-5 type veth peer name x; ip link set ns1000-5 master brg0",
        "ip link add ns1000-5 type bridge",
        // The index alone: 10.10.10.7, at no bridge, and not of a veth pair.
        "ip link add x index 1242171911 type veth peer name y",
        "ip link add x index 1242171911 type bridge; ip address add 10.10.10.77/32 dev x",
        // With a lease's group, and both ends here.
        "ip link add ns1000-5 index 1242171911 group 1073741825 type veth peer name y",
        // With the other end in another namespace, and no lease's group.
        "ip netns add z; ip link add ns1000-5 index 1242171911 type veth peer name y netns z",
        // In a bridge that has no address, or one of another subnet.
        "ip link add x type bridge; ip link add y index 1242171911 type veth; ip link set y master x",
        "ip link add x type bridge; ip address add 10.10.11.1/24 dev x
         ip link add y index 1242171911 type veth; ip link set y master x",
        // The bridge's own address, the network's and the broadcast address.
        "ip link add x index 1242171905 type veth peer name y; ip link set x master brg0",
        "ip link add x index 1242171904 type veth peer name y; ip link set x master brg0",
        "ip link add x index 1242172159 type veth peer name y; ip link set x master brg0",
    ] {
        world.sh(made);
        assert_eq!(listed(&alice), list, "{made}");
        assert_eq!(table(&alice).1.unwrap(), "1 of your 16 links used");
        world.sh("for link in x y ns1000-5; do ip link del $link 2>/dev/null; done
                  [ ! -e /run/netns/z ] || ip netns del z");
    }
    // A lease is one by its index, however root names the host end; at root's other bridges as well.
    world.sh("ip netns add roots; ip netns add more");
    world.root().netsetgo("-netns /run/netns/roots -vethNamePrefix ns1000-x").done();
    let tower = "-netns /run/netns/more -bridgeName tower -bridgeAddress 192.168.9.1/24";
    world.root().netsetgo(tower).done();
    let (rows, quota) = table(&alice);
    let column = |n: usize| rows.iter().map(|row| row[n].clone()).collect::<Vec<_>>();
    assert_eq!(column(0), ["10.10.10.2/24", "10.10.10.3/24", "192.168.9.2/24"]);
    assert_eq!(column(2), ["ns1000-0", "ns1000-x0", "ns0-0"]);
    assert_eq!((&rows[0][1], &rows[2][1]), (&"alice".to_owned(), &"root".to_owned()));
    assert!(quota.is_some());
}

#[test]
fn a_veth_pair_whose_bridge_was_deleted_is_listed_and_what_to_do_is_said() {
    let world = World::with_policy(&format!("{ALICE}[[allow]]\nuid = 1001\n"));
    let (alice, bob) = (world.alice(), world.bob());
    let pods = [alice.attached(), alice.attached()];
    bob.attached();
    let whole = listed(&alice);
    world.sh("ip link del brg0");

    let list = listed(&alice);
    let names = ["ns1000-0", "ns1000-1", "ns1001-0"];
    for (n, name) in names.iter().enumerate() {
        let mut row = whole["leases"][n].clone();
        row["noBridge"] = true.into();
        assert_eq!(list["leases"][n], row, "{name}");
    }
    assert_eq!(list["quota"], json!({"links": 16, "used": 2}));
    let text = alice.netsetgo("-list").done();
    let notes: Vec<_> = text.lines().filter(|line| line.contains(" is at no bridge: ")).collect();
    let remedy = "delete it (netsetgo -delete) and attach the container anew";
    assert_eq!(notes, names.map(|name| format!("{name} is at no bridge: {remedy}")));

    alice.netsetgo(format!("-delete -pid {}", pods[1])).done();
    alice.netsetgo(format!("-pid {}", pods[1])).done();
    assert_eq!(listed(&alice)["leases"][1], whole["leases"][1]);
    assert_eq!(listed(&alice)["leases"][0], list["leases"][0]);
}

#[test]
fn how_much_of_the_quota_is_used_is_told_to_whom_has_one() {
    let world = World::with_policy(&format!("{ALICE}links = 3\n[[allow]]\nuid = 1001\n"));
    let (alice, bob) = (world.alice(), world.bob());
    let quota = |user: &User<'_>| table(user).1;
    assert_eq!(quota(&alice).unwrap(), "0 of your 3 links used");
    let pods = [alice.attached(), alice.attached()];
    assert_eq!(quota(&alice).unwrap(), "2 of your 3 links used");
    assert_eq!(quota(&bob).unwrap(), "0 of your 16 links used");
    assert_eq!(quota(&world.user("dave")), None);
    assert_eq!(listed(&world.user("dave")).get("quota"), None);
    pods[0].kill();
    world.until_leases_are(&["ns1000-1"]);
    assert_eq!(quota(&alice).unwrap(), "1 of your 3 links used");
    assert_eq!(quota(&world.root()).unwrap(), "0 of your 1023 links used");
}

#[test]
fn ports_that_outlived_their_container_belong_to_no_container() {
    let world = three_users();
    published(&world.alice(), "-publish 8080:80").kill();
    world.until_leases_are(&[]);
    assert_eq!(world.published().len(), 1);
    assert_eq!(listed(&world.alice())["leases"], json!([]));
    world.bob().attached();
    assert_eq!(listed(&world.alice())["leases"][0]["portMappings"], json!([]));
    for element in [
        r#"0.0.0.0 . 6 . 9 comment "x" : 10.10.10.2 . 80"#,
        r#"0.0.0.0 . 6 . 10 comment "ns1001-0" : 10.10.10.9 . 80"#,
    ] {
        world.sh(&format!("nft 'add element inet netsetgo ports {{ {element} }}'"));
    }
    assert_eq!(listed(&world.alice())["leases"][0]["portMappings"], json!([]));
}

#[test]
fn where_it_cannot_be_written_is_an_error() {
    let world = World::new();
    let closed = if closed_takes_nothing() { ">&-" } else { ">/dev/full" };
    for to in [">/dev/full", closed, "</dev/null >&0"] {
        for option in ["-list", "-check"] {
            let outcome = world.alice().netsetgo(format!("{option} {to}"));
            assert!(outcome.err.contains("standard output: "), "{to}: {outcome:?}");
            outcome.failed("");
        }
    }
}
