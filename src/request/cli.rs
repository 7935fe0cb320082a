//! The command line: the arguments become a typed [`Request`]. Nothing is looked up or changed here.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use getopts::{HasArg, Matches, Occur, Options};

use crate::report::error::Usage;
use crate::request::address::{Cidr, IfName};
use crate::request::hook_state;
use crate::request::ports::{MOST_PORTS, Mapping, Publication};

/// The highest process id that a kernel can be set to give (`PID_MAX_LIMIT`,
/// `include/linux/threads.h`, on 64-bit machines).
pub const PID_LIMIT: i32 = 4_194_304;

/// An option: its name; what its value is called, or nothing for a flag; the actions that it can
/// stand beside; its help.
type Row = (&'static str, &'static str, &'static [&'static str], &'static str);

/// Without an action the command line asks for an attach.
const ATTACH: &str = "";
const TARGET: &[&str] = &["delete", ATTACH];
const HOOK: &[&str] = &["hook", ATTACH];
const EITHER: &[&str] = &["hook", "delete", ATTACH];

/// Every option. One that can stand beside no action is an action itself.
const OPTIONS: [Row; 24] = [
    ("pid", "N", TARGET, "attach the network namespace of process N"),
    ("netns", "PATH", TARGET, "attach the network namespace of a file (ip netns, a bind mount)"),
    ("bridgeName", "NAME", EITHER, "the host's bridge (brg0, or the policy's)"),
    ("bridgeAddress", "A/P", EITHER, "its address and subnet (10.10.10.1/24, or the policy's)"),
    ("containerAddress", "A/P", HOOK, "the container's address (a free one)"),
    ("vethNamePrefix", "P", EITHER, "name the container's end P1 and, as root, the host's P0"),
    ("ifname", "NAME", EITHER, "the name of the container's end (veth1)"),
    ("mtu", "N", HOOK, "the MTU of the container's end (the bridge's)"),
    ("lo", "", HOOK, "bring the container's loopback up as well"),
    ("wait", "S", EITHER, "seconds to wait for the namespace, or for a lease to become free (2)"),
    (
        "publish",
        "[IP:]HOST:PORT[/tcp|udp]",
        HOOK,
        "forward a host port to a container port; may be repeated",
    ),
    ("json", "", &["hook", "list", ATTACH], "print the result as a CNI 1.0.0 result"),
    ("resolvconf", "", HOOK, "print a resolv.conf for the container"),
    ("hook", "", &[], "OCI runtime hook: attach the container whose state is on standard input"),
    ("annotations", "", &["hook"], "with -hook: the container's annotations netsetgo.* count"),
    ("delete", "", &[], "take a network away, with -pid, -netns, -address, -id or -user"),
    ("address", "A", &["delete"], "with -delete: that of the container with this address"),
    ("id", "ID", &["delete"], "with -delete: that of the container which -list shows by this id"),
    ("user", "NAME", &["delete"], "with -delete, as root: those of all containers of a user"),
    ("list", "", &[], "list who has which address, with -json as JSON"),
    ("check", "", &[], "check whether this machine is ready"),
    ("prune", "", &[], "mend the firewall, and take out the ports of containers that are gone"),
    ("version", "", &[], "print the version"),
    ("help", "", &[], "print this text"),
];

/// What the caller asks for, by the option of that name. An attach has no option of its own.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "each is named after its option")]
pub enum Request {
    Help,
    Version,
    Attach(Which, Attach),
    Hook(Attach),
    Delete(Which, Attach),
    LetGo(Held),
    List { json: bool },
    Check,
    Prune,
}

/// Which network namespace is meant: that of a process, or that of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Which {
    Pid(i32),
    Netns(PathBuf),
}

/// Which veth pairs are meant that are held on the host, whether or not their containers have a process.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    Address(Ipv4Addr),
    /// The container's name, as a list shows it.
    Id(String),
    /// The name or the number of their user.
    User(String),
}

/// What the options of an attach say. `None` means that an option was not given.
#[derive(Debug, PartialEq)]
pub struct Attach {
    pub bridge_name: Option<IfName>,
    pub bridge_address: Option<Cidr>,
    pub container_address: Option<Cidr>,
    /// The host end, if root names it: `-vethNamePrefix P` makes it `P0`.
    pub host_end: Option<IfName>,
    /// The container end: `-ifname`, or `-vethNamePrefix P` as `P1`, or `veth1`.
    pub container_end: IfName,
    pub mtu: Option<u32>,
    pub loopback: bool,
    /// `-wait`: how long to wait for the target's namespace, or for a lease that is about to end.
    pub wait: Duration,
    pub publish: Vec<Mapping>,
    pub output: Output,
    /// What the runtime that called the hook calls the container.
    pub container: Option<String>,
    /// Whether what the container's annotations ask for counts.
    pub annotations: bool,
}

/// What an attach prints when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Nothing,
    Json,
    ResolvConf,
}

fn options() -> Options {
    let mut options = Options::new();
    options.long_only(true);
    for (name, value, _, help) in OPTIONS {
        let has_value = if value.is_empty() { HasArg::No } else { HasArg::Yes };
        let occurs = if name == "publish" { Occur::Multi } else { Occur::Optional };
        options.opt("", name, help, value, has_value, occurs);
    }
    options
}

/// What `-help` prints.
pub fn help() -> String {
    let brief = "netsetgo: give a rootless container a network\n\n\
                 netsetgo -pid N [options]\nnetsetgo -netns PATH [options]\n\
                 netsetgo -hook [options]\n\
                 netsetgo -delete -pid N | -netns PATH | -address A | -id ID | -user NAME\n\
                 netsetgo -list | -check | -prune";
    let tail = "\nOptions take one dash or two. Exit status: 0 done, 1 failed, 2 usage, 3 refused.\n\
                See netsetgo(8), and netsetgo.toml(5) for who may do what.\n";
    options().usage(brief) + tail
}

/// What `-version` prints.
pub const VERSION: &str = concat!("netsetgo ", env!("CARGO_PKG_VERSION"), "\n");

/// Reads the arguments, without the program's own name. Nothing is guessed.
pub fn parse<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Request, Usage> {
    let given = options().parse(arguments).map_err(|fail| Usage::Option(fail.to_string()))?;
    if let Some(extra) = given.free.first() {
        return Err(Usage::Extra(extra.clone()));
    }
    if given.opt_present("help") {
        return Ok(Request::Help);
    }
    if given.opt_present("version") {
        return Ok(Request::Version);
    }
    let present = || OPTIONS.iter().filter(|(name, ..)| given.opt_present(name));
    let action = present().find(|(_, _, beside, _)| beside.is_empty());
    let action = action.map_or(ATTACH, |(name, ..)| name);
    let conflicts = |(name, _, beside, _): &&Row| *name != action && !beside.contains(&action);
    if let Some((other, _, beside, _)) = present().find(conflicts) {
        return Err(match beside.first() {
            Some(only) if action == ATTACH => Usage::Only(other, only),
            _ => Usage::Exclusive(action, other),
        });
    }
    Ok(match action {
        ATTACH => Request::Attach(which(&given)?, attach(&given)?),
        "hook" => Request::Hook(attach(&given)?),
        "delete" => delete(&given)?,
        "list" => Request::List { json: given.opt_present("json") },
        "check" => Request::Check,
        _ => Request::Prune,
    })
}

/// What names a veth pair on the host stands beside nothing else.
fn delete(given: &Matches) -> Result<Request, Usage> {
    let Some(by) = ["address", "id", "user"].into_iter().find(|name| given.opt_present(name))
    else {
        return Ok(Request::Delete(which(given)?, attach(given)?));
    };
    let others =
        OPTIONS.iter().map(|(name, ..)| *name).filter(|name| ![by, "delete"].contains(name));
    if let Some(other) = others.into_iter().find(|name| given.opt_present(name)) {
        return Err(Usage::Exclusive(by, other));
    }
    let word = |text: &str| match text {
        "" => Err("empty"),
        word => Ok(word.to_owned()),
    };
    let held = match by {
        "address" => value(given, by, ip)?.map(Held::Address),
        "id" => value(given, by, word)?.map(|id| Held::Id(hook_state::name_of(&id))),
        _ => value(given, by, word)?.map(Held::User),
    };
    Ok(Request::LetGo(held.ok_or(Usage::NoTarget)?))
}

/// An address, as a list shows it or without the prefix length.
fn ip(text: &str) -> Result<Ipv4Addr, &'static str> {
    let cidr = || text.parse().map(|Cidr { ip, .. }| ip);
    text.parse().or_else(|_| cidr()).map_err(|_| "not an IPv4 address")
}

fn attach(given: &Matches) -> Result<Attach, Usage> {
    let mut publish = Vec::new();
    for text in given.opt_strs("publish") {
        let publication = text.parse().map_err(|why| Usage::Value("publish", text, why))?;
        add(&mut publish, publication)?;
    }
    let named = |number| value(given, "vethNamePrefix", |prefix| end(prefix, number));
    let (prefixed, ifname) = (named(1)?, value(given, "ifname", str::parse)?);
    Ok(Attach {
        bridge_name: value(given, "bridgeName", str::parse)?,
        bridge_address: value(given, "bridgeAddress", str::parse)?,
        container_address: value(given, "containerAddress", str::parse)?,
        host_end: named(0)?,
        container_end: ifname.or(prefixed).unwrap_or(IfName::literal("veth1")),
        mtu: value(given, "mtu", |text| {
            decimal(text, 68..=65535).ok_or("not an MTU between 68 and 65535")
        })?,
        loopback: given.opt_present("lo"),
        wait: value(given, "wait", seconds)?.unwrap_or(Duration::from_secs(2)),
        publish,
        output: match (given.opt_present("json"), given.opt_present("resolvconf")) {
            (true, true) => return Err(Usage::Exclusive("json", "resolvconf")),
            (true, false) => Output::Json,
            (false, true) => Output::ResolvConf,
            (false, false) => Output::Nothing,
        },
        container: None,
        annotations: given.opt_present("annotations"),
    })
}

/// Adds what one `-publish` asks for to what the others ask for.
pub fn add(all: &mut Vec<Mapping>, Publication(more): Publication) -> Result<(), Usage> {
    if all.len() + more.len() > MOST_PORTS {
        return Err(Usage::PublishMany(MOST_PORTS));
    }
    for mapping in more {
        if all.iter().any(|other| other.conflicts(&mapping)) {
            return Err(Usage::PublishTwice(mapping));
        }
        all.push(mapping);
    }
    Ok(())
}

fn which(given: &Matches) -> Result<Which, Usage> {
    match (given.opt_str("pid"), given.opt_str("netns")) {
        (Some(_), Some(_)) => Err(Usage::Exclusive("pid", "netns")),
        (None, None) => Err(Usage::NoTarget),
        (None, Some(path)) if path.is_empty() || path.contains('\0') => {
            Err(Usage::Value("netns", path, "not a path"))
        }
        (None, Some(path)) => Ok(Which::Netns(path.into())),
        (Some(text), None) => {
            decimal(&text, 1..=PID_LIMIT).map(Which::Pid).ok_or(Usage::Pid(text, PID_LIMIT))
        }
    }
}

fn value<T>(
    given: &Matches,
    option: &'static str,
    read: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, Usage> {
    let text = given.opt_str(option);
    text.map(|text| read(&text).map_err(|why| Usage::Value(option, text, why))).transpose()
}

/// The name of an end that `-vethNamePrefix` asks for.
fn end(prefix: &str, number: u8) -> Result<IfName, &'static str> {
    // The digit alone would be a name, but hardly the one that was meant.
    if prefix.is_empty() { prefix.parse() } else { format!("{prefix}{number}").parse() }
}

/// A decimal number in a range. The standard parser would take a sign as well.
fn decimal<T: FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| plain && range.contains(number))
}

/// A number of seconds, with a fraction or without.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = text.parse().ok().filter(|seconds| plain && *seconds <= 3600.0);
    let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    wait.ok_or("not a number of seconds between 0 and 3600")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn attach(arguments: &str) -> Attach {
        match parse(arguments.split_whitespace()) {
            Ok(Request::Attach(_, attach)) => attach,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    #[test]
    fn one_dash_or_two_and_a_space_or_an_equals_sign_mean_the_same() {
        for arguments in ["-pid 7", "--pid 7", "-pid=7", "--pid=7"] {
            let parsed = parse(arguments.split_whitespace());
            assert!(matches!(parsed, Ok(Request::Attach(Which::Pid(7), _))), "{arguments}");
        }
    }

    #[test]
    fn the_defaults_are_netsetgos() {
        let attach = attach("-pid 7");
        assert_eq!(attach.container_end.as_str(), "veth1");
        assert_eq!(attach.host_end, None);
        assert_eq!(attach.wait, Duration::from_secs(2));
        assert!(!attach.loopback && attach.publish.is_empty());
        assert_eq!(attach.output, Output::Nothing);
    }

    #[test]
    fn a_prefix_names_both_ends_and_ifname_goes_before_it() {
        let attach = attach("-pid 7 -vethNamePrefix net -ifname eth0");
        assert_eq!(attach.host_end.unwrap().as_str(), "net0");
        assert_eq!(attach.container_end.as_str(), "eth0");
    }

    #[test]
    fn a_pid_that_no_kernel_gives_is_wrong_usage() {
        for pid in ["0", "-1", "+7", "x", "", "7.0", "4194305", "99999999999999999999", " 7"] {
            let arguments = ["-pid", pid];
            assert_eq!(parse(arguments), Err(Usage::Pid(pid.to_owned(), PID_LIMIT)), "{pid:?}");
        }
    }

    #[test]
    fn what_does_not_read_as_a_request_is_wrong_usage() {
        for arguments in [
            "",
            "7",
            "-pid",
            "-pid 7 8",
            "-pid 7 -netns /x",
            "-pid 7 -pid 8",
            "-pid 7 -lo -lo",
            "-pid 7 -nosuch",
            "-pid 7 -lo=1",
            "-pid 7 -mtu 67",
            "-pid 7 -mtu 65536",
            "-pid 7 -wait -1",
            "-pid 7 -wait inf",
            "-pid 7 -wait 3601",
            "-pid 7 -wait 1e3",
            "-pid 7 -wait .",
            "-pid 7 -containerAddress 10.10.10.2",
            "-pid 7 -ifname a/b",
            "-pid 7 -ifname .",
            "-pid 7 -vethNamePrefix 123456789012345",
            "-pid 7 -json -resolvconf",
            "-pid 7 -publish 80:80 -publish 80:81",
            "-pid 7 -publish 80:80 -publish 1.2.3.4:80:81",
            "-pid 7 -publish 1-1025:1-1025",
            "-pid 7 -prune",
            "-prune -json",
            "-check -json",
            "-list -lo",
            "-list -prune",
            "-hook -pid 7",
            "-pid 7 -annotations",
            "-delete -pid 7 -annotations",
            "-hook -delete -pid 7",
            "-delete",
            "-delete -pid 7 -publish 80:80",
            "-address 10.10.10.2",
            "-pid 7 -id web",
            "-hook -id web",
            "-list -user alice",
            "-delete -pid 7 -address 10.10.10.2",
            "-delete -address 10.10.10.2 -id web",
            "-delete -id web -ifname eth0",
            "-delete -user alice -wait 1",
            "-delete -address 10.10.10",
            "-delete -address ::1",
            "-delete -address 10.10.10.2/33",
            "-pid 7 --",
            "-p 7",
            "- 7",
        ] {
            let outcome = parse(arguments.split_whitespace());
            let fine = arguments == "-pid 7 --";
            assert_eq!(outcome.is_ok(), fine, "{arguments}: {outcome:?}");
        }
        assert!(parse(["-pid", "7", "-ifname", ""]).is_err());
        assert!(parse(["-pid", "7", "-vethNamePrefix", ""]).is_err());
        assert!(parse(["-netns", ""]).is_err());
        assert!(parse([OsStr::from_bytes(b"-pid"), OsStr::from_bytes(b"\xff")]).is_err());
    }

    #[test]
    fn a_veth_pair_is_named_as_a_list_shows_it() {
        let held = |arguments: &str| match parse(arguments.split(' ')) {
            Ok(Request::LetGo(held)) => held,
            other => panic!("{arguments}: {other:?}"),
        };
        for address in ["10.10.10.2", "10.10.10.2/24"] {
            let ip = Ipv4Addr::new(10, 10, 10, 2);
            assert_eq!(held(&format!("-delete -address {address}")), Held::Address(ip));
        }
        assert_eq!(held("-delete -id=caf\u{e9}"), Held::Id("caf?".to_owned()));
        assert_eq!(held("-delete -user 1000"), Held::User("1000".to_owned()));
        for empty in ["-id", "-user", "-address"] {
            assert!(parse(["-delete", empty, ""]).is_err(), "{empty}");
        }
    }

    #[test]
    fn waiting_takes_fractions_of_a_second() {
        assert_eq!(attach("-pid 7 -wait 0.25").wait, Duration::from_millis(250));
        assert_eq!(attach("-pid 7 -wait 0").wait, Duration::ZERO);
    }

    #[test]
    fn help_names_every_option_and_needs_no_target() {
        assert_eq!(parse(["-help"]), Ok(Request::Help));
        assert_eq!(parse(["--version"]), Ok(Request::Version));
        for option in ["-pid N", "-netns PATH", "-containerAddress A/P", "-wait S", "-json"] {
            assert!(help().contains(option), "{option}");
        }
    }
}
