//! The users of a world, and the containers that they start.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{Outcome, World, json};

/// A user who runs commands in a world.
#[derive(Clone)]
pub(crate) struct User<'w> {
    pub(super) world: &'w World,
    become_user: Vec<String>,
}

impl<'w> User<'w> {
    pub(super) fn root(world: &'w World) -> Self {
        User { world, become_user: Vec::new() }
    }

    pub(super) fn new(world: &'w World, name: &str) -> Self {
        let groups = match name.parse::<u32>() {
            Ok(_) => "--clear-groups",
            Err(_) => "--init-groups",
        };
        User::root(world).by(&format!("setpriv --reuid {name} --regid {name} {groups} --"))
    }

    /// The same user by way of a further command, such as `env` or `prlimit`, which executes the
    /// command given as its arguments.
    pub(crate) fn by(mut self, command: &str) -> Self {
        self.become_user.extend(command.split_whitespace().map(str::to_owned));
        self
    }

    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = self.world.command();
        command.args(&self.become_user).args(["sh", "-c", script]);
        command
    }

    /// Runs a shell script.
    pub(crate) fn sh(&self, script: &str) -> Outcome {
        self.command(script).stdin(Stdio::null()).output().expect("nsenter, of util-linux").into()
    }

    /// Starts a shell script, which runs beside the test.
    pub(crate) fn start(&self, script: &str) -> Running {
        let mut command = self.command(script);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    /// Runs the helper with arguments as a shell splits them.
    pub(crate) fn netsetgo(&self, arguments: impl AsRef<str>) -> Outcome {
        self.sh(&format!("exec netsetgo {}", arguments.as_ref()))
    }

    /// Runs the helper, which has to call that wrong usage and leave everything as it is.
    #[track_caller]
    pub(crate) fn usage(&self, arguments: impl AsRef<str>, phrase: &str) -> String {
        self.world.unchanged(|| self.netsetgo(arguments)).usage(phrase)
    }

    /// Runs the helper, which has to refuse that and leave everything as it is.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: impl AsRef<str>, phrase: &str) -> String {
        self.world.unchanged(|| self.netsetgo(arguments)).refused(phrase)
    }

    /// Runs the helper, which has to fail and leave everything as it is.
    #[track_caller]
    pub(crate) fn failed(&self, arguments: impl AsRef<str>, phrase: &str) -> String {
        self.world.undone(|| self.netsetgo(arguments)).failed(phrase)
    }

    /// Starts a container: user and network namespaces of its own, and a process that sleeps there.
    pub(crate) fn container(&self) -> Container<'w> {
        self.containers(1).remove(0)
    }

    /// Starts a container and attaches it.
    #[track_caller]
    pub(crate) fn attached(&self) -> Container<'w> {
        let container = self.container();
        self.netsetgo(format!("-pid {container}")).done();
        container
    }

    /// Starts that many containers.
    pub(crate) fn containers(&self, count: usize) -> Vec<Container<'w>> {
        self.processes(
            count,
            &format!(
                "for i in $(seq {count}); do
                     unshare -Urn sh -c 'echo $$; exec sleep infinity' &
                 done; wait"
            ),
        )
    }

    /// Starts a process by a script that prints its pid, once it is ready, and does not end.
    pub(crate) fn process(&self, script: &str) -> Container<'w> {
        self.processes(1, script).remove(0)
    }

    fn processes(&self, count: usize, script: &str) -> Vec<Container<'w>> {
        let mut keeper =
            self.command(script).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let pids: Vec<u32> = BufReader::new(keeper.stdout.take().unwrap())
            .lines()
            .take(count)
            .map(|pid| pid.unwrap().parse().unwrap())
            .collect();
        assert_eq!(pids.len(), count, "not all processes were started: {script}");
        self.world.keep(keeper, &pids);
        pids.into_iter().map(|pid| Container { pid, owner: self.clone() }).collect()
    }
}

/// A script that runs beside the test.
pub(crate) struct Running(Child);

impl Running {
    /// Waits for its end.
    pub(crate) fn end(self) -> Outcome {
        self.0.wait_with_output().unwrap().into()
    }
}

/// A process that lives in namespaces of its own, until it is killed or its world ends. It reads as
/// its pid.
pub(crate) struct Container<'w> {
    /// The process, as seen in its world.
    pub(crate) pid: u32,
    owner: User<'w>,
}

impl fmt::Display for Container<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

impl<'w> Container<'w> {
    /// Its owner, as root inside.
    pub(crate) fn inside(&self) -> User<'w> {
        let enter = format!("nsenter -t {self} -U -n --preserve-credentials --");
        self.owner.clone().by(&enter)
    }

    /// Runs a script as root inside; it has to succeed. Answers what it printed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.inside().sh(script).done()
    }

    /// What `ip -json -details` says inside.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> Value {
        let seen = format!("nsenter -t {self} -n -- ip -json -details {arguments}");
        json(&self.owner.world.sh(&seen))
    }

    /// What `ip` says inside of the link of that name.
    #[track_caller]
    pub(crate) fn link(&self, name: &str) -> Value {
        self.ip(&format!("address show dev {name}"))[0].take()
    }

    /// The names of the links inside.
    #[track_caller]
    pub(crate) fn links(&self) -> Vec<String> {
        let links = self.ip("link show");
        let names = links.as_array().unwrap().iter();
        names.map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// Its namespace of that kind.
    #[track_caller]
    pub(crate) fn namespace(&self, kind: &str) -> String {
        let link = self.owner.world.path(&format!("/proc/{self}/ns/{kind}"));
        std::fs::read_link(link).unwrap().to_str().unwrap().to_owned()
    }

    /// Its IPv4 address, on `veth1`, as text with the prefix length.
    #[track_caller]
    pub(crate) fn address(&self) -> String {
        let link = self.link("veth1");
        let addresses = link["addr_info"].as_array().unwrap();
        let v4: Vec<_> = addresses.iter().filter(|a| a["family"] == "inet").collect();
        assert_eq!(v4.len(), 1, "{link}");
        format!("{}/{}", v4[0]["local"].as_str().unwrap(), v4[0]["prefixlen"])
    }

    /// Kills it, for good, if it still lives.
    pub(crate) fn kill(&self) {
        let world = self.owner.world;
        world.sh(&format!("kill -9 {self} 2>/dev/null || true"));
        let process = world.path(&format!("/proc/{self}/ns/net"));
        world.until("a killed process to end", || std::fs::read_link(&process).is_err());
    }
}
