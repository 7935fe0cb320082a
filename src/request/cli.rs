//! The command line: `argv` in, a typed [`Request`] out. Nothing is looked up or changed here.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use getopts::{Matches, Options};

use crate::report::error::Usage;
use crate::request::address::{Cidr, IfName};
use crate::request::ports::{MOST_PORTS, Mapping, Publication};

/// The highest process id that a kernel can be set to give (`PID_MAX_LIMIT`,
/// `include/linux/threads.h`, on 64-bit machines).
pub const PID_LIMIT: i32 = 4_194_304;

/// The options that ask for something else than an attach, and which others can stand beside each.
const ACTIONS: [(&str, &[&str]); 5] = [
    (
        "hook",
        &[
            "bridgeName",
            "bridgeAddress",
            "containerAddress",
            "vethNamePrefix",
            "ifname",
            "mtu",
            "lo",
            "wait",
            "publish",
            "json",
            "resolvconf",
        ],
    ),
    (
        "delete",
        &["pid", "netns", "bridgeName", "bridgeAddress", "vethNamePrefix", "ifname", "wait"],
    ),
    ("list", &["json"]),
    ("check", &[]),
    ("prune", &[]),
];

/// Every other option.
const OPTIONS: [&str; 13] = [
    "pid",
    "netns",
    "bridgeName",
    "bridgeAddress",
    "containerAddress",
    "vethNamePrefix",
    "ifname",
    "mtu",
    "lo",
    "wait",
    "publish",
    "json",
    "resolvconf",
];

/// The longest `-wait`, in seconds.
const LONGEST_WAIT: f64 = 3600.0;

/// What the caller asks for.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// `-help`: print how to call the program.
    Help,
    /// `-version`: print name and version.
    Version,
    /// `-pid` or `-netns`: give a container its network.
    Attach(Which, Attach),
    /// `-hook`: the same for the container whose state is on standard input.
    Hook(Attach),
    /// `-delete`: take a container's network away.
    Delete(Which, Attach),
    /// `-list`: tell who has which address, as JSON or as a table.
    List {
        /// `-json`.
        json: bool,
    },
    /// `-check`: tell whether this machine is ready.
    Check,
    /// `-prune`: take out the published ports of containers that are gone.
    Prune,
}

/// Which network namespace is meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Which {
    /// The one of this process.
    Pid(i32),
    /// The one that this file stands for.
    Netns(PathBuf),
}

/// An attach, as asked for: what is `None` was not given.
#[derive(Debug, PartialEq)]
pub struct Attach {
    /// `-bridgeName`.
    pub bridge_name: Option<IfName>,
    /// `-bridgeAddress`.
    pub bridge_address: Option<Cidr>,
    /// `-containerAddress`.
    pub container_address: Option<Cidr>,
    /// The host's end, if root names it: `-vethNamePrefix P` makes it `P0`.
    pub host_end: Option<IfName>,
    /// The container's end: `-ifname`, or `-vethNamePrefix P` as `P1`, or `veth1`.
    pub container_end: IfName,
    /// `-mtu`, of the container's end, in bytes.
    pub mtu: Option<u32>,
    /// `-lo`: bring the container's loopback up as well.
    pub loopback: bool,
    /// `-wait`: how long to wait for what may still come about.
    pub wait: Duration,
    /// `-publish`: the host's ports that are to lead to the container's.
    pub publish: Vec<Mapping>,
    /// What to print of the outcome.
    pub output: Output,
    /// What the container is called, if a runtime says so.
    pub container: Option<String>,
}

/// What an attach prints when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nothing.
    Nothing,
    /// `-json`: a CNI result.
    Json,
    /// `-resolvconf`: a `resolv.conf(5)` for the container.
    ResolvConf,
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .long_only(true)
        .optopt("", "pid", "attach the network namespace of process N", "N")
        .optopt(
            "",
            "netns",
            "attach the network namespace of a file (ip netns, a bind mount)",
            "PATH",
        )
        .optopt("", "bridgeName", "the host's bridge (brg0, or the policy's)", "NAME")
        .optopt(
            "",
            "bridgeAddress",
            "its address and subnet (10.10.10.1/24, or the policy's)",
            "A/P",
        )
        .optopt("", "containerAddress", "the container's address (the lowest free one)", "A/P")
        .optopt(
            "",
            "vethNamePrefix",
            "name the container's end P1 and, as root, the host's P0",
            "P",
        )
        .optopt("", "ifname", "the name of the container's end (veth1)", "NAME")
        .optopt("", "mtu", "the MTU of the container's end (the bridge's)", "N")
        .optflag("", "lo", "bring the container's loopback up as well")
        .optopt("", "wait", "seconds to wait for the namespace, or for a dying lease (2)", "S")
        .optmulti(
            "",
            "publish",
            "forward a port of the host to one of the container; may be repeated",
            "[IP:]HOST:PORT[/tcp|udp]",
        )
        .optflag("", "json", "print the result as a CNI 1.0.0 result")
        .optflag("", "resolvconf", "print a resolv.conf for the container")
        .optflag(
            "",
            "hook",
            "OCI runtime hook: attach the container whose state is on standard input",
        )
        .optflag("", "delete", "take a container's network away, with -pid or -netns")
        .optflag("", "list", "list who has which address, with -json as JSON")
        .optflag("", "check", "check whether this machine is ready")
        .optflag(
            "",
            "prune",
            "mend the firewall, and take out the ports of containers that are gone",
        )
        .optflag("", "version", "print the version")
        .optflag("", "help", "print this text");
    options
}

/// The text that `-help` prints.
pub fn help() -> String {
    let brief = "netsetgo: give a rootless container a network\n\n\
                 netsetgo -pid N [options]\nnetsetgo -netns PATH [options]\n\
                 netsetgo -hook [options]\nnetsetgo -delete -pid N\n\
                 netsetgo -list | -check | -prune";
    let tail = "\nOptions take one dash or two. Exit status: 0 done, 1 failed, 2 usage, 3 refused.\n\
                See netsetgo(8), and netsetgo.toml(5) for who may do what.\n";
    options().usage(brief) + tail
}

/// The text that `-version` prints.
pub fn version() -> &'static str {
    concat!("netsetgo ", env!("CARGO_PKG_VERSION"), "\n")
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
/// [`Usage`] for whatever does not read as a request; nothing is guessed.
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
    match action(&given)? {
        None => Ok(Request::Attach(which(&given)?, attach(&given)?)),
        Some("hook") => Ok(Request::Hook(attach(&given)?)),
        Some("delete") => Ok(Request::Delete(which(&given)?, attach(&given)?)),
        Some("list") => Ok(Request::List { json: given.opt_present("json") }),
        Some("check") => Ok(Request::Check),
        Some(_) => Ok(Request::Prune),
    }
}

/// What is asked for, if not an attach.
fn action(given: &Matches) -> Result<Option<&'static str>, Usage> {
    let mut asked = ACTIONS.iter().filter(|(action, _)| given.opt_present(action));
    let Some((action, beside)) = asked.next() else { return Ok(None) };
    if let Some((other, _)) = asked.next() {
        return Err(Usage::Exclusive(action, other));
    }
    let strange = |option: &&&str| given.opt_present(option) && !beside.contains(option);
    match OPTIONS.iter().find(strange) {
        Some(option) => Err(Usage::Exclusive(action, option)),
        None => Ok(Some(action)),
    }
}

fn attach(given: &Matches) -> Result<Attach, Usage> {
    let (host_end, container_end) = ends(given)?;
    Ok(Attach {
        bridge_name: parsed(given, "bridgeName")?,
        bridge_address: parsed(given, "bridgeAddress")?,
        container_address: parsed(given, "containerAddress")?,
        host_end,
        container_end,
        mtu: checked(given, "mtu", "not an MTU between 68 and 65535", |text| {
            number::<u32>(text).filter(|mtu| (68..=65535).contains(mtu))
        })?,
        loopback: given.opt_present("lo"),
        wait: checked(given, "wait", "not a number of seconds between 0 and 3600", seconds)?
            .unwrap_or(Duration::from_secs(2)),
        publish: publish(given)?,
        output: match (given.opt_present("json"), given.opt_present("resolvconf")) {
            (true, true) => return Err(Usage::Exclusive("json", "resolvconf")),
            (true, false) => Output::Json,
            (false, true) => Output::ResolvConf,
            (false, false) => Output::Nothing,
        },
        container: None,
    })
}

/// All that is asked to be published, each once.
fn publish(given: &Matches) -> Result<Vec<Mapping>, Usage> {
    let mut all = Vec::new();
    for text in given.opt_strs("publish") {
        let publication = text.parse().map_err(|why| Usage::Value("publish", text, why))?;
        add(&mut all, publication)?;
    }
    Ok(all)
}

/// Adds what one `-publish` asks for to what others do.
///
/// # Errors
/// [`Usage::PublishTwice`] and [`Usage::PublishMany`].
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
        (Some(_), Some(_)) => Err(Usage::TwoTargets),
        (None, None) => Err(Usage::NoTarget),
        (None, Some(path)) if path.is_empty() || path.contains('\0') => {
            Err(Usage::Value("netns", path, "not a path"))
        }
        (None, Some(path)) => Ok(Which::Netns(path.into())),
        (Some(text), None) => match number::<i32>(&text) {
            Some(pid) if (1..=PID_LIMIT).contains(&pid) => Ok(Which::Pid(pid)),
            _ => Err(Usage::Pid(text, PID_LIMIT)),
        },
    }
}

/// The names of the two ends: the host's, if given, and the container's.
fn ends(given: &Matches) -> Result<(Option<IfName>, IfName), Usage> {
    let prefix = given.opt_str("vethNamePrefix");
    let end = |number: u8| {
        let prefix = prefix.clone().unwrap_or_else(|| "veth".to_owned());
        // An empty prefix would make a name, but hardly the one that was meant.
        let name = if prefix.is_empty() { String::new() } else { format!("{prefix}{number}") };
        name.parse::<IfName>().map_err(|why| Usage::Value("vethNamePrefix", prefix, why))
    };
    let host_end = if prefix.is_some() { Some(end(0)?) } else { None };
    let container_end = end(1)?;
    Ok((host_end, parsed(given, "ifname")?.unwrap_or(container_end)))
}

fn parsed<T: FromStr<Err = &'static str>>(
    given: &Matches,
    option: &'static str,
) -> Result<Option<T>, Usage> {
    given
        .opt_str(option)
        .map(|text| text.parse().map_err(|why| Usage::Value(option, text, why)))
        .transpose()
}

fn checked<T>(
    given: &Matches,
    option: &'static str,
    wrong: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Usage> {
    given
        .opt_str(option)
        .map(|text| read(&text).ok_or(Usage::Value(option, text, wrong)))
        .transpose()
}

/// A plain decimal number: the standard parser would take a sign as well.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number of seconds, with a fraction or without.
fn seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = text.parse::<f64>().ok().filter(|s| plain && *s <= LONGEST_WAIT)?;
    Duration::try_from_secs_f64(seconds).ok()
}

impl Attach {
    /// The address asked for with `-containerAddress`, without its prefix.
    pub fn container_ip(&self) -> Option<Ipv4Addr> {
        self.container_address.map(|address| address.ip)
    }
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
            "-hook -delete -pid 7",
            "-delete",
            "-delete -pid 7 -publish 80:80",
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
