//! A host of its own for each test.
//!
//! Debian packages that the tests need: busybox-static, conntrack, gcc, iproute2, libcap2-bin, nftables, python3,
//! util-linux. What is missing fails the test that needs it; nothing is ever skipped.

mod internet;
mod outcome;
mod packets;
mod trace;
mod user;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use internet::{Conversation, HOST, REMOTE, Remote};
pub(crate) use outcome::Outcome;
pub(crate) use packets::FLIPPING;
pub(crate) use trace::{Choice, Frozen, Part, Stage, Trace, choice, places, stages};
pub(crate) use user::{Container, Running, User};
pub(crate) use wire::{BROADCAST, Frame, Mac, mac_of};

/// Where programs are looked for in a world, the helper first.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What a policy says that allows alice 16 containers.
pub(crate) const ALICE: &str = "[[allow]]\nuser = \"alice\"\n";

/// How long something that has to happen may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that is installed in each world: the one that cargo has built beside the tests, or another
/// one (see `tests/run`).
pub(crate) fn program() -> String {
    std::env::var("NETSETGO").unwrap_or_else(|_| env!("CARGO_BIN_EXE_netsetgo").to_owned())
}

/// Whether standard output that comes closed takes nothing. The start code of musl opens it as /dev/null, where
/// a report goes nowhere and is no error; that of the GNU C library so that it cannot be written.
pub(crate) fn closed_takes_nothing() -> bool {
    !program().contains("-musl/")
}

/// A small host: network, mount and pid namespaces, four users, and the installed helper.
pub(crate) struct World {
    keeper: Child,
    lifeline: Option<ChildStdin>,
    init: u32,
    containers: RefCell<Vec<u32>>,
    /// What runs in here and was started from outside. It is waited for at the end.
    inhabitants: RefCell<Vec<Child>>,
}

/// What `sed -E` does to leave these out.
pub(crate) const WITHOUT_MEMORY: &str = r"/^\t(map (owners|fragments)|set (owned|connections|to_port|to_host_icmp)|limit uid[0-9]+-[0-9]+) \{/,/^$/d";

impl World {
    /// A host on which alice may attach 16 containers, and no other user any.
    pub(crate) fn new() -> World {
        World::with_policy(ALICE)
    }

    /// A host with this `/etc/netsetgo.toml`.
    pub(crate) fn with_policy(policy: &str) -> World {
        let world = World::without_policy();
        world.policy(policy);
        world
    }

    /// A host without any `/etc/netsetgo.toml`.
    pub(crate) fn without_policy() -> World {
        let mut keeper = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", "--", "sh", "-c"])
            .args([include_str!("start.sh"), "start.sh", &program()])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux");
        let mut said = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "no world was made: the tests run as root (sudo tests/run)");
        let init = only_child(keeper.id());
        let lifeline = keeper.stdin.take();
        World {
            keeper,
            lifeline,
            init,
            containers: RefCell::default(),
            inhabitants: RefCell::default(),
        }
    }

    /// Replaces `/etc/netsetgo.toml`.
    pub(crate) fn policy(&self, text: &str) {
        fs::write(self.path("/etc/netsetgo.toml"), text).unwrap();
    }

    /// Where a file of this world is found from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        format!("/proc/{}/root{inside}", self.init).into()
    }

    /// The user of this name, or of this number.
    pub(crate) fn user(&self, name: &str) -> User<'_> {
        User::new(self, name)
    }

    /// The user whom the usual policy allows 16 containers.
    pub(crate) fn alice(&self) -> User<'_> {
        self.user("alice")
    }

    /// A user whom the usual policy allows nothing.
    pub(crate) fn bob(&self) -> User<'_> {
        self.user("bob")
    }

    /// The admin, with every right.
    pub(crate) fn root(&self) -> User<'_> {
        User::root(self)
    }

    /// A command that starts in this world, as its root.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.init.to_string(), "-n", "-m", "-p", "--"])
            .env_clear()
            .env("PATH", PATH);
        command
    }

    /// Keeps a command until the end, and the processes in view that it started.
    fn keep(&self, command: Child, pids: &[u32]) {
        self.inhabitants.borrow_mut().push(command);
        self.containers.borrow_mut().extend(pids);
    }

    /// Runs a shell script as root; it has to succeed. Answers what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.root().sh(script).done()
    }

    /// Gives the host an interface of this name that is up, and to which something is connected.
    #[track_caller]
    pub(crate) fn lan(&self, name: &str) {
        self.sh(&format!(
            "ip link add {name} type veth peer name the-other-end
             ip link set the-other-end up; ip link set {name} up"
        ));
    }

    /// What `ip -json -details` says, as root.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> Value {
        json(&self.sh(&format!("ip -json -details {arguments}")))
    }

    /// What `ip` says of the host's link `name`.
    #[track_caller]
    pub(crate) fn link(&self, name: &str) -> Value {
        self.ip(&format!("link show dev {name}"))[0].take()
    }

    /// Asserts that the bridge has all that it should have once it is finished.
    #[track_caller]
    pub(crate) fn has_its_bridge(&self) {
        let bridge = self.link("brg0");
        assert!(bridge["flags"].as_array().unwrap().contains(&"UP".into()), "{bridge}");
        assert_eq!(bridge["address"], "02:4e:0a:0a:0a:01");
        assert_eq!(bridge["mtu"], 1500);
        assert_eq!(bridge["inet6_addr_gen_mode"], "none");
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!(data["mcast_snooping"], 0);
        assert_eq!(data["group_fwd_mask"], "0xfff8");
        assert_eq!(data["no_linklocal_learn"], 1);
        assert_eq!(data["stp_state"], 0);
        // This one, and no IPv6 address either.
        let seen = self.ip("address show dev brg0");
        let addresses = seen[0]["addr_info"].as_array().unwrap();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        assert_eq!(
            (&addresses[0]["local"], &addresses[0]["prefixlen"]),
            (&"10.10.10.1".into(), &24.into())
        );
        assert_eq!(self.sh("cat /proc/sys/net/ipv6/conf/brg0/accept_ra"), "0\n");
    }

    /// The names of the host's links that are leases, in order.
    pub(crate) fn leases(&self) -> Vec<String> {
        let links = fs::read_to_string(format!("/proc/{}/net/dev", self.init)).unwrap();
        let names = links.lines().filter_map(|line| line.split_once(':'));
        let mut leases: Vec<_> =
            names.map(|(name, _)| name.trim().to_owned()).filter(|n| n.starts_with("ns")).collect();
        leases.sort();
        leases
    }

    /// The elements of the firewall's maps and sets that have to do with published ports, as nft
    /// lists them, each after the name of what it is in.
    #[track_caller]
    pub(crate) fn elements(&self) -> BTreeSet<String> {
        let table = self.sh("nft list table inet netsetgo 2>/dev/null || true");
        let mut all = BTreeSet::new();
        for set in table.split("\n\t}") {
            let Some((head, elements)) = set.split_once("elements = {") else { continue };
            let name = head.split_whitespace().nth(1).unwrap();
            if ["publishing", "ports", "live"].contains(&name) {
                for element in elements.trim_end_matches([' ', '}']).split(',') {
                    let mut element: Vec<_> = element.split_whitespace().collect();
                    // The protocol first, and no address where it is every one.
                    if let [address, ".", _, ..] = *element {
                        element.drain(..2);
                        if address != "0.0.0.0" {
                            element.splice(1..1, [".", address]);
                        }
                    }
                    all.insert(format!("{name}: {}", element.join(" ")));
                }
            }
        }
        all
    }

    /// Of these, the ports and where they lead to, in order.
    #[track_caller]
    pub(crate) fn published(&self) -> Vec<String> {
        let lead = |element: &String| element.strip_prefix("ports: ").map(str::to_owned);
        let mut published: Vec<_> = self.elements().iter().filter_map(lead).collect();
        published.sort();
        published
    }

    /// Waits until the host has exactly these leases.
    #[track_caller]
    pub(crate) fn until_leases_are(&self, names: &[&str]) {
        let what = format!("the leases to be {names:?}, not {:?}", self.leases());
        self.until(&what, || self.leases() == names);
    }

    /// Waits for something that has to come about.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut it_is_so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !it_is_so() {
            assert!(Instant::now() < end, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives the host an `/etc/protocols`. nft loads timeouts only by the name of their protocol.
    pub(crate) fn names_protocols(&self) {
        self.sh("echo 'tcp 6 TCP' >/etc/protocols");
    }

    /// The host's ruleset, as nft lists it, without what remembers each address that was ever leased, and
    /// without what packets add.
    pub(crate) fn ruleset(&self) -> String {
        // nft warns of the tables of iptables-nft.
        self.sh(&format!("nft list ruleset 2>/dev/null | sed -E '{WITHOUT_MEMORY}'"))
    }

    /// Everything that a run may change, on the host and inside each container that still lives.
    fn snapshot(&self, ruleset: &str) -> String {
        let containers: Vec<_> = self.containers.borrow().iter().map(u32::to_string).collect();
        let seen = self.sh(&format!(
            "look='ip -d link; ip -4 addr; ip -4 route show table all; ip rule'
             eval \"$look\"; cat /proc/sys/net/ipv4/ip_forward; ls /run /tmp /etc
             for pid in {}; do
                 if [ -e /proc/$pid/ns/net ]; then
                     echo container $pid; nsenter -t $pid -n -- sh -c \"$look\"
                 fi
             done",
            containers.join(" ")
        ));
        (seen + ruleset).lines().map(|line| steady(line) + "\n").collect()
    }

    /// Does something that must change nothing, neither on the host nor inside a container.
    #[track_caller]
    pub(crate) fn unchanged<T>(&self, act: impl FnOnce() -> T) -> T {
        self.same_before_and_after(act, || self.sh("nft list ruleset 2>/dev/null"))
    }

    /// Does something that must change nothing, but that may have leased an address for a moment: the
    /// host remembers the user who had it.
    #[track_caller]
    pub(crate) fn undone<T>(&self, act: impl FnOnce() -> T) -> T {
        self.same_before_and_after(act, || self.ruleset())
    }

    #[track_caller]
    fn same_before_and_after<T>(&self, act: impl FnOnce() -> T, ruleset: impl Fn() -> String) -> T {
        let before = self.snapshot(&ruleset());
        let result = act();
        let after = self.snapshot(&ruleset());
        if before != after {
            let lost: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
            let new: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
            panic!("something changed: {lost:#?} became {new:#?}");
        }
        result
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // The last process in there is a child of this one.
        for inhabitant in self.inhabitants.get_mut().iter_mut().chain([&mut self.keeper]) {
            let _ = inhabitant.wait();
        }
    }
}

/// A line of the snapshot without what the kernel changes by itself: timers, and what follows the
/// carrier with a delay.
fn steady(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "state" => drop(words.next()),
            "linkdown" => {}
            _ if word.ends_with("_timer") => drop(words.next()),
            _ => kept.push(word.replace("NO-CARRIER,", "").replace(",LOWER_UP", "")),
        }
    }
    kept.join(" ")
}

/// The one child that the process has, both as seen from the test.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().expect("one child")
}

/// Reads the JSON that a tool printed.
#[track_caller]
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}
