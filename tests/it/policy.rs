//! `/etc/netsetgo.toml`: who may attach, how many, and where to.

use crate::world::{ALICE, World};

#[test]
fn without_a_policy_only_root_may_attach() {
    let world = World::without_policy();
    let pod = world.alice().container();
    world.alice().refused(format!("-pid {pod}"), "/etc/netsetgo.toml");
    world.root().netsetgo(format!("-pid {pod}")).done();
}

#[test]
fn an_empty_policy_allows_no_user() {
    let world = World::with_policy("");
    let pod = world.alice().container();
    world.alice().refused(format!("-pid {pod}"), "not allowed");
}

#[test]
fn a_policy_that_others_may_have_written_is_refused_for_all() {
    let world = World::new();
    let pod = world.alice().container();
    for harm in
        ["chmod 664", "chmod 646", "chmod 666", "chmod 777", "chown alice", "chown bob:root"]
    {
        world.sh(&format!("{harm} /etc/netsetgo.toml"));
        for user in [world.alice(), world.bob(), world.root()] {
            user.refused(format!("-pid {pod}"), "root");
        }
        world.sh("chown root:root /etc/netsetgo.toml; chmod 644 /etc/netsetgo.toml");
    }
    world.alice().netsetgo(format!("-pid {pod}")).done();
}

#[test]
fn a_policy_that_is_no_regular_file_is_refused_for_all() {
    let world = World::without_policy();
    let pod = world.alice().container();
    for make in ["mkfifo -m 644", "mkdir -m 755", "ln -s /dev/zero"] {
        world.sh(&format!("{make} /etc/netsetgo.toml"));
        for user in [world.alice(), world.root()] {
            user.refused(format!("-pid {pod}"), "regular file");
        }
        world.sh("rm -r /etc/netsetgo.toml");
    }
}

#[test]
fn a_policy_that_the_caller_may_not_read_allows_nothing() {
    let world = World::new();
    let pod = world.alice().container();
    world.sh("chmod 600 /etc/netsetgo.toml");
    world.alice().failed(format!("-pid {pod}"), "/etc/netsetgo.toml");
}

#[test]
fn users_and_groups_are_matched_by_name_and_by_number() {
    for (entry, user) in [
        ("user = \"bob\"", "bob"),
        ("uid = 1001", "bob"),
        ("uid = 4000000000", "4000000000"),
        // Carol is a member of netdev, and dave's own group is dave.
        ("group = \"netdev\"", "carol"),
        ("group = \"dave\"", "dave"),
    ] {
        let world = World::with_policy(&format!("[[allow]]\n{entry}\n"));
        world.user(user).attached();
        let alices = world.alice().container();
        world.alice().refused(format!("-pid {alices}"), "not allowed");
    }
}

#[test]
fn a_user_or_group_that_there_is_not_matches_no_user() {
    let world = World::with_policy(
        "[[allow]]\nuser = \"nobody-of-this-name\"\n[[allow]]\ngroup = \"none\"\n\
         [[allow]]\nuser = \"\"\n[[allow]]\ngroup = \"\"\n[[allow]]\nuser = \"1000\"\n",
    );
    let pod = world.alice().container();
    world.alice().refused(format!("-pid {pod}"), "not allowed");
}

#[test]
fn the_first_entry_that_matches_decides() {
    let world = World::with_policy(
        "[[allow]]\nuser = \"alice\"\nlinks = 0\n\
         [[allow]]\nuid = 1000\n\
         [[allow]]\ngroup = \"netdev\"\nlinks = 1\n\
         [[allow]]\nuser = \"carol\"\nlinks = 9\n",
    );
    let alices = world.alice().container();
    world.alice().refused(format!("-pid {alices} -wait 0"), "");
    let carol = world.user("carol");
    carol.attached();
    let second = carol.container();
    carol.refused(format!("-pid {second} -wait 0"), "quota");
}

#[test]
fn a_lower_quota_counts_for_what_is_attached_already() {
    let world = World::new();
    let alice = world.alice();
    let pods = [alice.attached(), alice.attached(), alice.attached()];
    world.policy(&format!("{ALICE}links = 2\n"));
    let more = alice.container();
    alice.refused(format!("-pid {more} -wait 0"), "quota");
    pods[0].kill();
    world.until_leases_are(&["ns1000-1", "ns1000-2"]);
    // Two of hers are left, and two is what she may have; but the slot is hers.
    let outcome = alice.netsetgo(format!("-pid {more} -wait 0"));
    assert!(outcome.status == 0 || outcome.status == 3, "{outcome:?}");
}

#[test]
fn the_policy_says_which_network_it_is() {
    let world = World::with_policy(&format!(
        "[network]\nbridge = \"tower\"\naddress = \"192.168.77.1/26\"\nmtu = 1400\n{ALICE}"
    ));
    let pod = world.alice().attached();
    assert_eq!(pod.address(), "192.168.77.2/26");
    assert_eq!(world.link("ns1000-0")["master"], "tower");
    assert_eq!(world.link("tower")["mtu"], 1400);
    assert_eq!(world.link("ns1000-0")["mtu"], 1400);
    assert_eq!(pod.link("veth1")["mtu"], 1400);
}

#[test]
fn a_policy_that_does_not_read_names_line_and_column() {
    let world = World::new();
    let pod = world.alice().container();
    for (text, place) in [
        ("[network]\nbrigde = \"x\"\n", "line 2, column 1"),
        ("[network]\nnat = 7\n", "line 2, column 7"),
        ("[network]\ndns = [\"x\"]\n", "line 2, column 8"),
        ("[network]\ndns = [\"::1\"]\n", "line 2, column 8"),
        ("[network]\ndns = \"192.0.2.53\"\n", "line 2, column 7"),
        ("[[allow]]\nuser = \"alice\"\npublish = [\"0\"]\n", "line 3, column 1"),
        ("[[allow]]\nuser = \"alice\"\npublish = [\"1-65535\"]\n", "line 3, column 1"),
        ("[[allow]]\nuser = \"alice\"\npublish = [80]\n", "line 3, column 1"),
        ("[[allow]]\nuser = \"alice\"\nnat = true\n", "line 3, column 1"),
        ("nonsense\n", "line 1, column "),
        ("\n\n[network\n", "line 3, column "),
        ("[network]\nbridge = 7\n", "line 2, column 10"),
        ("[network]\nbridge = \"1234567890123456\"\n", "line 2, column 10"),
        ("[network]\naddress = \"10.10.10.1\"\n", "line 2, column 11"),
        ("[network]\nmtu = 67\n", "line 2, column 7"),
        ("[[allow]]\nlinks = 4\n", "line 1, column "),
        ("[[allow]]\nuser = \"alice\"\nuid = 1000\n", "line 1, column "),
        ("[[allow]]\nuid = -1\n", "line 2, column 7"),
        ("[[allow]]\nuid = 4294967296\n", "line 2, column 7"),
        ("[[allow]]\nuser = \"alice\"\nlinks = 1024\n", "line 3, column 9"),
        ("[[allow]]\nuser = \"alice\"\nlinks = -1\n", "line 3, column 9"),
        ("[[allow]]\nuser = \"alice\"\nuser = \"bob\"\n", "line 3, column 1"),
        ("[allow]\nuser = \"alice\"\n", "line 1, column "),
        ("[[deny]]\nuser = \"alice\"\n", "line 1, column "),
    ] {
        world.policy(text);
        world.alice().failed(format!("-pid {pod}"), place);
        // Root is not let past a mistake either.
        world.root().failed(format!("-pid {pod}"), place);
    }
}

#[test]
fn what_users_write_into_the_account_files_shuts_no_user_out() {
    let world = World::new();
    let pod = world.alice().container();
    // chfn(1) lets a user write any bytes of one byte a character.
    world.sh(r"printf 'eve:x:1004:1004:\351t\351:/:/bin/sh\n' >>/etc/passwd");
    world.alice().netsetgo(format!("-pid {pod}")).done();
}

#[test]
fn account_files_that_are_no_files_hold_nobody_up() {
    let world = World::with_policy("[[allow]]\ngroup = \"netdev\"\n");
    // setpriv(1) reads the files itself, so they are replaced when it has done its part.
    let user = "setpriv --reuid 1002 --regid 1002 --groups 1100";
    for file in ["/etc/passwd", "/etc/group"] {
        let call = format!("until [ -p {file} ]; do sleep 0.01; done; timeout 5 netsetgo -pid 7");
        let script = format!(
            "{user} sh -c 'touch /tmp/ready; {call}' & until [ -e /tmp/ready ]; do sleep 0.01; done
             mv {file} /tmp/kept; mkfifo -m 644 {file}; wait $!; status=$?
             mv /tmp/kept {file}; rm /tmp/ready; exit $status"
        );
        let said = world.root().sh(&script).failed(file);
        assert!(said.contains("not a regular file"), "{said}");
    }
}

#[test]
fn a_group_gives_nothing_to_the_sub_uids_of_its_members() {
    let world = World::with_policy("[[allow]]\ngroup = \"netdev\"\nlinks = 1\n");
    let call = |uid: u32| {
        let script = "unshare -Urn sleep 1000 >/dev/null 2>&1 & netsetgo -pid $!";
        world
            .root()
            .sh(&format!("exec setpriv --reuid {uid} --regid {uid} --groups 1100 sh -c '{script}'"))
    };
    call(1002).done();
    // A process that a user runs by a setuid file of a sub-uid's keeps the user's groups.
    call(100_000).refused("not allowed");
}

#[test]
fn a_bridge_too_small_for_ipv6_is_an_error() {
    let world = World::with_policy(&format!("[network]\nmtu = 1279\n{ALICE}"));
    let pod = world.alice().container();
    world.alice().failed(format!("-pid {pod}"), "line 2, column 7: 1279 is not between");
}
