//! Command lines that say nothing, or nonsense: exit status 2, and nothing was touched.

use std::collections::BTreeSet;
use std::process::Command;

use crate::world::{ALICE, Outcome, World};

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
fn beside_what_is_asked_for_stands_only_what_bears_on_it() {
    let world = World::new();
    let alice = world.alice();
    for arguments in [
        "-list -pid 7",
        "-list -resolvconf",
        "-list -ifname eth0",
        "-check -json",
        "-check -wait 7",
        "-prune -pid 7",
        "-delete -pid 7 -publish 8080:80",
        "-delete -pid 7 -json",
        "-delete -pid 7 -lo",
        "-delete -pid 7 -containerAddress 10.10.10.2/24",
        "-delete -list",
        "-list -check",
        "-check -prune",
    ] {
        alice.usage(arguments, "exclude each other");
    }
    alice.usage("-delete", "-pid N or -netns PATH");
    alice.usage("-delete -pid 7 -netns /x", "exclude each other");
    alice.usage("-delete -pid 0", "pid");
    alice.usage("-list x", "unexpected argument");
    alice.usage("-list -list", "");
}

/// The options that `-help` names.
#[track_caller]
fn options() -> BTreeSet<String> {
    let help = World::without_policy().alice().netsetgo("-help").done();
    let named = help.lines().filter_map(|line| line.strip_prefix("    -"));
    let options: BTreeSet<_> = named.map(word).collect();
    assert!(options.len() > 10, "{help}");
    options
}

/// The letters that a text begins with.
fn word(text: &str) -> String {
    text.chars().take_while(char::is_ascii_alphabetic).collect()
}

/// What a shell prints that runs this script in the source tree's directory of completions.
#[track_caller]
fn shell(shell: &[&str], script: &str) -> String {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/completions");
    let (program, options) = shell.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(options).args(["-c", script]).current_dir(directory);
    Outcome::from(command.output().unwrap_or_else(|error| panic!("{program}: {error}"))).done()
}

/// The first words of lines, without their dashes: one for options, which there must be.
#[track_caller]
fn dashed(lines: &str) -> BTreeSet<String> {
    lines.lines().map(|line| word(line.strip_prefix('-').unwrap())).collect()
}

#[test]
fn the_manual_page_has_the_options_that_the_help_has() {
    let manual = include_str!("../../docs/netsetgo.8");
    let items = manual.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    assert_eq!(items.map(word).collect::<BTreeSet<_>>(), options());
    // And its synopsis each of them too.
    let (_, rest) = manual.split_once(".Sh SYNOPSIS").unwrap();
    let (synopsis, _) = rest.split_once(".Sh ").unwrap();
    let words: BTreeSet<_> = synopsis.split_whitespace().map(word).collect();
    let missing: Vec<_> = options().into_iter().filter(|option| !words.contains(option)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn bash_completes_the_options_that_there_are() {
    let complete = |line: &str| {
        shell(
            &["bash", "--norc"],
            &format!(
                "source ./netsetgo.bash; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
                 _netsetgo; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            ),
        )
    };
    assert_eq!(dashed(&complete("netsetgo -")), options());
    assert_eq!(complete("netsetgo -"), complete("netsetgo ''"));
    assert_eq!(complete("netsetgo -").replace('-', "--"), complete("netsetgo --"));
    assert_eq!(complete("netsetgo -json -con"), "-containerAddress\n");
    assert_eq!(complete("netsetgo --pid 7 --con"), "--containerAddress\n");
    assert!(complete("netsetgo -pid ''").lines().any(|pid| pid == std::process::id().to_string()));
    assert_eq!(complete("netsetgo -netns /proc/self/ns/ne"), "/proc/self/ns/net\n");
    for option in ["mtu", "-mtu", "ifname", "publish", "wait"] {
        assert_eq!(complete(&format!("netsetgo -{option} ''")).trim(), "");
    }
    let registered = shell(&["bash", "--norc"], "source ./netsetgo.bash; complete -p netsetgo");
    assert_eq!(registered, "complete -F _netsetgo netsetgo\n");
}

#[test]
fn zsh_completes_the_options_that_there_are() {
    // What zsh's own function is told of them.
    let told = shell(&["zsh", "-f"], "_arguments() { print -rl -- \"$@\" }; source ./_netsetgo");
    let name = |line: &str| {
        let (option, _) = line.split_once('[').unwrap();
        let option = option.rsplit(')').next().unwrap().trim_start_matches('*');
        option.strip_prefix('-').unwrap().to_owned()
    };
    assert_eq!(told.lines().map(name).collect::<BTreeSet<_>>(), options());
    // So are those that an option excludes.
    for group in told.lines().filter_map(|line| line.strip_prefix('(')?.split_once(')')) {
        let excluded = group.0.split_whitespace().filter(|option| *option != "-");
        let strange: Vec<_> =
            excluded.filter(|option| !options().contains(option.trim_start_matches('-'))).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }
    let first = shell(&["zsh", "-f"], "head -n 1 _netsetgo");
    assert_eq!(first, "#compdef netsetgo\n");
}

#[test]
fn fish_completes_the_options_that_there_are() {
    let complete = |line: &str| {
        let script = format!("source ./netsetgo.fish; complete -C '{line}'");
        shell(&["fish", "--no-config"], &script)
    };
    assert_eq!(dashed(&complete("netsetgo -")), options());
    assert!(complete("netsetgo -json -con").starts_with("-containerAddress\t"));
    let own = format!("{}\t", std::process::id());
    assert!(complete("netsetgo -pid ").lines().any(|line| line.starts_with(&own)));
    assert_eq!(complete("netsetgo -netns /proc/self/ns/ne"), "/proc/self/ns/net\n");
    assert_eq!(complete("netsetgo -mtu "), "");
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
