//! Command lines that say nothing, or nonsense: exit status 2, and nothing was touched.

use crate::world::{ALICE, World};

#[test]
fn a_process_id_is_a_number_that_a_process_can_have() {
    let world = World::new();
    let alice = world.alice();
    for pid in ["", "0", "-1", "seven", "7x", "+7", "0x7", "7.0", "' 7'", "4194305", "99999999999"]
    {
        alice.usage(format!("-pid {pid}"), "pid");
    }
}

#[test]
fn one_target_is_named_and_not_two() {
    let world = World::new();
    let alice = world.alice();
    alice.usage("", "-pid");
    alice.usage("-json", "-pid");
    alice.usage("-pid 7 -netns /proc/7/ns/net", "-netns");
    alice.usage("-netns ''", "-netns");
}

#[test]
fn what_no_option_is_called_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    for arguments in
        ["-nosuch", "-p 7", "-PID 7", "7", "-pid 7 8", "-pid 7 -lo=1", "-publish 80:80"]
    {
        alice.usage(arguments, "");
    }
}

#[test]
fn an_option_is_given_once() {
    let world = World::new();
    let alice = world.alice();
    for twice in ["-pid 7 -pid 7", "-pid 7 -lo -lo", "-pid 7 -mtu 900 -mtu 900", "-help -help"] {
        alice.usage(twice, "");
    }
}

#[test]
fn an_argument_that_is_not_utf_8_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    for option in ["pid", "netns", "ifname", "nosuch"] {
        alice.usage(format!(r#"-{option} "$(printf '\377')""#), "");
        alice.usage(format!(r#""$(printf -- '-{option}\377')" 7"#), "");
    }
}

#[test]
fn a_name_that_no_interface_can_have_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    for name in [
        "1234567890123456",
        "''",
        ".",
        "..",
        "a/b",
        "'a b'",
        "a:b",
        "veth%d",
        r#""$(printf 'a\tb')""#,
    ] {
        for option in ["ifname", "bridgeName"] {
            alice.usage(format!("-pid 7 -{option} {name}"), option);
        }
    }
    // The prefix has to leave room for the digit.
    for prefix in ["123456789012345", "''", "a/b"] {
        alice.usage(format!("-pid 7 -vethNamePrefix {prefix}"), "vethNamePrefix");
    }
}

#[test]
fn an_address_that_does_not_parse_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    for address in
        ["''", "x", "10.10.10/24", "10.10.10.256/24", "10.10.10.2", "10.10.10.2/33", "::1/64"]
    {
        for option in ["bridgeAddress", "containerAddress"] {
            alice.usage(format!("-pid 7 -{option} {address}"), option);
        }
    }
}

#[test]
fn a_number_out_of_range_is_wrong_usage() {
    let world = World::new();
    let alice = world.alice();
    for mtu in ["''", "x", "-1", "67", "65536", "1500.5"] {
        alice.usage(format!("-pid 7 -mtu {mtu}"), "mtu");
    }
    for wait in ["''", "x", "-1", "nan", "inf", "1e99", "1,5"] {
        alice.usage(format!("-pid 7 -wait {wait}"), "wait");
    }
}

#[test]
fn pruning_is_asked_for_by_itself() {
    let world = World::new();
    let alice = world.alice();
    for other in ["pid 7", "netns /proc/7/ns/net", "publish 80:80", "json", "resolvconf", "wait 0"]
    {
        let name = other.split(' ').next().unwrap();
        alice.usage(format!("-prune -{other}"), &format!("-{name}"));
        alice.usage(format!("-{other} -prune"), "-prune");
    }
    alice.usage("-prune 7", "7");
    alice.usage("-prune -prune", "prune");
    alice.usage("-prune=7", "prune");
}

#[test]
fn a_port_that_does_not_parse_is_wrong_usage_and_its_part_is_named() {
    let world = World::with_policy(&format!("{ALICE}publish = [\"8000-8999\"]\n"));
    let alice = world.alice();
    let pod = alice.container();
    for (publish, part) in [
        ("''", "no :"),
        ("8080", "no :"),
        ("8080:0", "container port"),
        ("8080:65536", "container port"),
        (":80", "host port"),
        ("8001-8000:80-81", "host port"),
        ("8000-8001:80", "equally long"),
        ("8080:80/sctp", "protocol"),
        ("::1:8080:80", "IPv4 address"),
    ] {
        alice.usage(format!("-pid {pod} -publish {publish}"), part);
        // Beside one that is right.
        alice.usage(format!("-pid {pod} -publish 8100:80 -publish {publish}"), part);
    }
    for twice in ["8080:80 -publish 8080:81", "8080:80 -publish 8079-8081:1-3"] {
        alice.usage(format!("-pid {pod} -publish {twice}"), "8080");
    }
    alice.usage(format!("-pid {pod} -publish 192.0.2.77:8080:80"), "192.0.2.77");
    alice.usage(format!("-pid {pod} -publish 1-1025:1-1025"), "1024");
    alice.usage(format!(r#"-pid {pod} -publish "$(printf '8080:80/\033[2J\n')""#), "protocol");
    assert_eq!(pod.links(), ["lo"]);
}

#[test]
fn an_argument_cannot_forge_a_second_line() {
    let world = World::new();
    let forged = r#""$(printf 'x\nnetsetgo: refused: y\033[2J')""#;
    for option in ["pid", "ifname", "bridgeAddress", "nosuch"] {
        world.alice().usage(format!("-{option} {forged}"), "");
    }
    let elsewhere = format!("-netns {forged}");
    world.alice().refused(elsewhere, "not yours");
}

#[test]
fn the_manual_page_has_every_option_that_the_help_has() {
    let world = World::without_policy();
    let help = world.alice().netsetgo("-help").done();
    let options: Vec<_> = help
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--").or(word.strip_prefix('-')))
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .collect();
    assert!(options.len() > 10, "{help}");
    let manual = include_str!("../../docs/netsetgo.8");
    for option in options {
        assert!(
            manual.contains(&format!(".It Fl {option}")),
            "-{option} is not in the manual page"
        );
    }
}

#[test]
fn help_and_version_are_printed_on_standard_output() {
    let world = World::without_policy();
    for user in [world.alice(), world.root()] {
        for dashes in ["-", "--"] {
            let version = world.unchanged(|| user.netsetgo(format!("{dashes}version"))).done();
            assert_eq!(version, concat!("netsetgo ", env!("CARGO_PKG_VERSION"), "\n"));
            let help = world.unchanged(|| user.netsetgo(format!("{dashes}help"))).done();
            for option in ["-pid", "-netns", "-bridgeName", "-containerAddress", "-wait", "-json"] {
                assert!(help.contains(option), "{help}");
            }
        }
    }
}
